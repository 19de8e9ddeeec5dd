"""Records that several floors share. Shapes: B batch, C channels, H height, W width, D feature size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""Images (B, C, H, W), uint8, to float32 features (B, D): eval mode, no gradient."""


class Inputs(Protocol):
    """A read-only, indexed store of raw inputs; it may live in memory or on disk."""

    @property
    def sample_shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """Inputs (B, *sample_shape), uint8, at `indices` (B,), int64."""
        ...


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What was spent: floating point operations and images through the encoder (a training view counts as one)."""

    flops: int = 0
    images: int = 0

    def __add__(self, other: "Compute") -> "Compute":
        return Compute(flops=self.flops + other.flops, images=self.images + other.images)


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """A task head. kind: "mlp" on pooled features, "map_decoder" on the feature map (out_dim channels an input
    pixel).
    """

    kind: str
    in_dim: int
    out_dim: int
    hidden_dim: int = 0


class Networks(Protocol):
    """What a pretext task may call; losses are pure functions of these three."""

    def features(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, H, W) in [0, 1] to pooled features (B, D)."""
        ...

    def feature_map(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, H, W) in [0, 1] to a feature map (B, D, h, w)."""
        ...

    def head(self, name: str, features: Tensor) -> Tensor:
        """Output of the task head called `name`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Compute for one decision and where it lies in the episode (fractions of the episode's budget, for schedules)."""

    flops: int
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class AdaptReport:
    """What the inner loop did in one decision. `losses` and `num_steps` are keyed by objective."""

    losses: Mapping[str, float]
    num_steps: Mapping[str, int]
    compute: Compute
    diverged: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a frozen encoder: inputs that it is shown, uint8 (N, *sample_shape), and what is to be told
    from their features, targets (N, K) by name. folds (N,): cross-fit folds, groups kept whole.
    """

    shown: Tensor
    folds: Tensor
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Question":
        """The same question with its tensors on `device`."""
        targets = {name: target.to(device) for name, target in self.targets.items()}
        return Question(shown=self.shown.to(device), folds=self.folds.to(device), targets=targets)


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """Frozen measuring data, on the predictor's device; inputs are uint8 (B, C, H, W).

    labels: (B,) int64 or None. folds: (B,) int64, cross-fit fold of each input, groups kept whole. questions: by name,
    for measures without labels.
    """

    inputs: Tensor
    folds: Tensor
    labels: Tensor | None = None
    questions: Mapping[str, Question] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A measurement of the frozen encoder; larger is better. num_encoded and solve_flops say what measuring it cost."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    num_encoded: int = 0
    solve_flops: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one decision changed: the input of every reward signal. index: the decision's number, from 0."""

    index: int
    before: Quality
    after: Quality
    report: AdaptReport


@dataclass(frozen=True, kw_only=True)
class Reward:
    """total is what the agent is paid; parts are logged."""

    total: float
    parts: Mapping[str, float]


def pick_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
