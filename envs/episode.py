"""Episode: how long one pretraining run is and where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taskrl.errors import ConfigError
from taskrl.predictor.predictor import Predictor
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport, Budget, Compute, Quality


@dataclass(frozen=True, kw_only=True)
class EpisodeLength:
    """decisions of `steps_per_decision` steps of the reference recipe each; the budget is their FLOPs, whatever
    is played.
    """

    decisions: int = 4
    steps_per_decision: int = 15

    def __post_init__(self) -> None:
        if self.decisions < 2 or self.steps_per_decision < 1:
            raise ConfigError(
                f"An episode of {self.decisions} decisions of {self.steps_per_decision} steps is too short; "
                "use at least 2 decisions of 1 step."
            )


@dataclass
class EpisodeState:
    """The mutable part of a running episode."""

    predictor: Predictor
    batches: Iterator[Tensor]
    rng: torch.Generator
    flops_per_decision: int
    num_decisions: int
    quality: Quality
    specs: list[TaskSpec] = field(default_factory=list)
    report: AdaptReport | None = None
    trained: Compute = field(default_factory=Compute)
    measured: Compute = field(default_factory=Compute)

    @property
    def done(self) -> bool:
        return len(self.specs) >= self.num_decisions

    @property
    def progress(self) -> float:
        return len(self.specs) / self.num_decisions

    def next_budget(self) -> Budget:
        """What the next decision may spend: rounding to whole steps is carried over, so that episodes cost the same."""
        num = len(self.specs)
        target = self.flops_per_decision * (num + 1)
        return Budget(
            flops=max(target - self.trained.flops, 1),
            start=num / self.num_decisions,
            end=(num + 1) / self.num_decisions,
        )
