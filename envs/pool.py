"""Pools: workers that each own environments and run jobs on the same problem.

A pool knows nothing of Stable-Baselines3. Where its workers live (processes, Ray actors) is a transport's business.
A worker that dies or runs past its deadline is named, replaced, and its environments go on from their last snapshots;
one that raises is named with its traceback. Results do not depend on the workers' number, nor on what happened to them.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch

from envs.host import ERROR as FAILED
from envs.host import USER_ERROR, EnvHost, Job, Request, Stepped, WorkerSetup
from taskrl.errors import WorkerError

START_DEADLINE_S = 120.0
MAX_ATTEMPTS = 2
Warn = Callable[[str], None]


class Pool(Protocol):
    """Asynchronous calls of EnvHost's methods; results of a worker come back in the order of its calls."""

    @property
    def num_workers(self) -> int: ...

    def call(self, worker: int, method: str, *arguments: Any) -> None: ...

    def result(self, worker: int) -> Any: ...

    def map(self, job: Job, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]: ...

    def close(self) -> None: ...


class Lost(Exception):
    """A worker is gone; the message says how."""


class Transport(Protocol):
    """Workers that take requests and give answers in order. A dead worker shows itself in `wait` and `receive`."""

    num_workers: int

    def start(self, worker: int) -> None:
        """A fresh worker in place of whatever there was; returns before it is ready."""
        ...

    def send(self, worker: int, request: Request) -> None: ...

    def wait(self, workers: Sequence[int], timeout_s: float) -> list[int]:
        """Those of `workers` that have an answer or are dead, as soon as there is one."""
        ...

    def receive(self, worker: int) -> tuple[str, Any]:
        """What `envs.host.answer` gave. Raises Lost when the worker is dead."""
        ...

    def kill(self, worker: int) -> None: ...

    def close(self) -> None: ...


