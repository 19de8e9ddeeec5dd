"""Simulated sets as data for a run: every seed draws a world of its own."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.errors import DataError
from taskrl.modalities.image.simulated.sets import class_names, paint_part, part_labels
from taskrl.modalities.image.simulated.world import World, draw_world
from taskrl.seeding import derive_seed
from taskrl.types import Inputs

NUM_TRAIN = 1000
NUM_VALIDATION = 500
NUM_TEST = 1000
NUM_WORLDS = 2**31
NOTE = "every episode and every train seed has a simulated set of its own; this one serves where one is enough"


def world_for(seed: int, *, channels: int) -> World:
    """The world that `seed` draws; one channel: a grey world. Three channels show worlds of either kind."""
    return draw_world(derive_seed(seed, "world") % NUM_WORLDS, channels=1 if channels == 1 else None)


def set_for(seed: int, *, channels: int, image_size: int, memory_limit_bytes: int = 2**31) -> RawDataset:
    """The set that `seed` draws, (channels, image_size, image_size). A grey world's channel is repeated.

    An episode needs the training images only; those of validation and test are painted when they are first taken.
    Raises DataError for images that are too small, or too large for the memory.
    """
    num_bytes = NUM_TRAIN * channels * image_size**2
    if num_bytes > memory_limit_bytes:
        raise DataError(
            f"{NUM_TRAIN} simulated images of {image_size} pixels a side take {num_bytes / 2**20:.0f} MB, more than "
            f"{memory_limit_bytes / 2**20:.0f}; choose a smaller --image-size or a larger data.memory_limit_mb."
        )
    world = world_for(seed, channels=channels)
    train = paint_part(world, "train", NUM_TRAIN, image_size)
    validation, test = (
        Part(
            inputs=PaintedLater(world=world, role=role, count=count, sample_shape=(channels, image_size, image_size)),
            labels=part_labels(world, role, count),
        )
        for role, count in (("validation", NUM_VALIDATION), ("test", NUM_TEST))
    )
    return RawDataset(
        name=f"simulated-{world.seed}",
        train=replace(train, inputs=InMemory(_shown(train.inputs, channels))),
        validation=validation,
        test=test,
        class_names=class_names(world),
        notes=(NOTE,),
        facts={"world": {"seed": world.seed, "family": world.family}},
    )


@dataclass(kw_only=True)
class PaintedLater:
    """Inputs of one part of a world, painted when the first of them are taken."""

    world: World
    role: str
    count: int
    sample_shape: tuple[int, ...]
    _images: Tensor | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Tensor) -> Tensor:
        """Inputs (B, *sample_shape), uint8, at `indices` (B,)."""
        if self._images is None:
            channels, size, _ = self.sample_shape
            self._images = _shown(paint_part(self.world, self.role, self.count, size).inputs, channels)
        return self._images[indices]


def _shown(inputs: Inputs, channels: int) -> Tensor:
    """All inputs, with as many channels."""
    images = inputs.take(torch.arange(len(inputs)))
    return images if images.shape[1] == channels else images.repeat(1, channels, 1, 1)
