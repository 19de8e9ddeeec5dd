"""Encoders that a gameable measure would prefer: noise, whitened noise, a constant, raw pixels, fine and coarse."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import torch
from encoder_scores import linear_accuracies
from signals import Meter
from torch import Tensor
from torch.nn import functional as F

from taskrl.types import Encode

DIM = 128


def noise(images: Tensor) -> Tensor:
    """Features that only depend on the bytes of the image, as a hash does."""
    weights = torch.arange(1, images[0].numel() + 1, dtype=torch.float64).sqrt()
    seeds = (images.flatten(1).double() @ weights).mul(1e3).long()
    return torch.stack([torch.randn(DIM, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


def whitened_noise(images: Tensor) -> Tensor:
    """Noise made exactly uncorrelated, so that every rank is full."""
    values = noise(images)
    left, _, right = torch.linalg.svd(values - values.mean(0), full_matrices=False)
    return left @ right * len(values) ** 0.5


def constant(images: Tensor) -> Tensor:
    """The same features for every image."""
    return torch.ones(len(images), DIM)


def pixels(images: Tensor) -> Tensor:
    """The image itself, averaged down to about 128 numbers: pixels memorised."""
    side = 11 if images.shape[1] == 1 else 6
    return F.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)


def miniature(images: Tensor) -> Tensor:
    """The image averaged down to 4 x 4: pixels again, too coarse for the larger miniature to be read back from."""
    return F.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)


ATTACKS: Mapping[str, Encode] = {
    "noise": noise,
    "whitened_noise": whitened_noise,
    "constant": constant,
    "pixels": pixels,
    "miniature": miniature,
}


def suite(
    name: str,
    path: str,
    folder: Path,
    pool: Sequence[Any],
    scores: Mapping[str, Any],
    panels: Mapping[str, Callable[[Mapping[str, float]], float]],
    accuracy: Callable[[Any], float],
    margin: float,
) -> dict[str, Any]:
    """Every attack with its accuracy, and how many encoders of higher accuracy (by `margin` points; by anything) each
    of `panels` (label-free, signals to value) ranks below it. scores: the same of a checkpoint.
    """
    assembled = checkpoints.open_set(name, path)
    meter = Meter(assembled)
    found = {}
    entries = {
        label: (linear_accuracies(assembled, encode)["test"], meter.signals(encode))
        for label, encode in ATTACKS.items()
    }
    for label, (reached, signals) in entries.items():
        found[label] = {"accuracy": round(reached, 1)}
        for size, value_of in panels.items():
            found[label] |= _outranked(size, value_of(signals), reached, pool, scores[size], accuracy, margin)
    for point in [*pool, *_extra(folder)]:
        kind = point.run["kind"]
        if kind in ("untrained", "attack"):
            others = [other for other in pool if other.key != point.key]
            entry: dict[str, Any] = {"accuracy": round(accuracy(point), 1)}
            for size in panels:
                entry |= _outranked(size, scores[size](point), accuracy(point), others, scores[size], accuracy, margin)
            found[point.run["name"]] = entry
    return found


def _extra(folder: Path) -> list[Any]:
    return [point for point in checkpoints.read(folder) if point.run["kind"] == "attack"]


def _outranked(
    size: str, value: float, reached: float, pool: Sequence[Any], score: Any, accuracy: Any, margin: float
) -> dict[str, Any]:
    better = [point for point in pool if accuracy(point) > reached]
    clearly = [point for point in better if accuracy(point) > reached + margin]
    return {
        f"{size}_outranks": sum(score(point) < value for point in better),
        f"{size}_outranks_by_margin": sum(score(point) < value for point in clearly),
        "num_better": len(better),
    }
