"""Rotation prediction (RotNet, Gidaris et al. 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.modalities.image.objectives.registry import OBJECTIVES
from taskrl.modalities.image.views import make_view
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks

NUM_TURNS = 4


@dataclass(frozen=True)
class Labelled:
    """Inputs (B, C, H, W) with what is to be told of each, (B,) int64."""

    images: Tensor
    labels: Tensor


def turn(images_BCHW: Tensor, turns_B: Tensor) -> Tensor:
    """Each image turned by its number of quarter turns (square images)."""
    turned = images_BCHW.clone()
    for k in range(1, NUM_TURNS):
        chosen = turns_B == k
        turned[chosen] = torch.rot90(images_BCHW[chosen], k, dims=(2, 3))
    return turned


@OBJECTIVES.register("rotation")
@final
class Rotation(PretextTask):
    """Tell by how many quarter turns a view was turned."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        return {"rotation": HeadSpec(kind="mlp", in_dim=feature_dim, hidden_dim=feature_dim, out_dim=NUM_TURNS)}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Labelled:
        turns = torch.randint(NUM_TURNS, (len(batch),), generator=rng, device=rng.device)
        return Labelled(turn(make_view(batch, rng, self.levels), turns), turns)

    def loss(self, nets: Networks, views: Labelled) -> Tensor:
        return F.cross_entropy(nets.head("rotation", nets.features(views.images)).float(), views.labels)

    def num_encoded(self, batch_size: int) -> int:
        return batch_size
