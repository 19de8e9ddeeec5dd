"""ObservationBuilder: the state of a run as a fixed vector of named, bounded, label-free numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from taskrl.evaluation.collapse import effective_rank, feature_std, uniformity
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport

NUM_RANKED = 256
SIGNALS = ("feature_std", "effective_rank", "uniformity")


class ObservationBuilder:
    """Names, bounds and values of the observation. Nothing here depends on a label.

    Entries: progress (share of the episode's compute spent); the collapse signals; for each objective its share of all
    decisions so far and its squashed loss; for each part of the action the level of the last decision, one-hot (all 0
    before the first).
    """

    def __init__(self, space: TaskSpace) -> None:
        self._space = space
        per_objective = ("share_so_far", "loss")
        self.names: tuple[str, ...] = (
            "progress",
            *SIGNALS,
            *(f"{what}/{name}" for name in space.objectives for what in per_objective),
            *(f"last/{part.name}/{index}" for part in space.parts for index in range(len(part.levels))),
        )
        self.observation_space = spaces.Box(0.0, 1.0, (len(self.names),), np.float32)

    def build(
        self,
        *,
        progress: float,
        signals: Mapping[str, float],
        specs: Sequence[TaskSpec],
        report: AdaptReport | None,
    ) -> NDArray[np.float32]:
        """The observation (len(names),), float32 in [0, 1]. specs: tasks of the episode so far."""
        values = dict.fromkeys(self.names, 0.0) | {"progress": progress, **signals}
        for name in self._space.objectives:
            values[f"share_so_far/{name}"] = sum(spec.share(name) for spec in specs) / max(len(specs), 1)
            loss = report.losses.get(name) if report else None
            values[f"loss/{name}"] = 0.0 if loss is None else 1 - math.exp(-max(loss, 0.0) / 2)
        if specs:
            for part, index in zip(self._space.parts, self._space.level_indices(specs[-1]), strict=True):
                values[f"last/{part.name}/{index}"] = 1.0
        vector = np.array([values[name] for name in self.names], dtype=np.float32)
        return np.clip(np.nan_to_num(vector, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)


def collapse_signals(features_ND: Tensor) -> dict[str, float]:
    """The collapse signals of frozen features, each in [0, 1] for a healthy encoder."""
    part = features_ND[:NUM_RANKED]
    return {
        "feature_std": feature_std(part) / 2,
        "effective_rank": effective_rank(part),
        "uniformity": -uniformity(part) / 4,
    }
