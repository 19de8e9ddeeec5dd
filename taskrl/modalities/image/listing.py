"""What lies in a folder of images: which files, in which parts, and how deep the classes are. Nothing is decoded."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from taskrl.errors import DataError

JPEG, NETPBM = (".jpg", ".jpeg", ".jpe", ".jfif"), (".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (".png", *JPEG, ".bmp", ".webp", ".tif", ".tiff", ".gif", *NETPBM)
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2")
MICROSCOPY = (".dcm", ".svs", ".ndpi", ".czi", ".nd2", ".lif")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".tga", ".psd", ".exr", *RAW, *MICROSCOPY)
SPLIT_NAMES = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")


@dataclass(frozen=True)
class FolderListing:
    """Every image file below a folder, whatever a run would use it for. names: paths below it, sorted. parts: train,
    test, val or another of SPLIT_NAMES, where the folder is divided so. classes: the class folder, where there are two
    or more.
    """

    names: tuple[str, ...]
    parts: tuple[str | None, ...]
    classes: tuple[str | None, ...]


@dataclass(frozen=True)
class Listing:
    """Paths of the image files below the folder, sorted; a class is the folder at position `class_level` of a path."""

    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    class_level: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class _Met:
    """What a walk has met: real paths, and how many image files of each kind that is not read."""

    paths: set[str] = field(default_factory=set)
    unread: Counter[str] = field(default_factory=Counter)

    def left_out(self) -> str:
        """Such as "50 .heic and 1 .avif files"."""
        found = " and ".join(f"{count} {suffix}" for suffix, count in self.unread.most_common())
        return f"{found} file{'s' * (self.unread.total() > 1)}"


def list_folder(path: Path) -> FolderListing:
    """Raises DataError where there is no image."""
    names = _image_names(path, _Met())
    roots = [name.split("/")[0].lower() if "/" in name else "" for name in names]
    divided = set(roots) == {"train"} or bool(_named_parts(set(roots)))
    parts = [root if divided and root in SPLIT_NAMES else None for root in roots]
    folders = [name.split("/")[1 if part else 0 : -1] for name, part in zip(names, parts, strict=True)]
    classes = [
        below[0] if below and bool(part) == divided else None for below, part in zip(folders, parts, strict=True)
    ]
    if len(set(classes) - {None}) < 2:
        classes = [None] * len(names)
    return FolderListing(tuple(names), tuple(parts), tuple(classes))


def divide_folder(path: Path) -> Listing:
    """The image files of `path` and its train/ and test/, each real file once however many links lead to it."""
    try:
        top = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        _refuse(error)
    split = {name.lower(): name for name in top}
    met = _Met()
    if "train" in split and "test" in split:
        parts = [sorted(_walk(path, split[role], met)) for role in ("train", "test")]
        for role, names in zip(("train", "test"), parts, strict=True):
            if not names:
                raise DataError(f"{role}/ in {str(path)!r} holds no {', '.join(SUFFIXES)} files; fill it or remove it.")
        others = [
            name for name in top if name not in (split["train"], split["test"]) and any(_walk(path, name, _Met()))
        ]
        notes = (
            (f"not used, because they lie beside train/ and test/: {', '.join(map(repr, others))}",) if others else ()
        )
        return Listing(tuple(parts[0]), tuple(parts[1]), class_level=1, notes=(*notes, *_notes(met)))
    names = _image_names(path, met)
    roots = {name.split("/")[0].lower() if "/" in name else "" for name in names}
    named = _named_parts(roots)
    if named:
        if "train" in named:
            other = min(named - {"train"})
            raise DataError(
                f"{str(path)!r} has train/ and {other}/ but no test/; rename {other}/, or give train/ alone."
            )
        found = " and ".join(f"{root}/" for root in sorted(named))
        raise DataError(
            f"{str(path)!r} is divided into {found}, which are no classes; call its parts train/ and test/, or give "
            "one of them alone."
        )
    return Listing(tuple(names), class_level=1 if roots == {"train"} else 0, notes=_notes(met))


def _named_parts(roots: set[str]) -> set[str]:
    """Which outer folders are parts: two or more, since a class may be called train; with train/, or all there are."""
    named = roots & set(SPLIT_NAMES)
    return named if len(named) > 1 and ("train" in named or named == roots) else set()


def _notes(met: _Met) -> tuple[str, ...]:
    if not met.unread:
        return ()
    return (f"left out, because taskrl does not read them: {met.left_out()}; convert to PNG or JPEG",)


def _image_names(path: Path, met: _Met) -> list[str]:
    names = sorted(_walk(path, "", met))
    if not names:
        other = f" but {met.left_out()}, which taskrl does not read" if met.unread else ""
        raise DataError(f"{str(path)!r} holds no images{other}; give a folder with {', '.join(SUFFIXES)} files.")
    return names


def _walk(root: Path, below: str, met: _Met) -> Iterator[str]:
    """Image files in `below` as paths relative to `root`, with forward slashes; no real path that was met before."""

    def links_last(folder: str, names: Iterable[str]) -> list[str]:
        shown = [name for name in names if not name.startswith(".") and name != "__MACOSX"]
        return sorted(shown, key=lambda name: (os.path.islink(os.path.join(folder, name)), name))

    for folder, subfolders, files in os.walk(root / below, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in met.paths:
            subfolders.clear()
            continue
        met.paths.add(real)
        subfolders[:] = links_last(folder, subfolders)
        for name in links_last(folder, files):
            full = os.path.join(folder, name)
            target = os.path.realpath(full) if os.path.islink(full) else os.path.join(real, name)
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in SUFFIXES + UNREAD or target in met.paths:
                continue
            met.paths.add(target)
            if suffix in UNREAD:
                met.unread[suffix] += 1
            else:
                yield Path(os.path.relpath(full, root)).as_posix()


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"The folder {error.filename!r} cannot be read ({error.strerror}); change its permissions.")
