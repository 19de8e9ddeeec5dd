"""A simulated data set: the images of a world."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.errors import DataError
from taskrl.modalities.image.simulated.canvas import Palette, Picture, compose
from taskrl.modalities.image.simulated.drawn import Scenes, Signs, Spectrograms, Strokes, one, uniform
from taskrl.modalities.image.simulated.fields import Blobs, Defects, Textures
from taskrl.modalities.image.simulated.items import Items, draw_items
from taskrl.modalities.image.simulated.nuisances import before_light, light
from taskrl.modalities.image.simulated.world import World
from taskrl.seeding import torch_generator

CHUNK_PIXELS = 2**17  # painted at once: small enough for a core's cache
NUM_INKS = 3


class Painter(Protocol):
    """Prototypes of one world, and how images of them are painted."""

    def paint(self, items: Items, rng: torch.Generator, size: int) -> Picture: ...


PAINTERS: Mapping[str, Callable[[World, torch.Generator], Painter]] = MappingProxyType(
    {
        "strokes": Strokes,
        "textures": Textures,
        "blobs": Blobs,
        "signs": Signs,
        "spectrograms": Spectrograms,
        "scenes": Scenes,
        "defects": Defects,
    }
)


def simulated_set(world: World, *, image_size: int, num_train: int = 3000, num_test: int = 1000) -> RawDataset:
    """The images of `world`, painted at its native size and resized; both parts follow the same law, with balanced
    classes. Raises DataError for a size below 8 pixels or a part without images.
    """
    if image_size < 8 or num_train < 1 or num_test < 1:
        raise DataError(
            f"A simulated set needs images of at least 8 pixels and 1 image in each part, not {image_size} pixels, "
            f"{num_train} and {num_test} images."
        )
    train, test = (paint_part(world, role, num, image_size) for role, num in (("train", num_train), ("test", num_test)))
    return RawDataset(name=f"simulated-{world.seed}", train=train, test=test, class_names=class_names(world))


def class_names(world: World) -> tuple[str, ...]:
    """A class is called after its levels, such as "pattern 2, mirror 1"."""
    grid = torch.unravel_index(torch.arange(world.num_classes), tuple(num for _, num in world.levels))
    names = [name for name, _ in world.levels]
    return tuple(
        ", ".join(f"{name} {int(level)}" for name, level in zip(names, cell, strict=True))
        for cell in zip(*grid, strict=True)
    )


def draw_palette(world: World, rng: torch.Generator) -> Palette:
    """Ground and inks: inks stand out from the ground; a ground is grey where colour defines classes."""
    ground = one(rng, 0.12, 0.7)
    contrast = one(rng, 0.3, 0.55)
    sign = 1.0 if ground < 0.4 else -1.0
    steps = torch.tensor([0.0, 1.0, 0.5, -0.3]) + 0.15 * uniform(rng, -1, 1, 4)
    steps[0] = 0.0
    luma = (ground + sign * contrast * steps).clamp(0.04, 0.85)
    chroma = 0.3 * uniform(rng, 0, 1, NUM_INKS + 1) * float(one(rng, 0, 1) < 0.85)
    hue = uniform(rng, 0, 6.3, NUM_INKS + 1)
    if "colour" in world.defining:
        # within the gamut, so that colours of one luma stay so
        chroma = torch.tensor([0.0, 1.0, 0.7, 0.8]) * one(rng, 0.14, 0.24)
        luma[1:] = luma[1:].clamp(0.3, 0.65)
    return Palette(luma=luma, chroma=chroma, hue=hue)


def part_labels(world: World, role: str, count: int) -> Tensor:
    """The labels of `paint_part`, without painting."""
    return _labels(world, count, torch_generator(world.seed, "simulated", role))


def paint_part(world: World, role: str, count: int, image_size: int) -> Part:
    """`count` images with balanced classes; every role has a stream of its own."""
    rng = torch_generator(world.seed, "simulated", "prototypes")
    palette = draw_palette(world, rng)
    painter = PAINTERS[world.family](world, rng)
    rng = torch_generator(world.seed, "simulated", role)
    labels = _labels(world, count, rng)
    items = draw_items(world, labels, rng)
    step = max(1, CHUNK_PIXELS // max(world.native_size, image_size) ** 2)
    images = [
        _paint(world, painter, palette, items.part(start, start + step), image_size, rng)
        for start in range(0, count, step)
    ]
    return Part(inputs=InMemory(torch.cat(images)), labels=labels)


def _labels(world: World, count: int, rng: torch.Generator) -> Tensor:
    return torch.arange(count)[torch.randperm(count, generator=rng)] % world.num_classes


def _paint(
    world: World, painter: Painter, palette: Palette, items: Items, image_size: int, rng: torch.Generator
) -> Tensor:
    """Images (B, C, S, S), uint8. A large native size is reduced before the light and the noise of the camera."""
    picture = painter.paint(items, rng, world.native_size)
    images = compose(picture, palette.colours(items.hue_B, items.chroma_B, world.channels))
    images = before_light(images, world, palette, rng)
    if world.native_size > image_size:
        images = _resize(images, image_size)
    images = light(images, world, items.gain_B, rng)
    if world.native_size < image_size:
        images = _resize(images, image_size)
    return (images * 255.0).round_().clamp_(0, 255).to(torch.uint8)


def _resize(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
