"""A data set as it was loaded, before it is split into roles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from taskrl.types import Inputs


@dataclass(frozen=True)
class InMemory:
    """Inputs held as one uint8 tensor (N, *sample_shape)."""

    data: Tensor

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[1:])

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Tensor) -> Tensor:
        return self.data[indices]


@dataclass(frozen=True)
class Subset:
    """The inputs of `base` at `indices` (N,), int64."""

    base: Inputs
    indices: Tensor

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.base.sample_shape

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> Tensor:
        return self.base.take(self.indices[indices])


@dataclass(frozen=True, kw_only=True)
class Part:
    """Inputs with optional labels (N,), int64 class indices, and optional groups (N,), int64 group ids."""

    inputs: Inputs
    labels: Tensor | None = None
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        for extra in (self.labels, self.groups):
            if extra is not None and (len(extra) != len(self.inputs) or extra.dtype != torch.int64):
                raise ValueError("labels and groups are int64, one for each input")


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """What a loader returns. test is given where the data comes with a split of its own, validation where it is made
    beside. facts: what is known of the data by construction, as JSON.
    """

    name: str
    train: Part
    validation: Part | None = None
    test: Part | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
