"""MLflow behind a queue: one daemon thread opens the store and writes, so training never waits for it.

The first opening takes seconds (imports and migration). Only `MlflowClient` is used: the fluent API keeps global state
and obeys a stray MLFLOW_RUN_ID. Start worker processes with "spawn" or "forkserver": a fork would copy whatever lock
the thread holds.
"""

import hashlib
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex, TypeVar

from taskrl.mlflow_store import (
    THREAD_NAME,
    connect,
    dispose,
    find_or_create_experiment,
    hush_thread,
    prepare_process,
    repair_moved_run,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
MAX_NAME = 250
MAX_PARAM = 6000
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 25
"""MLflow takes 100, but a request at most 1 MB, and 6000 escaped characters can take 36 kB."""
KILLED_DEADLINE_S = 10.0


def finite_or_none(value: object) -> float | None:
    """`value` as a finite float; None for NaN, an infinity or what is no number."""
    if not isinstance(value, (SupportsFloat, SupportsIndex)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several elements
        return None
    return number if math.isfinite(number) else None


def safe_name(name: str) -> str:
    """`name` as MLflow accepts it: letters, digits and "_-. /", no path tricks, at most 250 characters."""
    parts = [part for part in re.sub(r"[^\w.\- /]", "_", name).split("/") if part]
    cleaned = "/".join(part.replace(".", "_") if part in (".", "..") else part for part in parts) or "_"
    return cleaned if len(cleaned) <= MAX_NAME else f"{cleaned[: MAX_NAME - 9]}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


class _Names:
    """Original name -> MLflow name; two originals that clean to the same name stay apart."""

    def __init__(self) -> None:
        self._safe: dict[str, str] = {}
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._safe:
            cleaned = safe_name(name)
            if cleaned in self._taken:
                cleaned = f"{cleaned[: MAX_NAME - 9]}-{_digest(name)}"
            self._safe[name] = cleaned
            self._taken.add(cleaned)
        return self._safe[name]


class _FirstError:
    """Swallows and keeps the first exception raised under it."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception) and self.error is None:
            self.error = error
        return isinstance(error, Exception)


class _Worker:
    """Runs operations in order in one daemon thread; after the first that fails, the rest are skipped."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._first = _FirstError()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[], None]) -> None:
        """Queue `operation`. Raises the error of an earlier one, if there was any."""
        if self._first.error is not None:
            raise self._first.error
        self._queue.put(operation)

    def stop(self, deadline_s: float) -> None:
        """End the thread after what is queued. Raises TimeoutError past the deadline, or the error of an operation."""
        self._queue.put(None)
        self._thread.join(deadline_s)
        if self._first.error is not None:
            raise self._first.error
        if self._thread.is_alive():
            left = max(1, self._queue.qsize() - 1)
            raise TimeoutError(f"{left} entries were not stored within {deadline_s:g} s")

    def wait(self, deadline_s: float) -> bool:
        """Wait for what is queued so far; False past the deadline or after an error."""
        done = threading.Event()
        self._queue.put(done.set)
        end = time.monotonic() + deadline_s
        while self._first.error is None and time.monotonic() < end:
            if done.wait(0.05):
                return True
        return False

    def _run(self) -> None:
        hush_thread()
        while (operation := self._queue.get()) is not None:
            if self._first.error is None:
                with self._first:
                    operation()


class MlflowTracker:
    """One MLflow run, written from a background thread. An error there is raised by the next call, or by
    `close`.

    uri: any tracking URI that MLflow takes. artifact_root: where a new experiment keeps artifacts (None: the server
    decides). run_dir: the run folder that holds the store, mended first if it was moved. run_id: reopen this run.
    parent: make this a nested run of it; the other settings are then the parent's. opened: told the run's id in the
    thread, before anything is written. Metrics of a kind other than "decision" get the kind as a prefix, because their
    steps count something else.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        run_name: str,
        artifact_root: Path | None = None,
        run_dir: Path | None = None,
        run_id: str | None = None,
        deadline_s: float = 60.0,
        parent: "MlflowTracker | None" = None,
        opened: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self._uri, self._experiment, self._run_name = uri, experiment, run_name
        self._artifact_root, self._run_dir = artifact_root, run_dir
        self._reopen, self._deadline_s, self._parent = run_id, deadline_s, parent
        self._opened = opened
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._run_id: str | None = run_id
        self._known_params: set[str] = set()
        self._metric_names, self._param_names = _Names(), _Names()
        self._children: dict[str, MlflowTracker] = {}
        self._closed = False
        self._started_ms = _now_ms()
        if parent is None:
            prepare_process(uri)
        self._worker: _Worker = _Worker() if parent is None else parent._worker
        self._worker.submit(self._open)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, to be kept for a resume; None until the thread has opened the run."""
        return self._run_id

    def wait(self, deadline_s: float = 60.0) -> bool:
        """Wait until what was logged so far is stored; False past the deadline or after an error."""
        return self._worker.wait(deadline_s)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Add parameters; one that the run has already keeps its first value, as MLflow demands."""
        texts = {self._param_names(name): _cut(str(value)) for name, value in params.items()}
        self._worker.submit(lambda: self._write_params(texts))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        """Add one batch. Values that are not finite are left out and counted in the metric `nonfinite`."""
        prefix = "" if kind == "decision" else f"{kind}/"
        stamp_ms = _now_ms()
        numbers = {name: finite_or_none(value) for name, value in metrics.items()}
        values = {self._metric_names(prefix + name): number for name, number in numbers.items() if number is not None}
        if len(values) < len(numbers):
            values[self._metric_names(prefix + "nonfinite")] = float(len(numbers) - len(values))
        self._worker.submit(lambda: self._write_metrics(values, int(step), stamp_ms))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file or folder into the run later; one that has vanished by then is named in a tag."""
        source = Path(path).absolute()
        self._worker.submit(lambda: self._write_artifact(source, safe_name(folder) if folder else None))

    def child(self, name: str) -> "MlflowTracker":
        """The nested run called `name`: the same object for the same name; a reopened run finds its old children."""
        if name not in self._children:
            self._children[name] = MlflowTracker(
                self._uri, experiment=self._experiment, run_name=name, deadline_s=self._deadline_s, parent=self
            )
        return self._children[name]

    def close(self, status: str = "FINISHED") -> None:
        """End the run and the children still open. The outermost run waits for the thread, at most `deadline_s`.

        A KILLED run waits at most 10 s. Raises what went wrong in the thread, or TimeoutError.
        """
        if self._closed:
            return
        self._closed = True
        ended_ms = _now_ms()
        with suppress(Exception):  # an error in the thread is raised by stop(), and must not keep the thread alive
            for child in self._children.values():
                child.close(status)
            self._worker.submit(lambda: self._terminate(status, ended_ms))
        if self._parent is None:
            self._worker.stop(min(self._deadline_s, KILLED_DEADLINE_S) if status == "KILLED" else self._deadline_s)

    # What follows runs in the thread.

    def _open(self) -> None:
        if self._parent is None:
            if self._run_dir is not None:
                repair_moved_run(self._run_dir)
            self._client = connect(self._uri)
            run = self._client.get_run(self._reopen) if self._reopen else None
            self._experiment_id = (
                run.info.experiment_id
                if run is not None
                else find_or_create_experiment(self._client, self._experiment, self._artifact_root)
            )
        else:
            self._client, self._experiment_id = self._parent._client, self._parent._experiment_id
            run = self._old_child() if self._parent._reopen else None
        if run is None:
            run = self._ready().create_run(
                self._experiment_id, start_time=self._started_ms, tags=self._tags(), run_name=self._run_name
            )
        else:
            self._ready().update_run(run.info.run_id, status="RUNNING")
            self._reopen = run.info.run_id
        self._known_params = set(run.data.params)
        self._run_id = run.info.run_id
        self._opened(run.info.run_id)

    def _tags(self) -> dict[str, str]:
        tags = {"mlflow.source.name": "taskrl", "mlflow.source.type": "LOCAL"}
        return tags if self._parent is None else {**tags, "mlflow.parentRunId": str(self._parent._run_id)}

    def _old_child(self) -> "Run | None":
        assert self._parent is not None
        nested = f"tags.`mlflow.parentRunId` = '{self._parent._run_id}'"
        token: str | None = None
        while True:  # names are compared here: a quote in one would break the filter
            page = self._ready().search_runs([self._experiment_id], nested, page_token=token)
            found = next((run for run in page if run.info.run_name == self._run_name), None)
            token = page.token
            if found is not None or not token:
                return found

    def _ready(self) -> "MlflowClient":
        assert self._client is not None
        return self._client

    def _write_params(self, texts: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        new = [Param(name, text) for name, text in texts.items() if name not in self._known_params]
        for chunk in _chunks(new, PARAMS_PER_BATCH):
            self._ready().log_batch(str(self._run_id), params=chunk)
        self._known_params.update(texts)

    def _write_metrics(self, values: Mapping[str, float], step: int, stamp_ms: int) -> None:
        from mlflow.entities import Metric

        entries = [Metric(name, value, stamp_ms, step) for name, value in values.items()]
        for chunk in _chunks(entries, METRICS_PER_BATCH):
            self._ready().log_batch(str(self._run_id), metrics=chunk)

    def _write_artifact(self, source: Path, folder: str | None) -> None:
        if source.exists():
            self._ready().log_artifact(str(self._run_id), str(source), folder)
        else:
            self._ready().set_tag(str(self._run_id), "taskrl.missing_artifact", str(source))

    def _terminate(self, status: str, ended_ms: int) -> None:
        self._ready().set_terminated(str(self._run_id), status, ended_ms)
        if self._parent is None:
            dispose(self._ready())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PARAM else text[: MAX_PARAM - 3] + "..."


def _chunks(entries: Sequence[T], size: int) -> list[Sequence[T]]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _now_ms() -> int:
    return int(time.time() * 1000)
