"""Drawing the two views of 256 images, one thread: taskrl against kornia, torchvision and LightlySSL.

    python benchmarks/views.py            # about 2 minutes
    python benchmarks/views.py --quick    # shows that it runs

Needs the packages of the extra `bench`. Every side draws the reference recipe for the size: random resized crop (area
and aspect range), mirror, brightness and contrast jitter; for colour also saturation, hue and greyscale; above 32
pixels also blur. The result is a float32 batch in [0, 1] of both views. Each peer gets the faster of two ways:

    kornia       the whole batch, one draw an image; crops by slicing or by resampling
    torchvision  image by image; on PIL images or on tensors
    LightlySSL   image by image from PIL; SimCLRTransform, or MultiViewTransform of the needed torchvision transforms

Differences that no setting removes: peers round crops to pixels and draw the order of the colour operations anew each
time, hue is a shift in HSV there and a turn of the chroma plane here, and PIL crops are anti-aliased.
Headline: ratio_PEER_SIZE, the peer's time over taskrl's, median of turn-by-turn ratios.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import measure
import torch
from lightly.transforms import SimCLRTransform
from lightly.transforms.multi_view_transform import MultiViewTransform
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.modalities.image import views
from taskrl.modalities.image.digits import cluttered_digits
from taskrl.seeding import torch_generator

NUM_IMAGES = 256
QUICK_IMAGES = 64
SECONDS_A_TURN = 0.4
ROUNDING = 1e-4
LIGHTLY_TRANSFORMS = ("SimCLRTransform", "MultiViewTransform")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The reference recipe for images of `size` pixels a side, in the peers' terms."""

    channels: int
    size: int

    @property
    def levels(self) -> dict[str, float]:
        return {knob.name: knob.levels[knob.reference] for knob in views.view_knobs(self.channels, self.size)}

    @property
    def area(self) -> tuple[float, float]:
        return (self.levels["crop"], 1.0)

    @property
    def aspect(self) -> tuple[float, float]:
        return (1 / views.ASPECT_RATIO, views.ASPECT_RATIO)

    @property
    def jitter(self) -> dict[str, float]:
        """Arguments of the peers' colour jitter."""
        strength, coloured = self.levels["jitter"], float(self.channels == 3)
        saturation, hue = strength * coloured, views.HUE_SHARE * strength * coloured
        return {"brightness": strength, "contrast": strength, "saturation": saturation, "hue": hue}

    @property
    def greyscale(self) -> float:
        return self.levels.get("greyscale", 0.0)

    @property
    def blur_sigma(self) -> tuple[float, float]:
        """As `sample_view` draws it."""
        return (0.3, 0.3 + 0.04 * self.size)

    @property
    def blur_kernel(self) -> int:
        """As `apply_view` cuts it off."""
        return 2 * -(-8 * self.size // 100) + 1


RECIPES = {
    "grey28": Recipe(channels=1, size=28),
    "rgb32": Recipe(channels=3, size=32),
    "rgb96": Recipe(channels=3, size=96),
}


def peer_versions() -> dict[str, str]:
    """For the record of a result."""
    return {package: metadata.version(package) for package in ("lightly", "kornia", "pillow")}


@cache
def dataset_of(kind: str) -> RawDataset:
    """Cluttered digits without their test part: as they are, or coloured by a fixed seed and scaled."""
    part = cluttered_digits().train
    grey = part.inputs.take(torch.arange(len(part.inputs)))
    recipe = RECIPES[kind]
    images = grey if recipe.channels == 1 else _coloured(grey, recipe.size)
    return RawDataset(name=kind, train=Part(inputs=InMemory(images), labels=part.labels, groups=part.groups))


def _coloured(grey_N1HW: Tensor, size: int) -> Tensor:
    """A ground colour and a digit colour for each image, mixed by its brightness, and noise in each channel."""
    rng = torch_generator(0, "colours")
    ink = F.interpolate(grey_N1HW.float() / 255, size=(size, size), mode="bilinear")
    ground, digit = torch.rand((2, len(ink), 3, 1, 1), generator=rng)
    noise = 0.05 * torch.randn((len(ink), 3, size, size), generator=rng)
    return (255 * (ground + (digit - ground) * ink + noise).clamp(0, 1)).round().to(torch.uint8)


def pil_images(images_NCHW: Tensor) -> list[Image.Image]:
    """Mode L for one channel, RGB for three."""
    arrays = images_NCHW.permute(0, 2, 3, 1).squeeze(-1).numpy()
    return [Image.fromarray(array) for array in arrays]


def lightly_transform(recipe: Recipe, name: str) -> MultiViewTransform:
    """Two views of a PIL image, image values in [0, 1] and not normalised: the encoder does that itself."""
    if name == "MultiViewTransform":
        view = torchvision_transform(recipe, "PIL")
        return MultiViewTransform([view, view])
    jitter = recipe.jitter
    return SimCLRTransform(
        input_size=recipe.size,
        cj_prob=views.JITTER_PROBABILITY,
        cj_strength=1.0,
        cj_bright=jitter["brightness"],
        cj_contrast=jitter["contrast"],
        cj_sat=jitter["saturation"],
        cj_hue=jitter["hue"],
        min_scale=recipe.area[0],
        random_gray_scale=recipe.greyscale,
        gaussian_blur=recipe.levels["blur"],
        sigmas=recipe.blur_sigma,
        vf_prob=0.0,
        hf_prob=recipe.levels["mirror"],
        rr_prob=0.0,
        normalize=None,
    )


def torchvision_transform(recipe: Recipe, backend: str) -> v2.Compose:
    """One view of a PIL image; the operations work on PIL images or on tensors."""
    steps: list[Any] = [
        v2.RandomResizedCrop(recipe.size, scale=recipe.area, ratio=recipe.aspect),
        v2.RandomHorizontalFlip(recipe.levels["mirror"]),
        v2.RandomApply([v2.ColorJitter(**recipe.jitter)], p=views.JITTER_PROBABILITY),
    ]
    if recipe.greyscale:
        steps.append(v2.RandomGrayscale(recipe.greyscale))
    if recipe.levels["blur"]:
        steps.append(v2.RandomApply([v2.GaussianBlur(recipe.blur_kernel, recipe.blur_sigma)], p=recipe.levels["blur"]))
    steps.insert(0 if backend == "tensor" else len(steps), v2.ToImage())
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])


