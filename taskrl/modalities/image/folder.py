"""A folder of images as a data set: its classes and groups, in memory or decoded on demand."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.errors import DataError
from taskrl.modalities.image.listing import SPLIT_NAMES, divide_folder
from taskrl.types import Inputs

UInt8Array = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_BAD_SHARE = 0.01
FULL_SCALE, DIM_BELOW = 65535, 2**14  # of 16 bits; microscopes and X-ray detectors fill 10 to 12
MAX_PIXELS = 100_000_000  # takes 300 MB decoded; Pillow itself refuses only at 179 million
NUM_THREADS = min(8, os.cpu_count() or 1)
NUM_SUBMITTED = 1024


@final
@dataclass(frozen=True)
class FolderImages:
    """Images that stay on disk and are decoded by `take`; `names` are paths below `root`."""

    root: str
    names: tuple[str, ...]
    image_size: int
    num_channels: int

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return (self.num_channels, self.image_size, self.image_size)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Tensor) -> Tensor:
        """Raises DataError for a file that was changed or removed since the folder was loaded."""
        images = torch.empty((len(indices), *self.sample_shape), dtype=torch.uint8)
        names = [self.names[index] for index in indices.tolist()]
        for row, (name, image) in enumerate(zip(names, decode_each(self.root, names, self.image_size), strict=True)):
            if isinstance(image, str) or len(image) > self.num_channels:
                reason = image if isinstance(image, str) else "it has become a colour image"
                raise DataError(
                    f"{name!r} in {self.root!r} has changed since it was loaded ({reason}); restore the file."
                )
            images[row] = torch.from_numpy(image)
        return images


@dataclass(frozen=True)
class _Decoded:
    """kept: positions of the files that could be read. bad: (position, reason). pixels: None where they do not fit.
    peaks: the largest value of each 16-bit image.
    """

    kept: tuple[int, ...]
    bad: tuple[tuple[int, str], ...]
    num_channels: int
    pixels: Tensor | None
    peaks: tuple[int, ...]


@dataclass(frozen=True)
class _Labels:
    """Labels (N,) of either part, where it has any."""

    train: Tensor | None = None
    test: Tensor | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_folder(
    path: Path,
    *,
    image_size: int,
    groups: str | None,
    use_labels: bool,
    memory_limit_bytes: int,
    max_bad_share: float,
) -> RawDataset:
    """Every image below `path` as a square of `image_size` pixels; grey if no image has colour.

    Every file is decoded once, also where the pixels do not fit in memory, so that no unreadable file ends a run.
    """
    listing = divide_folder(path)
    names = listing.train + listing.test
    decoded = _decode_all(str(path), names, image_size, memory_limit_bytes)
    notes = (*listing.notes, *judge_bad_files(path, names, decoded.bad, max_bad_share), *_note_dim(decoded.peaks))
    num_train = int(np.searchsorted(np.asarray(decoded.kept), len(listing.train)))
    kept = tuple(names[position] for position in decoded.kept)
    train, test = kept[:num_train], kept[num_train:]
    if not train or (listing.test and not test):
        part = "test/" if train else "train/"
        raise DataError(f"No image in {part} of {str(path)!r} can be read; replace the files.")
    train_groups, test_groups = _groups(path, train, test, groups)
    labels = _label(path, train, test, listing.class_level) if use_labels else _Labels()
    train_inputs, test_inputs = _inputs(path, decoded, image_size, train, test)
    return RawDataset(
        name=path.resolve().name,
        train=Part(inputs=train_inputs, labels=labels.train, groups=train_groups),
        test=Part(inputs=test_inputs, labels=labels.test, groups=test_groups) if test else None,
        class_names=labels.class_names,
        notes=notes + labels.notes,
    )


def decode_image(path: str, image_size: int, peaks: list[int] | None = None) -> UInt8Array:
    """The image at `path` as (1, H, W) if no pixel has colour, else (3, H, W); H = W = image_size.

    The first frame, upright, on white where it is transparent. peaks: gets the largest value of a 16-bit image.
    Raises whatever Pillow raises on a damaged file.
    """
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
        image.draft(None, (2 * image_size, 2 * image_size))  # JPEGs decode faster at a reduced scale
        image.load()
        square = fit_square(_to_8_bits(ImageOps.exif_transpose(image), peaks), image_size)
    pixels = np.asarray(square, dtype=np.uint8).reshape(image_size, image_size, -1).transpose(2, 0, 1)
    grey = bool((pixels[:1] == pixels[1:]).all())
    return (pixels[:1] if grey else pixels).copy(order="C")


def fit_square(image: Image.Image, side: int) -> Image.Image:
    """The central square of `image` at `side` pixels, antialiased: the shorter side is scaled, the longer one cut."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)


