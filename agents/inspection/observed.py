"""What the learned policy observed in its final runs, as a file of the run folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskrl.errors import RunFolderError
from taskrl.folders import read_json, write_atomically

OBSERVED_VERSION = 1


@dataclass(frozen=True)
class ObservedRun:
    """A final run. observations: float32 (decisions, entries). tasks: what was played there, as JSON of their specs."""

    train_seed: int
    observations: NDArray[np.float32]
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Observed:
    """Final runs of one policy. entries: names of what is observed."""

    entries: tuple[str, ...]
    runs: tuple[ObservedRun, ...]

    @property
    def states(self) -> NDArray[np.float32]:
        """All observations (N, entries), run after run."""
        return np.concatenate([run.observations for run in self.runs])

    def write(self, path: Path) -> None:
        """As JSON, in one step."""
        runs = [
            {
                "train_seed": run.train_seed,
                "observations": [[round(float(value), 6) for value in row] for row in run.observations],
                "tasks": list(run.tasks),
            }
            for run in self.runs
        ]
        record = {"format_version": OBSERVED_VERSION, "entries": list(self.entries), "final_runs": runs}
        write_atomically(path, json.dumps(record, allow_nan=False) + "\n")

    @staticmethod
    def read(path: Path) -> "Observed":
        """Raises RunFolderError when the file is no such record."""
        record = read_json(path)
        try:
            if record["format_version"] != OBSERVED_VERSION:
                raise ValueError(f"its format version is not {OBSERVED_VERSION}")
            entries = tuple(str(name) for name in record["entries"])
            runs = tuple(_run(row, len(entries)) for row in record["final_runs"])
            if not runs:
                raise ValueError("it holds no final run")
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"{str(path)!r} is no record of what was observed ({error}); copy it from the original run again."
            ) from None
        return Observed(entries, runs)


def observed_in(rows: Sequence[tuple[int, Sequence[Sequence[float]], Sequence[str], Sequence[str]]]) -> Observed | None:
    """Out of (train seed, observations, entries, tasks) of final runs; None where none of them recorded anything."""
    told = [row for row in rows if row[1]]
    if not told:
        return None
    runs = [ObservedRun(seed, np.array(values, dtype=np.float32), tuple(tasks)) for seed, values, _, tasks in told]
    return Observed(tuple(told[0][2]), tuple(runs))


def _run(row: Mapping[str, Any], num_entries: int) -> ObservedRun:
    observations = np.array(row["observations"], dtype=np.float32)
    tasks = tuple(str(task) for task in row["tasks"])
    if observations.shape != (len(tasks), num_entries) or not len(tasks) or not np.isfinite(observations).all():
        raise ValueError(f"final run {row['train_seed']} does not hold {num_entries} numbers for each of its tasks")
    return ObservedRun(int(row["train_seed"]), observations, tasks)
