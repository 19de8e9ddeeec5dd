"""Drawing many images at once: sums of separable Gaussians and waves are batched matrix products.

Coordinates run from -1 (left, top) to 1 (right, bottom). Legend: B images, K dots or waves, L regions, H side.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Chroma (blue-yellow, red-green) to RGB at equal luma.
CHROMA_TO_RGB = ((0.0, 1.0), (-0.344 / 1.772, -0.509), (1.0, 0.0))
NUM_BENDS = 3


def axis(size: int) -> Tensor:
    """Middles of `size` pixels in [-1, 1]."""
    return (torch.arange(size) * 2 + 1) / size - 1


def dots(points_BK2: Tensor, sigma_BK2: Tensor, weights_BK: Tensor, size: int) -> Tensor:
    """Sum of weighted Gaussians with unit peaks, (B, H, H); none is narrower than half a pixel."""
    line_H = axis(size)
    sigma_BK2 = sigma_BK2.clamp(min=1 / size)
    scaled_BK2 = points_BK2 / sigma_BK2
    across_BKH = (line_H / sigma_BK2[..., :1] - scaled_BK2[..., :1]).square_().mul_(-0.5).exp_()
    down_BKH = (line_H / sigma_BK2[..., 1:] - scaled_BK2[..., 1:]).square_().mul_(-0.5).exp_()
    down_BKH.mul_(weights_BK[..., None])
    return down_BKH.transpose(1, 2) @ across_BKH


def curves(points_BSK2: Tensor, width_BS: Tensor, pressure_BSK: Tensor, size: int) -> Tensor:
    """Strokes along polylines, opacity (B, H, H) in [0, 1]: dots as dense as the line is fast."""
    step = (points_BSK2[:, :, 1:] - points_BSK2[:, :, :-1]).norm(dim=-1)
    length_BSK = torch.cat([step[..., :1], (step[..., 1:] + step[..., :-1]) / 2, step[..., -1:]], dim=-1)
    width_BS1 = width_BS[..., None].clamp(min=1 / size)
    weights = pressure_BSK * (length_BSK / (math.sqrt(2 * math.pi) * width_BS1)).clamp(min=0.1, max=1.0)
    sigma = width_BS1.expand_as(weights)
    ink = dots(points_BSK2.flatten(1, 2), sigma.flatten(1)[..., None].expand(-1, -1, 2), weights.flatten(1), size)
    return opaque(ink)


def opaque(ink: Tensor) -> Tensor:
    """Amount of ink to opacity: thin ink is faint, thick ink covers."""
    return 1 - (-1.8 * ink.clamp(min=0) ** 2).exp()


def quadrics(middles_BL2: Tensor, forms_BL22: Tensor, size: int) -> Tensor:
    """Elliptic distances |form (x - middle)|, 1 on the outline: (B, L, H, H)."""
    gram = forms_BL22.transpose(2, 3) @ forms_BL22
    linear = -2 * (gram @ middles_BL2[..., None])[..., 0]
    constant = -0.5 * (linear * middles_BL2).sum(-1)
    line = axis(size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    basis_6P = torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)]).flatten(1)
    factors_BL6 = torch.stack(
        [gram[..., 0, 0], 2 * gram[..., 0, 1], gram[..., 1, 1], linear[..., 0], linear[..., 1], constant], dim=-1
    )
    squared_BLP: Tensor = factors_BL6 @ basis_6P
    return squared_BLP.clamp_(min=0).sqrt_().view(*squared_BLP.shape[:2], size, size)


def polygon(normals_BK2: Tensor, offsets_BK: Tensor, size: int) -> Tensor:
    """Signed distance to a convex polygon, negative inside: (B, H, H). Sides are normals . x = offset."""
    line = axis(size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    basis_3P = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    planes_BK3 = torch.cat([normals_BK2, -offsets_BK[..., None]], dim=-1)
    distances_BKP: Tensor = planes_BK3 @ basis_3P
    return distances_BKP.amax(1).view(-1, size, size)


def waves(vectors_BK2: Tensor, phases_BK: Tensor, weights_BK: Tensor, size: int) -> Tensor:
    """Sum of weighted cosines cos(vector . x + phase), vectors in radians a unit: (B, H, H)."""
    line = axis(size)
    across = vectors_BK2[..., :1] * line
    down = vectors_BK2[..., 1:] * line + phases_BK[..., None]
    rows = torch.cat([down.cos(), -down.sin()], dim=1) * weights_BK.repeat(1, 2)[..., None]
    return rows.transpose(1, 2) @ torch.cat([across.cos(), across.sin()], dim=1)


def smooth_fields(num: int, size: int, rng: torch.Generator, bends: int = NUM_BENDS) -> Tensor:
    """Random smooth fields of about unit variance, (num, H, H): low cosines with random weights."""
    order = torch.arange(bends + 1)
    basis_MH = torch.cos(math.pi * order[:, None] * (axis(size) + 1) / 2)
    decay = 1.0 / (1.0 + order[:, None] ** 2 + order[None, :] ** 2)
    decay[0, 0] = 0.0
    decay = decay / decay.square().mul(0.25).sum().sqrt()
    weights = torch.randn((num, bends + 1, bends + 1), generator=rng) * decay
    return basis_MH.T @ weights @ basis_MH


@dataclass(frozen=True, kw_only=True)
class Picture:
    """ground_BHH: brightness of the ground around 0; layers: opacities (B, H, H), the first lies lowest, with inks."""

    ground_BHH: Tensor
    layers: tuple[tuple[Tensor, int], ...]


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Luma, strength of colour and hue (radians) of the ground (entry 0) and of the inks."""

    luma: Tensor
    chroma: Tensor
    hue: Tensor

    def colours(self, hue_B: Tensor, chroma_B: Tensor, channels: int) -> Tensor:
        """Colours of each image, (B, inks, C), for turns of the hue and factors of the chroma."""
        luma = self.luma.expand(len(hue_B), -1)
        if channels == 1:
            return luma[..., None]
        angle = self.hue + hue_B[:, None]
        strength = self.chroma * chroma_B[:, None]
        plane = torch.stack([strength * angle.cos(), strength * angle.sin()], dim=-1)
        return luma[..., None] + plane @ torch.tensor(CHROMA_TO_RGB).T


def compose(picture: Picture, colours_BLC: Tensor) -> Tensor:
    """Lay the inks over the ground: (B, C, H, H)."""
    image = colours_BLC[:, 0, :, None, None] + picture.ground_BHH[:, None]
    for opacity, ink in picture.layers:
        image = torch.lerp(image, colours_BLC[:, ink, :, None, None].expand_as(image), opacity[:, None])
    return image
