"""Worker processes that each own environments and run jobs on the same problem.

A pool knows nothing of Stable-Baselines3. Each worker has one torch thread and shares the images of the parent. A
worker that raises, dies or runs past its deadline is named in a WorkerError with its traceback; nothing waits for ever.
"""

import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch
import torch.multiprocessing as tmp

from envs.factory import make_env
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import Assembled, assemble
from taskrl.config import ExperimentConfig
from taskrl.data.dataset import RawDataset
from taskrl.errors import TaskrlError, WorkerError
from taskrl.tasks.space import Codec

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 5.0
Job = Callable[..., Any]
"""A function of a module, called in the worker as job(assembled, *arguments)."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker builds its problem from."""

    config: ExperimentConfig
    dataset: RawDataset
    codec: Codec


class EnvHost:
    """The worker's side: one assembled problem, any number of environments on it."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.assembled: Assembled = assemble(setup.config, setup.dataset, codec=setup.codec)
        self._episode = setup.config.episode
        self._envs: dict[int, TaskGenerationEnv] = {}

    def reset(self, env_id: int, seed: int) -> tuple[Any, dict[str, Any]]:
        """Observation and info of a fresh episode of environment `env_id` (made on first use)."""
        if env_id not in self._envs:
            self._envs[env_id] = make_env(self.assembled.problem, self._episode)
        return self._envs[env_id].reset(seed=seed)

    def step(self, env_id: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any], dict[str, float]]:
        """Gymnasium's five values and the timings of the step."""
        env = self._envs[env_id]
        return (*env.step(action), dict(env.timings))

    def run(self, job: Job, *arguments: Any) -> Any:
        """Any other work on the problem."""
        return job(self.assembled, *arguments)


class Pool(Protocol):
    """Asynchronous calls of EnvHost's methods; results of a worker come back in the order of its calls."""

    @property
    def num_workers(self) -> int: ...

    def call(self, worker: int, method: str, *arguments: Any) -> None: ...

    def result(self, worker: int) -> Any: ...

    def map(self, job: Job, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]: ...

    def close(self) -> None: ...


class SerialPool:
    """The same calls in this process: one worker, no other processes."""

    def __init__(self, setup: WorkerSetup) -> None:
        torch.set_num_threads(1)
        self._host = EnvHost(setup)
        self._results: list[Any] = []

    @property
    def num_workers(self) -> int:
        return 1

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        self._results.append(getattr(self._host, method)(*arguments))

    def result(self, worker: int) -> Any:
        return self._results.pop(0)

    def map(self, job: Job, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each job."""
        for index, row in enumerate(arguments):
            yield index, self._host.run(job, *row)

    def close(self) -> None:
        self._results.clear()


class ProcessPool:
    """`num_workers` spawned processes, each with an EnvHost."""

    def __init__(self, setup: WorkerSetup, *, num_workers: int, deadline_s: float) -> None:
        """deadline_s: longest time that one call may take. Returns at once; the first results wait for the start."""
        self._deadline_s = deadline_s
        context = tmp.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        self._started = [False] * num_workers
        for worker in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, setup), name=f"taskrl-worker-{worker}", daemon=True)
            with _ctrl_c_ignored():
                process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    @property
    def num_workers(self) -> int:
        return len(self._processes)

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Queue EnvHost.`method` on `worker`. Raises WorkerError when the worker is gone."""
        try:
            self._connections[worker].send((method, arguments))
        except (BrokenPipeError, OSError):
            raise WorkerError(self._obituary(worker)) from None

    def result(self, worker: int) -> Any:
        """The next result of `worker`. Raises WorkerError when it raised, died or is late."""
        deadline_s = self._deadline_s + (0 if self._started[worker] else START_DEADLINE_S)
        connection = self._connections[worker]
        if not connection.poll(deadline_s):
            self._processes[worker].kill()
            raise WorkerError(
                f"Worker {worker} gave no answer within {deadline_s:g} s and was stopped; "
                "raise worker_deadline_s or make decisions shorter."
            )
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerError(self._obituary(worker)) from None
        self._started[worker] = True
        if kind == "user error":
            raise value
        if kind == "error":
            raise WorkerError(f"Worker {worker} failed:\n{value}")
        return value

    def map(self, job: Job, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each job as they finish; every worker takes the next job when it is free."""
        waiting = list(enumerate(arguments))
        running: dict[int, tuple[int, float]] = {}
        for worker in range(min(self.num_workers, len(waiting))):
            running[worker] = self._begin(worker, job, waiting.pop(0))
        while running:
            ready = wait([self._connections[worker] for worker in running], timeout=self._time_left(running))
            workers = [worker for worker in running if self._connections[worker] in ready] or [
                min(running, key=lambda worker: self._due(worker, running[worker][1]))
            ]
            for worker in workers:
                index = running.pop(worker)[0]
                value = self.result(worker) if ready else self._too_late(worker)
                yield index, value
                if waiting:
                    running[worker] = self._begin(worker, job, waiting.pop(0))

    def close(self) -> None:
        """Stop every worker; those that do not stop within 5 s are killed."""
        for connection in self._connections:
            try:
                connection.send(None)
            except OSError:
                continue
        deadline = time.monotonic() + STOP_DEADLINE_S
        for process in self._processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(STOP_DEADLINE_S)
        for connection in self._connections:
            connection.close()

    def _begin(self, worker: int, job: Job, item: tuple[int, tuple[Any, ...]]) -> tuple[int, float]:
        self.call(worker, "run", job, *item[1])
        return item[0], time.monotonic()

    def _time_left(self, running: dict[int, tuple[int, float]]) -> float:
        first_due = min(self._due(worker, begun) for worker, (_, begun) in running.items())
        return max(0.0, first_due - time.monotonic())

    def _due(self, worker: int, begun: float) -> float:
        """When a call that was sent at `begun` is late; the first one waits for the start as well."""
        return begun + self._deadline_s + (0 if self._started[worker] else START_DEADLINE_S)

    def _too_late(self, worker: int) -> Any:
        self._processes[worker].kill()
        raise WorkerError(
            f"Worker {worker} did not finish its job within {self._deadline_s:g} s and was stopped; "
            "raise worker_deadline_s."
        )

    def _obituary(self, worker: int) -> str:
        process = self._processes[worker]
        process.join(1.0)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return f"Worker {worker} {how}; if memory ran out, use fewer workers or a smaller batch."


def open_pool(setup: WorkerSetup, *, num_workers: int, deadline_s: float) -> Pool:
    """One worker runs in this process, several in processes of their own; results do not depend on their number."""
    if num_workers == 1:
        return SerialPool(setup)
    return ProcessPool(setup, num_workers=num_workers, deadline_s=deadline_s)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """A process begun here inherits it, so that Ctrl-C during its imports prints no traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _serve(connection: Connection, setup: WorkerSetup) -> None:
    """The worker's main loop. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    host: EnvHost | None = None
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request is None:
            return
        method, arguments = request
        try:
            host = host or EnvHost(setup)
            answer: tuple[str, Any] = ("result", getattr(host, method)(*arguments))
        except TaskrlError as error:
            answer = ("user error", error)
        except Exception:  # noqa: BLE001 (whatever it is, the parent reports it)
            answer = ("error", traceback.format_exc())
        try:
            connection.send(answer)
        except (pickle.PicklingError, TypeError, AttributeError):
            connection.send(("error", f"the result of {method} cannot be pickled:\n{traceback.format_exc()}"))
        except OSError:
            return
