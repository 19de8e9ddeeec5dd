"""Three ways of use: search, then train; learn within the run; apply what another run learned."""

from pathlib import Path

import pytest

from agents.summary import LEARNED
from taskrl.run_folder import RunFolder
from tests.agents.runs import metrics_of, rows_of, taskrl, tiny_options

NAMES = {LEARNED, "learned-argmax", "reference", "profile", "random", "untrained", "supervised"}


def rows_by_name(folder: Path) -> dict[str, list[dict[str, object]]]:
    rows = rows_of(folder)
    return {str(name): [row for row in rows if row["generator"] == name] for name in {r["generator"] for r in rows}}


def test_online_needs_no_search_and_takes_short_decisions(tmp_path: Path) -> None:
    options = tiny_options(final__steps_per_decision=8)
    result = taskrl("train", "--mode", "online", "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    found = rows_by_name(tmp_path / "run")
    assert set(found) == NAMES - {"learned-argmax"}  # there is no frozen policy whose mode could be taken
    assert all(row["search_flops"] == 0 for rows in found.values() for row in rows)
    assert found[LEARNED][0]["num_decisions"] == 8
    assert found["reference"][0]["num_decisions"] < 8
    assert "Search" not in result.output
    run = RunFolder(tmp_path / "run")
    assert run.encoder.is_dir()
    assert max(step["progress"] for step in run.result()["schedule"]) < 1
    assert not [entry for entry in metrics_of(run) if entry["kind"] == "episode"]


def test_apply_trains_with_the_policy_of_another_run(tmp_path: Path, finished: RunFolder) -> None:
    options = tiny_options(data__split_seed=1)
    result = taskrl("train", "--mode", "apply", "--policy", finished.path, "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    found = rows_by_name(tmp_path / "run")
    assert set(found) == NAMES
    assert found[LEARNED][0]["search_flops"] == 0
    copied, original = tmp_path / "run" / "policy", finished.policy
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--mode", "apply"], "--policy"),
        (["--policy", "somewhere"], "--mode apply"),
        (["--mode", "apply", "--policy", "nowhere"], "nowhere"),
        (["--mode", "apply", "--policy", "profile"], "policy/, or a schedule (schedule.yaml).\n"),
        (["--mode", "offline"], "mode"),
    ],
)
def test_ways_that_make_no_sense_are_refused(tmp_path: Path, options: list[str], told: str) -> None:
    result = taskrl("train", "--out", tmp_path / "run", *tiny_options(), *options)
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "run").exists()
