"""Workers as Ray actors, on this machine or on others of a Ray cluster (the `ray` extra).

Actors are never restarted by Ray, which would lose their state and may run a call twice: the pool replaces them itself.
"""

import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, final

import torch

from envs.host import EnvHost, Request, WorkerSetup, answer
from envs.pool import Lost
from taskrl.errors import ConfigError

LOCALHOST = "127.0.0.1"
CONNECT_DEADLINE_S = 5.0


class Actor:
    """What runs on the other side."""

    def __init__(self, setup: WorkerSetup) -> None:
        torch.set_num_threads(1)
        self._setup = setup
        self._host: EnvHost | None = None

    def answer(self, request: Request) -> tuple[str, Any]:
        """`envs.host.answer` on the actor's host."""
        return answer(self._hosted, request)

    def _hosted(self) -> EnvHost:
        if self._host is None:
            self._host = EnvHost(self._setup)
        return self._host


@final
class RayActors:
    """A transport over Ray's calls."""

    def __init__(self, setup: WorkerSetup, num_workers: int, *, address: str = "") -> None:
        """address: of a running cluster ("auto", "ray://host:10001", "host:6379"); empty starts one on this machine,
        reachable from nowhere else. Raises ConfigError when Ray is missing or the cluster does not answer.
        """
        self.num_workers = num_workers
        self._ray = _ray()
        self._began_ray = not self._ray.is_initialized()
        if self._began_ray:
            self._connect(address, num_workers)
        self._setup = self._ray.put(setup)
        on_gpu = setup.config.predictor.device.startswith("cuda")
        self._actor = self._ray.remote(
            num_cpus=1, num_gpus=int(on_gpu), max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )(Actor)
        self._actors: list[Any] = [None] * num_workers
        self._answers: list[deque[Any]] = [deque() for _ in range(num_workers)]

    def start(self, worker: int) -> None:
        if self._actors[worker] is not None:
            self.kill(worker)
        self._answers[worker].clear()
        self._actors[worker] = self._actor.remote(self._setup)

    def send(self, worker: int, request: Request) -> None:
        self._answers[worker].append(self._actors[worker].answer.remote(request))

    def wait(self, workers: Sequence[int], timeout_s: float) -> list[int]:
        oldest = {self._answers[worker][0]: worker for worker in workers if self._answers[worker]}
        if not oldest:
            return []
        self._ray.wait(list(oldest), num_returns=1, timeout=timeout_s, fetch_local=False)
        ready, _ = self._ray.wait(list(oldest), num_returns=len(oldest), timeout=0, fetch_local=False)
        return [oldest[reference] for reference in ready]

    def receive(self, worker: int) -> tuple[str, Any]:
        try:
            kind, value = self._ray.get(self._answers[worker].popleft())
        except self._ray.exceptions.RayError as error:
            raise Lost(f"Worker {worker} (a Ray actor) was lost: {str(error).splitlines()[0]}") from None
        return kind, value

    def kill(self, worker: int) -> None:
        self._ray.kill(self._actors[worker], no_restart=True)

    def close(self) -> None:
        for worker in range(self.num_workers):
            if self._actors[worker] is not None:
                self.kill(worker)
        if self._began_ray:
            self._ray.shutdown()

    def _connect(self, address: str, num_workers: int) -> None:
        check_ray(address)  # Ray itself would try for minutes, and end the process
        local = {"num_cpus": num_workers, "include_dashboard": False, "_node_ip_address": LOCALHOST}
        try:
            self._ray.init(address=address or "local", log_to_driver=False, **({} if address else local))
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, error) from None


def check_ray(address: str) -> None:
    """Raises ConfigError when Ray is missing, or nothing answers at `address` where that names a port."""
    _ray()
    if ":" not in address:
        return
    try:
        host, _, port = address.rpartition("/")[2].rpartition(":")
        socket.create_connection((host, int(port)), CONNECT_DEADLINE_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"No Ray cluster answers at {address!r} ({str(error).splitlines()[0]}); start one with "
        "'ray start --head' or leave ray_address empty."
    )


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("envs=ray needs Ray, which is not installed; run: pip install 'taskrl[ray]'") from None
    return ray
