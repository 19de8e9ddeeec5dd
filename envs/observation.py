"""ObservationBuilder: the state of a run as a fixed vector of named, bounded, label-free numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from taskrl.evaluation.collapse import effective_rank, feature_std, uniformity
from taskrl.evaluation.detectability import Description
from taskrl.meta import MetaProblem, ObservationSpec
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport

NUM_RANKED = 256
SIGNALS = ("feature_std", "effective_rank", "uniformity")
CLOCK = ("progress", "budget")
LAST = "last/"
LONGEST_STEPS = 1e6
GAIN_UNIT = 0.1


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What the observation is made of. progress: share of the episode's compute spent. num_steps: length of the
    episode in steps of the reference recipe. specs, gains: of the decisions so far. quality: parts of the present one.
    seed: what the permutation of a shuffled observation depends on, beside the decisions so far.
    """

    progress: float
    num_steps: int
    signals: Mapping[str, float]
    specs: Sequence[TaskSpec] = ()
    report: AdaptReport | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    gains: Sequence[float] = ()
    seed: int = 0


class ObservationBuilder:
    """Names, bounds and values of the observation (docs/observation.md). Nothing here depends on a label.

    Entries: progress and the episode's length; the collapse signals; for each objective its share of all
    decisions so far and its squashed loss; where `shown` says so, label-free parts of the quality, gains, and the
    description of the data set; for each part of the action the level of the last decision, one-hot (all 0 before the
    first). Ablations leave that last block, the policy's own memory, as it is.
    """

    def __init__(self, space: TaskSpace, shown: ObservationSpec | None = None) -> None:
        """shown: what is observed beside the state of the run; nothing, when left out."""
        self._space = space
        self.shown = shown or ObservationSpec()
        self._gaining = (*space.objectives, *(f"knob/{knob.name}" for knob in space.knobs)) if self.shown.gains else ()
        per_objective = ("share_so_far", "loss")
        self.names: tuple[str, ...] = (
            "progress",
            *SIGNALS,
            "budget",
            *(f"{what}/{name}" for name in space.objectives for what in per_objective),
            *(f"quality/{name}" for name in self.shown.quality),
            *(f"gain/{name}" for name in self._gaining),
            *self.shown.description,
            *(f"{LAST}{part.name}/{index}" for part in space.parts for index in range(len(part.levels))),
        )
        self._num_told = next(i for i, name in enumerate(self.names) if name.startswith(LAST))
        self.observation_space = spaces.Box(0.0, 1.0, (len(self.names),), np.float32)

    @staticmethod
    def of(problem: MetaProblem) -> "ObservationBuilder":
        """What a policy on `problem` observes."""
        return ObservationBuilder(problem.task_space, problem.observation)

    @property
    def reads_description(self) -> bool:
        """Whether the description of the data set is looked at, and so has to be paid for."""
        return bool(self.shown.description) and self.shown.mode in ("full", "shuffled", "descriptor")

    def build(self, state: RunState, describe: Callable[[], Description] = Description) -> NDArray[np.float32]:
        """The observation (len(names),), float32 in [0, 1]. describe: the description of the data set, asked for only
        where it is looked at.
        """
        values = dict.fromkeys(self.names, 0.0) | self._entries(state)
        if self.reads_description:
            found = describe().entries()
            values |= {name: found[name] for name in self.shown.description}
        if state.specs:
            for part, index in zip(self._space.parts, self._space.level_indices(state.specs[-1]), strict=True):
                values[f"{LAST}{part.name}/{index}"] = 1.0
        vector = np.array([values[name] for name in self.names], dtype=np.float32)
        bounded = np.clip(np.nan_to_num(vector, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
        told = self._ablated(bounded[: self._num_told], state)
        return np.concatenate([told, bounded[self._num_told :]])

    def _entries(self, state: RunState) -> dict[str, float]:
        """All but the description and the last levels."""
        shortest, longest = self.shown.lengths or (state.num_steps, state.num_steps)
        length = math.log1p(min(max(state.num_steps, shortest), longest)) / math.log1p(LONGEST_STEPS)
        values = {"progress": state.progress, "budget": length, **state.signals}
        for name in self._space.objectives:
            values[f"share_so_far/{name}"] = sum(spec.share(name) for spec in state.specs) / max(len(state.specs), 1)
            loss = state.report.losses.get(name) if state.report else None
            values[f"loss/{name}"] = 0.0 if loss is None else 1 - math.exp(-max(loss, 0.0) / 2)
        for name, (low, high) in self.shown.quality.items():
            values[f"quality/{name}"] = (state.quality.get(name, low) - low) / max(high - low, 1e-12)
        for name in self._gaining:
            played = [self._played(spec, name) for spec in state.specs]
            total = sum(share * gain for share, gain in zip(played, state.gains, strict=True))
            values[f"gain/{name}"] = _squashed(total / sum(played)) if any(played) else 0.5
        return values

    def _played(self, spec: TaskSpec, name: str) -> float:
        """How much of an objective, or of a knob between its first and its last level, a decision had."""
        if not name.startswith("knob/"):
            return spec.share(name)
        knob = next(knob for knob in self._space.knobs if f"knob/{knob.name}" == name)
        weakest, strongest = knob.levels[0], knob.levels[-1]
        level = spec.level(knob.name)
        return 0.0 if level is None or weakest == strongest else (level - weakest) / (strongest - weakest)

    def _ablated(self, told: NDArray[np.float32], state: RunState) -> NDArray[np.float32]:
        mode = self.shown.mode
        if mode == "full":
            return told
        if mode == "shuffled":
            path = [spec.to_json() for spec in state.specs]
            return numpy_generator(state.seed, "shuffled observation", *path).permutation(told)
        kept = {"progress": CLOCK, "descriptor": self.shown.description, "zeroed": ()}[mode]
        keep = np.array([name in kept for name in self.names[: self._num_told]])
        return np.where(keep, told, np.float32(0))


def collapse_signals(features_ND: Tensor) -> dict[str, float]:
    """The collapse signals of frozen features, each in [0, 1] for a healthy encoder."""
    part = features_ND[:NUM_RANKED]
    return {
        "feature_std": feature_std(part) / 2,
        "effective_rank": effective_rank(part),
        "uniformity": -uniformity(part) / 4,
    }


def _squashed(gain: float) -> float:
    """0.5 for no gain, towards 1 and 0 for gains and losses far above 0.1."""
    return 0.5 + 0.5 * gain / (abs(gain) + GAIN_UNIT)
