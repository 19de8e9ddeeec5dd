"""One-knob search: each knob turned down or off, and each objective's weight up, against the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agents.searches.base import SEARCHES, Found, SearchSetting
from agents.searches.playing import RESCORING_SHARE, Player
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

NUM_CHECKED = 3  # of what helps, beside its combination


@dataclass(frozen=True)
class Change:
    """One part of the reference at another level, and the task that this makes."""

    part: int
    level: int
    spec: TaskSpec


@final
class Race:
    """Differences of recipes to the reference, paired by seed."""

    def __init__(self, player: Player, first_seed: int) -> None:
        self._player = player
        self._next_seed = first_seed
        self._differences: dict[TaskSpec, list[float]] = {}

    @property
    def next_seed(self) -> int:
        return self._next_seed

    def round(self, specs: Sequence[TaskSpec]) -> None:
        """The reference and each of `specs` on the next seed."""
        reference, *others = self._player.score([self._player.space.reference, *specs], self._next_seed)
        self._next_seed += 1
        for spec, quality in zip(specs, others, strict=True):
            self._differences.setdefault(spec, []).append(quality - reference)

    def mean(self, spec: TaskSpec) -> float:
        """Mean difference to the reference; 0 for what was never played."""
        return float(np.mean(self._differences.get(spec, [0.0])))

    def standard_error(self, spec: TaskSpec) -> float:
        """Of `mean`, from the sd within recipes, pooled over all: three seeds say little about a single one. Infinite
        while no recipe was played twice.
        """
        rows = [np.array(row) for row in self._differences.values()]
        freedom = sum(len(row) - 1 for row in rows)
        if not freedom or spec not in self._differences:
            return float("inf")
        variance = sum(float(np.square(row - row.mean()).sum()) for row in rows) / freedom
        return float(np.sqrt(variance / len(self._differences[spec])))

    def notes(self, specs: Sequence[TaskSpec]) -> list[dict[str, Any]]:
        """What was measured, as JSON."""
        return [{"task": spec.to_json(), "differences": self._differences.get(spec, [])} for spec in specs]


def changes(space: TaskSpace) -> list[Change]:
    """For each knob one step down and all the way down, for each objective's weight one step up and all the way up, as
    far as these are open and other tasks than the reference.
    """
    start = [part.reference for part in space.parts]
    seen = {space.reference}
    found: list[Change] = []
    for index, part in enumerate(space.parts):
        is_weight = index < len(space.parts) - len(space.knobs)
        steps = (part.reference + 1, len(part.levels) - 1) if is_weight else (part.reference - 1, 0)
        for level in steps:
            if not (0 <= level < len(part.levels) and part.allowed[level]):
                continue
            action: NDArray[np.int64] = np.array([*start[:index], level, *start[index + 1 :]], dtype=np.int64)
            spec = space.decode(action)
            if spec not in seen:
                seen.add(spec)
                found.append(Change(index, level, spec))
    return found


def combined(space: TaskSpace, kept: Sequence[Change]) -> TaskSpec:
    """The reference with all of `kept`; of two levels of one part the first in the list counts."""
    levels = [part.reference for part in space.parts]
    for change in reversed(kept):
        levels[change.part] = change.level
    return space.decode(np.array(levels, dtype=np.int64))


@SEARCHES.register("one-knob")
def one_knob(setting: SearchSetting) -> Found:
    """What a person would do: change one thing at a time, keep what helps, check that it helps together.

    A change helps when its mean difference to the reference, paired by seed, is above its standard error; one that is
    as far below is played no further. Then the combination of all that helps, the best changes alone and the reference
    are played on fresh seeds, and the best mean wins: the reference when nothing is better.
    """
    player = Player(setting)
    space = player.space
    budget = setting.num_episodes - setting.num_episodes // RESCORING_SHARE
    # at least two seeds each: where there are more changes than that pays for, the first ones
    offered = changes(space)[: max(1, budget // 2 - 1)]
    race = Race(player, 0)
    alive = offered
    while alive and setting.num_episodes - player.left + 1 + len(alive) <= budget:
        race.round([change.spec for change in alive])
        alive = [change for change in alive if not race.mean(change.spec) < -race.standard_error(change.spec)]
    helping = sorted(
        (change for change in offered if race.mean(change.spec) > race.standard_error(change.spec)),
        key=lambda change: -race.mean(change.spec),
    )
    together = [combined(space, helping)] if helping else []
    alone = [change.spec for change in helping or sorted(alive, key=lambda change: -race.mean(change.spec))[:1]]
    checked = list(dict.fromkeys([*together, *alone[:NUM_CHECKED]]))
    check = Race(player, race.next_seed)
    while player.left:
        check.round(checked[: player.left - 1])
    best = max([space.reference, *checked], key=check.mean)
    return player.found(
        (best,),
        screened=race.notes([change.spec for change in offered]),
        helping=[change.spec.to_json() for change in helping],
        checked=check.notes(checked),
    )
