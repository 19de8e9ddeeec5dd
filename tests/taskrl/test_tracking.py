"""Promises of the trackers: whole JSON lines always, and one sentence when MLflow cannot be had."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from taskrl import mlflow_store
from taskrl.errors import RunFolderError
from taskrl.mlflow_store import DATABASE_NAME
from taskrl.tracking import METRICS_NAME, JsonlTracker, NullTracker, SafeTracker, TeeTracker, Tracker
from tests.taskrl.mlflow_runs import inner_of, make_run_folder, open_run, read_lines


class BrokenTracker(NullTracker):
    """Fails at every call and counts them."""

    def __init__(self) -> None:
        self.num_calls = 0

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        self.num_calls += 1
        raise OSError("no space\nleft")


def test_importing_the_trackers_does_not_import_mlflow() -> None:
    code = "import sys, taskrl.tracking, taskrl.mlflow_page; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_line_is_json_with_the_same_keys(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / METRICS_NAME)
    tracker.log_metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": float(np.float32(1.5))}, step=4)
    tracker.child("seed-1").child("probe").log_metrics({"t": torch.tensor(2.0)}, step=5, kind="agent")  # type: ignore[dict-item]
    first, second = read_lines(tmp_path)
    assert set(first) == set(second) == {"kind", "step", "run", "time", "metrics"}
    assert first["metrics"] == {"a": None, "b": None, "c": None, "d": 1.5}
    assert (second["run"], second["kind"], second["step"], second["metrics"]) == (
        "seed-1/probe",
        "agent",
        5,
        {"t": 2.0},
    )


def test_a_reopened_file_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS_NAME
    JsonlTracker(path).log_metrics({"a": 1.0}, step=0)
    with path.open("a") as file:
        file.write('{"kind": "dec')
    JsonlTracker(path).log_metrics({"a": 2.0}, step=1)
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["metrics"] == {"a": 2.0}


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from taskrl.tracking import JsonlTracker\n"
        "tracker = JsonlTracker(Path(sys.argv[1])); print('ready', flush=True)\n"
        "for step in range(10**9): tracker.log_metrics({'x' * 90 + str(i): 0.5 for i in range(200)}, step=step)"
    )
    path = tmp_path / METRICS_NAME
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.kill()
    steps = [line["step"] for line in read_lines(tmp_path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 0


def test_a_failing_tracker_warns_once_and_is_then_left_alone() -> None:
    warnings: list[str] = []
    broken = BrokenTracker()
    tracker = SafeTracker(broken, warnings.append, name="the thing")
    child = tracker.child("seed-0")
    for step in range(3):
        child.log_metrics({"a": 1.0}, step=step)
        tracker.log_metrics({"a": 1.0}, step=step)
    tracker.child("seed-1").log_metrics({"a": 1.0}, step=0)
    tracker.close()
    assert warnings == ["Recording to the thing stopped (OSError: no space); the run goes on without it."]
    assert broken.num_calls == 1


def test_a_warn_function_that_raises_is_no_failure() -> None:
    def warn(sentence: str) -> None:
        raise UserWarning(sentence)

    SafeTracker(BrokenTracker(), warn).log_metrics({"a": 1.0}, step=0)


def test_an_interrupt_is_not_swallowed() -> None:
    class Interrupted(NullTracker):
        def log_params(self, params: Mapping[str, object]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeTracker(Interrupted(), lambda _: None).log_params({})


def test_a_dead_server_costs_one_warning_and_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    warnings: list[str] = []
    start = time.perf_counter()
    tracker = open_run(tmp_path, warnings, uri="http://127.0.0.1:9")
    child = tracker.child("seed-0")
    for step in range(20):
        tracker.log_metrics({"reward": 1.0}, step=step)
        child.log_metrics({"reward": 1.0}, step=step)
    child.close()
    tracker.close()
    assert time.perf_counter() - start < 20.0
    assert len(read_lines(tmp_path)) == 40
    assert len(warnings) == 1
    assert warnings[0].startswith("Recording to MLflow stopped (")
    assert "\n" not in warnings[0]


def test_a_store_that_dies_in_the_middle_costs_one_warning(tmp_path: Path) -> None:
    run_dir = make_run_folder(tmp_path / "run")
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings)
    tracker.log_metrics({"reward": 1.0}, step=0)
    assert inner_of(tracker).wait()
    with sqlite3.connect(run_dir / DATABASE_NAME) as connection:
        connection.execute("DROP TABLE metrics")
    for step in range(1, 4):
        tracker.log_metrics({"reward": 1.0}, step=step)
        inner_of(tracker).wait()
    tracker.close()
    assert len(warnings) == 1
    assert len(read_lines(run_dir)) == 4


@pytest.mark.parametrize("fault", ["garbage", "empty", "folder", "locked", "read-only", "file store", "unknown scheme"])
def test_a_store_that_cannot_be_used_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "read-only" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    monkeypatch.setattr(mlflow_store, "BUSY_S", 0.2)
    run_dir = make_run_folder(tmp_path / "run")
    database = run_dir / DATABASE_NAME
    uri = {"file store": f"file://{run_dir}/mlruns", "unknown scheme": "gopher://x"}.get(fault)
    lock = sqlite3.connect(database)
    if fault == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif fault == "empty":
        database.write_bytes(b"")
    elif fault == "folder":
        database.unlink()
        database.mkdir()
    elif fault == "locked":
        lock.execute("BEGIN EXCLUSIVE")
    elif fault == "read-only":
        database.chmod(0o444)
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings, uri=uri)
    tracker.log_params({"seed": 1})
    tracker.log_metrics({"reward": 1.0}, step=0)
    tracker.close()
    lock.close()
    assert len(warnings) == 1, warnings
    assert tracker.run_id is None
    assert len(read_lines(run_dir)) == 1


def test_a_run_id_that_does_not_exist_costs_one_warning(tmp_path: Path) -> None:
    run_dir = make_run_folder(tmp_path / "run")
    warnings: list[str] = []
    open_run(run_dir, warnings, run_id="0" * 32).close()
    assert len(warnings) == 1


def test_a_question_mark_in_the_path_costs_one_warning_and_makes_no_file(tmp_path: Path) -> None:
    run_dir = tmp_path / "why?"
    run_dir.mkdir()
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings)
    tracker.log_metrics({"reward": 1.0}, step=0)
    tracker.close()
    assert len(warnings) == 1
    assert len(read_lines(run_dir)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["why?"]


def test_none_turns_mlflow_off(tmp_path: Path) -> None:
    tracker = open_run(tmp_path, [], uri="none")
    tracker.log_metrics({"reward": 1.0}, step=0)
    tracker.close()
    assert tracker.run_id is None
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_NAME]


def test_a_folder_without_room_for_metrics_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / METRICS_NAME).mkdir()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl cannot be written"):
        open_run(tmp_path, [], uri="none")


@pytest.mark.parametrize("make", [NullTracker, TeeTracker])
def test_empty_trackers_take_everything(make: type, tmp_path: Path) -> None:
    tracker: Tracker = make()
    tracker.log_params({"a": 1})
    tracker.log_metrics({"a": 1.0}, step=0)
    tracker.log_artifact(tmp_path)
    tracker.child("x").close()
    tracker.close("FAILED")
