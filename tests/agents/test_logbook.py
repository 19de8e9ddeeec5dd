"""What the log of a run tells its report: every decision counts once, sums fit, and it is quick."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from agents.logbook import log_record, logged_specs, mean_shares
from agents.results import search_curve
from taskrl.report import render_report
from taskrl.run_folder import RunFolder
from taskrl.tasks.spec import TaskSpec


def _line(step: int, run: str = "", kind: str = "decision", time_s: float = 0.0, **metrics: Any) -> str:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return json.dumps({"kind": kind, "step": step, "run": run, "time": 100.0 + time_s, "metrics": named})


def _decision(step: int, gain: float, spent: float, **more: Any) -> str:
    metrics = {"reward": 2 * gain, "reward_part__gain": gain, "compute__train_flops": spent, "time__train_s": 0.5}
    return _line(step, time_s=step, **metrics, **more)


def _written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rewards_are_summed_over_episodes_and_split_into_thirds(tmp_path: Path) -> None:
    gains = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # of episodes, half of it in each of two decisions
    lines = [_decision(2 * i + j, gain / 2, 10.0 * (j + 1)) for i, gain in enumerate(gains) for j in range(2)]
    record = log_record(_written(tmp_path / "m", *lines), decisions=2, group_size=2, searched=True)
    assert record is not None and record["seconds"] == 11.0
    search = record["search"]
    assert search["third"] == 2
    assert search["parts"]["gain"]["first"] == {"mean": 1.5, "low": None, "high": None}  # one group: no interval
    assert search["parts"]["reward"]["last"]["mean"] == 11.0
    assert search["by_decision"] == {"first": [0.75, 0.75], "last": [2.75, 2.75]}
    assert search["curve"] == {"episode": [1, 3, 5], "parts": {"reward": [3.0, 7.0, 11.0], "gain": [1.5, 3.5, 5.5]}}


def test_compute_is_that_of_each_episodes_last_decision(tmp_path: Path) -> None:
    lines = [_decision(step, 1.0, 10.0 * (step % 2 + 1)) for step in range(4)]
    lines += [_line(step, "learned-0", compute__train_flops=100.0 * (step + 1)) for step in range(3)]
    record = log_record(_written(tmp_path / "m", *lines), decisions=2, group_size=1, searched=True)
    assert record is not None and record["search"]["spent"]["train_flops"] == 40.0
    assert record["search"]["spent"]["train_s"] == 2.0 and record["finals"]["train_flops"] == 300.0


def test_a_decision_that_a_resumed_run_repeats_counts_once(tmp_path: Path) -> None:
    lines = [_decision(0, 5.0, 1.0), _decision(1, 5.0, 2.0), _decision(0, 1.0, 1.0), _decision(1, 1.0, 2.0)]
    record = log_record(_written(tmp_path / "m", *lines), decisions=2, group_size=1, searched=True)
    assert record is not None and record["search"]["parts"]["gain"]["first"]["mean"] == 2.0
    assert record["search"]["spent"]["train_flops"] == 2.0


def test_values_that_were_not_finite_and_broken_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [
        _decision(0, 1.0, 1.0),
        _line(1, reward=None, reward_part__gain=None, diverged=1.0),
        '{"kind": "dec',
        "[]",
        "7",
    ]
    record = log_record(_written(tmp_path / "m", *lines), decisions=2, group_size=1, searched=True)
    assert record is not None and record["search"]["num_diverged"] == 1
    assert record["search"]["parts"]["gain"]["first"]["mean"] == 1.0


def test_half_a_line_costs_no_episode_of_the_search(tmp_path: Path) -> None:
    lines = [_line(step, kind="episode", final_quality=float(step)) for step in (0, 1, 1)]
    _written(tmp_path / "metrics.jsonl", lines[0], '{"kind": "episode", "st', *lines[1:], '{"kind": "episode"}')
    curve = search_curve(RunFolder(tmp_path))
    assert curve == [{"episode": 0, "final_quality": 0.0}, {"episode": 1, "final_quality": 1.0}]


def test_without_log_there_is_no_record(tmp_path: Path) -> None:
    assert log_record(tmp_path / "none", decisions=1, group_size=1, searched=True) is None
    assert log_record(_written(tmp_path / "m"), decisions=1, group_size=1, searched=True) is None


def test_a_run_without_search_has_no_rewards_but_tasks(tmp_path: Path) -> None:
    lines = [_line(step, share__contrastive=1.0, level__crop=0.3 * (step + 1)) for step in range(2)]
    path = _written(tmp_path / "m", *lines)
    record = log_record(path, decisions=1, group_size=1, searched=False)
    assert record is not None and record["search"] is None
    assert [TaskSpec.from_json(spec).level("crop") for spec in logged_specs(path)] == [0.3, 0.6]


def test_shares_are_means_over_the_episodes_that_came_so_far() -> None:
    def spec(**mixture: float) -> str:
        return TaskSpec(mixture=tuple(mixture.items()), levels=()).to_json()

    long, short = [spec(a=1.0), spec(a=0.5, b=0.5), spec(b=1.0)], [spec(b=1.0)]
    assert mean_shares([long, short]) == {"a": [0.5, 0.5, 0.0], "b": [0.5, 0.5, 1.0]}
    assert mean_shares([]) == {}


@pytest.mark.parametrize("num", [100_000])
def test_a_hundred_thousand_decisions_take_seconds_and_little_room(tmp_path: Path, num: int) -> None:
    more = {f"reward_part__gain/{name}": 0.1 for name in "abcde"} | {f"level__{name}": 0.5 for name in "abcdefgh"}
    path, line = tmp_path / "m", _decision(987654321, 0.1, 1.0, **more)
    path.write_text("".join(line.replace("987654321", str(step), 1) + "\n" for step in range(num)))
    start = time.perf_counter()
    record = log_record(path, decisions=4, group_size=8, searched=True)
    episodes = [{"episode": i, "final_quality": i / num, "hidden_quality": 1.0} for i in range(num // 4)]
    html = render_report({"log": record, "search": {"episodes": episodes}}, [])
    assert time.perf_counter() - start < 20  # 3 on an idle core
    assert len(html) < 1_000_000 and "25000 drawn" in html
    assert len(json.dumps(record)) < 50_000
