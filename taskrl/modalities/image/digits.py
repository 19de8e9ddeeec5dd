"""Digit sets made on the spot from scikit-learn's 1,797 scanned digits (8x8): plain, and with clutter."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.errors import DataError
from taskrl.seeding import numpy_generator

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CLASS_NAMES = tuple(str(digit) for digit in range(10))
NUM_TEST_DIGITS = 500
SPLIT_SEED = 0  # which scanned digits are test digits never depends on the seed of the canvases
CANVAS_SIDE = 28
DIGIT_SIDES = (14, 22)
FRAGMENT_SIDES = (5, 8)
NUM_FRAGMENTS = (2, 4)
DIGIT_CONTRAST = (0.55, 1.0)
FRAGMENT_CONTRAST = (0.2, 0.5)
CLEAR_RADIUS = 0.6  # a fragment's middle keeps this share of the digit's side away from the digit's middle
NUM_PLACES_TRIED = 6
NOISE_SD = 0.05


@dataclass(frozen=True)
class _Pool:
    """Scanned digits: pixels (N, 8, 8) in [0, 1] and labels (N,)."""

    pixels: FloatArray
    labels: IntArray


def plain_digits() -> RawDataset:
    """The scanned digits at 16x16 (bilinear), with a fixed stratified split: 1,297 to train on and 500 to test."""
    train, test = _pools()
    return RawDataset(name="digits", train=_plain_part(train), test=_plain_part(test), class_names=CLASS_NAMES)


def cluttered_digits(num_train: int = 6000, num_test: int = 1500, seed: int = 0) -> RawDataset:
    """*Cluttered digits*: each 28x28 canvas holds one digit, fragments of other digits and noise; classes
    balanced.

    The digit has a random place, scale and contrast. Test canvases are made from scanned digits that no training canvas
    uses, not even as a fragment. One scanned digit gives several canvases: it is their group, so that every split of
    the training canvases keeps them together and is scored on unseen digits.
    """
    if num_train < 1 or num_test < 1:
        raise DataError(f"Cluttered digits need at least 1 canvas in each part, not {num_train} and {num_test}.")
    parts = []
    for role, pool, count in zip(("train", "test"), _pools(), (num_train, num_test), strict=True):
        parts.append(_draw_canvases(pool, count, numpy_generator(seed, "cluttered-digits", role)))
    return RawDataset(name="cluttered-digits", train=parts[0], test=parts[1], class_names=CLASS_NAMES)


def _pools() -> tuple[_Pool, _Pool]:
    """Training digits and test digits; the number of test digits of a class follows its share (largest remainders)."""
    from sklearn.datasets import load_digits  # here, since workers never need its second of imports

    bunch = load_digits()
    pixels = (np.asarray(bunch.images, dtype=np.float32) / 16.0).astype(np.float32)
    labels = np.asarray(bunch.target, dtype=np.int64)
    exact = np.bincount(labels, minlength=10) * NUM_TEST_DIGITS / len(labels)
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: NUM_TEST_DIGITS - counts.sum()]] += 1
    rng = numpy_generator(SPLIT_SEED, "digits", "test")
    chosen = [rng.permutation(np.flatnonzero(labels == digit))[: counts[digit]] for digit in range(10)]
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[np.concatenate(chosen)] = True
    return _Pool(pixels[~is_test], labels[~is_test]), _Pool(pixels[is_test], labels[is_test])


def _plain_part(pool: _Pool) -> Part:
    images = _to_uint8(torch.from_numpy(_upscale(pool.pixels, 16)).unsqueeze(1))
    return Part(inputs=InMemory(images), labels=torch.from_numpy(pool.labels))


def _upscale(pixels: FloatArray, side: int) -> FloatArray:
    """Bilinear: (N, 8, 8) to (N, side, side)."""
    scaled = F.interpolate(torch.from_numpy(pixels).unsqueeze(1), size=(side, side), mode="bilinear")
    return np.asarray(scaled.squeeze(1).numpy(), dtype=np.float32)


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255.0).round().clamp(0, 255).to(torch.uint8)


def _draw_canvases(pool: _Pool, count: int, rng: np.random.Generator) -> Part:
    """Canvases (count, 1, 28, 28), uint8, with their labels, and the scanned digit of each as its group."""
    labels = rng.permutation(np.arange(count) % 10)
    sources = _balanced_sources(pool.labels, labels, rng)
    sides = rng.integers(DIGIT_SIDES[0], DIGIT_SIDES[1], size=count, endpoint=True)
    corners = rng.integers(0, CANVAS_SIDE - sides[:, None], size=(count, 2), endpoint=True)
    banks = _banks(pool.pixels)
    canvases = np.zeros((count, CANVAS_SIDE, CANVAS_SIDE), dtype=np.float32)
    contrast = rng.uniform(*DIGIT_CONTRAST, size=count).astype(np.float32)
    _stamp(canvases, np.arange(count), banks[sides - DIGIT_SIDES[0], sources] * contrast[:, None, None], corners)
    _add_fragments(canvases, banks, pool.labels, labels, corners + sides[:, None] / 2, sides, rng)
    canvases += NOISE_SD * rng.standard_normal(canvases.shape, dtype=np.float32)
    images = _to_uint8(torch.from_numpy(canvases).unsqueeze(1))
    return Part(inputs=InMemory(images), labels=torch.from_numpy(labels), groups=torch.from_numpy(sources))


def _balanced_sources(pool_labels: IntArray, labels: IntArray, rng: np.random.Generator) -> IntArray:
    """A scanned digit of the right class for every canvas; each is used equally often, give or take one."""
    sources = np.empty(len(labels), dtype=np.int64)
    for digit in range(10):
        wanted = np.flatnonzero(labels == digit)
        sources[wanted] = np.resize(rng.permutation(np.flatnonzero(pool_labels == digit)), len(wanted))
    return sources


def _banks(pixels: FloatArray) -> FloatArray:
    """Every digit at every side, zero padded to the largest: (num_sides, N, largest, largest)."""
    low, high = DIGIT_SIDES
    banks = np.zeros((high - low + 1, len(pixels), high, high), dtype=np.float32)
    for row, side in enumerate(range(low, high + 1)):
        banks[row, :, :side, :side] = _upscale(pixels, side)
    return banks


def _add_fragments(
    canvases: FloatArray,
    banks: FloatArray,
    pool_labels: IntArray,
    labels: IntArray,
    middles: npt.NDArray[np.float64],
    sides: IntArray,
    rng: np.random.Generator,
) -> None:
    """Put a few small crops of digits of other classes on every canvas, most of them off the digit's middle."""
    numbers = rng.integers(*NUM_FRAGMENTS, size=len(canvases), endpoint=True)
    owner = np.repeat(np.arange(len(canvases)), numbers)
    total = len(owner)
    by_class = np.argsort(pool_labels, kind="stable")
    first = np.searchsorted(pool_labels[by_class], np.arange(11))
    other = (labels[owner] + rng.integers(1, 10, size=total)) % 10
    sources = by_class[first[other] + (rng.random(total) * (first[other + 1] - first[other])).astype(np.int64)]
    scale = rng.integers(0, len(banks), size=total)
    size = rng.integers(*FRAGMENT_SIDES, size=total, endpoint=True)
    cut = rng.integers(0, (scale + DIGIT_SIDES[0] - size)[:, None], size=(total, 2), endpoint=True)
    reach = np.arange(FRAGMENT_SIDES[1])
    rows, columns = cut[:, :1] + reach, cut[:, 1:] + reach
    last = DIGIT_SIDES[1] - 1
    crops = banks[scale[:, None, None], sources[:, None, None], np.minimum(rows, last)[:, :, None],
                  np.minimum(columns, last)[:, None, :]]  # fmt: skip
    inside = reach < size[:, None]
    crops = crops * (inside[:, :, None] & inside[:, None, :])
    crops *= rng.uniform(*FRAGMENT_CONTRAST, size=(total, 1, 1)).astype(np.float32)
    places = rng.integers(0, (CANVAS_SIDE - size)[:, None, None], size=(total, NUM_PLACES_TRIED, 2), endpoint=True)
    offset = places + size[:, None, None] / 2 - middles[owner][:, None, :]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    clear = distance > CLEAR_RADIUS * sides[owner][:, None]
    chosen = np.where(clear.any(axis=1), clear.argmax(axis=1), distance.argmax(axis=1))
    _stamp(canvases, owner, crops, places[np.arange(total), chosen])


def _stamp(canvases: FloatArray, owner: IntArray, patches: FloatArray, corners: IntArray) -> None:
    """Brightest pixel wins: lay each square patch on its canvas; what hangs over the edge is padding."""
    reach = np.arange(patches.shape[1])
    rows = np.minimum(corners[:, :1] + reach, CANVAS_SIDE - 1)
    columns = np.minimum(corners[:, 1:] + reach, CANVAS_SIDE - 1)
    flat = (owner[:, None, None] * CANVAS_SIDE + rows[:, :, None]) * CANVAS_SIDE + columns[:, None, :]
    np.maximum.at(canvases.reshape(-1), flat.reshape(-1), patches.reshape(-1))
