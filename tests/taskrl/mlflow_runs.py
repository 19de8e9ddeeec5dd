"""Run folders with a migrated database (made once a session: it takes seconds, a copy none), and readers of them."""

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from taskrl.mlflow_store import DATABASE_NAME, connect, dispose, prepare_process, sqlite_uri
from taskrl.mlflow_tracking import MlflowTracker
from taskrl.tracking import METRICS_NAME, SafeTracker, TeeTracker, open_tracker


@functools.cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / DATABASE_NAME
        prepare_process(sqlite_uri(database))
        dispose(connect(sqlite_uri(database)))
        return database.read_bytes()


def make_run_folder(folder: Path) -> Path:
    """`folder`, new, with a migrated and empty mlflow.db."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / DATABASE_NAME).write_bytes(_template())
    return folder


def client_of(run_dir: Path) -> Any:
    """A client that reads the folder's mlflow.db."""
    uri = sqlite_uri(run_dir / DATABASE_NAME)
    prepare_process(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    text = (run_dir / METRICS_NAME).read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def open_run(run_dir: Path, warnings: list[str], *, uri: str | None = None, run_id: str | None = None) -> TeeTracker:
    return open_tracker(run_dir, uri=uri, experiment="taskrl", run_name="run", run_id=run_id, warn=warnings.append)


def history(run_dir: Path, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in client_of(run_dir).get_metric_history(run_id, name)]


def inner_of(tracker: TeeTracker) -> MlflowTracker:
    safe = tracker._trackers[1]
    assert isinstance(safe, SafeTracker)
    assert isinstance(safe._inner, MlflowTracker)
    return safe._inner
