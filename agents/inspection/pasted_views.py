"""The part of `taskrl inspect --as` that is the same for every schedule: it is pasted as it stands here.

Needs torch and torchvision only. Lines end before column 88, ruff's default for whoever pastes them.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2


class Resample(nn.Module):
    """Crop and turn an image (C, H, W) in one bilinear resample.

    crop: smallest share of the area; areas are uniform in [crop, 1], the logarithm of
    the aspect ratio is uniform between those of 3/4 and 4/3. rotation: largest angle in
    radians, either way. Not torchvision's own, which differ: RandomResizedCrop draws
    again where a crop does not fit, and this one clips it; RandomRotation leaves
    corners empty, and this one shows what lies beside the crop, reflected at borders.
    """

    def __init__(self, crop: float, rotation: float) -> None:
        super().__init__()
        self.crop, self.rotation = crop, rotation

    def forward(self, image: Tensor) -> Tensor:
        u = torch.rand(5).tolist()
        width = height = 1.0
        if self.crop < 1:
            area = self.crop + (1 - self.crop) * u[0]
            aspect = (4 / 3) ** (2 * u[1] - 1)
            width = min(math.sqrt(area * aspect), 1.0)
            height = min(math.sqrt(area / aspect), 1.0)
        angle = self.rotation * (2 * u[4] - 1)
        cos, sin = math.cos(angle), math.sin(angle)
        shift_x, shift_y = (1 - width) * (2 * u[2] - 1), (1 - height) * (2 * u[3] - 1)
        theta = torch.tensor(
            [
                [width * cos, -width * sin, shift_x],
                [height * sin, height * cos, shift_y],
            ]
        )
        grid = F.affine_grid(theta[None], [1, *image.shape], align_corners=False)
        return F.grid_sample(image[None], grid, "bilinear", "reflection", False)[0]


class Noise(nn.Module):
    """Gaussian noise, its standard deviation uniform in [0, largest] for each image.

    v2.GaussianNoise has one standard deviation for all images.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, image: Tensor) -> Tensor:
        return image + self.largest * torch.rand(()) * torch.randn_like(image)


class Cutout(nn.Module):
    """A square of a share of the area, filled with the image's mean.

    Its centre is anywhere, so that the border may clip it; v2.RandomErasing keeps the
    whole square inside, and fills with a constant or noise.
    """

    def __init__(self, area: float) -> None:
        super().__init__()
        self.half_side = math.sqrt(area) / 2

    def forward(self, image: Tensor) -> Tensor:
        inside = []
        for size in image.shape[1:]:
            places = (torch.arange(size) + 0.5) / size
            inside.append((places - torch.rand(())).abs() < self.half_side)
        box = inside[0][:, None] & inside[1][None, :]
        return torch.where(box, image.mean(), image)


class Clamp(nn.Module):
    """Back into [0, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        return image.clamp(0, 1)


def views_of(levels: Mapping[str, float], size: int, channels: int) -> v2.Compose:
    """The transform for a row's strengths; those that are left out are off.

    It takes one image (PIL, or a uint8 or float tensor (C, H, W)) and gives a float32
    tensor (channels, size, size) in [0, 1]. Give it one image at a time, as a Dataset
    does: on a batch, torchvision draws once for all images.
    """
    level = {"crop": 1.0, **levels}
    steps: list[nn.Module] = [
        v2.ToImage(),
        v2.Grayscale(1) if channels == 1 else v2.RGB(),
        v2.Resize(size, antialias=True),
        v2.CenterCrop(size),
        v2.ToDtype(torch.float32, scale=True),
        v2.ToPureTensor(),
    ]
    if level["crop"] < 1 or level.get("rotation", 0) > 0:
        steps.append(Resample(level["crop"], level.get("rotation", 0)))
    if level.get("mirror", 0) > 0:
        steps.append(v2.RandomHorizontalFlip(level["mirror"]))
    if level.get("upside_down", 0) > 0:
        steps.append(v2.RandomVerticalFlip(level["upside_down"]))
    jitter = level.get("jitter", 0)
    if jitter > 0:
        # The ranges are those of training, three things are not: there the order was
        # hue, saturation, brightness, contrast, not a random one; brightness was not
        # cut to [0, 1] before contrast; hue turned RGB about its grey axis by this
        # angle, not HSV's hue.
        colour = {"saturation": jitter, "hue": jitter / 4} if channels == 3 else {}
        jittered = v2.ColorJitter(brightness=jitter, contrast=jitter, **colour)
        steps.append(v2.RandomApply([jittered], p=0.8))
    if level.get("greyscale", 0) > 0:
        steps.append(v2.RandomGrayscale(level["greyscale"]))
    if level.get("blur", 0) > 0:
        radius = min(max(1, math.ceil(0.08 * size)), size - 1)
        blurred = v2.GaussianBlur(2 * radius + 1, sigma=(0.3, 0.3 + 0.04 * size))
        steps.append(v2.RandomApply([blurred], p=level["blur"]))
    if level.get("noise", 0) > 0:
        steps.append(Noise(level["noise"]))
    if level.get("cutout", 0) > 0:
        steps.append(Cutout(level["cutout"]))
    return v2.Compose([*steps, Clamp()])
