"""Contrastive learning over two views of each image (SimCLR, Chen et al. 2020)."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from taskrl.modalities.image.objectives.losses import nt_xent
from taskrl.modalities.image.objectives.registry import OBJECTIVES
from taskrl.modalities.image.views import make_view
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks

HEAD = "contrastive"
TEMPERATURE = 0.2
PROJECTION_DIM = 64


@OBJECTIVES.register("contrastive")
@final
class Contrastive(PretextTask):
    """Tell which two views come from the same image."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        projection = HeadSpec(kind="mlp", in_dim=feature_dim, hidden_dim=feature_dim, out_dim=PROJECTION_DIM)
        return {HEAD: projection}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        """Both views one after the other, (2B, C, H, W)."""
        return make_view(torch.cat([batch, batch]), rng, self.levels)

    def loss(self, nets: Networks, views: Tensor) -> Tensor:
        first, second = nets.head(HEAD, nets.features(views)).chunk(2)
        return nt_xent(first, second, TEMPERATURE)

    def num_encoded(self, batch_size: int) -> int:
        return 2 * batch_size
