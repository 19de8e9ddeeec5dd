"""What a run records while it trains: metrics.jsonl always, MLflow beside it; neither can change a result."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from taskrl.errors import RunFolderError
from taskrl.mlflow_store import ARTIFACTS_NAME, DATABASE_NAME, sqlite_path, sqlite_uri
from taskrl.mlflow_tracking import MlflowTracker, finite_or_none

METRICS_NAME = "metrics.jsonl"


class Tracker(Protocol):
    """Takes what a run wants recorded. `close` takes FINISHED, FAILED or KILLED."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record a flat mapping of settings."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        """Record numbers of one moment; `step` counts things of this `kind`."""
        ...

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file or folder; it must stay in place until `close`."""
        ...

    def child(self, name: str) -> "Tracker":
        """A tracker for a part of the run, such as one seed."""
        ...

    def close(self, status: str = "FINISHED") -> None:
        """End the recording; a second call does nothing."""
        ...


class NullTracker:
    """Records nothing."""

    def log_params(self, params: Mapping[str, object]) -> None:
        return

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        return

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def child(self, name: str) -> "NullTracker":
        return self

    def close(self, status: str = "FINISHED") -> None:
        return


class JsonlTracker:
    """Metrics as JSON lines with the keys kind, step, run, time (Unix, s) and metrics; a non-finite value is
    null.

    Each line is one write to the end of the file, so a killed process leaves whole lines. A resumed run repeats steps:
    the last line of a (run, kind, step) counts. Parameters and artifacts lie in the run folder already.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self._path, self._run = Path(path), run
        with open(self._path, "ab+", buffering=0) as file:  # a full disk may have cut the last line short
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def log_params(self, params: Mapping[str, object]) -> None:
        return

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        line = {
            "kind": kind,
            "step": int(step),
            "run": self._run,
            "time": round(time.time(), 3),
            "metrics": {str(name): finite_or_none(value) for name, value in metrics.items()},
        }
        with open(self._path, "ab", buffering=0) as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def child(self, name: str) -> "JsonlTracker":
        return JsonlTracker(self._path, f"{self._run}/{name}" if self._run else name)

    def close(self, status: str = "FINISHED") -> None:
        return


class _Fuse:
    """Swallows exceptions raised under it; the first blows it, with one sentence. Children share their parent's."""

    def __init__(self, warn: Callable[[str], None], name: str) -> None:
        self.blown = False
        self._warn, self._name = warn, name

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self.blown:
            self.blown = True
            reason = next(iter(str(error).splitlines()), "")[:200]
            with suppress(Exception):
                self._warn(
                    f"Recording to {self._name} stopped ({type(error).__name__}: {reason}); the run goes on without it."
                )
        return True


class SafeTracker:
    """Never raises: the first failure of `inner` warns with one sentence, and everything later is dropped.

    name: what the sentence calls the backend.
    """

    def __init__(
        self, inner: Tracker, warn: Callable[[str], None], *, name: str = "the tracker", fuse: _Fuse | None = None
    ) -> None:
        self._inner, self._fuse = inner, fuse or _Fuse(warn, name)
        self._warn = warn

    @property
    def run_id(self) -> str | None:
        """The inner tracker's run id, if it has one."""
        return getattr(self._inner, "run_id", None)

    def log_params(self, params: Mapping[str, object]) -> None:
        with self._fuse:
            if not self._fuse.blown:
                self._inner.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        with self._fuse:
            if not self._fuse.blown:
                self._inner.log_metrics(metrics, step=step, kind=kind)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        with self._fuse:
            if not self._fuse.blown:
                self._inner.log_artifact(path, folder)

    def child(self, name: str) -> Tracker:
        with self._fuse:
            if not self._fuse.blown:
                return SafeTracker(self._inner.child(name), self._warn, fuse=self._fuse)
        return NullTracker()

    def close(self, status: str = "FINISHED") -> None:
        """Close `inner` even after a failure, so that its threads and files are let go."""
        with self._fuse:
            self._inner.close(status)


class TeeTracker:
    """Hands everything to each of several trackers."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    @property
    def run_id(self) -> str | None:
        """The first run id among the trackers; None while none is known. Keep it in checkpoints, for a resume."""
        ids = (getattr(tracker, "run_id", None) for tracker in self._trackers)
        return next((run_id for run_id in ids if run_id is not None), None)

    def log_params(self, params: Mapping[str, object]) -> None:
        for tracker in self._trackers:
            tracker.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        for tracker in self._trackers:
            tracker.log_metrics(metrics, step=step, kind=kind)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        for tracker in self._trackers:
            tracker.log_artifact(path, folder)

    def child(self, name: str) -> "TeeTracker":
        return TeeTracker(*(tracker.child(name) for tracker in self._trackers))

    def close(self, status: str = "FINISHED") -> None:
        for tracker in self._trackers:
            tracker.close(status)


def log_warning(sentence: str) -> None:
    """The default of `warn`: a warning of the logger "taskrl", on stderr unless logging was configured."""
    logging.getLogger("taskrl").warning(sentence)


def open_tracker(
    run_dir: Path,
    *,
    uri: str | None,
    experiment: str,
    run_name: str,
    run_id: str | None = None,
    warn: Callable[[str], None] = log_warning,
    opened: Callable[[str], None] = lambda run_id: None,
) -> TeeTracker:
    """RUN/metrics.jsonl and MLflow. Returns at once; MLflow starts in a thread, so `run_id` is None for some
    seconds.

    uri: None for RUN/mlflow.db with artifacts in RUN/artifacts, "none" for no MLflow, else a tracking URI. run_id:
    reopen that run. opened: told the run's id, in MLflow's thread, as soon as it is known. Raises RunFolderError where
    metrics.jsonl cannot be written; nothing else can fail.
    """
    run_dir = Path(run_dir).resolve()
    path = run_dir / METRICS_NAME
    try:
        jsonl = SafeTracker(JsonlTracker(path), warn, name=str(path))
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}); choose a run folder you may write."
        ) from error
    if uri is not None and uri.lower() == "none":
        return TeeTracker(jsonl)
    fuse = _Fuse(warn, "MLflow")
    with fuse:
        where = sqlite_uri(run_dir / DATABASE_NAME) if uri is None else uri
        inner = MlflowTracker(
            where,
            experiment=experiment,
            run_name=run_name,
            artifact_root=_artifact_root(run_dir, where),
            run_dir=run_dir if uri is None else None,
            run_id=run_id,
            opened=opened,
        )
        return TeeTracker(jsonl, SafeTracker(inner, warn, fuse=fuse))
    return TeeTracker(jsonl)


def _artifact_root(run_dir: Path, uri: str) -> Path | None:
    """Beside a sqlite file; in the run folder for other databases; a server decides for itself."""
    database = sqlite_path(uri)
    if database is not None:
        return database.parent / ARTIFACTS_NAME
    databases = ("postgresql", "mysql", "mssql")
    return run_dir / ARTIFACTS_NAME if uri.startswith(databases) else None
