"""Promises of `taskrl inspect --counterfactuals`: one choice differs, all else is equal, and the books are right."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.final import final_seed
from agents.inspection import counterfactual_page
from agents.inspection.counterfactual_page import chance_note, starts_of
from agents.inspection.counterfactuals import Alternative, BranchJob, alternatives_of, branch
from envs.factory import make_env
from envs.host import WorkerSetup
from envs.pool import Pool
from envs.workers import open_pool
from taskrl.assemble import assemble, load_data, task_space
from taskrl.errors import ConfigError
from taskrl.folders import read_json
from taskrl.run_folder import RunFolder
from tests.agents.runs import snapshot, taskrl
from tests.taskrl.tasks.spaces import some_actions, space


def test_an_alternative_changes_one_choice_of_any_task() -> None:
    """Also of tasks with strengths between the levels."""
    box = space("box", limit=["rotation<=0.8"])
    for alternative in alternatives_of(box, ["mirror", "rotation", "crop"])[1:]:
        level = next(part for part in box.parts if part.name == alternative.choice).levels[alternative.level]
        for action in some_actions(box, num=30):
            spec = box.decode(action)
            other = alternative.instead_of(spec, box)
            assert other.level(str(alternative.choice)) == pytest.approx(level, abs=1e-6)
            assert other.mixture == spec.mixture
            expected = {name: value for name, value in spec.levels if name != alternative.choice}
            assert {name: value for name, value in other.levels if name != alternative.choice} == pytest.approx(
                expected
            )


def test_alternatives_are_the_open_levels_of_what_is_named() -> None:
    limited = space("multidiscrete", forbid=["mirror"], limit=["rotation<=0.3"])
    names = [one.name(limited) for one in alternatives_of(limited, ["rotation", "mirror", "weight/masked"])]
    assert names == ["reference", "weight/masked=0", "weight/masked=0.5", "weight/masked=1", "mirror=0", "rotation=0",
                     "rotation=0.3"]  # fmt: skip
    assert len(alternatives_of(limited, None)) == 1 + sum(sum(part.allowed) for part in limited.parts)
    weight = Alternative("weight/rotation", 2)
    task = weight.instead_of(space("box").reference, space("box"))
    assert dict(task.mixture) == {"contrastive": 0.5, "rotation": 0.5}


def test_a_branch_is_the_episode_that_played_the_alternative_from_its_beginning(finished: RunFolder) -> None:
    """The snapshot loses nothing: weights, optimiser, order of the data and draws of the views go on."""
    config = finished.config()
    assembled = assemble(config, load_data(config))
    alternatives = (Alternative(None), Alternative("jitter", 2), Alternative("weight/rotation", 2))
    job = BranchJob(
        policy=finished.policy, episode=config.final.episode, train_seed=1, start=1, ahead=1, alternatives=alternatives
    )
    found = branch(assembled, job)
    box = task_space(config, assembled.splits.pretraining.inputs.sample_shape, "box")
    first = json.loads(finished.result_file.read_text())["curves"]["learned-argmax"][1]
    assert found.qualities == pytest.approx(first, abs=1e-6), "its own path is the final run of its seed"
    assert found.gains
    (before, *_) = branch(assembled, dataclasses.replace(job, start=0, alternatives=())).played
    for number, gain in found.gains.items():
        env = make_env(dataclasses.replace(assembled.problem.unshaped(), task_space=box), config.final.episode)
        env.reset(seed=final_seed(assembled, 1))
        env.step(box.encode(before))
        *_, info = env.step(box.encode(alternatives[number].instead_of(found.played[0], box)))
        assert info["quality"] - found.qualities[-1] == pytest.approx(gain, abs=1e-9)


def test_the_command_says_the_cost_first_and_writes_every_gain(finished: RunFolder, here: Path) -> None:
    before = snapshot(finished.path)
    result = taskrl("inspect", finished.path, "--counterfactuals", "--seeds", 2, "--choices", "mirror,jitter",
                    "--at", "0,1", "--out", "gains.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    first, *rest = result.stdout.splitlines()
    assert "4 snapshots, about 4 other tasks from each, 22 decisions of 2 steps" in first and "FLOP, at least" in first
    assert any("Counterfactuals: 4/4 snapshots" in line for line in rest) and "by chance alone" in result.stdout
    assert snapshot(finished.path) == before
    record = read_json(here / "gains.json")
    assert {row["progress"] for row in record["rows"]} == {0.0, 0.5} and record["num_seeds"] == 2
    curves = finished.result()["curves"]["learned-argmax"]
    for own in record["own"]:
        num = len(own["qualities"])
        assert own["qualities"] == pytest.approx(curves[own["train_seed"]][:num], abs=1e-6)
        assert len(own["tasks"]) == 1
    for row in record["rows"]:
        assert len(row["gains"]) + row["num_own"] == 2
        if row["gains"]:
            assert row["mean"] == pytest.approx(np.mean(row["gains"]))
        assert (row["low"] is None) == (len(row["gains"]) < 2)
        if row["low"] is not None:
            assert row["low"] <= row["mean"] <= row["high"]
    told = {row["alternative"] for row in record["rows"]}
    assert told == {"reference", "mirror=0", "mirror=0.5", "jitter=0", "jitter=0.4", "jitter=0.8"}


def test_workers_know_how_long_all_branches_of_a_snapshot_train(
    finished: RunFolder, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def opened(setup: WorkerSetup, *, job_steps: int, **others: Any) -> Pool:
        told.append(job_steps)
        return open_pool(setup, job_steps=job_steps, **others)

    monkeypatch.setattr(counterfactual_page, "open_pool", opened)
    options = ["--seeds", 1, "--choices", "mirror", "--at", "0,1"]
    assert taskrl("inspect", finished.path, "--counterfactuals", *options).exit_code == 0
    assert told == [
        8
    ]  # one decision before the second snapshot, then its own, the reference's and one other of 2 steps


def test_stopped_it_has_written_nothing(finished: RunFolder, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(counterfactual_page, "branch", stop)
    result = taskrl("inspect", finished.path, "--counterfactuals", "--out", "gains.json")
    assert result.exit_code == 130 and "Stopped. Nothing was written" in result.stderr
    assert snapshot(here) == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--seeds", "2"], "--seeds is for --counterfactuals"),
        (["--at", "0.5", "--out", "new.json"], "--at, --out is for --counterfactuals"),
        (["--counterfactuals", "--choices", "mirrow"], "Did you mean 'mirror'"),
        (["--counterfactuals", "--at", "2"], "--at 2 is no progress"),
        (["--counterfactuals", "--at", "nan"], "--at nan is no progress"),
        (["--counterfactuals", "--at", "0,half"], "--at half is no progress"),
        (["--counterfactuals", "--at", ","], "--at names no progress"),
        (["--counterfactuals", "--out", "there.json"], "exists already"),
        (["--counterfactuals", "--out", "nowhere/new.json"], "make it first"),
        (["--counterfactuals", "--out", "there.json/new.json"], "make it first"),
        (["--counterfactuals", "--out", f"{'x' * 250}.json"], "File name too long"),
        (["--counterfactuals", "--choices", " , "], "--choices names no choice"),
        (["--counterfactuals", "--seeds", "1000000000"], "less than or equal to 1000"),
        (["--counterfactuals", "--json"], "one at a time"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], sentence: str, finished: RunFolder, here: Path) -> None:
    (here / "there.json").write_text("mine")
    before = snapshot(here)
    result = taskrl("inspect", finished.path, *options)
    assert result.exit_code == 2 and result.stdout == ""
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert snapshot(here) == before


def test_starts_are_decisions_of_the_episode() -> None:
    assert starts_of(None, 4) == (0, 2, 3)
    assert starts_of((0.5,), 6) == (3,) and starts_of((1 / 3, 0.99, 1.0), 3) == (1, 2)
    with pytest.raises(ConfigError, match="no progress"):
        starts_of((-0.1,), 4)


def test_intervals_that_chance_alone_gives_are_counted() -> None:
    rows = [{"gains": [0.1, 0.2], "low": 0.1, "high": 0.2}] * 4 + [{"gains": [0.1] * 9, "low": -0.1, "high": 0.2}] * 20
    assert "Of 24 intervals 4 lie above 0" in chance_note(rows) and "about 3 would" in chance_note(rows)
    assert "--seeds" in chance_note([{"gains": [0.1], "low": None, "high": None}])
