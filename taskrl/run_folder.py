"""The run folder: where everything of a run lies, and what is written when."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from taskrl.config import ExperimentConfig, dump_config, load_config
from taskrl.data.splits import STOPPED
from taskrl.errors import RunFolderError
from taskrl.folders import draft_of, read_json, typed, write_atomically


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. `create` makes a new one, `open` finds an old one."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def observations(self) -> Path:
        return self.path / "observations.json"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def test_reads(self) -> Path:
        return self.path / "test_reads.log"

    @staticmethod
    def create(path: Path, config: ExperimentConfig) -> "RunFolder":
        """A new folder with config.yaml. Raises RunFolderError when it exists already or cannot be made."""
        refuse_existing(path)
        folder = RunFolder(path.absolute())
        try:
            folder.checkpoints.mkdir(parents=True)
            folder.artifacts.mkdir()
            folder.config_file.write_text(dump_config(config), encoding="utf-8")
        except OSError as error:
            raise RunFolderError(
                f"The output {str(path)!r} cannot be made ({error.strerror}); name another --out."
            ) from None
        return folder

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """An existing run. Raises RunFolderError when `path` is none."""
        folder = RunFolder(path.absolute())
        if not folder.config_file.is_file():
            raise RunFolderError(
                f"{str(path)!r} is not a run folder (it has no config.yaml); name one that taskrl made."
            )
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works on the run in this block. The lock ends with its process, however that ends; file systems
        that know no locks are not guarded. Raises RunFolderError where another process works on it already.
        """
        lock = FileLock(self.checkpoints / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"Another process works on {str(self.path)!r}; wait for its end, or stop it first."
            ) from None
        except (OSError, NotImplementedError):  # what filelock raises where there are no locks
            pass
        try:
            yield
        finally:
            lock.release()  # nothing to do where it was not acquired

    def config(self) -> ExperimentConfig:
        """The configuration as it was resolved."""
        return load_config(self.config_file)

    def result(self) -> dict[str, Any]:
        """result.json. Raises RunFolderError when the run has not finished, or the file is damaged."""
        if not self.result_file.is_file():
            raise RunFolderError(
                f"{str(self.path)!r} has no result.json yet; finish it with: taskrl resume {typed(self.path)}"
            )
        try:
            return read_json(self.result_file)
        except RunFolderError:
            raise RunFolderError(
                f"{str(self.result_file)!r} cannot be read as JSON; write it anew with: "
                f"taskrl resume {typed(self.path)}"
            ) from None

    def has_result(self) -> bool:
        """Whether result.json is there and can be read."""
        try:
            self.result()
        except RunFolderError:
            return False
        return True

    def test_reads_made(self) -> list[str]:
        """The record of reads of the test images; empty where there were none."""
        return self.test_reads.read_text(encoding="utf-8").splitlines() if self.test_reads.is_file() else []

    @contextmanager
    def watching_test_reads(self, read: bool) -> Iterator[None]:
        """Where the block, which scores encoders on test images (`read`), is stopped, the record says that images may
        have been read for encoders which it does not name.
        """
        try:
            yield
        except BaseException:
            if read:
                self.log_test_read(f"{STOPPED} test images may have been read for encoders that are not listed")
            raise

    def log_test_read(self, sentence: str) -> None:
        """Append to the record of reads of the test images."""
        with self.test_reads.open("a", encoding="utf-8") as file:
            file.write(sentence + "\n")


def refuse_existing(path: Path, option: str = "--out") -> None:
    """Raises RunFolderError when something, even a dangling link, stands at `path`. option: what named it."""
    if os.path.lexists(path):
        raise RunFolderError(f"The output {str(path)!r} exists already; name another {option} or remove it.")


def check_new_file(path: Path, option: str) -> None:
    """Raises RunFolderError where something stands at `path`, or no file can be made there: tried, and removed at once.

    option: what named it.
    """
    refuse_existing(path, option)
    if not path.absolute().parent.is_dir():
        raise RunFolderError(f"There is no folder {str(path.absolute().parent)!r} to write to; make it first.")
    draft = draft_of(path)
    try:
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise RunFolderError(
            f"The output {str(path)!r} cannot be made ({error.strerror}); name another {option}."
        ) from None


def check_place(path: Path, option: str = "--out") -> None:
    """Raises RunFolderError where nothing can be made at `path`: tried with a folder beside it, removed at once."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".taskrl-", dir=there))
    except OSError:
        raise RunFolderError(
            f"The output {str(path)!r} cannot be made in {str(there)!r}; name another {option}."
        ) from None


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """JSON without NaN, written in one step."""
    write_atomically(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
