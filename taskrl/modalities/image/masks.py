"""Masks over a grid of patches, drawn per image (True means hidden), and patches moved. Legend: B batch, g patches a
side.
"""

import torch
from torch import Tensor


def patch_size(image_size: int) -> int:
    """The largest divisor of `image_size` that leaves at least 7 patches a side (28 -> 4, 32 -> 4, 96 -> 12)."""
    fitting = [size for size in range(1, image_size + 1) if image_size % size == 0 and image_size // size >= 7]
    return max(fitting, default=1)


def random_patches(rng: torch.Generator, num: int, grid: int, ratio: float) -> Tensor:
    """Hide `ratio` of the patches at random places; bool (B, g, g) (MAE, He et al. 2022)."""
    scores = torch.rand((num, grid * grid), generator=rng, device=rng.device)
    num_hidden = min(max(round(ratio * grid * grid), 1), grid * grid - 1)
    return (scores.argsort(dim=1).argsort(dim=1) < num_hidden).view(num, grid, grid)


def block(rng: torch.Generator, num: int, grid: int, ratio: float) -> Tensor:
    """Hide one rectangle of about `ratio` of the patches; bool (B, g, g) (after BEiT's block masks, Bao et al.
    2022).
    """
    uniform = torch.rand((3, num), generator=rng, device=rng.device)
    area = ratio * grid * grid
    aspect = torch.exp(0.5 * (2 * uniform[0] - 1))
    tall = (area * aspect).sqrt().round().clamp(1, grid)
    wide = (area / tall).round().clamp(1, grid)
    wide = torch.where((tall == grid) & (wide == grid), wide - 1, wide)
    top = (uniform[1] * (grid - tall + 1)).floor()
    left = (uniform[2] * (grid - wide + 1)).floor()
    index = torch.arange(grid, device=rng.device)
    rows = (index >= top[:, None]) & (index < (top + tall)[:, None])
    columns = (index >= left[:, None]) & (index < (left + wide)[:, None])
    return rows[:, :, None] & columns[:, None, :]


def move_patches(images_BCHW: Tensor, source: Tensor, grid: int) -> Tensor:
    """Patch i of the result is patch source[:, i] of the image, (B, g * g); pixels beyond the grid stay."""
    num, channels, height, width = images_BCHW.shape
    cell_h, cell_w = height // grid, width // grid
    inner = images_BCHW[:, :, : grid * cell_h, : grid * cell_w]
    cells = inner.reshape(num, channels, grid, cell_h, grid, cell_w).permute(0, 1, 2, 4, 3, 5)
    cells = cells.reshape(num, channels, grid * grid, cell_h, cell_w)
    cells = cells.gather(2, source[:, None, :, None, None].expand_as(cells))
    cells = cells.view(num, channels, grid, grid, cell_h, cell_w).permute(0, 1, 2, 4, 3, 5)
    result = images_BCHW.clone()
    result[:, :, : grid * cell_h, : grid * cell_w] = cells.reshape(num, channels, grid * cell_h, grid * cell_w)
    return result


def to_pixels(mask_Bgg: Tensor, height: int, width: int) -> Tensor:
    """The mask at pixel resolution, bool (B, 1, H, W)."""
    grid = mask_Bgg.shape[1]
    rows = torch.arange(height, device=mask_Bgg.device) * grid // height
    columns = torch.arange(width, device=mask_Bgg.device) * grid // width
    return mask_Bgg[:, rows][:, :, columns][:, None]
