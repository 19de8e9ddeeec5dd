"""Promises of `taskrl inspect --schedule`, `--as` and `--json`: what was played, as a file, as code and as data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agents.compare.comparison import compare
from agents.inspection.learned import learned_schedule
from agents.results import StoredFinal
from taskrl.assemble import task_space
from taskrl.config import dump_config
from taskrl.errors import RunFolderError
from taskrl.folders import read_json
from taskrl.run_folder import RunFolder, write_result
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from tests.agents.conftest import quiet
from tests.agents.runs import snapshot, taskrl
from tests.envs.tiny import tiny_config

DECISIONS = 4
WEIGHTS = ("contrastive", "rotation", "masked")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of the smallest kind."""
    out = tmp_path_factory.mktemp("comparisons") / "compared"
    options: dict[str, Any] = {"compare__methods": ["learned"], "compare__searches": 1, "compare__finals": 1}
    compare(tiny_config(**options, agent__episodes=2), out, quiet())
    return out


def made_up(folder: Path, played: dict[str, Any], num: int = DECISIONS, **changes: Any) -> tuple[RunFolder, TaskSpace]:
    """A run folder whose final runs of `DECISIONS` decisions recorded `num` probabilities: part -> level -> probability
    (of each decision, or of all); the reference's level for what is left out.
    """
    config = tiny_config(final__decisions=DECISIONS, tasks__objectives=list(WEIGHTS), **changes)
    space = task_space(config, (1, 16, 16))
    parts = {}
    for part in space.parts:
        rows = np.zeros((num, len(part.levels)))
        rows[:, part.reference] = 1.0
        if part.name in played:
            rows[:] = 0.0
            for level, probability in played[part.name].items():
                rows[:, part.levels.index(level)] = probability
        parts[part.name] = {"levels": list(part.levels), "reference": part.reference, "probabilities": rows.tolist()}
    run = RunFolder(folder)
    folder.mkdir()
    run.config_file.write_text(dump_config(config))
    choices = {"progress": [index / DECISIONS for index in range(num)], "parts": parts}
    row = {"generator": "learned"}
    write_result(run.result_file, {"data": "digits", "rows": [row, row], "search": None, "choices": choices})
    return run, space


def expected_shares(weights: dict[str, dict[float, float]], rng: np.random.Generator) -> dict[str, float]:
    """Mean shares over many draws, written without taskrl's codec."""
    total = dict.fromkeys(WEIGHTS, 0.0)
    num = 20_000
    drawn = {name: rng.choice(list(levels), p=list(levels.values()), size=num) for name, levels in weights.items()}
    for index in range(num):
        row = {name: float(drawn[name][index]) for name in WEIGHTS}
        whole = sum(row.values())
        for name, weight in row.items():
            total[name] += weight / whole if whole else float(name == "contrastive")
    return {name: value / num for name, value in total.items()}


def test_knobs_have_their_mode_and_objectives_their_mean_share(tmp_path: Path) -> None:
    weights = {
        "contrastive": {0.0: 0.2, 0.5: 0.3, 1.0: 0.5},
        "rotation": {0.0: 0.6, 0.5: 0.0, 1.0: 0.4},
        "masked": {0.0: 0.3, 0.5: 0.4, 1.0: 0.3},
    }
    played = {f"weight/{name}": levels for name, levels in weights.items()}
    played |= {"mirror": {0.0: 0.7, 0.5: 0.3}, "crop": {1.0: 0.4, 0.6: 0.0, 0.3: 0.35, 0.15: 0.25}}
    run, _ = made_up(tmp_path / "run", played)
    specs = learned_schedule(run.path).specs
    assert len(specs) == DECISIONS and len(set(specs)) == 1, "equal rows stay"
    assert specs[0].level("mirror") == 0.0 and specs[0].level("crop") == 1.0
    for name, share in expected_shares(weights, np.random.default_rng(0)).items():
        assert specs[0].share(name) == pytest.approx(share, abs=0.015)


def test_small_shares_go_and_what_nobody_uses_is_not_listed(tmp_path: Path) -> None:
    played = {"weight/masked": {0.0: 0.95, 0.5: 0.05}, "weight/rotation": {0.0: 0.0, 1.0: 1.0}}
    run, _ = made_up(tmp_path / "run", played)
    spec = learned_schedule(run.path).specs[0]
    assert dict(spec.mixture) == {"contrastive": pytest.approx(0.5, abs=0.01), "rotation": pytest.approx(0.5, abs=0.01)}
    assert spec.level("mask_ratio") is None