def number_groups(
    train: Sequence[object], test: Sequence[object] | None, *, where: str
) -> tuple[Tensor, Tensor | None]:
    """Group ids as int64 numbers from 0. Raises DataError if a group has images in both train and test."""
    shared = set(train) & set(test or ())
    if shared:
        example = min(str(group) for group in shared)
        raise DataError(
            f"{len(shared)} groups of {where}, such as {example!r}, have images in both train and test; "
            f"give all images as train alone, so that taskrl divides them by group."
        )
    numbers = {group: number for number, group in enumerate(dict.fromkeys([*train, *(test or ())]))}
    tensors = [torch.tensor([numbers[group] for group in part], dtype=torch.int64) for part in (train, test or ())]
    return tensors[0], None if test is None else tensors[1]


def _to_8_bits(image: Image.Image, peaks: list[int] | None) -> Image.Image:
    """`image` in mode L or RGB, on white where it is transparent; 16-bit values are scaled, not clipped."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        peak = int(values.max())
        if values.min() < 0 or peak > FULL_SCALE:
            raise ValueError("its pixels have more than 16 bits")
        if peaks is not None:
            peaks.append(peak)
        return Image.fromarray(((values * 255 + FULL_SCALE // 2) // FULL_SCALE).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def decode_each(
    root: str, names: Sequence[str], image_size: int, peaks: list[int] | None = None
) -> Iterator[UInt8Array | str]:
    """Every image in order, decoded by threads, (C, H, W), or the reason why it cannot be. peaks: as `decode_image`."""
    if not names:
        return
    with ThreadPoolExecutor(min(NUM_THREADS, len(names)), thread_name_prefix="taskrl-decode") as threads:
        for start in range(0, len(names), NUM_SUBMITTED):
            paths = [os.path.join(root, name) for name in names[start : start + NUM_SUBMITTED]]
            yield from threads.map(partial(_decode_or_reason, image_size=image_size, peaks=peaks), paths)


def _decode_or_reason(path: str, image_size: int, peaks: list[int] | None) -> UInt8Array | str:
    try:
        if not os.path.isfile(path):
            return "it is no file, or a link to nothing"
        return decode_image(path, image_size, peaks)
    except UnidentifiedImageError:
        return f"it is no {', '.join(FORMATS)} image"
    except Exception as error:  # noqa: BLE001 Pillow's readers raise about every built-in exception on damaged files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return " ".join(reason.split()) or type(error).__name__


def _decode_all(root: str, names: Sequence[str], image_size: int, memory_limit_bytes: int) -> _Decoded:
    """Decode every file; the pixels are kept as long as all of them, with the channels met so far, fit."""
    num_channels = 1
    num_bytes = len(names) * image_size**2
    shape = (len(names), num_channels, image_size, image_size)
    pixels = torch.empty(shape, dtype=torch.uint8) if num_bytes <= memory_limit_bytes else None
    kept: list[int] = []
    bad: list[tuple[int, str]] = []
    peaks: list[int] = []
    for position, image in enumerate(decode_each(root, names, image_size, peaks)):
        if isinstance(image, str):
            bad.append((position, image))
            continue
        if len(image) > num_channels:
            num_channels = len(image)
            fits = pixels is not None and num_bytes * num_channels <= memory_limit_bytes
            pixels = pixels.repeat(1, num_channels, 1, 1) if pixels is not None and fits else None
        if pixels is not None:
            pixels[len(kept)] = torch.from_numpy(image)
        kept.append(position)
    found = None if pixels is None else pixels[: len(kept)]
    return _Decoded(tuple(kept), tuple(bad), num_channels, found, tuple(peaks))


def _note_dim(peaks: Sequence[int]) -> tuple[str, ...]:
    """A note where 16-bit images fill a small part of their range: little is left of it in 8 bits."""
    if not peaks or max(peaks) >= DIM_BELOW:
        return ()
    return (
        f"{len(peaks)} 16-bit images have no value above {max(peaks)} of {FULL_SCALE}, so that little contrast is "
        f"left in 8 bits; rescale them so that the largest value is near {FULL_SCALE}",
    )


def judge_bad_files(
    path: Path, names: Sequence[str], bad: Sequence[tuple[int, str]], max_bad_share: float
) -> tuple[str, ...]:
    """A note about unreadable files, (position, reason) each. Raises DataError if there are too many of them."""
    if not bad:
        return ()
    position, reason = bad[0]
    found = f"{len(bad)} of {len(names)} image files in {str(path)!r} cannot be read"
    if len(bad) == len(names) or len(bad) > max_bad_share * len(names):
        raise DataError(
            f"{found}, the first is {names[position]!r} ({reason}); at most {max_bad_share:.1%} may be unreadable: "
            f"repair or remove them."
        )
    return (f"{found} and were skipped, the first is {names[position]!r} ({reason})",)


def _inputs(
    path: Path, decoded: _Decoded, image_size: int, train: tuple[str, ...], test: tuple[str, ...]
) -> tuple[Inputs, Inputs]:
    if decoded.pixels is None:
        lazy = partial(FolderImages, str(path.resolve()), image_size=image_size, num_channels=decoded.num_channels)
        return lazy(train), lazy(test)
    pixels = decoded.pixels
    if not test and not decoded.bad:
        return InMemory(pixels), InMemory(pixels[:0])
    return InMemory(pixels[: len(train)].clone()), InMemory(pixels[len(train) :].clone())


def _groups(
    path: Path, train: Sequence[str], test: Sequence[str], pattern: str | None
) -> tuple[Tensor | None, Tensor | None]:
    if pattern is None:
        return None, None
    of_test = _file_groups(test, pattern) if test else None
    return number_groups(_file_groups(train, pattern), of_test, where=repr(str(path)))


def _file_groups(names: Sequence[str], pattern: str) -> list[str]:
    """What the first group of `pattern` matches in each file name. Raises DataError where there is no such thing."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--groups {pattern!r} is no regular expression ({error}); see Python's re.") from error
    if not expression.groups:
        raise DataError(f"--groups {pattern!r} has no (...) around the group id, as in 'track-([0-9]+)_'; add it.")
    found: list[str] = []
    for name in names:
        match = expression.search(name.rsplit("/", 1)[-1])
        if match is None or match.group(1) is None:
            raise DataError(f"--groups {pattern!r} finds no group id in the file name of {name!r}; mend it.")
        found.append(match.group(1))
    return found


