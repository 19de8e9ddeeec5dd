"""Generators that learn nothing (fixed recipes are schedules of one row: `agents/schedule.py`)."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from taskrl.meta import Action, Observation
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import TaskSpace


@final
class RandomPolicy:
    """Every open level of every part equally likely (MultiDiscrete spaces)."""

    def __init__(self, space: TaskSpace, *, seed: int) -> None:
        self._space = space
        self._rng = numpy_generator(seed, "random tasks")

    def propose(
        self, observation: Observation, state: Any = None, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        rows = [int(self._rng.choice(np.flatnonzero(part.allowed))) for part in self._space.parts]
        return np.array(rows, dtype=np.int64), state

    def probabilities(self, observation: Observation) -> Mapping[str, NDArray[np.float64]]:
        return {part.name: np.array(part.allowed) / np.sum(part.allowed) for part in self._space.parts}
