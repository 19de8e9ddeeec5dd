"""Small things that several tests build: images, data sets, predictors, levels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.modalities.image.encoders import make_encoder
from taskrl.modalities.image.views import view_knobs
from taskrl.predictor.predictor import Predictor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(num: int, channels: int = 1, size: int = 16, seed: int = 0) -> Tensor:
    """Noise, uint8 (num, channels, size, size)."""
    return torch.randint(0, 256, (num, channels, size, size), dtype=torch.uint8, generator=generator(seed))


def blobs(labels_N: Tensor, channels: int = 1, size: int = 16, seed: int = 0) -> Tensor:
    """A wedge in the quarter that the label (0 to 3) names, on a slope with noise: no two quarter turns look alike."""
    num = len(labels_N)
    rows = torch.linspace(0, 1, size)[:, None]
    columns = torch.linspace(0, 1, size)[None, :]
    shake = 0.08 * torch.rand((2, num, 1, 1), generator=generator(seed))
    centre_y = (0.25 + 0.5 * (labels_N // 2))[:, None, None] + shake[0]
    centre_x = (0.25 + 0.5 * (labels_N % 2))[:, None, None] + shake[1]
    wedge = ((rows - centre_y).abs() + (columns - centre_x).abs() < 0.18) & (columns - centre_x < 0.06)
    noise = 0.1 * torch.rand((num, size, size), generator=generator(seed + 1))
    images = (0.25 * rows + 0.6 * wedge + noise).clamp(0, 1)
    tints = torch.tensor([1.0, 0.8, 0.6])[:channels, None, None]
    return (255 * images[:, None] * tints).round().to(torch.uint8)


def blob_dataset(num: int = 200, channels: int = 1, size: int = 16) -> RawDataset:
    labels = torch.arange(num) % 4
    return RawDataset(name="blobs", train=Part(inputs=InMemory(blobs(labels, channels, size)), labels=labels))


def tiny_predictor(channels: int = 1, size: int = 16, seed: int = 0, precision: str = "fp32") -> Predictor:
    mean, std = [0.3] * channels, [0.25] * channels
    encoder, _ = make_encoder("small", in_channels=channels, image_size=size, width=8, mean=mean, std=std, seed=seed)
    shape = (channels, size, size)
    return Predictor(encoder, feature_dim=encoder.feature_dim, sample_shape=shape, precision=precision, seed=seed)


def reference_levels(channels: int = 1, size: int = 16, **changes: float) -> dict[str, float]:
    """The reference recipe's strengths, all knobs named, with `changes`."""
    levels = {knob.name: knob.levels[knob.reference] for knob in view_knobs(channels, size)}
    return {**levels, "mask_ratio": 0.6, **changes}


def tensors_of(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor inside a state dict, a snapshot, views or a tuple, by path."""
    if isinstance(value, Tensor):
        return {prefix: value}
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple | list):
        items = list(enumerate(value))
    elif hasattr(value, "__dataclass_fields__"):
        items = [(name, getattr(value, name)) for name in value.__dataclass_fields__]
    else:
        return {}
    return {key: tensor for name, inner in items for key, tensor in tensors_of(inner, f"{prefix}/{name}").items()}


def same_tensors(first: Any, second: Any) -> bool:
    """Whether two structures hold equal tensors, bit for bit, at the same paths."""
    ours, theirs = tensors_of(first), tensors_of(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
