"""What the workers of test_pool.py are asked to do; spawned processes import it by name."""

import os
import signal
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from envs.host import WorkerSetup
from envs.pool import WorkerPool
from envs.processes import Processes
from taskrl.assemble import Assembled
from taskrl.errors import DataError

LONG_ANSWER = 50_000_000  # bytes: no pipe holds it


def number_of_knobs(assembled: Assembled, offset: int) -> int:
    return len(assembled.problem.task_space.knobs) + offset


def process_id(assembled: Assembled) -> int:
    return os.getpid()


def slow_then_fast(assembled: Assembled, index: int) -> int:
    time.sleep(0.4 if index == 0 else 0.0)
    return index


def fail(assembled: Assembled) -> None:
    raise ZeroDivisionError("the job divides by nothing")


def fail_politely(assembled: Assembled) -> None:
    raise DataError("The data are no good; use others.")


def die(assembled: Assembled) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(assembled: Assembled) -> None:
    time.sleep(600)


def keep_a_worker_busy(setup: WorkerSetup, told: Connection) -> None:
    """For a process of its own: says the worker's process id, then waits for what never comes."""
    pool = WorkerPool(Processes(setup, 1), deadline_s=600, warn=print)
    pool.call(0, "run", process_id)
    told.send(pool.result(0))
    pool.call(0, "run", hang)
    pool.result(0)


def hang_at_first(assembled: Assembled, index: int, parent: int) -> int:
    """The first job hangs in the first process that gets it, and in no other."""
    mark = Path(tempfile.gettempdir()) / f"taskrl-hung-{parent}"
    if index == 0 and not mark.exists():
        mark.touch()
        time.sleep(600)
    if index == 0:
        mark.unlink()
    return index


def answer_with_a_lambda(assembled: Assembled) -> Any:
    return lambda: None


def is_alive(pid: int) -> bool:
    """A zombie counts as dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def ray_node(assembled: Assembled) -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def die_while_answering(assembled: Assembled, marker: str) -> bytes:
    """Killed half a second after a long answer was begun to be sent; the second time nothing happens."""
    if not os.path.exists(marker):
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        Path(marker).touch()
    return bytes(LONG_ANSWER)
