"""The runs that the page shows: those that were named, and those that appear in the folders that were named."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.compare.folder import is_comparison
from taskrl.errors import RunFolderError
from taskrl.run_folder import RunFolder
from taskrl.tracking import METRICS_NAME

DEEPEST = 3
MOST_FOLDERS = 5000
MOST_RUNS = 1000
RESCAN_S = 2.0


@dataclass(frozen=True)
class Found:
    """A run or a comparison. number: its address on the page, the same as long as the page runs. name: for people."""

    number: int
    path: Path
    name: str

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def compares(self) -> bool:
        return is_comparison(self.path)

    def file(self, name: str) -> Path | None:
        """The file of that name in the folder; None where there is none, or where it is a link that leads out of it."""
        path = (self.path / name).resolve()
        return path if path.is_file() and path.is_relative_to(self.path.resolve()) else None


class Shelf:
    """Finds runs and numbers them; addresses are numbers, so that no request can name a path."""

    def __init__(self, places: Sequence[Path]) -> None:
        """Raises RunFolderError for a place that is no folder."""
        for place in places:
            if not place.is_dir():
                raise RunFolderError(
                    f"There is no folder at {str(place)!r}; name a run, or a folder that runs are or will be in."
                )
        self.places = [place.absolute() for place in places]
        self._found: dict[Path, Found] = {}
        self._scanned = 0.0
        self._lock = threading.Lock()

    def runs(self) -> list[Found]:
        """Everything there is, in the order of its numbers; looked for again when the last look is some seconds old."""
        with self._lock:
            if not self._scanned or time.monotonic() - self._scanned > RESCAN_S:
                for place in self.places:
                    for path in _runs_in(place):
                        # by what it is in the end: one run may be named in several ways
                        key = path.resolve()
                        if key not in self._found and len(self._found) < MOST_RUNS:
                            self._found[key] = Found(len(self._found) + 1, path, _name(place, path))
                self._scanned = time.monotonic()
            return [found for found in self._found.values() if is_run(found.path)]

    def numbered(self, number: int) -> Found | None:
        """The run of that number; None where there is none, or it is gone."""
        return next((found for found in self.runs() if found.number == number), None)


def is_run(path: Path) -> bool:
    """Whether `path` is the folder of a run or a comparison."""
    return any((path / name).is_file() for name in (RunFolder(path).config_file.name, METRICS_NAME))


def _runs_in(place: Path) -> Iterator[Path]:
    """`place` itself, or the runs below it; links to folders are not followed, since they may lead anywhere."""
    level, num = [place], 0
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            num += 1
            if num > MOST_FOLDERS:
                return
            if is_run(folder):
                yield folder
                continue
            try:
                with os.scandir(folder) as entries:
                    below += [
                        folder / entry.name
                        for entry in sorted(entries, key=lambda entry: entry.name)
                        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
                    ]
            except OSError:
                continue
        level = below


def _name(place: Path, path: Path) -> str:
    return place.name or str(place) if path == place else str(path.relative_to(place))
