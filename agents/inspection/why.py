"""Which observed entries a policy's choices hang on: permutation and sweeps (docs/inspect.md).

Legend: N states (observations that final runs met), E columns of the observation, L levels of a choice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.observation import LAST
from taskrl.seeding import numpy_generator

Table = NDArray[np.float64]
Ask = Callable[[NDArray[np.float32]], Mapping[str, Table]]
"""Observations (N, E) -> probabilities (N, L) of each choice."""

NUM_PERMUTATIONS = 20
MAX_STATES = 100
NUM_WITHIN, NUM_BEYOND = 5, 11
LEAST_CHANGE = 0.01
MAX_SWEEPS = 60
NOTHING = 1e-6  # what float32 rounds
DIGITS = 4
HALF = 0.5 * 10**-DIGITS
NO_LEVEL = -1


@dataclass(frozen=True)
class Entry:
    """What is permuted or swept as one: a number, or the one-hot block of what a choice was last."""

    name: str
    columns: tuple[int, ...]

    @property
    def is_level(self) -> bool:
        return self.name.startswith(LAST)


def entries_of(names: Sequence[str]) -> tuple[Entry, ...]:
    """The columns `last/PART/LEVEL` of a part are one entry `last/PART`: apart they would be no level or two."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        found.setdefault(name.rpartition("/")[0] if name.startswith(LAST) else name, []).append(column)
    return tuple(Entry(name, tuple(columns)) for name, columns in found.items())


def distance(first: Table, second: Table) -> Table:
    """Total variation distance of distributions (..., L): 0 the same, 1 nothing in common."""
    return np.asarray(0.5 * np.abs(first - second).sum(axis=-1))


def thinned(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most 100 of the states, evenly spread."""
    if len(states) <= MAX_STATES:
        return states
    rows = np.linspace(0, len(states) - 1, MAX_STATES).round().astype(int)
    return np.asarray(states[rows])


def permuted(ask: Ask, states: NDArray[np.float32], entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """Choice -> entry -> mean distance between the probabilities on the states and on the same with that entry dealt
    out anew among them; the entry "" is all of them at once. Mean over states and 20 seeded permutations.

    Breiman (2001), section 10, with the policy's own probabilities in place of an error: nothing is right or wrong.
    """
    before = ask(states)
    everything = Entry("", tuple(range(states.shape[1])))
    orders = [numpy_generator(0, "permuted states", i).permutation(len(states)) for i in range(NUM_PERMUTATIONS)]
    found: dict[str, dict[str, float]] = {choice: {} for choice in before}
    for entry in (everything, *entries):
        columns = list(entry.columns)
        if (states[:, columns] == states[0, columns]).all():
            for row in found.values():
                row[entry.name] = 0.0
            continue
        dealt = np.tile(states, (NUM_PERMUTATIONS, 1))
        dealt[:, columns] = np.concatenate([states[order][:, columns] for order in orders])
        after = ask(dealt)
        for choice, table in before.items():
            moved = distance(np.tile(table, (NUM_PERMUTATIONS, 1)), after[choice])
            found[choice][entry.name] = float(moved.mean())
    return found


@dataclass(frozen=True)
class Sweep:
    """points: values of the entry; of a one-hot block the index of the level, -1 before the first decision. recorded:
    whether final runs met it, or values on both sides. tables: choice -> mean probabilities over states (points, L).
    """

    entry: Entry
    points: tuple[float, ...]
    recorded: tuple[bool, ...]
    tables: Mapping[str, Table]

    def change(self, choice: str, *, beyond: bool) -> float:
        """The largest distance between two points; beyond: also those that no final run met."""
        rows = self.tables[choice][np.array(self.recorded) | beyond]
        return float(distance(rows[:, None], rows[None]).max(initial=0.0))

    def to_json(self, choice: str) -> dict[str, Any]:
        return {
            "choice": choice,
            "entry": self.entry.name,
            "change": round(self.change(choice, beyond=False), DIGITS),
            "change_beyond": round(self.change(choice, beyond=True), DIGITS),
            "points": [round(point, DIGITS) for point in self.points],
            "recorded": list(self.recorded),
            "probabilities": self.tables[choice].round(DIGITS).tolist(),
        }


def swept(ask: Ask, states: NDArray[np.float32], entry: Entry) -> Sweep:
    """The entry at each of several values, all others as they were in each state: over what was recorded in five steps,
    and over all that an observation can be, 0 to 1.
    """
    columns = list(entry.columns)
    if entry.is_level:
        points = [float(level) for level in range(NO_LEVEL, len(columns))]
        values = np.concatenate([np.zeros((1, len(columns))), np.eye(len(columns))])
        recorded = [bool((states[:, columns] == value).all(axis=1).any()) for value in values]
    else:
        low, high = float(states[:, columns[0]].min()), float(states[:, columns[0]].max())
        steps = (*np.linspace(low, high, NUM_WITHIN), *np.linspace(0, 1, NUM_BEYOND))
        points = sorted({round(float(step), DIGITS) for step in steps})
        recorded = [low - HALF <= point <= high + HALF for point in points]
        values = np.array(points)[:, None]
    shown = np.repeat(states[None], len(points), axis=0)
    shown[:, :, columns] = values[:, None].astype(np.float32)
    answers = ask(shown.reshape(-1, states.shape[1]))
    tables = {name: table.reshape(len(points), len(states), -1).mean(axis=1) for name, table in answers.items()}
    return Sweep(entry, tuple(points), tuple(recorded), tables)


def largest(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """At most 60 (choice, entry) whose sweep changes anything by 0.01 or more, those of the recorded range first."""
    found = [sweep.to_json(choice) for sweep in sweeps for choice in sweep.tables]
    kept = [row for row in found if row["change_beyond"] >= LEAST_CHANGE]
    return sorted(kept, key=lambda row: (-row["change"], -row["change_beyond"]))[:MAX_SWEEPS]


def answered_to(sensitivity: Mapping[str, Mapping[str, float]], sweeps: Sequence[Sweep]) -> dict[str, float]:
    """Entries that change any probability at all, permuted or at any value from 0 to 1: the most that they change."""
    most = {}
    for sweep in sweeps:
        permuted_ = (row[sweep.entry.name] for row in sensitivity.values())
        most[sweep.entry.name] = max(*permuted_, *(sweep.change(choice, beyond=True) for choice in sweep.tables))
    return {name: value for name, value in most.items() if value > NOTHING}
