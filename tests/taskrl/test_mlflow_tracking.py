"""Promises of the MLflow tracker: what was logged can be read back, and nobody waits for it."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from taskrl import mlflow_store
from taskrl.mlflow_store import ARTIFACTS_NAME, DATABASE_NAME, sqlite_path, sqlite_uri
from taskrl.mlflow_tracking import MAX_NAME, MlflowTracker, finite_or_none, safe_name
from taskrl.tracking import METRICS_NAME, SafeTracker
from tests.taskrl.mlflow_runs import client_of, history, inner_of, make_run_folder, open_run, read_lines


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path / "run")


ALIVE_SCRIPT = """
import sys
from pathlib import Path
from taskrl.tracking import open_tracker
assert "mlflow" not in sys.modules
run = Path(sys.argv[1])
complaints = []
tracker = open_tracker(run, uri=None, experiment="digits", run_name="main", warn=complaints.append)
assert "mlflow" not in sys.modules or tracker.run_id is None
tracker.log_params({"seed": 3, "encoder.width": 32})
(run / "config.yaml").write_text("seed: 3")
tracker.log_artifact(run / "config.yaml", "config")
child = tracker.child("seed-3")
for step in range(3):
    tracker.log_metrics({"reward": step / 2, "loss/rotation": 1.0}, step=step)
    child.log_metrics({"quality": step * 1.0}, step=step)
