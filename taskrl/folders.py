"""Folders that are written beside their place and renamed, with a manifest of sizes and SHA-256 sums."""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from taskrl.errors import RunFolderError, in_short

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft beside `folder` that becomes `folder` when the block ends well, and is removed when it does not."""
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.rglob("*"), draft):
            sync(path)
        draft.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"The folder {str(folder)!r} could not be written ({error}); free the disk or name another folder."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A draft beside `file`, of the same suffix, that becomes `file` when the block ends well, and is removed when it
    does not.
    """
    draft = file.with_name(f"{file.stem}.tmp-{os.getpid()}{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()  # libraries raise what they like where nothing can be written
        yield draft
        sync(draft)
        draft.rename(file)
        sync(file.parent)
    except OSError as error:
        raise RunFolderError(
            f"The file {str(file)!r} could not be written ({error}); free the disk or name another file."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def typed(path: Path) -> str:
    """A path as it is typed in a shell, for commands that people copy."""
    return shlex.quote(str(path))


def sync(path: Path) -> None:
    """Wait until `path`, a file or a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(path: Path) -> dict[str, object]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def to_json(content: Mapping[str, Any]) -> str:
    """JSON text. Raises RunFolderError for a value that JSON cannot hold."""
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise RunFolderError(f"A card must hold finite numbers, texts and lists only ({error}).") from error


def write_text(path: Path, text: str) -> None:
    """UTF-8 with Unix line ends."""
    path.write_text(text, encoding="utf-8", newline="\n")


def draft_of(path: Path) -> Path:
    """Where `path` is written before it gets its name."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def write_atomically(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader never sees half a file."""
    draft = draft_of(path)
    try:
        draft.write_text(text, encoding="utf-8")
        sync(draft)  # else a power cut leaves the new name with nothing in it
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises RunFolderError when it is missing or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{str(path)!r} is missing; copy or write the folder again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{str(path)!r} cannot be read as JSON; write the folder again.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{str(path)!r} holds no JSON object; write the folder again.")
    return content


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Around code that trusts what it read from `path`, a file or a folder: raises RunFolderError where a key is
    missing or a value is of another kind than taskrl writes.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{str(path)!r} holds something else than this version of taskrl writes "
            f"({type(error).__name__}: {in_short(error)}); copy it again, or use the version that wrote it."
        ) from error


def write_manifest(folder: Path) -> dict[str, dict[str, object]]:
    """Write manifest.json over the files of `folder`; returns its entries."""
    entries = {path.name: fingerprint(path) for path in sorted(folder.iterdir()) if path.is_file()}
    write_text(folder / MANIFEST, to_json({"format_version": FORMAT_VERSION, "files": entries}))
    return entries


def verify(folder: Path, required: Sequence[str]) -> None:
    """Compare a folder with its manifest. Raises RunFolderError naming the first file that is missing or differs."""
    if not folder.is_dir():
        raise RunFolderError(f"There is no folder at {str(folder)!r}; name one that taskrl wrote.")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise RunFolderError(
            f"{str(folder / MANIFEST)!r} has format version {manifest.get('format_version')}, "
            f"this taskrl reads {FORMAT_VERSION}; load it with the taskrl that wrote it."
        )
    files = manifest.get("files")
    listed = files if isinstance(files, dict) else {}
    for name in dict.fromkeys((*required, *listed)):
        if Path(name).name != name or not (folder / name).is_file():
            raise RunFolderError(f"{str(folder / name)!r} is missing; copy or write the folder again.")
        if fingerprint(folder / name) != listed.get(name):
            raise RunFolderError(
                f"{str(folder / name)!r} differs from {MANIFEST}: it is damaged or was edited; "
                "copy or write the folder again."
            )
