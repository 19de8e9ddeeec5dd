"""Relation between two inputs: same source or not, and relative position of two patches."""

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

NUM_NEIGHBOURS = 8
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
PATCH_SHARE = 0.4
PATCH_STEP = 0.6
PATCH_SHAKE = 0.08


@dataclass(frozen=True)
class Pairs:
    """First and second inputs, one after the other (2B, C, H, W), and the relation of each pair, (B,) int64."""

    images: Tensor
    labels: Tensor


@OBJECTIVES.register("relation")
@final
class SameSource(PretextTask):
    """Tell whether two views come from the same image (relational reasoning, Patacchiola & Storkey 2020)."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        return {"relation": HeadSpec(kind="mlp", in_dim=2 * feature_dim, hidden_dim=feature_dim, out_dim=2)}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        """Both views one after the other, (2B, C, H, W)."""
        return make_view(torch.cat([batch, batch]), rng, self.levels)

    def loss(self, nets: Networks, views: Tensor) -> Tensor:
        first, second = nets.features(views).chunk(2)
        other = second.roll(1, dims=0)
        pairs = torch.cat([_symmetric(first, second), _symmetric(first, other)])
        labels = torch.arange(2, device=first.device).repeat_interleave(len(first))
        return F.cross_entropy(nets.head("relation", pairs).float(), labels)

    def num_encoded(self, batch_size: int) -> int:
        return 2 * batch_size


def _symmetric(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([(first - second).abs(), first * second], dim=1)


@OBJECTIVES.register("relative_position")
@final
class RelativePosition(PretextTask):
    """Tell where a patch lies around the central one, eight directions (after Doersch et al. 2015).

    Doersch et al. leave a gap between patches; ours overlap by about a quarter of their side,
    so that part of the answer can be had by matching them. Recorded results rest on these places.
    """

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        out_dim = NUM_NEIGHBOURS
        return {
            "relative_position": HeadSpec(kind="mlp", in_dim=2 * feature_dim, hidden_dim=feature_dim, out_dim=out_dim)
        }

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Pairs:
        """Patches of 0.4 of the side, enlarged to the full size; their places are shaken against trivial cues."""
        images = make_view(batch, rng, self.levels)
        num = len(batch)
        labels = torch.randint(NUM_NEIGHBOURS, (num,), generator=rng, device=rng.device)
        shake = PATCH_SHAKE * (2 * torch.rand((2, num, 2), generator=rng, device=rng.device) - 1)
        rows_columns = torch.tensor(NEIGHBOURS, device=batch.device, dtype=torch.float32)[labels]
        offsets = torch.stack([torch.zeros_like(rows_columns), PATCH_STEP * rows_columns])
        centres = (offsets + shake).clamp(PATCH_SHARE - 1, 1 - PATCH_SHARE).flatten(0, 1)
        theta = torch.zeros((2 * num, 2, 3), device=batch.device)
        theta[:, 0, 0] = theta[:, 1, 1] = PATCH_SHARE
        theta[:, 0, 2], theta[:, 1, 2] = centres[:, 1], centres[:, 0]
        both = torch.cat([images, images])
        grid = F.affine_grid(theta, list(both.shape), align_corners=False)
        return Pairs(F.grid_sample(both, grid, padding_mode="border", align_corners=False), labels)

    def loss(self, nets: Networks, views: Pairs) -> Tensor:
        first, second = nets.features(views.images).chunk(2)
        logits = nets.head("relative_position", torch.cat([first, second], dim=1))
        return F.cross_entropy(logits.float(), views.labels)

    def num_encoded(self, batch_size: int) -> int:
        return 2 * batch_size
