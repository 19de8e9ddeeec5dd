"""Real images of the report: grids of tensors as small PNG or JPEG files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

GAP_PX = 2
GAP_LEVEL = 127  # of gaps in a JPEG, which knows no transparency
LARGE_PNG_BYTES = 150_000
JPEG_QUALITY = 85
MASK_COLOUR = (0.90, 0.45, 0.05)
MASK_OPACITY = 0.45


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Some rows of images under one label; image holds the bytes of a PNG or JPEG file."""

    label: str
    image: bytes

    @property
    def media_type(self) -> str:
        return "image/png" if self.image.startswith(b"\x89PNG") else "image/jpeg"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What a task makes of real images. told: how it stands to the reference recipe. departs: whether it leaves it."""

    title: str
    told: str
    caption: str
    strips: tuple[Strip, ...]
    departs: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(len(strip.image) for strip in self.strips)


def image_grid(images: Sequence[Tensor], *, columns: int, scale: int) -> bytes:
    """`images`, float (C, H, W) in [0, 1] with 1 or 3 channels, row by row with thin gaps: a PNG, or a JPEG where that
    would be large.

    scale: whole-number upscaling by nearest neighbour. Raises ValueError for no images or another shape.
    """
    if not images or columns < 1 or scale < 1:
        raise ValueError(f"got {len(images)} images, columns {columns}, scale {scale}; each must be at least 1")
    tiles = [_tile(image, scale) for image in images]
    columns = min(columns, len(tiles))
    height, width = max(tile.shape[0] for tile in tiles) + GAP_PX, max(tile.shape[1] for tile in tiles) + GAP_PX
    num_rows = -(-len(tiles) // columns)
    canvas = np.zeros((num_rows * height - GAP_PX, columns * width - GAP_PX, 4), dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue() if buffer.tell() <= LARGE_PNG_BYTES else _jpeg(canvas)


def with_mask(image: Tensor, mask: Tensor) -> Tensor:
    """(3, H, W): `image` (C, H, W) with `mask` (1, H, W) bool laid over it in orange."""
    colour = torch.tensor(MASK_COLOUR)[:, None, None]
    shown = image.expand(3, -1, -1)
    return torch.where(mask, (1 - MASK_OPACITY) * shown + MASK_OPACITY * colour, shown)


def _tile(image: Tensor, scale: int) -> NDArray[np.uint8]:
    """RGBA (H * scale, W * scale, 4)."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image of shape {tuple(image.shape)} is not (1, H, W) or (3, H, W)")
    levels = image.detach().float().cpu().nan_to_num().clamp(0, 1).mul(255).round().byte()
    colours = levels.expand(3, -1, -1).permute(1, 2, 0).numpy().repeat(scale, axis=0).repeat(scale, axis=1)
    opaque = np.full((*colours.shape[:2], 1), 255, dtype=np.uint8)
    return np.concatenate([colours, opaque], axis=2)


def _jpeg(canvas: NDArray[np.uint8]) -> bytes:
    colours = np.where(canvas[..., 3:] > 0, canvas[..., :3], GAP_LEVEL).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
