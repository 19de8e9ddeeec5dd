"""PretextTask: the behaviour behind one objective (views, heads and loss in one place)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taskrl.types import HeadSpec, Networks


class PretextTask(ABC):
    """One objective at fixed strengths. Final subclasses live in `taskrl/modalities/<name>/objectives`."""

    @abstractmethod
    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        """Heads that the loss calls, by name; a name always has the same specification."""

    @abstractmethod
    def make_views(self, batch: Tensor, rng: torch.Generator) -> Any:
        """Everything the loss needs, drawn from `rng` (on the batch's device). batch: (B, C, H, W), uint8."""

    @abstractmethod
    def loss(self, nets: Networks, views: Any) -> Tensor:
        """Scalar loss, a pure function of the networks' weights and `views`."""

    @abstractmethod
    def num_encoded(self, batch_size: int) -> int:
        """Images that go through the encoder in one step on `batch_size` inputs."""


@dataclass(frozen=True, kw_only=True)
class MixturePart:
    """One objective of a mixture with its share of the compute."""

    name: str
    share: float
    task: PretextTask


@dataclass(frozen=True)
class Mixture:
    """Objectives trained side by side in one decision: each step trains one of them, by its share of the FLOPs."""

    parts: tuple[MixturePart, ...]
