"""Generators that learn nothing: the yardsticks."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from taskrl.meta import Action, Observation
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec


@final
class FixedPolicy:
    """Always the same task."""

    def __init__(self, space: TaskSpace, spec: TaskSpec) -> None:
        """Raises ValueError when the space's codec cannot express `spec`."""
        self._space = space
        self._spec = spec
        self._action = space.encode(spec)

    def propose(
        self, observation: Observation, state: Any = None, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        return self._action, state

    def probabilities(self, observation: Observation) -> Mapping[str, NDArray[np.float64]]:
        rows = zip(self._space.parts, self._space.level_indices(self._spec), strict=True)
        return {part.name: np.eye(len(part.levels))[index] for part, index in rows}


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
