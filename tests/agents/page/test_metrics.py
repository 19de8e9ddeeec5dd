"""Promises of the reader of metrics.jsonl: it reads on, survives anything, and samples fairly."""

import json
from pathlib import Path

from agents.page.metrics import MOST_SAMPLED, Metrics
from taskrl.tracking import METRICS_NAME, JsonlTracker
from tests.agents.page.made import DECISIONS, decision, make_run, record_episode


def test_it_reads_what_was_added_and_nothing_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = Metrics(run.path / METRICS_NAME)
    metrics.read()
    assert (metrics.num_decisions, metrics.episodes, metrics.last_time) == (0, {}, 0.0)
    for episode in range(3):
        record_episode(run, episode, quality=episode / 10)
        metrics.read()
        metrics.read()
        assert metrics.num_decisions == DECISIONS * (episode + 1)
    assert [metrics.episodes[step]["final_quality"] for step in range(3)] == [0.0, 0.1, 0.2]
    last = metrics.last_decision()
    assert last is not None and (last.run, last.step) == ("", 5)
    assert metrics.last_time > 0


def test_a_rate_is_told_once_decisions_lie_a_second_apart(tmp_path: Path) -> None:
    """Two workers record their first decisions within milliseconds: that is no speed."""
    path = tmp_path / METRICS_NAME
    metrics = Metrics(path)
    rates = []
    for when in (100.0, 100.004, 102.0, 104.0):
        entry = {"kind": "decision", "step": len(rates), "run": "", "time": when, "metrics": {"quality": 0.1}}
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        metrics.read()
        rates.append(metrics.rate())
    assert rates[:2] == [None, None]
    assert rates[2:] == [1.0, 0.75]


def test_a_line_that_is_not_whole_yet_waits_for_its_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record_episode(run, 0)
    path = run.path / METRICS_NAME
    text = path.read_text()
    metrics = Metrics(path)
    path.write_text(text[:-40])
    metrics.read()
    assert (metrics.num_decisions, len(metrics.episodes), metrics.num_broken) == (2, 0, 0)
    with path.open("a") as file:
        file.write(text[-40:])
    metrics.read()
    assert (metrics.num_decisions, len(metrics.episodes), metrics.num_broken) == (2, 1, 0)


def test_a_resumed_run_repeats_steps_and_their_last_line_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = Metrics(run.path / METRICS_NAME)
    for quality in (0.1, 0.7):
        record_episode(run, 0, quality=quality)
        metrics.read()
    assert len(metrics.episodes) == 1 and metrics.episodes[0]["final_quality"] == 0.7
    assert {found["quality"] for found in metrics.sample.values()} == {0.7}


def test_a_file_that_was_replaced_or_is_gone_is_begun_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run.path / METRICS_NAME
    for episode in range(3):
        record_episode(run, episode)
    metrics = Metrics(path)
    metrics.read()
    path.unlink()
    metrics.read()
    assert metrics.num_decisions == 0 and not metrics.episodes
    record_episode(run, 7)
    metrics.read()
    assert list(metrics.episodes) == [7] and metrics.num_decisions == DECISIONS


def test_broken_lines_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run.path / METRICS_NAME
    broken = ["garbage", "[1, 2]", '{"kind": 3}', "\x00\x01", "[" * 5000, '{"kind": "episode", "step": "x", "run": ""}']
    odd = '{"kind": "decision", "step": 0, "run": "", "time": 1.5, "metrics": [1]}'
    path.write_text("\n".join([*broken, odd, ""]))
    record_episode(run, 1)
    with path.open("ab") as file:
        file.write(b"\xff\xfe not text\n" + b"x" * (9 << 20) + b"\n")
    record_episode(run, 2)
    metrics = Metrics(path)
    metrics.read()
    assert list(metrics.episodes) == [1, 2]
    assert metrics.num_broken == len(broken) + 3


def test_lines_of_another_writer_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / METRICS_NAME
    line = {"metrics": {"final_quality": 0.4}, "time": 3, "run": "", "step": 2, "kind": "episode"}
    path.write_text(json.dumps(line, indent=None, separators=(",", ":")) + "\n")
    metrics = Metrics(path)
    metrics.read()
    assert metrics.episodes == {2: {"final_quality": 0.4}} and metrics.last_time == 3


def test_a_long_search_is_sampled_at_every_place_of_an_episode(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / METRICS_NAME)
    num = 4 * MOST_SAMPLED
    line = {"kind": "decision", "run": "", "time": 1.0, "metrics": decision(0)}
    with (tmp_path / METRICS_NAME).open("w") as file:
        for step in range(num):
            file.write(json.dumps({"kind": "decision", "step": step, **line}) + "\n")
    tracker.child("learned-0").log_metrics(decision(0), step=0)
    metrics = Metrics(tmp_path / METRICS_NAME)
    metrics.read()
    assert MOST_SAMPLED / 4 <= len(metrics.sample) <= MOST_SAMPLED
    assert (metrics.num_own, metrics.num_decisions) == (num, num + 1)
    for decisions in (2, 4, 8, 12):
        places = [sum(step % decisions == place for step in metrics.sample) for place in range(decisions)]
        assert min(places) > 0.7 * max(places)
    thirds = [sum(step * 3 // num == third for step in metrics.sample) for third in range(3)]
    assert min(thirds) > 0.8 * max(thirds)
