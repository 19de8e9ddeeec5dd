"""load_images: a data set from what `--data` was given, which is a known name, a folder of images or a .npz file."""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from taskrl.data.dataset import Part, RawDataset
from taskrl.errors import DataError, unknown_name
from taskrl.modalities.image.archives import KNOWN_SETS
from taskrl.modalities.image.digits import cluttered_digits, plain_digits
from taskrl.modalities.image.folder import MAX_BAD_SHARE, load_folder
from taskrl.modalities.image.npz import load_npz
from taskrl.modalities.image.simulated.source import set_for
from taskrl.registry import Registry

DEFAULT_SOURCE = "cluttered-digits"
DEFAULT_ROOT = Path("data")

GENERATED_SETS: Registry[Callable[[], RawDataset]] = Registry("data set")
GENERATED_SETS.register("cluttered-digits")(cluttered_digits)
GENERATED_SETS.register("digits")(plain_digits)

# a distribution of sets: (seed, image_size=, memory_limit_bytes=) -> the set that the seed draws
DRAWN_SETS: Registry[Callable[..., RawDataset]] = Registry("data set")
DRAWN_SETS.register("simulated")(functools.partial(set_for, channels=3))
DRAWN_SETS.register("simulated-grey")(functools.partial(set_for, channels=1))


def known_names() -> tuple[str, ...]:
    """The names that `load_images` takes besides paths."""
    return GENERATED_SETS.names() + DRAWN_SETS.names() + KNOWN_SETS.names()


def folder_of(source: str) -> Path | None:
    """The folder that `source` names, or None where it is a known name or a file. Raises DataError for neither."""
    path = None if source in known_names() else _existing_path(source)
    return path if path is not None and path.is_dir() else None


def is_drawn(source: str) -> bool:
    """Whether `source` is a distribution of sets, of which a seed draws one."""
    return source in DRAWN_SETS


def load_images(
    source: str,
    *,
    root: Path | None = None,
    image_size: int = 32,
    seed: int = 0,
    download: bool = False,
    groups: str | None = None,
    use_labels: bool = True,
    memory_limit_bytes: int = 2 * 2**30,
    max_bad_share: float = MAX_BAD_SHARE,
) -> RawDataset:
    """Square uint8 images (C, H, H) with C 1 or 3, and their labels and groups where there are any.

    source: a known name, or the path of a folder or .npz file; a path that is spelt like a name needs a slash. root:
    folder of the known sets (default: data). seed: draws the set, where the source is a distribution of sets. groups:
    npz column, or regular expression on a folder's file names.
    memory_limit_bytes: a folder with more pixels is decoded on demand. max_bad_share: of a folder's files that may be
    unreadable. Raises DataError.
    """
    if image_size < 1:
        raise DataError(f"Images of {image_size} pixels a side do not exist; give an image size of at least 1.")
    if source in known_names() and groups is not None:
        raise DataError(f"{source!r} has no column of groups to choose from; leave --groups out, not {groups!r}.")
    if source in GENERATED_SETS:
        dataset = GENERATED_SETS[source]()
    elif source in DRAWN_SETS:
        dataset = DRAWN_SETS[source](seed, image_size=image_size, memory_limit_bytes=memory_limit_bytes)
    elif source in KNOWN_SETS:
        dataset = KNOWN_SETS[source](root or DEFAULT_ROOT, download, image_size)
    else:
        path = _existing_path(source)
        if path.is_dir():
            dataset = load_folder(
                path,
                image_size=image_size,
                groups=groups,
                use_labels=use_labels,
                memory_limit_bytes=memory_limit_bytes,
                max_bad_share=max_bad_share,
            )
        elif path.suffix.lower() == ".npz":
            dataset = load_npz(path, image_size=image_size, groups=groups, use_labels=use_labels)
        else:
            raise DataError(f"{source!r} is neither a folder nor a .npz file; unpack it into a folder of images.")
    return dataset if use_labels else _without_labels(dataset)


def _existing_path(source: str) -> Path:
    path = os.path.expanduser(source)
    if os.path.exists(path):
        return Path(path)
    if "/" in source or os.sep in source or Path(source).suffix:
        raise DataError(f"There is no folder or file {source!r}; give an existing folder of images or .npz file.")
    raise DataError(f"{unknown_name('data set', source, known_names())} A folder is given by its path, as in ./photos.")


def _without_labels(dataset: RawDataset) -> RawDataset:
    validation, test = (None if part is None else _unlabelled(part) for part in (dataset.validation, dataset.test))
    return replace(dataset, train=_unlabelled(dataset.train), validation=validation, test=test, class_names=())


def _unlabelled(part: Part) -> Part:
    return replace(part, labels=None)
