"""Views: per-sample augmentations of a batch, drawn first and applied second, all on the batch's device.

`draw = sample_view(rng, ...)` is a value that can be logged and replayed; `apply_view(images, draw)` has no randomness.
Crop, aspect, mirror and rotation are one bilinear resample (PyTorch's affine_grid); the colour operations are one
affine map of the channels. Definitions follow SimCLR (Chen et al. 2020, appendix A) where it has the operation. Legend:
B batch, C channels, H height, W width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.tasks.space import Knob

VIEW_KNOBS_GREY = (
    Knob(name="crop", levels=(1.0, 0.6, 0.3, 0.15), reference=2, logit=1.5),
    Knob(name="mirror", levels=(0.0, 0.5), reference=1, logit=1.0),
    Knob(name="upside_down", levels=(0.0, 0.5), reference=0, logit=2.0),
    Knob(name="rotation", levels=(0.0, 0.3, 0.8, 3.141593), reference=0, logit=1.5),
    Knob(name="jitter", levels=(0.0, 0.4, 0.8), reference=1, logit=1.5),
    Knob(name="blur", levels=(0.0, 0.5), reference=0, logit=1.0),
    Knob(name="noise", levels=(0.0, 0.1), reference=0, logit=1.0),
    Knob(name="cutout", levels=(0.0, 0.2), reference=0, logit=1.0),
)
GREYSCALE_KNOB = Knob(name="greyscale", levels=(0.0, 0.2, 0.5), reference=1, logit=1.0)
BLUR_ABOVE_PX = 32
ASPECT_RATIO = 4 / 3
JITTER_PROBABILITY = 0.8
HUE_SHARE = 0.25
LUMA = (0.299, 0.587, 0.114)


def view_knobs(num_channels: int, image_size: int) -> tuple[Knob, ...]:
    """The view knobs for grey (1 channel) or colour (3 channels) images of `image_size` pixels a side."""
    knobs = list(VIEW_KNOBS_GREY)
    if image_size > BLUR_ABOVE_PX:
        blur = next(knob for knob in knobs if knob.name == "blur")
        knobs[knobs.index(blur)] = Knob(name="blur", levels=blur.levels, reference=1, logit=blur.logit)
    return (*knobs, GREYSCALE_KNOB) if num_channels == 3 else tuple(knobs)


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
    """What was drawn for each image of a batch; None means that nobody gets the operation.

    affine_B23: output to input coordinates in [-1, 1]. gain_B, contrast_B, colour_BCC: brightness factor, contrast
    factor and channel mix. sigma_B: blur in pixels, 0 for none. noise_BCHW: added. cutout_B4: top, bottom, left, right
    in pixels.
    """

    affine_B23: Tensor | None = None
    gain_B: Tensor | None = None
    contrast_B: Tensor | None = None
    colour_BCC: Tensor | None = None
    sigma_B: Tensor | None = None
    noise_BCHW: Tensor | None = None
    cutout_B4: Tensor | None = None


def sample_view(rng: torch.Generator, shape: torch.Size | tuple[int, ...], levels: Mapping[str, float]) -> ViewDraw:
    """Draw one view for images of `shape` (B, C, H, W). Knobs that `levels` lacks are off."""
    num, channels, height, width = shape
    strength = {
        **dict.fromkeys(("mirror", "upside_down", "rotation", "jitter", "greyscale"), 0.0),
        "crop": 1.0,
        **levels,
    }
    uniform = torch.rand((24, num), generator=rng, device=rng.device)
    gain = contrast = colour = None
    if strength["jitter"] > 0:
        apply = (uniform[8] < JITTER_PROBABILITY).float()
        spread = strength["jitter"] * apply
        gain = 1 + spread * (2 * uniform[9] - 1)
        contrast = 1 + spread * (2 * uniform[10] - 1)
    if channels == 3 and (strength["jitter"] > 0 or strength["greyscale"] > 0):
        colour = _colour_matrix(uniform[8:16], jitter=strength["jitter"], greyscale=strength["greyscale"])
    sigma = noise = cutout = None
    if strength.get("blur", 0.0) > 0:
        sigma = (0.3 + 0.04 * height * uniform[16]) * (uniform[17] < strength["blur"])
    if strength.get("noise", 0.0) > 0:
        noise = torch.randn((num, channels, height, width), generator=rng, device=rng.device)
        noise = noise * (strength["noise"] * uniform[18])[:, None, None, None]
    if strength.get("cutout", 0.0) > 0:
        cutout = _cutout_box(uniform[19:22], area=strength["cutout"], height=height, width=width)
    affine = _affine(uniform[:8], strength)
    return ViewDraw(
        affine_B23=affine,
        gain_B=gain,
        contrast_B=contrast,
        colour_BCC=colour,
        sigma_B=sigma,
        noise_BCHW=noise,
        cutout_B4=cutout,
    )


def apply_view(images_BCHW: Tensor, draw: ViewDraw) -> Tensor:
    """The view `draw` of `images_BCHW` (uint8, or float in [0, 1]): float32 in [0, 1], same shape."""
    images = images_BCHW.float().div_(255) if images_BCHW.dtype == torch.uint8 else images_BCHW
    if draw.affine_B23 is not None:
        grid = affine_grid(draw.affine_B23, images.shape)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    images = _apply_colour(images, draw)
    if draw.sigma_B is not None:
        images = _blur(images, draw.sigma_B)
    if draw.noise_BCHW is not None:
        images = images + draw.noise_BCHW
    if draw.cutout_B4 is not None:
        images = _cut(images, draw.cutout_B4)
    return images.clamp(0, 1)


def affine_grid(affine_B23: Tensor, shape: torch.Size) -> Tensor:
    """torch's `affine_grid` without `align_corners`, (B, H, W, 2), in a fraction of its time on a CPU."""
    height, width = shape[2:]
    x = (torch.arange(width, device=affine_B23.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=affine_B23.device) * 2 + 1) / height - 1
    along_x, along_y, shift = affine_B23[..., None].unbind(2)
    lines_B2H = torch.addcmul(shift, along_y, y)
    return torch.addcmul(lines_B2H[..., None], along_x[..., None], x).permute(0, 2, 3, 1)


