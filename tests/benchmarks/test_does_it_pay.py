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


def test_the_mean_over_other_sets_is_taken_at_the_greatest_length_of_each_part(program: ModuleType) -> None:
    def compared(lengths: list[int], lead: float) -> dict[str, Any]:
        rows = [
            {"method": method, "length": length, "number": number, "train_seed": number, "linear_accuracy": accuracy}
            for length in lengths
            for number in range(3)
            for method, accuracy in (("reference-total", 80.0), ("learned", 80.0 + lead * length + number))
        ]
        compare = {"searches": 3, "finals": 1, "lengths": lengths}
        one = {"verdict": "A verdict.", "config": {"compare": compare}, "notes": [], "table": [], "claims": []}
        return {**one, "rows": rows, "break_even": {"sentence": "Break-even: said."}}

    sets = {name: {"breadth": compared([1], lead), "depth": compared([1, 25], lead)} for name, lead in
            (("cluttered-digits", 9.0), ("fashion", 1.0), ("cars", -2.0))}  # fmt: skip
    told = program.page(sets).split("## In the mean over sets other than cluttered-digits, at length ")
    assert [part[: part.index("\n")] for part in told[1:]] == ["1", "25"]
    assert "pays: `learned` minus `reference-total` +0.5 [" in told[1]  # (1 + -2) / 2 + 1
    assert "pays: `learned` minus `reference-total` -11.5 [" in told[2]
    assert program.page({"cluttered-digits": sets["cluttered-digits"]}).count("In the mean over") == 0
    assert "3 searches, 1 final encoder of each." in program.page(sets)
