"""Known image sets in their original files. Nothing is unpickled or unpacked to disk."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.io import loadmat

from taskrl.data.dataset import InMemory, Part, RawDataset
from taskrl.errors import DataError
from taskrl.modalities.image.folder import UInt8Array, fit_square
from taskrl.registry import Registry

AnyArray = npt.NDArray[Any]
Blobs = Mapping[str, bytes]

TEN_DIGITS = tuple(str(digit) for digit in range(10))
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
STL10_URL = "http://ai.stanford.edu/~acoates/stl10/"
SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
READ_ERRORS = (OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError)
DAMAGED = (*READ_ERRORS, zlib.error, tarfile.TarError, zipfile.BadZipFile)


@dataclass(frozen=True)
class _Images:
    """pixels: (N, C, H, W) uint8. labels: (N,) integers."""

    pixels: UInt8Array
    labels: AnyArray


@dataclass(frozen=True)
class _Download:
    url: str
    file: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class _KnownSet:
    """files lie in one of `folders` below the root, plain or with .gz, or else inside `archive` (.tar.gz) there."""

    name: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[Blobs], tuple[_Images, _Images]]
    downloads: Callable[[], tuple[_Download, ...]]
    archive: str | None = None
    class_names: tuple[str, ...] | None = None
    scaled: bool = False


KNOWN_SETS: Registry[Callable[[Path, bool, int], RawDataset]] = Registry("data set")


def fit_all(images_NHWC: UInt8Array, side: int) -> UInt8Array:
    """Each of the uint8 images (N, H, W, C) as a square of `side` pixels."""
    num_channels = images_NHWC.shape[3]
    fitted = np.empty((len(images_NHWC), side, side, num_channels), dtype=np.uint8)
    for row, image in enumerate(images_NHWC):
        square = fit_square(Image.fromarray(image[..., 0] if num_channels == 1 else image), side)
        fitted[row] = np.asarray(square).reshape(side, side, num_channels)
    return fitted


def _load_known(known: _KnownSet, root: Path, download: bool, image_size: int) -> RawDataset:
    """Read a known set below `root`; it keeps its own size unless it is `scaled`."""
    blobs = _find(known, root)
    if blobs is None and download:
        _fetch(known, root / known.name)
        blobs = _find(known, root)
    if blobs is None:
        folders = ", ".join(repr(str(root / folder)) for folder in known.folders)
        archive = f" (or {known.archive})" if known.archive else ""
        raise DataError(
            f"{known.name} was not found: none of {folders} holds {', '.join(known.files)}{archive}; "
            f"give the folder above with --data-root, or pass --download."
        )
    names = known.class_names or tuple(blobs["fine_label_names.txt"].decode(errors="replace").split())
    parts = []
    for images in known.read(blobs):
        counts = {len(images.pixels), len(images.labels)}
        if len(counts) != 1 or 0 in counts or images.labels.min() < 0 or images.labels.max() >= len(names):
            raise DataError(
                f"{known.name} has {len(images.pixels)} images and {len(images.labels)} labels, which should be as "
                f"many and in 0..{len(names) - 1}; delete its files and get them again."
            )
        pixels = images.pixels
        if known.scaled:
            pixels = fit_all(pixels.transpose(0, 2, 3, 1), image_size).transpose(0, 3, 1, 2)
        labels = torch.from_numpy(images.labels.astype(np.int64))
        parts.append(Part(inputs=InMemory(torch.from_numpy(pixels.copy(order="C"))), labels=labels))
    return RawDataset(name=known.name, train=parts[0], test=parts[1], class_names=names)


def _find(known: _KnownSet, root: Path) -> dict[str, bytes] | None:
    """The bytes of every file of the set from the first folder that has all of them, or None."""
    for folder in (root / name for name in known.folders):
        paths = [next(filter(Path.is_file, (folder / name, folder / f"{name}.gz")), None) for name in known.files]
        archive = folder / known.archive if known.archive else None
        try:
            found = [path for path in paths if path is not None]
            if len(found) == len(known.files):
                return {name: _read(path) for name, path in zip(known.files, found, strict=True)}
            if archive is not None and archive.is_file():
                return _read_tar(archive, known.files)
        except DAMAGED as error:
            raise DataError(
                f"The files of {known.name} in {str(folder)!r} are damaged ({error}); delete them and get them again."
            ) from error
    return None


def _read(path: Path) -> bytes:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read()


def _read_tar(path: Path, files: tuple[str, ...]) -> dict[str, bytes]:
    """The bytes of the members called `files`, in whichever folder of the archive they lie."""
    blobs: dict[str, bytes] = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            stream = archive.extractfile(member) if name in files and member.isfile() else None
            if stream is not None:
                blobs[name] = stream.read()
            if len(blobs) == len(files):
                return blobs
    raise ValueError(f"{path.name} lacks {', '.join(name for name in files if name not in blobs)}")


def _fetch(known: _KnownSet, folder: Path) -> None:
    from torchvision.datasets import utils  # torchvision takes a second to import

    for item in known.downloads():
        try:
            utils.download_url(item.url, str(folder), item.file, item.md5)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{item.url} could not be downloaded into {str(folder)!r} ({error}); put it there by hand."
            ) from error


def _read_idx_set(blobs: Blobs) -> tuple[_Images, _Images]:
    pixels = [_read_idx(name, blobs[name], 3)[:, None] for name in IDX_FILES[::2]]
    labels = [_read_idx(name, blobs[name], 1) for name in IDX_FILES[1::2]]
    return _Images(pixels[0], labels[0]), _Images(pixels[1], labels[1])


def _read_idx(name: str, blob: bytes, num_axes: int) -> UInt8Array:
    """Layout: two zero bytes, type 8 (unsigned byte), number of axes; a big-endian uint32 an axis; the values."""
    start = 4 + 4 * num_axes
    sizes = np.frombuffer(blob[4:start], dtype=">u4").tolist() if len(blob) >= start else []
    if blob[:4] != bytes((0, 0, 8, num_axes)) or prod(sizes) != len(blob) - start:
        raise DataError(
            f"{name} is no idx file of unsigned bytes with {num_axes} axes, or it is cut short ({len(blob)} bytes, "
            f"axes {sizes}); get it again."
        )
    return np.frombuffer(blob, dtype=np.uint8, offset=start).reshape(sizes)


def _read_cifar(train: tuple[str, ...], test: str, num_label_bytes: int, blobs: Blobs) -> tuple[_Images, _Images]:
    """Layout of a record: label bytes, the finest last, then 32x32 red, green and blue."""
    parts = []
    for names in (train, (test,)):
        blob = b"".join(_whole_records(name, blobs[name], num_label_bytes + 3072) for name in names)
        records = np.frombuffer(blob, dtype=np.uint8).reshape(-1, num_label_bytes + 3072)
        parts.append(_Images(records[:, num_label_bytes:].reshape(-1, 3, 32, 32), records[:, num_label_bytes - 1]))
    return parts[0], parts[1]


def _whole_records(name: str, blob: bytes, size: int) -> bytes:
    if not blob or len(blob) % size:
        raise DataError(f"{name} has {len(blob)} bytes, not a multiple of {size} (one record); get it again.")
    return blob


def _read_svhn(blobs: Blobs) -> tuple[_Images, _Images]:
    """Layout: X (32, 32, 3, N) and y (N, 1), where 10 stands for the digit 0."""
    parts = []
    for role in ("train", "test"):
        name = f"{role}_32x32.mat"
        try:
            content = loadmat(io.BytesIO(blobs[name]), variable_names=["X", "y"])
            pixels, labels = content["X"], content["y"]
        except Exception as error:
            raise DataError(f"{name} is no MATLAB file with X and y ({error}); get it again.") from error
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
            raise DataError(f"X of {name} is {pixels.dtype} {pixels.shape}, not uint8 (32, 32, 3, N); get it again.")
        parts.append(_Images(pixels.transpose(3, 2, 0, 1), labels.ravel() % 10))
    return parts[0], parts[1]


def _read_stl10(blobs: Blobs) -> tuple[_Images, _Images]:
    """Layout: 96x96 red, green and blue, each column by column; labels from 1."""
    parts = []
    for role in ("train", "test"):
        blob = _whole_records(f"{role}_X.bin", blobs[f"{role}_X.bin"], 3 * 96 * 96)
        pixels = np.frombuffer(blob, dtype=np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        labels = np.frombuffer(blobs[f"{role}_y.bin"], dtype=np.uint8).astype(np.int64) - 1
        parts.append(_Images(pixels, labels))
    return parts[0], parts[1]


def _torchvision_mirror(name: str) -> tuple[_Download, ...]:
    from torchvision import datasets

    kind = getattr(datasets, name)
    return tuple(_Download(kind.mirrors[0] + file, file, md5) for file, md5 in kind.resources)


def _direct(folder_url: str, files: Mapping[str, str]) -> tuple[_Download, ...]:
    return tuple(_Download(folder_url + file, file, md5) for file, md5 in files.items())


def _idx_set(name: str, torchvision_name: str, class_names: tuple[str, ...]) -> _KnownSet:
    return _KnownSet(
        name=name,
        files=IDX_FILES,
        folders=(name, f"{torchvision_name}/raw", "."),
        read=_read_idx_set,
        downloads=partial(_torchvision_mirror, torchvision_name),
        class_names=class_names,
    )


_ALL = (
    _idx_set("fashion-mnist", "FashionMNIST", FASHION),
    _idx_set("mnist", "MNIST", TEN_DIGITS),
    _idx_set("kmnist", "KMNIST", KUZUSHIJI),
    _KnownSet(
        name="cifar10",
        files=(*CIFAR10_TRAIN, "test_batch.bin"),
        folders=("cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", "."),
        archive="cifar-10-binary.tar.gz",
        read=partial(_read_cifar, CIFAR10_TRAIN, "test_batch.bin", 1),
        downloads=partial(_direct, CIFAR_URL, {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
        class_names=CIFAR10,
    ),
    _KnownSet(
        name="cifar100",
        files=("train.bin", "test.bin", "fine_label_names.txt"),
        folders=("cifar100", "cifar100/cifar-100-binary", "cifar-100-binary", "."),
        archive="cifar-100-binary.tar.gz",
        read=partial(_read_cifar, ("train.bin",), "test.bin", 2),
        downloads=partial(_direct, CIFAR_URL, {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}),
    ),
    _KnownSet(
        name="svhn",
        files=tuple(SVHN_MD5),
        folders=("svhn", "."),
        read=_read_svhn,
        downloads=partial(_direct, "http://ufldl.stanford.edu/housenumbers/", SVHN_MD5),
        class_names=TEN_DIGITS,
    ),
    _KnownSet(
        name="stl10",
        files=("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
        folders=("stl10", "stl10/stl10_binary", "stl10_binary", "."),
        archive="stl10_binary.tar.gz",
        read=_read_stl10,
        downloads=partial(_direct, STL10_URL, {"stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb"}),
        class_names=STL10,
        scaled=True,
    ),
)
for _known in _ALL:
    KNOWN_SETS.register(_known.name)(partial(_load_known, _known))
