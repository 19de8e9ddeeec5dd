"""Predict what was hidden or displaced: masked patches, masked blocks, swapped patches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taskrl.modalities.image.masks import block, move_patches, patch_size, random_patches, to_pixels
from taskrl.modalities.image.objectives.losses import masked_mse, standardised
from taskrl.modalities.image.objectives.registry import OBJECTIVES
from taskrl.modalities.image.views import make_view
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks

DECODER_DIM = 64
SWAPPED_SHARE = 0.3


@dataclass(frozen=True)
class Damaged:
    """corrupted (B, C, H, W) in [0, 1]; target: the standardised original; mask (B, 1, H, W): where it is scored."""

    corrupted: Tensor
    target: Tensor
    mask: Tensor


def _decoder(name: str, feature_dim: int, channels: int) -> Mapping[str, HeadSpec]:
    return {name: HeadSpec(kind="map_decoder", in_dim=feature_dim, hidden_dim=DECODER_DIM, out_dim=channels)}


def _reconstruction_loss(name: str, nets: Networks, views: Damaged) -> Tensor:
    prediction = nets.head(name, nets.feature_map(views.corrupted))
    return masked_mse(_fit(prediction, views.target.shape[2:]), views.target, views.mask)


def _fit(prediction: Tensor, size: torch.Size) -> Tensor:
    """Decoders write whole cells of the feature map; resize when the cells do not tile the image exactly."""
    if prediction.shape[2:] == size:
        return prediction
    return torch.nn.functional.interpolate(prediction.float(), size=list(size), mode="bilinear", align_corners=False)


def _hide(images: Tensor, mask_Bgg: Tensor) -> Damaged:
    mask = to_pixels(mask_Bgg, *images.shape[2:])
    visible_mean = (images * ~mask).sum(dim=(2, 3), keepdim=True) / (~mask).sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return Damaged(torch.where(mask, visible_mean, images), standardised(images), mask)


@OBJECTIVES.register("masked")
@final
class Masked(PretextTask):
    """Reconstruct randomly hidden patches (MAE, He et al. 2022, with a convolutional encoder)."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels
        self.channels, self.size = sample_shape[0], sample_shape[1]

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        return _decoder("masked", feature_dim, self.channels)

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Damaged:
        images = make_view(batch, rng, self.levels)
        grid = self.size // patch_size(self.size)
        return _hide(images, random_patches(rng, len(batch), grid, self.levels["mask_ratio"]))

    def loss(self, nets: Networks, views: Damaged) -> Tensor:
        return _reconstruction_loss("masked", nets, views)

    def num_encoded(self, batch_size: int) -> int:
        return batch_size


@OBJECTIVES.register("block_masked")
@final
class BlockMasked(PretextTask):
    """Reconstruct one hidden rectangle (context encoders, Pathak et al. 2016)."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels
        self.channels, self.size = sample_shape[0], sample_shape[1]

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        return _decoder("block_masked", feature_dim, self.channels)

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Damaged:
        images = make_view(batch, rng, self.levels)
        grid = self.size // patch_size(self.size)
        return _hide(images, block(rng, len(batch), grid, self.levels["mask_ratio"]))

    def loss(self, nets: Networks, views: Damaged) -> Tensor:
        return _reconstruction_loss("block_masked", nets, views)

    def num_encoded(self, batch_size: int) -> int:
        return batch_size


def swap_patches(images: Tensor, rng: torch.Generator, grid: int, share: float) -> tuple[Tensor, Tensor]:
    """Exchange about `share` of the patches of each image in pairs; the images and where they changed, bool (B,
    g, g).
    """
    num = len(images)
    num_pairs = max(1, round(share * grid * grid / 2))
    order = torch.rand((num, grid * grid), generator=rng, device=rng.device).argsort(dim=1)
    first, second = order[:, :num_pairs], order[:, num_pairs : 2 * num_pairs]
    source = torch.arange(grid * grid, device=images.device).expand(num, -1).clone()
    source.scatter_(1, first, second).scatter_(1, second, first)
    changed = source != torch.arange(grid * grid, device=images.device)
    return move_patches(images, source, grid), changed.view(num, grid, grid)


@OBJECTIVES.register("context_restoration")
@final
class ContextRestoration(PretextTask):
    """Put swapped patches back (Chen et al. 2019, context restoration)."""

    def __init__(self, levels: Mapping[str, float], sample_shape: tuple[int, ...]) -> None:
        self.levels = levels
        self.channels, self.size = sample_shape[0], sample_shape[1]

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        return _decoder("context_restoration", feature_dim, self.channels)

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Damaged:
        images = make_view(batch, rng, self.levels)
        swapped, changed = swap_patches(images, rng, self.size // patch_size(self.size), SWAPPED_SHARE)
        return Damaged(swapped, standardised(images), to_pixels(changed, *images.shape[2:]))

    def loss(self, nets: Networks, views: Damaged) -> Tensor:
        return _reconstruction_loss("context_restoration", nets, views)

    def num_encoded(self, batch_size: int) -> int:
        return batch_size