def test_a_tie_goes_to_the_reference_and_closed_levels_are_never_played(tmp_path: Path) -> None:
    tie = {"crop": {0.6: 0.5, 0.3: 0.5}, "jitter": {0.8: 0.5, 0.0: 0.5}}
    run, space = made_up(tmp_path / "tie", tie)
    spec = learned_schedule(run.path).specs[0]
    assert spec.level("crop") == 0.3 == space.reference.level("crop") and spec.level("jitter") == 0.0
    closed, _ = made_up(tmp_path / "closed", {"mirror": {0.5: 0.9, 0.0: 0.1}}, tasks__forbid=["mirror"])
    assert learned_schedule(closed.path).specs[0].level("mirror") == 0.0


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        (1, [0.5]),  # off in 47.5 % of the run
        (2, [0.0, 0.5]),
        (3, [0.0, 0.5, 0.5]),
        (4, [0.0, 0.0, 0.5, 0.5]),
        (8, [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_rows_cover_equal_stretches_of_progress(tmp_path: Path, num_rows: int, expected: list[float]) -> None:
    off = np.array([0.9, 0.6, 0.2, 0.2])
    run, _ = made_up(tmp_path / "run", {"mirror": {0.0: off, 0.5: 1 - off}, "noise": {0.0: 0.4, 0.1: 0.6}})
    specs = learned_schedule(run.path, num_rows).specs
    assert [spec.level("mirror") for spec in specs] == expected
    assert {spec.level("noise") for spec in specs} == {0.1}


def test_what_was_played_last_holds_to_the_end_of_runs_that_stopped_early(tmp_path: Path) -> None:
    run, _ = made_up(tmp_path / "run", {"mirror": {0.0: np.array([0.1, 0.8]), 0.5: np.array([0.9, 0.2])}}, num=2)
    assert [spec.level("mirror") for spec in learned_schedule(run.path).specs] == [0.5, 0.0, 0.0, 0.0]


def test_a_certain_policy_comes_back_as_what_its_final_runs_played(finished: RunFolder) -> None:
    """The probabilities of a run are those on the observations that its final runs met."""
    stored = [StoredFinal.read(path) for path in sorted((finished.checkpoints / "finals").glob("learned-[0-9]*.json"))]
    assert stored
    num = len(stored[0].choices)
    specs = learned_schedule(finished.path).specs
    assert len(specs) == num == 2
    for index, spec in enumerate(specs):
        for knob in ("crop", "mirror", "jitter"):
            mean = np.mean([final.choices[index][knob] for final in stored], axis=0)
            levels = finished.result()["choices"]["parts"][knob]["levels"]
            assert mean[levels.index(spec.level(knob))] == pytest.approx(mean.max(), abs=1e-4)


def test_pretrain_plays_the_schedule_that_inspect_wrote(finished: RunFolder, here: Path) -> None:
    before = snapshot(finished.path)
    result = taskrl("inspect", finished.path, "--schedule", "learned.yaml", "--rows", 2)
    assert result.exit_code == 0, result.output
    assert "learned.yaml" in result.stdout and snapshot(finished.path) == before
    content = yaml.safe_load((here / "learned.yaml").read_text())
    assert content["card"]["generator"] == "learned" and content["card"]["final_runs"] == 2
    specs = learned_schedule(finished.path, 2).specs
    trained = taskrl(
        "pretrain", "--policy", "learned.yaml", "--config", finished.config_file, "--out", "again",
        "--tracking-uri", "none",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    schedule = RunFolder(here / "again").result()["schedule"]
    assert [row["task"] for row in schedule] == [spec.describe() for spec in specs]
    assert learned_schedule(here / "again").specs[0].levels == specs[0].levels, "its own schedule is the same"


def test_what_a_comparison_played_last_holds_to_the_end_where_it_stopped_early(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(compared, out)
    file = out / "cells" / f"{read_json(out / 'result.json')['encoder']['cell']}.json"
    cell = read_json(file)
    spec = TaskSpec.from_json(cell["content"]["specs"][0])
    two = [replace(spec, levels={**dict(spec.levels), "mirror": strength}) for strength in (0.5, 0.0)]
    write_result(file, cell | {"content": cell["content"] | {"specs": [one.to_json() for one in two]}})
    (out / "config.yaml").write_text(dump_config(tiny_config(final__decisions=4)))
    assert [one.level("mirror") for one in learned_schedule(out).specs] == [0.5, 0.0, 0.0, 0.0]


def test_a_comparison_gives_what_its_encoder_was_trained_on(compared: Path, here: Path) -> None:
    written = taskrl("inspect", compared, "--schedule", "chosen.yaml")
    assert written.exit_code == 0, written.output
    encoder = read_json(compared / "result.json")["encoder"]
    cell = read_json(compared / "cells" / f"{encoder['cell']}.json")["content"]
    played = [TaskSpec.from_json(text) for text in cell["specs"]]
    content = yaml.safe_load((here / "chosen.yaml").read_text())
    assert [row["levels"] for row in content["tasks"]] == [dict(spec.levels) for spec in played]
    assert content["card"]["method"] == encoder["method"]
    document = json.loads(taskrl("inspect", compared, "--json").stdout)
    assert document["kind"] == "comparison" and document["schedule"] == content
    assert document["result"] == read_json(compared / "result.json")
    assert document["sentences"][-1] == document["result"]["verdict"]
    (compared / "cells" / f"{encoder['cell']}.json").rename(here / "moved.json")
    with pytest.raises(RunFolderError, match="--cells"):
        learned_schedule(compared)
    assert "--cells" in json.loads(taskrl("inspect", compared, "--json").stdout)["schedule_missing"]
    write_result(compared / "result.json", document["result"] | {"encoder": None})
    with pytest.raises(RunFolderError, match="no learned policy"):
        learned_schedule(compared)


def test_json_is_everything_and_nothing_else(finished: RunFolder) -> None:
    result = taskrl("inspect", finished.path, "--json", "--rows", 3)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["kind"] == "run" and document["result"] == finished.result()
    assert document["sentences"][-1] == finished.result()["verdict"]
    assert len(document["schedule"]["tasks"]) == 3 and document["schedule_missing"] is None
    assert document["files"]["report"] == str(finished.report)
    assert all(Path(path).exists() for path in document["files"].values())


@pytest.mark.parametrize("library", ["torchvision", "lightly"])
def test_code_stands_alone_on_standard_output(library: str, finished: RunFolder) -> None:
    result = taskrl("inspect", finished.path, "--as", library)
    assert result.exit_code == 0, result.output
    names: dict[str, Any] = {}
    if library == "torchvision":
        exec(compile(result.stdout, "pasted", "exec"), names)
        specs = learned_schedule(finished.path).specs
        assert [dict(spec.mixture) for spec in specs] == [
            names["objectives"](i / len(specs)) for i in range(len(specs))
        ]
        assert (names["SIZE"], names["CHANNELS"]) == (16, 1)
    compile(result.stdout, "pasted", "exec")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--json", "--as", "torchvision"], "one at a time"),
        (["--report", "new.html", "--json"], "one at a time"),
        (["--report", "new.html", "--rows", "2"], "--rows 2 is for"),
        (["--report", "there.yaml"], "name another --report"),
        (["--report", "nowhere/new.html"], "make it first"),
        (["--report", f"{'x' * 250}.html"], "File name too long"),
        (["--schedule", f"{'x' * 250}.yaml"], "File name too long"),
        (["--schedule", "new.yaml", "--json"], "one at a time"),
        (["--rows", "2"], "--rows 2 is for"),
        (["--as", "torchvisoin"], "Did you mean 'torchvision'"),
        (["--schedule", "new.txt"], "end in .yaml"),
        (["--schedule", "there.yaml"], "name another --schedule"),
        (["--schedule", "nowhere/new.yaml"], "make it first"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], sentence: str, finished: RunFolder, here: Path) -> None:
    (here / "there.yaml").write_text("mine")
    before = snapshot(here)
    result = taskrl("inspect", finished.path, *options)
    assert result.exit_code == 2 and result.stdout == ""
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert snapshot(here) == before


def test_a_run_without_final_runs_has_no_schedule(tmp_path: Path) -> None:
    run, _ = made_up(tmp_path / "run", {})
    write_result(run.result_file, run.result() | {"choices": {"progress": [], "parts": {}}, "rows": []})
    result = taskrl("inspect", run.path, "--as", "torchvision")
    assert result.exit_code == 2 and "recorded no final run" in result.stderr and result.stdout == ""