def _class_folders(names: Sequence[str], level: int) -> list[str] | None:
    """The class folder of each file, or None if a file lies in none."""
    parts = [name.split("/") for name in names]
    return [part[level] for part in parts] if all(len(part) > level + 1 for part in parts) else None


def _note_alike(names: Sequence[str]) -> tuple[str, ...]:
    """A note where every class folder holds the same two or more folders, as parts of a divided set do."""
    inner: dict[str, set[str]] = {}
    for outer, *below in (name.split("/") for name in names):
        inner.setdefault(outer, set()).add(below[0] if len(below) > 1 else "")
    first, *others = inner.values()
    if len(first) < 2 or "" in first or any(found != first for found in others):
        return ()
    shown = ", ".join(map(repr, sorted(first)[:3])) + (", ..." if len(first) > 3 else "")
    return (
        f"the classes are the {len(inner)} outer folders, which all hold the same folders ({shown}); if those are the "
        "classes, call the outer ones train/ and test/",
    )


def _note_part(classes: Sequence[str]) -> tuple[str, ...]:
    """Where one of the classes is called like a part of a divided folder, which it may be."""
    part = next((name for name in classes if name.lower() in SPLIT_NAMES), None)
    if part is None:
        return ()
    shown = ", ".join(map(repr, classes[:3])) + (", ..." if len(classes) > 3 else "")
    return (f"{part!r} is taken for one of the classes ({shown}); if it is a part, call the parts train/ and test/",)


def _label(path: Path, train: Sequence[str], test: Sequence[str], level: int) -> _Labels:
    """Labels from class folders. Raises DataError if train/ and test/ have different ones."""
    of_train, of_test = _class_folders(train, level), _class_folders(test, level) if test else None
    if of_train is None:
        loose = next(name for name in train if name.count("/") <= level)
        mixed = any(name.count("/") > level for name in train)
        return _Labels(notes=(f"no labels, because {loose!r} lies outside the folders of classes",) if mixed else ())
    classes = tuple(sorted(set(of_train)))
    if of_test is not None and set(classes) != set(of_test) and max(len(classes), len(set(of_test))) >= 2:
        odd = sorted(set(classes) ^ set(of_test))
        side = "train/" if odd[0] in classes else "test/"
        raise DataError(
            f"train/ and test/ of {str(path)!r} have different classes ({len(odd)} are on one side alone, such as "
            f"{odd[0]!r} in {side}); give both the same class folders, or load without labels."
        )
    if len(classes) < 2:
        where = "/".join((*(("train",) if level else ()), classes[0]))
        return _Labels(
            notes=(f"no labels, because all images lie in one folder, {where!r}; every class needs its own",)
        )
    number = {name: index for index, name in enumerate(classes)}
    tensors = [torch.tensor([number[name] for name in part or ()], dtype=torch.int64) for part in (of_train, of_test)]
    bare = bool(test) and of_test is None
    alike = () if level else (*_note_alike(train), *_note_part(classes))
    notes = ("test/ has no class folders, so its images carry no labels",) if bare else alike
    return _Labels(tensors[0], None if of_test is None else tensors[1], classes, notes)
