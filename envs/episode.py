"""Episode: how long one pretraining run is and where it stands."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from taskrl.errors import ConfigError
from taskrl.predictor.predictor import Predictor, Snapshot
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport, Budget, Compute, Quality

KEPT = ("flops_per_decision", "num_decisions", "quality", "specs", "gains", "report", "trained", "measured")


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


class CountedBatches:
    """Batches, and how many were taken, so that another process can go on at the same place."""

    def __init__(self, batches: Iterator[Tensor], *, num_taken: int = 0) -> None:
        self._batches = batches
        self.num_taken = num_taken

    def __iter__(self) -> "CountedBatches":
        return self

    def __next__(self) -> Tensor:
        batch = next(self._batches)
        self.num_taken += 1
        return batch


@dataclass
class EpisodeState:
    """The mutable part of a running episode. seed: of the predictor. draws: of the batches and the views."""

    seed: int
    draws: int
    predictor: Predictor
    batches: CountedBatches
    rng: torch.Generator
    flops_per_decision: int
    num_decisions: int
    quality: Quality
    specs: list[TaskSpec] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
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

    def pack(self) -> bytes:
        """Everything that `PackedEpisode.resumed` needs."""
        kept = {name: getattr(self, name) for name in KEPT}
        snapshot, rng_state = self.predictor.snapshot(), self.rng.get_state()
        packed = PackedEpisode(self.seed, self.draws, self.batches.num_taken, rng_state, snapshot, kept)
        return pickle.dumps(packed, protocol=pickle.HIGHEST_PROTOCOL)


@dataclass(frozen=True)
class PackedEpisode:
    """A running episode without what can be made again from its seed."""

    seed: int
    draws: int
    num_batches: int
    rng_state: Tensor
    predictor: Snapshot
    kept: dict[str, Any]

    @staticmethod
    def unpack(data: bytes) -> "PackedEpisode":
        packed = pickle.loads(data)
        assert isinstance(packed, PackedEpisode)
        return packed

    def resumed(self, predictor: Predictor, batches: CountedBatches) -> EpisodeState:
        """The episode on a fresh predictor of its seed and the batches that are still to come."""
        predictor.restore(self.predictor)
        rng = torch.Generator(device=predictor.device)
        rng.set_state(self.rng_state)
        return self._state(predictor, self.draws, batches, rng)

    def redrawn(self, predictor: Predictor, draws: int, batches: CountedBatches, rng: torch.Generator) -> EpisodeState:
        """The episode on a fresh predictor of its seed, with another future."""
        predictor.restore(self.predictor)
        return self._state(predictor, draws, batches, rng)

    def _state(self, predictor: Predictor, draws: int, batches: CountedBatches, rng: torch.Generator) -> EpisodeState:
        kept = {**self.kept, "specs": list(self.kept["specs"]), "gains": list(self.kept["gains"])}
        return EpisodeState(seed=self.seed, draws=draws, predictor=predictor, batches=batches, rng=rng, **kept)
