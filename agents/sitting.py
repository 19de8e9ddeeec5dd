"""What a run leaves for onlookers (`taskrl ui`): who works on it, how much there is to do, and a few of its images.

Nothing of a run depends on these files, and a place that takes none of them stops nothing.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from taskrl.errors import TaskrlError
from taskrl.folders import new_file, read_json
from taskrl.run_folder import RunFolder, write_result

RUNNING, FINISHED, KILLED, FAILED = "RUNNING", "FINISHED", "KILLED", "FAILED"
NUM_EXAMPLES = 12
KEY = "images"
LARGEST = 1e15


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """One stretch of work on a run. began, ended: Unix time in seconds (0: not yet). episodes, finals: of the whole
    run, finished ones included.
    """

    data: str
    num_workers: int
    episodes: int
    finals: int
    began: float = 0.0
    ended: float = 0.0
    status: str = RUNNING
    host: str = ""
    pid: int = 0

    @staticmethod
    def of(run: RunFolder) -> "Sitting | None":
        """The last sitting of a run; None for a run of an earlier version, or where it cannot be read."""
        try:
            record = read_json(_file(run))
            found = {name: kind(record[name]) for name, kind in Sitting.__annotations__.items()}
        except (TaskrlError, KeyError, TypeError, ValueError, OverflowError):
            return None
        numbers = [value for value in found.values() if not isinstance(value, str)]
        return Sitting(**found) if all(abs(value) < LARGEST for value in numbers) else None

    def alive(self) -> bool:
        """Whether its process works still, as far as this machine can tell."""
        if self.status != RUNNING or self.host != socket.gethostname() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # it is another user's
            return True
        return True


def examples_file(run: RunFolder) -> Path:
    """Where a few images of the run's data lie: uint8 (N, C, H, W) under the name "images"."""
    return run.checkpoints / "examples.safetensors"


@contextmanager
def sitting(run: RunFolder, plan: Sitting, images_BCHW: Tensor) -> Iterator[None]:
    """Note around a block that this process works on the run, and how that ended. images_BCHW: uint8."""
    begun = Sitting(**(asdict(plan) | {"began": time.time(), "host": socket.gethostname(), "pid": os.getpid()}))
    with suppress(OSError, TaskrlError), new_file(examples_file(run)) as draft:
        draft.write_bytes(save({KEY: images_BCHW[:NUM_EXAMPLES].cpu().contiguous()}))
    _note(run, begun)
    status = FAILED
    try:
        yield
        status = FINISHED
    except KeyboardInterrupt:
        status = KILLED
        raise
    finally:
        _note(run, Sitting(**(asdict(begun) | {"status": status, "ended": time.time()})))


def _note(run: RunFolder, record: Sitting) -> None:
    with suppress(OSError, TaskrlError):
        write_result(_file(run), asdict(record))


def _file(run: RunFolder) -> Path:
    return run.checkpoints / "sitting.json"
