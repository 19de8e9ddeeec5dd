"""Jigsaw: tell how the tiles of an image were permuted (after Noroozi & Favaro 2016; 2 x 2 tiles, all 24
permutations).
"""

import itertools
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.modalities.image.masks import move_patches
from taskrl.modalities.image.objectives.registry import OBJECTIVES
from taskrl.modalities.image.objectives.rotation import Labelled
from taskrl.modalities.image.views import make_view
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks

TILES = 2
PERMUTATIONS = tuple(itertools.permutations(range(TILES * TILES)))


def permute_tiles(images_BCHW: Tensor, which_B: Tensor) -> Tensor:
    """Tile i of the result is tile PERMUTATIONS[which][i] of the image; an odd last row or column stays where it is."""
    source = torch.tensor(PERMUTATIONS, device=images_BCHW.device)[which_B]
    return move_patches(images_BCHW, source, TILES)


@OBJECTIVES.register("jigsaw")
@final
class Jigsaw(PretextTask):
    """Tell the permutation of the four quarters of a view."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        out_dim = len(PERMUTATIONS)
        return {"jigsaw": HeadSpec(kind="mlp", in_dim=feature_dim, hidden_dim=feature_dim, out_dim=out_dim)}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Labelled:
        which = torch.randint(len(PERMUTATIONS), (len(batch),), generator=rng, device=rng.device)
        return Labelled(permute_tiles(make_view(batch, rng, self.levels), which), which)

    def loss(self, nets: Networks, views: Labelled) -> Tensor:
        return F.cross_entropy(nets.head("jigsaw", nets.features(views.images)).float(), views.labels)

    def num_encoded(self, batch_size: int) -> int:
        return batch_size
