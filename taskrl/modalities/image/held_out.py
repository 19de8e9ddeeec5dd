"""Held-out pretext tasks: what can be asked of an encoder about unlabelled images that no objective trains.

Targets are statistics of the images, predicted from frozen features; planted patches give labels by construction. All
draws come from a named generator and are made once, so that the agent cannot choose them. Legend: B batch, C channels,
H height, W width, K targets, P prototypes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_ORIENTATIONS = 8
NUM_BANDS = 6
NUM_PROTOTYPES = 16
NUM_CANDIDATES = 128
PROTOTYPE_SHARE = 0.45
PLANTED_SHARES = (0.35, 0.6)
PLANTED_CONTRAST = (0.6, 1.0)
CROP_SHARE = 0.6


def orientation_histograms(images_BCHW: Tensor, *, grid: int) -> Tensor:
    """How much edge there is in each direction, (B, 8 grid^2): gradients of the mean channel, weighted by their
    strength, in eight bins of the half circle, averaged over cells (Dalal & Triggs 2005, without block
    normalisation), square root taken and divided by the image's norm.
    """
    grey = _unit(images_BCHW).mean(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strength = (across.square() + down.square()).sqrt()
    angle = torch.atan2(down, across) % math.pi / math.pi * NUM_ORIENTATIONS
    low = angle.floor()
    share = angle - low
    bins = torch.arange(NUM_ORIENTATIONS, device=grey.device)[None, :, None, None]
    first, second = low % NUM_ORIENTATIONS == bins, (low + 1) % NUM_ORIENTATIONS == bins
    maps = strength * (first * (1 - share) + second * share)
    cells = F.adaptive_avg_pool2d(maps, grid).flatten(1).clamp(min=0).sqrt()
    return F.normalize(cells, dim=1)


def turned_alike(histograms_BK: Tensor) -> Tensor:
    """What of a histogram over directions no turn and no mirror changes: the amplitudes of its Fourier series."""
    amplitudes: Tensor = torch.fft.rfft(histograms_BK, dim=1).abs()
    return amplitudes


def intensity_statistics(images_BCHW: Tensor) -> Tensor:
    """Mean, sd and quartiles of every channel, and the correlations between channels where there are several."""
    flat = _unit(images_BCHW).flatten(2)
    quartiles = torch.quantile(flat, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], device=flat.device), dim=2)
    parts = [flat.mean(2), flat.std(2), *quartiles]
    if flat.shape[1] > 1:
        unit = F.normalize(flat - flat.mean(2, keepdim=True), dim=2)
        parts.append((unit * unit.roll(1, dims=1)).sum(2))
    return torch.cat(parts, dim=1)


def spectrum_bands(images_BCHW: Tensor) -> Tensor:
    """Log power of the mean channel in six rings of spatial frequency times two halves of direction, (B, 12)."""
    grey = _unit(images_BCHW).mean(1)
    power = torch.fft.rfft2(grey - grey.mean(dim=(1, 2), keepdim=True)).abs().square()
    height, width = grey.shape[1:]
    fy = torch.fft.fftfreq(height, device=grey.device)[:, None].expand(-1, power.shape[2])
    fx = torch.fft.rfftfreq(width, device=grey.device)[None].expand(height, -1)
    ring = ((fy.square() + fx.square()).sqrt() / 0.5 * NUM_BANDS).long().clamp(max=NUM_BANDS - 1)
    which = ring * 2 + (fy.abs() > fx.abs()).long()
    sums = torch.zeros(len(grey), 2 * NUM_BANDS, device=grey.device)
    sums.index_add_(1, which.flatten(), power.flatten(1))
    return (sums + 1e-4).log()


def coarse_pixels(images_BCHW: Tensor, *, grid: int = 4) -> Tensor:
    """Mean of every channel over the cells of a grid, (B, C grid^2)."""
    return F.adaptive_avg_pool2d(_unit(images_BCHW), grid).flatten(1)


def prototypes(images_BCHW: Tensor, rng: torch.Generator) -> Tensor:
    """Sixteen patches (P, C, h, h) of the images, 0.45 of their side: of 128 drawn, the most textured, no two
    alike.
    """
    num, _, height, width = images_BCHW.shape
    side = max(4, round(PROTOTYPE_SHARE * height))
    rows = torch.randint(num, (NUM_CANDIDATES,), generator=rng)
    tops = torch.randint(height - side + 1, (NUM_CANDIDATES,), generator=rng)
    lefts = torch.randint(width - side + 1, (NUM_CANDIDATES,), generator=rng)
    images = _unit(images_BCHW[rows])
    patches = torch.stack(
        [image[:, top : top + side, left : left + side] for image, top, left in zip(images, tops, lefts, strict=True)]
    )
    flat = patches.flatten(1)
    spread = flat.std(1)
    unit = F.normalize(flat - flat.mean(1, keepdim=True), dim=1)
    chosen = [int(spread.argmax())]
    while len(chosen) < NUM_PROTOTYPES:  # farthest first, among what has texture
        nearest = (unit @ unit[chosen].T).amax(1)
        chosen.append(int((spread * (1 - nearest).clamp(min=1e-6)).argmax()))
    return patches[chosen]


def plant(images_BCHW: Tensor, patches_PChh: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image with one patch at a random place, size and contrast, under a soft disc; images in [0, 1] and which
    patch (B,), all equally often.
    """
    images = _unit(images_BCHW)
    num, channels, height, width = images.shape
    which = torch.arange(num) % len(patches_PChh)
    low, high = PLANTED_SHARES
    scale = low + (high - low) * torch.rand(num, generator=rng)
    shift = (1 - scale)[:, None] * (2 * torch.rand(num, 2, generator=rng) - 1)
    contrast = PLANTED_CONTRAST[0] + (PLANTED_CONTRAST[1] - PLANTED_CONTRAST[0]) * torch.rand(num, generator=rng)
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -shift / scale[:, None]
    grid = F.affine_grid(theta, [num, channels, height, width], align_corners=False).to(images.device)
    stamped = F.grid_sample(patches_PChh[which].to(images), grid, padding_mode="border", align_corners=False)
    radius = grid.square().sum(-1).sqrt()
    cover = (((1.0 - radius) / 0.25).clamp(0, 1) * contrast.to(images)[:, None, None])[:, None]
    return images + cover * (stamped - images), which.to(images.device)


def crops(images_BCHW: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two opposite corners of each image, 0.6 of its side, enlarged to the full size."""
    corner = torch.randint(4, (len(images_BCHW),), generator=rng)
    signs = torch.stack([corner % 2 * 2 - 1, corner // 2 * 2 - 1], dim=1).float()
    images, both = _unit(images_BCHW), []
    for side in (1.0, -1.0):
        theta = torch.zeros(len(images), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = CROP_SHARE
        theta[:, :, 2] = side * (1 - CROP_SHARE) * signs
        grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(images.device)
        both.append(F.grid_sample(images, grid, align_corners=False))
    return both[0], both[1]


def coarse(images_BCHW: Tensor) -> Tensor:
    """The images at half their resolution, at full size."""
    images = _unit(images_BCHW)
    small = F.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
    return F.interpolate(small, size=list(images.shape[2:]), mode="bilinear", align_corners=False)


def _unit(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.float() / 255 if images_BCHW.dtype == torch.uint8 else images_BCHW
