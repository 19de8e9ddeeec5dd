"""Images and arrays that the tests of readers write, and what they read back."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from taskrl.data.dataset import InMemory, Part
from taskrl.types import Inputs

UInt8Array = npt.NDArray[np.uint8]


def save(image: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def noise(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save_many(root: Path, names: list[str], mode: str = "RGB") -> None:
    for seed, name in enumerate(names):
        save(noise(seed, mode=mode), root / name)


def everything(inputs: Inputs) -> torch.Tensor:
    return inputs.take(torch.arange(len(inputs)))


def noise_array(seed: int, *shape: int) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(part: Part | None) -> UInt8Array:
    """(N, H, W, C)."""
    assert part is not None
    assert isinstance(part.inputs, InMemory)
    return part.inputs.data.permute(0, 2, 3, 1).numpy()


def labels_of(part: Part | None) -> list[int]:
    assert part is not None and part.labels is not None
    return part.labels.tolist()