def kornia_transform(recipe: Recipe, cropping: str) -> nn.Sequential:
    """A batch of float images; parameters are drawn for each image. Crops by "slice" or "resample"."""
    import kornia.augmentation as kornia

    size = (recipe.size, recipe.size)
    steps: list[nn.Module] = [
        kornia.RandomResizedCrop(size, scale=recipe.area, ratio=recipe.aspect, cropping_mode=cropping),
        kornia.RandomHorizontalFlip(p=recipe.levels["mirror"]),
        kornia.ColorJitter(**recipe.jitter, p=views.JITTER_PROBABILITY),
    ]
    if recipe.greyscale:
        steps.append(kornia.RandomGrayscale(p=recipe.greyscale))
    if recipe.levels["blur"]:
        kernel = (recipe.blur_kernel, recipe.blur_kernel)
        steps.append(kornia.RandomGaussianBlur(kernel, recipe.blur_sigma, p=recipe.levels["blur"]))
    return nn.Sequential(*steps)


def sides_of(recipe: Recipe, images: Tensor) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Side -> its ways -> a call that returns both views of all images, (2N, C, H, W)."""
    rng, pictures = torch_generator(0, "views"), pil_images(images)

    def ours() -> Tensor:
        return views.make_view(torch.cat([images, images]), rng, recipe.levels)

    def kornia(cropping: str) -> Callable[[], Tensor]:
        transform = kornia_transform(recipe, cropping)
        return lambda: transform(torch.cat([images, images]).float().div_(255))

    def torchvision(backend: str) -> Callable[[], Tensor]:
        transform = torchvision_transform(recipe, backend)
        return lambda: torch.stack([transform(picture) for _ in range(2) for picture in pictures])

    def lightly(name: str) -> Callable[[], Tensor]:
        transform = lightly_transform(recipe, name)

        def both() -> Tensor:
            first, second = zip(*(transform(picture) for picture in pictures), strict=True)
            return torch.cat([torch.stack(first), torch.stack(second)])

        return both

    return {
        "taskrl": {"make_view": ours},
        "kornia": {cropping: kornia(cropping) for cropping in ("slice", "resample")},
        "torchvision": {backend: torchvision(backend) for backend in ("PIL", "tensor")},
        "lightly": {name: lightly(name) for name in LIGHTLY_TRANSFORMS},
    }


def fastest(ways: Mapping[str, Callable[[], Tensor]], *, runs: int) -> tuple[str, dict[str, float]]:
    """The way with the smallest median time, after one call of each to warm up; the times in seconds."""
    for way in ways.values():
        way()
    found = measure.alternate({name: lambda way=way: measure.seconds(way) for name, way in ways.items()}, runs=runs)
    times = {name: measure.median(values) for name, values in found.items()}
    return min(times, key=lambda name: times[name]), times


def compare(recipe: Recipe, images: Tensor, *, runs: int, turn_seconds: float) -> dict[str, Any]:
    """Choose each side's faster way, then measure the sides turn by turn."""
    chosen, pilot, turns, moments = {}, {}, {}, {}
    for side, ways in sides_of(recipe, images).items():
        chosen[side], pilot[side] = fastest(ways, runs=max(1, runs // 3))
        way = ways[chosen[side]]
        moments[side] = _checked(way(), recipe, len(images))
        repeat = max(1, round(turn_seconds / pilot[side][chosen[side]]))
        turns[side] = lambda way=way, repeat=repeat: measure.seconds(way, repeat=repeat)
    found = measure.alternate(turns, runs=runs)
    ours = found.pop("taskrl")
    return {
        "levels": recipe.levels,
        "ways": chosen,
        "seconds": {side: measure.median(values) for side, values in {"taskrl": ours, **found}.items()},
        "ratios": {side: measure.ratios(values, ours) for side, values in found.items()},
        "runs": {"taskrl": ours, **found},
        "pilot_seconds": pilot,
        "mean_and_sd_of_views": moments,
    }


def _checked(views_BCHW: Tensor, recipe: Recipe, num_images: int) -> dict[str, float]:
    """Mean and sd of the views. Raises ValueError when they are not what every side must give."""
    expected = (2 * num_images, recipe.channels, recipe.size, recipe.size)
    if tuple(views_BCHW.shape) != expected or views_BCHW.dtype != torch.float32:
        raise ValueError(f"views are {tuple(views_BCHW.shape)}, {views_BCHW.dtype}; expected {expected}, float32")
    low, high = float(views_BCHW.min()), float(views_BCHW.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"views lie in [{low}, {high}], outside [0, 1]")
    return {"mean": float(views_BCHW.mean()), "sd": float(views_BCHW.std())}


def main() -> None:
    """Every size in turn."""
    options = measure.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    runs, turn_seconds, num_images = (2, 0.0, QUICK_IMAGES) if options.quick else (9, SECONDS_A_TURN, NUM_IMAGES)
    details: dict[str, Any] = {"peers": peer_versions(), "num_images": num_images, "threads": 1}
    headline: dict[str, float] = {}
    for kind, recipe in RECIPES.items():
        images = dataset_of(kind).train.inputs.take(torch.arange(num_images))
        details[kind] = compare(recipe, images, runs=runs, turn_seconds=turn_seconds)
        for side, ratio in details[kind]["ratios"].items():
            headline[f"ratio_{side}_{kind}"] = round(ratio["median"], 2)
        milliseconds = {side: round(1000 * value, 1) for side, value in details[kind]["seconds"].items()}
        print(f"{kind}: milliseconds {milliseconds}, ways {details[kind]['ways']}", flush=True)
    measure.finish(__file__, options, headline, details)


if __name__ == "__main__":
    main()
