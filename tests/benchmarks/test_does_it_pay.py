"""What the page of the study keeps of earlier calls."""

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from agents.catalogue import AGENTS
from taskrl.assemble import load_data
from taskrl.config import load_config
from taskrl.data.dataset import InMemory, Part, RawDataset
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
    def keep(*changes: str, version: int = AGENTS["thompson"].version) -> dict[str, Any]:
        config = load_config(program.SETTINGS, list(changes)).model_dump()
        sets = {"cluttered-digits": {"breadth": {"config": config, "agent_version": version}}}
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
    keep("predictor.learning_rate=0.5")  # which pays.yaml leaves to the default
    with pytest.raises(ConfigError, match=r"with predictor\.learning_rate=0\.5"):
        program.earlier()
    keep(version=1)
    with pytest.raises(ConfigError, match="with agent version=1"):
        program.earlier()


def test_a_speaker_stays_on_one_side(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speakers = torch.arange(120) % 5
    inputs, labels = InMemory(torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8)), torch.arange(120) % 2
    held, others = Part(inputs=inputs, labels=labels), Part(inputs=inputs, labels=labels, groups=speakers)
    spoken = RawDataset(name="fsdd", train=others, test=held, class_names=("one", "two"))
    monkeypatch.setattr(program.checkpoints, "dataset_of", lambda name, path: spoken)
    options = argparse.Namespace(workers=1, quick=False, finals=None, methods=None)
    config = program.configuration("fsdd", program.subset("fsdd", "", tmp_path), "breadth", options)
    assert config.data.groups == "track"
    dataset = load_data(config)
    assert dataset.train.groups is not None and dataset.train.groups.tolist() == speakers.tolist()


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
        config = {**load_config().model_dump(), "compare": compare}
        one = {"verdict": "A verdict.", "config": config, "notes": [], "table": [], "claims": []}
        return {**one, "rows": rows, "break_even": {"sentence": "Break-even: said."}}

    sets = {name: {"breadth": compared([1], lead), "depth": compared([1, 25], lead)} for name, lead in
            (("cluttered-digits", 9.0), ("fashion", 1.0), ("cars", -2.0))}  # fmt: skip
    told = program.page(sets).split("## In the mean over sets other than cluttered-digits, at length ")
    assert [part[: part.index("\n")] for part in told[1:]] == ["1", "25"]
    assert "pays: `learned` minus `reference-total` +0.5 [" in told[1]  # (1 + -2) / 2 + 1
    assert "pays: `learned` minus `reference-total` -11.5 [" in told[2]
    assert program.page({"cluttered-digits": sets["cluttered-digits"]}).count("In the mean over") == 0
    assert "3 searches, 1 final encoder of each." in program.page(sets)
    assert "- Not compared yet: `learned`, `learned-argmax`" in program.page(sets)
