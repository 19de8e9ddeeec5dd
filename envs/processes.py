"""Workers as processes of this machine: spawned, one torch thread each, sharing the images of the parent."""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, final

import torch
import torch.multiprocessing as tmp

from envs.host import ERROR, EnvHost, Request, WorkerSetup, answer
from envs.pool import Lost

STOP_DEADLINE_S = 5.0
LONGEST_WAIT_S = 3600.0  # at once; whoever asks for longer asks again


@final
class Processes:
    """A transport over pipes."""

    def __init__(self, setup: WorkerSetup, num_workers: int) -> None:
        self.num_workers = num_workers
        self._setup = setup
        self._context = tmp.get_context("spawn")
        self._processes: list[Any] = [None] * num_workers
        self._connections: list[Connection | None] = [None] * num_workers

    def start(self, worker: int) -> None:
        old = self._connections[worker]
        if old is not None:
            self.kill(worker)
            old.close()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._setup), name=f"taskrl-worker-{worker}", daemon=True
        )
        with _ctrl_c_ignored():
            process.start()
        theirs.close()
        self._connections[worker], self._processes[worker] = ours, process

    def send(self, worker: int, request: Request) -> None:
        try:
            self._connection(worker).send(request)
        except (BrokenPipeError, ConnectionResetError):
            return  # `receive` tells

    def wait(self, workers: Sequence[int], timeout_s: float) -> list[int]:
        connections = {self._connection(worker): worker for worker in workers}
        ready = wait(list(connections), min(timeout_s, LONGEST_WAIT_S))
        return [connections[one] for one in ready]  # type: ignore[index]

    def receive(self, worker: int) -> tuple[str, Any]:
        try:
            kind, value = self._connection(worker).recv()
        except (EOFError, OSError):  # the latter where it was killed in the middle of an answer
            process = self._processes[worker]
            process.join(1.0)
            code = process.exitcode
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            raise Lost(f"Worker {worker} {how}") from None
        return kind, value

    def kill(self, worker: int) -> None:
        process = self._processes[worker]
        process.kill()
        process.join(STOP_DEADLINE_S)

    def close(self) -> None:
        """Ask every worker to stop; those that have not within 5 s are killed."""
        for worker in range(self.num_workers):
            try:
                self._connection(worker).send(None)
            except OSError:
                continue
        deadline = time.monotonic() + STOP_DEADLINE_S
        for worker, process in enumerate(self._processes):
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                self.kill(worker)
            self._connection(worker).close()

    def _connection(self, worker: int) -> Connection:
        connection = self._connections[worker]
        assert connection is not None
        return connection


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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    hosts: list[EnvHost] = []

    def host() -> EnvHost:
        if not hosts:
            hosts.append(EnvHost(setup))
        return hosts[0]

    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request is None:
            return
        reply = answer(host, request)
        try:
            connection.send(reply)
        except (pickle.PicklingError, TypeError, AttributeError):
            connection.send((ERROR, f"the result of {request[0]} cannot be pickled:\n{traceback.format_exc()}"))
        except OSError:
            return


def _end_with_parent() -> None:
    """A parent that was killed asks nobody to stop, and what a worker still trains is for nobody."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
