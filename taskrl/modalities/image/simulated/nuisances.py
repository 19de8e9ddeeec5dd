"""Nuisances of the image as a whole: clutter, occlusion, warp, blur, light, contrast, colour cast and noise."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.modalities.image.simulated.canvas import CHROMA_TO_RGB, Palette, axis, curves, smooth_fields
from taskrl.modalities.image.simulated.world import World

NUM_SCRAPS = 5
NUM_KNOTS = 6


def before_light(images: Tensor, world: World, palette: Palette, rng: torch.Generator) -> Tensor:
    """Clutter, occlusion, warp and blur."""
    if strength := world.strength("clutter"):
        images = _clutter(images, strength, palette, rng)
    if strength := world.strength("occlusion"):
        images = _occlude(images, strength, rng)
    if strength := world.strength("warp"):
        images = _warp(images, strength, rng)
    if strength := world.strength("blur"):
        images = _blur(images, strength, rng)
    return images


def light(images: Tensor, world: World, gain_B: Tensor, rng: torch.Generator) -> Tensor:
    """Illumination, brightness and contrast, colour cast, and noise; clamped to [0, 1]."""
    num, channels, size, _ = images.shape
    images = images.clamp(0.02, 0.95)
    if strength := world.strength("illumination"):
        field = smooth_fields(num, size, rng, bends=1)
        images = images * (1 + 0.25 * strength * field.clamp(-2, 2))[:, None]
    gain = gain_B
    if strength := world.strength("brightness"):
        change = 2 * torch.rand((3, num), generator=rng) - 1
        gain = gain * (1 + 0.55 * strength * change[0])
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (1 + 0.55 * strength * change[1])[:, None, None, None]
        images = images.clamp(0.01, 1) ** (2.0 ** (0.5 * strength * change[2]))[:, None, None, None]
    images = images * gain[:, None, None, None]
    if channels == 3 and (strength := world.strength("colour")):
        cast = torch.randn((num, 2), generator=rng) @ torch.tensor(CHROMA_TO_RGB).T
        images = images * (1 + 0.25 * strength * cast.clamp(-2, 2))[..., None, None]
    if strength := world.strength("noise"):
        level = 0.09 * strength * torch.rand((num, 1, 1, 1), generator=rng)
        images = images + level * torch.randn(images.shape, generator=rng)
    return images.clamp(0, 1)


def _clutter(images: Tensor, strength: float, palette: Palette, rng: torch.Generator) -> Tensor:
    """Scraps of lines at random places, in shades between the ground and the inks."""
    num, _, size, _ = images.shape
    turn = 0.6 * torch.randn((num, NUM_SCRAPS, NUM_KNOTS), generator=rng)
    angle = 2 * math.pi * torch.rand((num, NUM_SCRAPS, 1), generator=rng) + turn
    line = 0.09 * torch.stack([angle.cos(), angle.sin()], dim=-1).cumsum(2)
    places = 2.2 * torch.rand((num, NUM_SCRAPS, 1, 2), generator=rng) - 1.1
    there = (torch.rand((num, NUM_SCRAPS, 1), generator=rng) < 0.3 + 0.6 * strength).float()
    width = 0.05 + 0.06 * torch.rand((num, NUM_SCRAPS), generator=rng)
    opacity = curves(places + line, width, there.expand(-1, -1, NUM_KNOTS), size)
    tone = palette.luma[torch.randint(0, len(palette.luma), (num,), generator=rng)][:, None, None, None]
    return torch.lerp(images, tone.expand_as(images), 0.75 * strength * opacity[:, None])


def _occlude(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """A turned bar or box of one tone over some of the images."""
    num, _, size, _ = images.shape
    draws = torch.rand((7, num, 1, 1), generator=rng)
    angle = math.pi * draws[0]
    line = axis(size)
    x = line - 1.6 * (draws[1] - 0.5)
    y = line[:, None] - 1.6 * (draws[2] - 0.5)
    along = angle.cos() * x + angle.sin() * y
    across = -angle.sin() * x + angle.cos() * y
    half = strength * (0.15 + 0.3 * draws[3:5])
    hidden = (along.abs() < half[0]) & (across.abs() < half[1]) & (draws[5] < 0.4 + 0.5 * strength)
    return torch.where(hidden[:, None], 0.9 * draws[6][:, None], images)


def _warp(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Move every pixel along a smooth random field."""
    num, _, size, _ = images.shape
    field = smooth_fields(2 * num, size, rng).view(num, 2, size, size)
    line = axis(size)
    x = line + 0.09 * strength * field[:, 0]
    y = line[:, None] + 0.09 * strength * field[:, 1]
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _blur(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Mix each image with its Gaussian blur, by a random share."""
    _, channels, size, _ = images.shape
    sigma = 0.03 * size * strength + 0.3
    radius = max(1, math.ceil(2 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    flat = F.pad(images, (radius,) * 4, mode="reflect")
    soft = F.conv2d(F.conv2d(flat, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)
    return torch.lerp(images, soft, torch.rand((len(images), 1, 1, 1), generator=rng))