def make_view(images_BCHW: Tensor, rng: torch.Generator, levels: Mapping[str, float]) -> Tensor:
    """Draw and apply in one call."""
    return apply_view(images_BCHW, sample_view(rng, images_BCHW.shape, levels))


def _affine(uniform: Tensor, strength: Mapping[str, float]) -> Tensor | None:
    """Crop (area uniform in [crop, 1], log-uniform aspect), mirror, turn upside down and rotate; (B, 2, 3). Above an
    area of 0.75 the longer side may be cut to the image's, down to an area of sqrt(0.75 area).
    """
    if strength["crop"] >= 1 and not (strength["mirror"] or strength["upside_down"] or strength["rotation"]):
        return None
    one = torch.ones_like(uniform[0])
    if strength["crop"] < 1:
        area = strength["crop"] + (1 - strength["crop"]) * uniform[0]
        aspect = torch.exp(math.log(ASPECT_RATIO) * (2 * uniform[1] - 1))
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    else:
        width, height = one, one
    centre_x, centre_y = (1 - width) * (2 * uniform[2] - 1), (1 - height) * (2 * uniform[3] - 1)
    flip_x = 1 - 2 * (uniform[4] < strength["mirror"]).float()
    flip_y = 1 - 2 * (uniform[5] < strength["upside_down"]).float()
    angle = strength["rotation"] * (2 * uniform[6] - 1)
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([width * flip_x * cos, -width * flip_x * sin, centre_x], dim=1)
    row_y = torch.stack([height * flip_y * sin, height * flip_y * cos, centre_y], dim=1)
    return torch.stack([row_x, row_y], dim=1)


def _colour_matrix(uniform: Tensor, *, jitter: float, greyscale: float) -> Tensor:
    """Saturation, hue (a turn about the grey axis of RGB, which keeps R + G + B) and greyscale as one mix (B, 3, 3)."""
    apply = (uniform[0] < JITTER_PROBABILITY).float()
    luma = torch.tensor(LUMA, device=uniform.device)
    grey_33 = luma.expand(3, 3)
    saturation = 1 + jitter * apply * (2 * uniform[3] - 1)
    saturation = torch.where(uniform[5] < greyscale, torch.zeros_like(saturation), saturation)
    # hue as a share of the full turn, .1 at jitter .4 and .2 at .8 (torchvision's unit, SimCLR's ratio to the jitter)
    angle = 2 * math.pi * HUE_SHARE * jitter * apply * (2 * uniform[4] - 1)
    # Rodrigues' rotation about the grey axis (1, 1, 1) keeps greys grey
    axis = torch.full((3, 3), 1 / 3, device=uniform.device)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=uniform.device) / math.sqrt(3)
    eye = torch.eye(3, device=uniform.device)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    hue = axis + cos * (eye - axis) + sin * cross
    keep = saturation[:, None, None]
    return (keep * eye + (1 - keep) * grey_33) @ hue


def _apply_colour(images: Tensor, draw: ViewDraw) -> Tensor:
    """Channel mix, then brightness and contrast about the image's own mean over pixels and channels."""
    if draw.colour_BCC is not None:
        images = torch.bmm(draw.colour_BCC, images.flatten(2)).view_as(images).clamp(0, 1)
    if draw.gain_B is None or draw.contrast_B is None:
        return images
    mean = images.mean(dim=(1, 2, 3)) * draw.gain_B
    scale = (draw.gain_B * draw.contrast_B)[:, None, None, None]
    shift = (mean * (1 - draw.contrast_B))[:, None, None, None]
    return torch.addcmul(shift, images, scale)


def _blur(images: Tensor, sigma_B: Tensor) -> Tensor:
    """Separable Gaussian blur, one width an image (pixels); images with sigma 0 are left as they are."""
    chosen = sigma_B.nonzero().flatten()
    if len(chosen) == 0:
        return images
    num, (channels, height, width) = len(chosen), images.shape[1:]
    radius = min(max(1, math.ceil(0.08 * height)), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_B[chosen, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = F.pad(images[chosen].reshape(1, num * channels, height, width), (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=num * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=num * channels)
    return images.index_copy(0, chosen, flat.view(num, channels, height, width))


def _cutout_box(uniform: Tensor, *, area: float, height: int, width: int) -> Tensor:
    """A rectangle that covers `area` of the image (square in relative units), clipped at the border; (B, 4)."""
    half_h, half_w = math.sqrt(area) * height / 2, math.sqrt(area) * width / 2
    centre_y, centre_x = uniform[0] * height, uniform[1] * width
    return torch.stack([centre_y - half_h, centre_y + half_h, centre_x - half_w, centre_x + half_w], dim=1)


def _cut(images: Tensor, box_B4: Tensor) -> Tensor:
    """Fill the box with the image's mean."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) + 0.5
    columns = torch.arange(width, device=images.device) + 0.5
    inside_y = (rows > box_B4[:, 0:1]) & (rows < box_B4[:, 1:2])
    inside_x = (columns > box_B4[:, 2:3]) & (columns < box_B4[:, 3:4])
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return torch.where(inside, images.mean(dim=(1, 2, 3), keepdim=True), images)
