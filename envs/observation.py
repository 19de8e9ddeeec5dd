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

    Entries: progress (share of the episode's compute spent); the collapse signals; for each objective its share of
    the last
    decision, its share of all decisions and its squashed loss; for each knob the last strength (0 weakest, 1
    strongest level).
    """

    def __init__(self, space: TaskSpace) -> None:
        self._space = space
        per_objective = ("share", "share_so_far", "loss")
        self.names: tuple[str, ...] = (
            "progress",
            *SIGNALS,
            *(f"{what}/{name}" for name in space.objectives for what in per_objective),
            *(f"level/{knob.name}" for knob in space.knobs),
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
        last = specs[-1] if specs else None
        values = {"progress": progress, **signals}
        for name in self._space.objectives:
            values[f"share/{name}"] = last.share(name) if last else 0.0
            values[f"share_so_far/{name}"] = sum(spec.share(name) for spec in specs) / max(len(specs), 1)
            loss = report.losses.get(name) if report else None
            values[f"loss/{name}"] = 0.0 if loss is None else 1 - math.exp(-max(loss, 0.0) / 2)
        for knob in self._space.knobs:
            level = last.level(knob.name) if last else None
            weak, strong = knob.levels[0], knob.levels[-1]
            span = strong - weak
            values[f"level/{knob.name}"] = 0.0 if level is None or span == 0 else (level - weak) / span
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