class SerialPool:
    """The same calls in this process: one worker. With `batched`, waiting steps are taken as one."""

    def __init__(self, setup: WorkerSetup, *, batched: bool = False) -> None:
        self._num_threads = (os.cpu_count() or 1) if batched else 1
        torch.set_num_threads(self._num_threads)
        self._host = EnvHost(setup, snapshots=False)
        self._batched = batched
        self._waiting: list[Request] = []
        self._results: deque[Any] = deque()

    @property
    def num_workers(self) -> int:
        return 1

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        self._waiting.append((method, arguments))

    def result(self, worker: int) -> Any:
        """The result of the oldest call. An error drops the calls that waited with it."""
        if not self._results:
            torch.set_num_threads(self._num_threads)
            waiting, self._waiting = self._waiting, []
            if self._batched and all(method == "step" for method, _ in waiting):
                self._results.extend(self._host.step_all([(row[0], row[1], row[2]) for _, row in waiting]))
            else:
                self._results.extend(getattr(self._host, method)(*row) for method, row in waiting)
        return self._results.popleft()

    def map(self, job: Job, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each job."""
        for index, row in enumerate(arguments):
            yield index, self._host.run(job, *row)

    def close(self) -> None:
        self._results.clear()
        self._waiting.clear()


@dataclass
class _Call:
    """A request that has not been answered. private: its answer is for the pool, not for the caller."""

    request: Request
    private: bool = False
    attempts: int = 1


@dataclass
class _Books:
    """One worker: calls in the order they were sent, the last snapshot of each of its environments, and when the
    oldest call began to be worked on.
    """

    calls: deque[_Call] = field(default_factory=deque)
    snapshots: dict[int, Request] = field(default_factory=dict)
    begun: float = 0.0
    ready: bool = False


@final
class WorkerPool:
    """Workers of a transport, watched over."""

    def __init__(
        self, transport: Transport, *, deadline_s: float, warn: Warn, job_deadline_s: float | None = None
    ) -> None:
        """deadline_s: longest time that one call may take. job_deadline_s: that a job may (`run`); None is the same.
        Returns at once; the first results wait for the start.
        """
        self._transport = transport
        self._deadline_s = deadline_s
        self._job_deadline_s = deadline_s if job_deadline_s is None else job_deadline_s
        self._warn = warn
        self._books = [_Books() for _ in range(transport.num_workers)]
        for worker in range(self.num_workers):
            transport.start(worker)

    @property
    def num_workers(self) -> int:
        return self._transport.num_workers

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        """Queue EnvHost.`method` on `worker`."""
        self._send(worker, _Call((method, arguments)))

    def result(self, worker: int) -> Any:
        """The next result of `worker`. Raises WorkerError when it raised, or died or was late twice over the same
        call.
        """
        while True:
            self._transport.wait([worker], self._time_left(worker))
            found = self._settle(worker)
            if found:
                return found[0]

    def map(self, job: Job, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each job as they finish; every worker takes the next job when it is free."""
        waiting = deque(enumerate(arguments))
        running: dict[int, int] = {}

        def give(worker: int) -> None:
            if waiting:
                running[worker], row = waiting.popleft()
                self.call(worker, "run", job, *row)

        for worker in range(self.num_workers):
            give(worker)
        while running:
            soonest = min(running, key=self._time_left)
            for worker in self._transport.wait(list(running), self._time_left(soonest)) or [soonest]:
                found = self._settle(worker)
                if found:
                    index = running.pop(worker)
                    give(worker)
                    yield index, found[0]

    def close(self) -> None:
        """Stop every worker, at the latest after some seconds."""
        self._transport.close()

    def _send(self, worker: int, call: _Call) -> None:
        books = self._books[worker]
        if not books.calls:
            books.begun = time.monotonic()
        books.calls.append(call)
        self._transport.send(worker, call.request)

    def _time_left(self, worker: int) -> float:
        books = self._books[worker]
        allowed = self._allowed_s(worker) + (0 if books.ready else START_DEADLINE_S)
        return max(0.0, books.begun + allowed - time.monotonic())

    def _allowed_s(self, worker: int) -> float:
        """For the oldest call."""
        method, _ = self._books[worker].calls[0].request
        return self._job_deadline_s if method == "run" else self._deadline_s

    def _settle(self, worker: int) -> tuple[Any] | None:
        """The caller's next result if it is there; a lost worker is replaced on the way."""
        books = self._books[worker]
        ready = self._transport.wait([worker], 0)
        if not ready and self._time_left(worker) > 0:
            return None
        try:
            if not ready:
                self._transport.kill(worker)
                raise Lost(f"Worker {worker} gave no answer within {self._allowed_s(worker):g} s and was stopped")
            kind, value = self._transport.receive(worker)
        except Lost as lost:
            self._replace(worker, str(lost))
            return None
        call = books.calls.popleft()
        books.ready, books.begun = True, time.monotonic()
        if kind == USER_ERROR:
            raise value
        if kind == FAILED:
            raise WorkerError(f"Worker {worker} failed:\n{value}")
        self._remember(books, call.request, value)
        return None if call.private else (value,)

    def _remember(self, books: _Books, request: Request, value: Any) -> None:
        """What would bring an environment back to where it is now."""
        method, arguments = request
        if method in ("reset", "restore"):
            books.snapshots[arguments[0]] = request
        elif isinstance(value, Stepped):
            if value.snapshot is None:
                books.snapshots.pop(arguments[0], None)
            else:
                books.snapshots[arguments[0]] = ("restore", (arguments[0], value.snapshot))

    def _replace(self, worker: int, how: str) -> None:
        """A fresh worker that restores the environments and takes over the calls. Raises WorkerError, and drops the
        oldest call, when that has cost a worker before.
        """
        books = self._books[worker]
        calls = [call for call in books.calls if not call.private]
        hopeless = calls[0].attempts >= MAX_ATTEMPTS
        if hopeless:
            calls.pop(0)
        else:
            calls[0].attempts += 1
        books.calls.clear()
        books.ready = False
        self._transport.start(worker)
        for request in books.snapshots.values():
            self._send(worker, _Call(request, private=True))
        for call in calls:
            self._send(worker, call)
        if hopeless:
            raise WorkerError(
                f"{how}, {MAX_ATTEMPTS} times over the same call; if memory ran out, use fewer workers or a smaller "
                "batch; if decisions or final encoders take longer, raise worker_deadline_s (for taskrl resume in the "
                "config.yaml of the run)."
            )
        self._warn(f"{how}; a new worker goes on from its last snapshots.")
