"""Images, labels and groups in a .npz file. Nothing is unpickled."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.errors import DataError, unknown_name
from taskrl.modalities.image.archives import DAMAGED, AnyArray, fit_all
from taskrl.modalities.image.folder import number_groups

LARGEST_LABEL = 2**63 - 1


def load_npz(path: Path, *, image_size: int, groups: str | None, use_labels: bool = True) -> RawDataset:
    """x_train and, where they are, y_train, x_test and y_test; square images keep their size.

    x_*: uint8 (N, H, W) or (N, H, W, C). y_*: any integers (N,). groups: a column KEY, meaning KEY_train and KEY_test.
    """
    columns = _read(path, groups, use_labels)
    train = _images(path, "x_train", columns["x_train"], image_size)
    test = _images(path, "x_test", columns["x_test"], image_size) if "x_test" in columns else None
    if test is not None and test.shape[1:] != train.shape[1:]:
        raise DataError(
            f"x_train and x_test of {str(path)!r} differ in shape (C, H, W): {tuple(train.shape[1:])} and "
            f"{tuple(test.shape[1:])}; save both alike."
        )
    lengths = {"train": len(train)} | ({} if test is None else {"test": len(test)})
    labels = {role: _labels(path, columns, role, length) for role, length in lengths.items()}
    alone = labels["train"] is not None and len(np.unique(labels["train"])) < 2
    if alone:  # as of a folder with one class
        labels = dict.fromkeys(labels)
    _refuse_unknown(path, labels)
    present = [values for values in labels.values() if values is not None]
    classes = np.unique(np.concatenate(present)) if present else np.empty(0)
    numbers = {
        role: None if values is None else torch.from_numpy(np.searchsorted(classes, values).astype(np.int64))
        for role, values in labels.items()
    }
    ids = _groups(path, columns, lengths)
    notes = ["no labels, because y_train holds one class alone"] if alone else []
    if groups is not None and test is not None and ids[1] is None:
        key = groups.removesuffix("_train")
        notes.append(f"there is no {key}_test, so that nothing is known of groups with images in both train and test")
    return RawDataset(
        name=path.stem,
        train=Part(inputs=InMemory(train), labels=numbers["train"], groups=ids[0]),
        test=None if test is None else Part(inputs=InMemory(test), labels=numbers["test"], groups=ids[1]),
        class_names=tuple(str(value) for value in classes.tolist()),
        notes=tuple(notes),
    )


def _refuse_unknown(path: Path, labels: Mapping[str, AnyArray | None]) -> None:
    """Raises DataError for classes of the test part that the training part lacks; it may lack some itself."""
    train, test = labels["train"], labels.get("test")
    unknown = [] if train is None or test is None else np.setdiff1d(test, train).tolist()
    if unknown:
        raise DataError(
            f"y_test of {str(path)!r} has {len(unknown)} classes that y_train lacks, such as {unknown[0]}; number the "
            "classes of both alike, or load without labels."
        )


def _read(path: Path, groups: str | None, use_labels: bool) -> dict[str, AnyArray]:
    """The columns that are used; those of `groups` are called groups_train and groups_test."""
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{str(path)!r} is no .npz file, or is damaged; write one with numpy.savez(path, x_train=..., y_train=...)."
        )
    wanted = {name: name for name in ("x_train", "x_test", *(("y_train", "y_test") if use_labels else ()))}
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            if groups is not None:
                key = groups if f"{groups}_train" in names else groups.removesuffix("_train")
                if f"{key}_train" not in names:
                    known = [name.removesuffix("_train") for name in names if name.endswith("_train")]
                    raise DataError(f"{unknown_name('column of groups', groups, known)} (in {str(path)!r})")
                wanted |= {f"groups_{role}": f"{key}_{role}" for role in ("train", "test")}
            if "x_train" not in names:
                raise DataError(f"{str(path)!r} has no array x_train, only {', '.join(sorted(names))}; save one.")
            if "x_test" not in names and "y_test" in wanted.keys() & names:
                raise DataError(
                    f"{str(path)!r} has y_test but no x_test; save the test images as well, or drop y_test."
                )
            return {given: archive[name] for given, name in wanted.items() if name in names}
    except DAMAGED as error:
        what = (
            "holds Python objects, which are not loaded" if "Object arrays" in str(error) else f"is damaged ({error})"
        )
        raise DataError(f"{str(path)!r} {what}; save plain arrays with numpy.savez.") from error


def _images(path: Path, name: str, images: AnyArray, image_size: int) -> Tensor:
    """Images (N, C, H, H), uint8."""
    channels_last = images[..., None] if images.ndim == 3 else images
    fits = channels_last.ndim == 4 and channels_last.shape[3] in (1, 3) and images.dtype == np.uint8
    if not fits or not images.size:
        raise DataError(
            f"{name} of {str(path)!r} is {images.dtype} of shape {images.shape}, not uint8 of shape (N, H, W) or "
            f"(N, H, W, C) with 1 or 3 channels and at least 1 image; convert it."
        )
    if channels_last.shape[1] != channels_last.shape[2]:
        channels_last = fit_all(channels_last, image_size)
    return torch.from_numpy(np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2)))


def _labels(path: Path, columns: Mapping[str, AnyArray], role: str, length: int) -> AnyArray | None:
    values = columns.get(f"y_{role}")
    if values is None:
        return None
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.shape != (length,) or flat.dtype.kind not in "iub":
        raise DataError(
            f"y_{role} of {str(path)!r} is {values.dtype} of shape {values.shape}, not {length} integers, one for each "
            f"image; save class numbers, or load without labels."
        )
    if flat.max() > LARGEST_LABEL:
        raise DataError(
            f"y_{role} of {str(path)!r} holds {flat.max()}, above {LARGEST_LABEL}; save smaller class numbers."
        )
    return flat.astype(np.int64)


def _groups(
    path: Path, columns: Mapping[str, AnyArray], lengths: Mapping[str, int]
) -> tuple[Tensor | None, Tensor | None]:
    if "groups_train" not in columns:
        return None, None
    found = {role: columns[f"groups_{role}"] for role in lengths if f"groups_{role}" in columns}
    for role, values in found.items():
        if values.shape != (lengths[role],) or values.dtype.kind not in "iubUS":
            raise DataError(
                f"The groups of {role} in {str(path)!r} are {values.dtype} of shape {values.shape}, not "
                f"{lengths[role]} integers or names, one for each image; choose another column."
            )
    test = found["test"].tolist() if "test" in found else None
    return number_groups(found["train"].tolist(), test, where=repr(str(path)))
