"""What the page of the study keeps of earlier calls."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from taskrl.config import load_config
from taskrl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/does_it_pay.py, whose earlier results are the test's."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("does_it_pay")
    monkeypatch.setattr(module, "EARLIER", tmp_path / "does_it_pay.json")
    return module


def test_comparisons_with_other_settings_are_not_put_on_the_page(program: ModuleType) -> None:
    def keep(*changes: str) -> dict[str, Any]:
        config = load_config(program.SETTINGS, list(changes)).model_dump()
        sets = {"cluttered-digits": {"breadth": {"config": config}}}
        program.EARLIER.write_text(json.dumps({"sets": sets}))
        return sets

    assert program.earlier() == {}
    sets = keep("compare.finals=2", "compare.searches=3", "workers=1")
    assert program.earlier() == sets
    keep("seed=10")
    now = load_config(program.SETTINGS).seed
    assert now != 10
    with pytest.raises(ConfigError, match=rf"with seed=10, and pays\.yaml has {now}"):
        program.earlier()


def test_half_a_set_is_not_left_behind(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(file: Path, **columns: Any) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        program.subset("digits", "", tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
