"""Losses as pure functions. Legend: B batch, D embedding size, C channels, H height, W width."""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over 2B views (SimCLR, Chen et al. 2020, eq. 1); scalar."""
    return F.cross_entropy(*_likeness(first_BD, second_BD, temperature))


def nt_xent_of_each(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Each image's share of `nt_xent`, whose mean it is: the mean over its two views, (B,)."""
    losses = F.cross_entropy(*_likeness(first_BD, second_BD, temperature), reduction="none")
    return losses.view(2, -1).mean(0)


def _likeness(first_BD: Tensor, second_BD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """How much each of 2B views resembles every other one (2B, 2B), and which of them is its partner (2B,)."""
    z = F.normalize(torch.cat([first_BD, second_BD]).float(), dim=1)
    num = len(first_BD)
    similarity = (z @ z.T) / temperature
    # a view is not its own positive (eq. 1 leaves k = i out of the sum)
    similarity.fill_diagonal_(float("-inf"))
    index = torch.arange(num, device=z.device)
    return similarity, torch.cat([index + num, index])


def masked_mse(prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Mean squared error over the pixels where the mask is True; scalar, 0 for an empty mask."""
    mask = mask_B1HW.expand_as(target_BCHW).float()
    error = (prediction_BCHW.float() - target_BCHW).square() * mask
    return error.sum() / mask.sum().clamp(min=1)


def standardised(images_BCHW: Tensor) -> Tensor:
    """Each image shifted to mean 0 and scaled to sd 1, so that predicting its mean scores 1 (MAE, section 4.1)."""
    mean = images_BCHW.mean(dim=(1, 2, 3), keepdim=True)
    sd = images_BCHW.std(dim=(1, 2, 3), keepdim=True).clamp(min=0.02)
    return (images_BCHW - mean) / sd