tracker.log_metrics({"fps": 7.0}, step=128, kind="agent")
tracker.close()
assert complaints == [], complaints
print(tracker.run_id)
"""


def test_sqlite_tracker_stays_alive_with_warnings_as_errors(tmp_path: Path) -> None:
    """The real thing from an empty folder, in a process where a third-party warning would be fatal; about 6 s."""
    run_dir = tmp_path / "run é #1 50%"
    run_dir.mkdir()
    stray = {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALIVE_SCRIPT, str(run_dir)],
        env={**os.environ, **stray},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run_id = done.stdout.strip()
    client = client_of(run_dir)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "main"
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert run.data.params == {"seed": "3", "encoder.width": "32"}
    assert history(run_dir, run_id, "reward") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert history(run_dir, run_id, "loss/rotation") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert history(run_dir, run_id, "agent/fps") == [(128, 7.0)]
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert [(each.info.run_name, each.info.status) for each in nested] == [("seed-3", "FINISHED")]
    assert history(run_dir, nested[0].info.run_id, "quality") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert [entry.path for entry in client.list_artifacts(run_id, "config")] == ["config/config.yaml"]
    assert (run_dir / ARTIFACTS_NAME / run_id / "artifacts" / "config" / "config.yaml").read_text() == "seed: 3"
    assert sorted(path.name for path in run_dir.iterdir()) == [
        ARTIFACTS_NAME,
        "config.yaml",
        METRICS_NAME,
        DATABASE_NAME,
    ]
    assert [(line["run"], line["kind"], line["step"]) for line in read_lines(run_dir)][-3:] == [
        ("", "decision", 2),
        ("seed-3", "decision", 2),
        ("", "agent", 128),
    ]


def test_opening_and_logging_do_not_wait_for_mlflow() -> None:
    """Not even where the store cannot be opened for a long time."""
    start = time.perf_counter()
    warnings: list[str] = []
    inner = MlflowTracker("http://127.0.0.1:9", experiment="e", run_name="r", deadline_s=0.2)
    tracker = SafeTracker(inner, warnings.append)
    for step in range(50):
        tracker.log_metrics({"reward": 1.0}, step=step)
    assert time.perf_counter() - start < 3.0
    assert tracker.run_id is None
    tracker.close()
    assert time.perf_counter() - start < 10.0
    assert len(warnings) == 1


def test_values_that_are_not_finite_are_left_out_and_counted(run_dir: Path) -> None:
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings)
    tracker.log_metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}, step=0)
    tracker.log_metrics({"a": math.nan}, step=1, kind="agent")
    tracker.close()
    assert warnings == []
    metrics = client_of(run_dir).get_run(tracker.run_id).data.metrics
    assert metrics == {"d": 1.0, "nonfinite": 3.0, "agent/nonfinite": 1.0}


def test_any_metric_name_any_param_and_a_large_batch_are_taken(run_dir: Path) -> None:
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings)
    names = ["train@x", "a[0]", "a(0)", "../x", "/abs", "a//b", ".", "", "x" * 300, "x" * 299 + "y", "c:d", "naïve"]
    tracker.log_metrics({name: float(index) for index, name in enumerate(names)}, step=0)
    tracker.log_metrics({f"m{index}": 1.0 for index in range(2500)}, step=1)
    tracker.log_params(
        {"long": "é" * 7000, "bad@name": None, "empty": "", **{f"p{index}": index for index in range(250)}}
    )
    tracker.close()
    assert warnings == []
    data = client_of(run_dir).get_run(tracker.run_id).data
    assert sorted(value for value in data.metrics.values() if value != 1.0) == [0.0, *map(float, range(2, len(names)))]
    assert len(data.metrics) == len(names) + 2500
    assert len(data.params["long"]) == 6000
    assert data.params["long"].endswith("...")
    assert (data.params["bad_name"], data.params["p249"], len(data.params)) == ("None", "249", 253)


@pytest.mark.parametrize("name", ["train@x", "../x", "..", "a/../b", "", "/", "a//b/", "x" * 999, "a\nb", "é/ü", "c:d"])
def test_safe_names_are_taken_by_mlflow_and_stay_what_they_are(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    cleaned = safe_name(name)
    _validate_metric_name(cleaned)  # type: ignore[no-untyped-call]
    assert len(cleaned) <= MAX_NAME
    assert safe_name(cleaned) == cleaned


def test_finite_or_none_takes_numbers_only() -> None:
    taken = [1, 2.5, True, np.float32(0.5), torch.tensor(3), torch.ones(1, 1)]
    assert [finite_or_none(value) for value in taken] == [1.0, 2.5, 1.0, 0.5, 3.0, 1.0]
    refused = [math.nan, math.inf, 10**400, "1", None, [1.0], torch.ones(2), np.ones(2)]
    assert [finite_or_none(value) for value in refused] == [None] * len(refused)


def test_a_run_is_reopened_by_its_id_with_its_children(run_dir: Path) -> None:
    warnings: list[str] = []
    first = open_run(run_dir, warnings)
    first.log_params({"seed": 1})
    first.child("seed-1").log_metrics({"reward": 0.0}, step=0)
    first.log_metrics({"reward": 0.0}, step=0)
    first.close("KILLED")
    run_id = first.run_id
    assert run_id is not None
    assert client_of(run_dir).get_run(run_id).info.status == "KILLED"

    second = open_run(run_dir, warnings, run_id=run_id)
    assert second.run_id == run_id
    second.log_params({"seed": 2, "device": "cpu"})
    second.child("seed-1").log_metrics({"reward": 1.0}, step=1)
    second.log_metrics({"reward": 1.0}, step=1)
    assert inner_of(second).wait()
    assert client_of(run_dir).get_run(run_id).info.status == "RUNNING"
    second.close()
    assert warnings == []
    client = client_of(run_dir)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "1", "device": "cpu"}
    assert history(run_dir, run_id, "reward") == [(0, 0.0), (1, 1.0)]
    runs = client.search_runs([run.info.experiment_id])
    assert sorted(each.info.run_name for each in runs) == ["run", "seed-1"]
    child_id = next(each.info.run_id for each in runs if each.info.run_name == "seed-1")
    assert history(run_dir, child_id, "reward") == [(0, 0.0), (1, 1.0)]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_status_is_kept_for_the_run_and_its_open_children(run_dir: Path, status: str) -> None:
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings)
    tracker.child("seed-0").close()
    tracker.child("seed-1")
    tracker.close(status)
    tracker.close()
    assert warnings == []
    client = client_of(run_dir)
    runs = client.search_runs([client.get_run(tracker.run_id).info.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "run": status,
        "seed-0": "FINISHED",
        "seed-1": status,
    }


def test_metrics_keep_the_time_at_which_they_were_logged(run_dir: Path) -> None:
    tracker = open_run(run_dir, [])
    before_ms = int(time.time() * 1000)
    tracker.log_metrics({"reward": 1.0}, step=0)
    after_ms = int(time.time() * 1000) + 1
    assert inner_of(tracker).wait()
    entry = client_of(run_dir).get_metric_history(tracker.run_id, "reward")[0]
    tracker.close()
    assert before_ms <= entry.timestamp <= after_ms


def test_a_vanished_artifact_is_named_and_a_folder_is_taken(run_dir: Path) -> None:
    warnings: list[str] = []
    figures = run_dir / "figures"
    figures.mkdir()
    (figures / "a.png").write_bytes(b"png")
    tracker = open_run(run_dir, warnings)
    tracker.log_artifact(run_dir / "gone.txt")
    tracker.log_artifact(figures, "../out")
    tracker.close()
    assert warnings == []
    client = client_of(run_dir)
    assert client.get_run(tracker.run_id).data.tags["taskrl.missing_artifact"] == str(run_dir / "gone.txt")
    assert [entry.path for entry in client.list_artifacts(tracker.run_id, "__/out/figures")] == ["__/out/figures/a.png"]


def test_artifacts_of_another_sqlite_file_lie_beside_it(tmp_path: Path) -> None:
    shared = make_run_folder(tmp_path / "shared")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("seed: 1")
    warnings: list[str] = []
    tracker = open_run(run_dir, warnings, uri=sqlite_uri(shared / DATABASE_NAME))
    tracker.log_artifact(run_dir / "config.yaml")
    tracker.close()
    assert warnings == []
    assert (shared / ARTIFACTS_NAME / str(tracker.run_id) / "artifacts" / "config.yaml").exists()
    assert not (run_dir / DATABASE_NAME).exists()


def test_two_trackers_on_one_new_file_do_not_spoil_it(tmp_path: Path) -> None:
    """The second one finds the file that the first has put there meanwhile, and keeps it."""
    fresh = make_run_folder(tmp_path / "fresh") / DATABASE_NAME
    there = tmp_path / "there.db"
    there.write_bytes(b"first")
    mlflow_store._publish(fresh, there)
    assert there.read_bytes() == b"first"
    mlflow_store._publish(fresh, tmp_path / "new.db")
    assert (tmp_path / "new.db").read_bytes() == fresh.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "new.db", "there.db"]


def test_a_file_system_without_links_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "fresh.db").write_bytes(b"new")
    mlflow_store._publish(tmp_path / "fresh.db", tmp_path / "target.db")
    assert (tmp_path / "target.db").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.db", "target.db"]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:///b.db", Path("b.db").absolute()),
        ("sqlite:///b.db?timeout=3", None),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("http://localhost", None),
    ],
)
def test_only_plain_sqlite_uris_name_a_file(uri: str, path: Path | None) -> None:
    assert sqlite_path(uri) == path
