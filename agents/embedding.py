"""`taskrl embed`: features of every image of a data set, part by part; what is finished survives a stop."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import taskrl
from agents.encoders import at_own_size, check_finite, encode_on, fit_to_images, readable
from agents.progress import Reporter
from taskrl.assemble import find_device, load_data
from taskrl.config import ExperimentConfig
from taskrl.data.dataset import Part
from taskrl.errors import DataError, RunFolderError
from taskrl.feature_files import FeatureRows, check_ending, sidecar, write_features
from taskrl.folders import fingerprint, read_json, sync, to_json, write_atomically
from taskrl.initial import open_encoder, weights_file
from taskrl.modalities.image.datasets import folder_of
from taskrl.modalities.image.encoders import images_at_once
from taskrl.modalities.image.folder import MAX_BAD_SHARE, decode_each, judge_bad_files
from taskrl.modalities.image.listing import list_folder
from taskrl.modalities.image.state_dicts import LoadedEncoder
from taskrl.run_folder import check_place, refuse_existing
from taskrl.types import Encode

IMAGES_A_PART = 1024
BYTES_A_PART = 2**28  # of decoded images, which all wait in memory at worst
SETTINGS, FEATURES, KEPT, BAD = "settings.json", "features", "kept", "bad"


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is embedded, in order. names: for messages. about: name, class, label and split of each image, None where
    there is none. read(start, stop): each image, uint8 (C, H, W), or why it cannot be read. stamp(start, stop): text
    that changes when those images do.
    """

    source: str
    names: Sequence[str]
    about: Sequence[tuple[str, str | None, int | None, str | None]]
    shape: tuple[int, ...]
    read: Callable[[int, int], Iterator[Tensor | str]]
    stamp: Callable[[int, int], str]


@dataclass(frozen=True)
class _Finished:
    """A part. features (n, D) of the images at the positions kept (n,); bad: (position, reason) of the others."""

    features: Tensor
    kept: Tensor
    bad: list[tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What `embed` was asked for. parts: where finished parts wait. bounds: first and last image of each."""

    images: Images
    loaded: LoadedEncoder
    encode: Encode
    batch_size: int
    parts: Path
    settings: dict[str, Any]
    bounds: list[tuple[int, int]]

    def file(self, start: int, stop: int) -> Path:
        """Where the part of these images waits; its name changes when they do."""
        stamp = hashlib.sha256(self.images.stamp(start, stop).encode()).hexdigest()
        return self.parts / f"{start:09d}-{stop:09d}-{stamp[:16]}.safetensors"


def embed(
    path: Path,
    architecture: str | None,
    config: ExperimentConfig,
    out: Path,
    reporter: Reporter,
    *,
    batch_size: int | None = None,
) -> int:
    """Write the features of every image of the data to the new file `out`; returns their number.

    What was finished before a stop lies in `out`.parts, and the same call goes on from there. Raises ConfigError,
    DataError or RunFolderError.
    """
    parts = _check_out(out)
    device = find_device(config.predictor.device)
    loaded = open_encoder(path, architecture)
    config, sized = at_own_size(loaded, config)
    for note in (*loaded.notes, *sized):
        reporter.say(f"Note: {note}.")
    images = list_images(config, int(loaded.config["in_channels"]))
    for note in fit_to_images(loaded, images.shape):
        reporter.say(f"Note: {note}.")
    size = batch_size or images_at_once(*images.shape[1:])
    sha256 = str(fingerprint(weights_file(path))["sha256"])
    job = _Job(
        images=images,
        loaded=loaded,
        encode=encode_on(loaded.encoder.to(device).eval(), device, size),
        batch_size=size,
        parts=parts,
        settings={
            "encoder": sha256,
            "configuration": {key: value for key, value in loaded.config.items() if key != "card"},
            "image size": list(images.shape[1:]),
            "batch size": size,
            "device": str(device),
            "torch": torch.__version__,
            "taskrl": taskrl.__version__,
        },
        bounds=_bounds(len(images.names), size, images.shape),
    )
    try:
        bad = _make_parts(job, reporter)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The same command goes on from {str(parts)!r}.") from None
    return _write(job, path, sha256, bad, out, reporter)


def _check_out(out: Path) -> Path:
    """Where the parts of `out` wait. Raises ConfigError or RunFolderError before anything is made."""
    check_ending(out)
    refuse_existing(out)
    parts, beside = out.with_name(f"{out.name}.parts"), sidecar(out)
    if beside is not None and not parts.exists():
        refuse_existing(beside)
    check_place(out)
    return parts


def list_images(config: ExperimentConfig, channels: int) -> Images:
    """Every image that the configuration names. channels: of the encoder. Folders are decoded on demand; grey images in
    them get as many channels as the encoder takes. Raises DataError.
    """
    folder = folder_of(config.data.source)
    if folder is None:
        return _from_arrays(config)
    size, root = config.data.image_size, str(folder.resolve())
    listing = list_folder(folder)
    number = {name: index for index, name in enumerate(sorted({name for name in listing.classes if name is not None}))}
    about = [
        (_printable(name), None if kind is None else _printable(kind), None if kind is None else number[kind], part)
        for name, kind, part in zip(listing.names, listing.classes, listing.parts, strict=True)
    ]

    def read(start: int, stop: int) -> Iterator[Tensor | str]:
        for name, image in zip(
            listing.names[start:stop], decode_each(root, listing.names[start:stop], size), strict=True
        ):
            if isinstance(image, str):
                yield image
            elif len(image) > channels:
                raise DataError(
                    f"{name!r} in {str(folder)!r} is in colour and the encoder takes grey images; give those."
                )
            else:
                yield torch.from_numpy(image).expand(channels, -1, -1)

    def stamp(start: int, stop: int) -> str:
        lines = []
        for name in listing.names[start:stop]:
            try:
                status = os.stat(os.path.join(root, name))
                lines.append(json.dumps([root, name, status.st_size, status.st_mtime_ns]))
            except OSError:  # a link to nothing: reading it says so
                lines.append(json.dumps([root, name]))
        return "\n".join(lines)

    shape = (channels, size, size)
    return Images(source=config.data.source, names=listing.names, about=about, shape=shape, read=read, stamp=stamp)


def _from_arrays(config: ExperimentConfig) -> Images:
    """Images in memory, named by their part and row, as in train/17."""
    dataset = load_data(config)
    parts: dict[str, Part] = {"train": dataset.train}
    parts |= {name: part for name, part in (("validation", dataset.validation), ("test", dataset.test)) if part}
    about: list[tuple[str, str | None, int | None, str | None]] = []
    for split, part in parts.items():
        labels: list[int | None] = [None] * len(part.inputs) if part.labels is None else part.labels.tolist()
        for row, label in enumerate(labels):
            kind = None if label is None or label >= len(dataset.class_names) else dataset.class_names[label]
            about.append((f"{split}/{row}", kind, label, split if len(parts) > 1 else None))
    where = [(part, row) for part in parts.values() for row in range(len(part.inputs))]

    def read(start: int, stop: int) -> Iterator[Tensor]:
        for part, row in where[start:stop]:
            yield part.inputs.take(torch.tensor([row]))[0]

    def stamp(start: int, stop: int) -> str:
        digest = hashlib.sha256()
        for image in read(start, stop):
            digest.update(image.contiguous().numpy().tobytes())
        return digest.hexdigest()

    return Images(
        source=config.data.source,
        names=[row[0] for row in about],
        about=about,
        shape=dataset.train.inputs.sample_shape,
        read=read,
        stamp=stamp,
    )


def _bounds(num_images: int, batch_size: int, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where parts begin and end: whole batches, so that a batch is the same however often the command was stopped."""
    most = max(1, min(IMAGES_A_PART, BYTES_A_PART // (shape[0] * shape[1] * shape[2])))
    step = max(1, most // batch_size) * batch_size
    return [(start, min(start + step, num_images)) for start in range(0, num_images, step)]


def _make_parts(job: _Job, reporter: Reporter) -> list[tuple[int, str]]:
    """Make the parts that are not there yet. Returns the images that cannot be read; raises DataError when they are too
    many, as when a folder is loaded.
    """
    _check_settings(job)
    files = [job.file(*bounds) for bounds in job.bounds]
    done = {file for file in files if _is_whole(file)}
    stale = set(job.parts.glob("*.safetensors")) - set(files)
    if done:
        reporter.say(f"Going on: {len(done)} of {len(files)} parts are in {str(job.parts)!r}.")
    if stale:
        reporter.say(f"{len(stale)} finished parts are of images that have changed since; they are made anew.")
    left = sum(stop - start for (start, stop), file in zip(job.bounds, files, strict=True) if file not in done)
    bad: list[tuple[int, str]] = []
    with reporter.task("embedding", left, "image") as progress:
        for (start, stop), file in zip(job.bounds, files, strict=True):
            if file in done:
                bad += _load(file).bad
                continue
            part = _encode_part(job, start, stop, progress.advance)
            bad += part.bad
            _judge(job, bad)
            _store(job, file, part)
    for note in _judge(job, bad):
        reporter.say(f"Note: {note}.")
    return bad


def _judge(job: _Job, bad: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    return judge_bad_files(Path(job.images.source), job.images.names, bad, MAX_BAD_SHARE)


def _encode_part(job: _Job, start: int, stop: int, advance: Callable[..., None]) -> _Finished:
    features, kept, bad = [torch.empty(0, job.loaded.encoder.feature_dim)], [], []
    waiting: list[Tensor] = []
    read = job.images.read(start, stop)
    for position in range(start, stop):
        image = next(read)
        if isinstance(image, str):
            bad.append((position, image))
        else:
            kept.append(position)
            waiting.append(image)
        if waiting and (len(waiting) == job.batch_size or position == stop - 1):
            with readable(job.images.shape):
                features.append(job.encode(torch.stack(waiting)).cpu())
            check_finite(features[-1])
            waiting = []
        advance()
    return _Finished(torch.cat(features), torch.tensor(kept, dtype=torch.int64), bad)


def _check_settings(job: _Job) -> None:
    """Raises RunFolderError where the parts that are there belong to another command."""
    if not (job.parts / SETTINGS).exists():
        return
    there = read_json(job.parts / SETTINGS)
    wanted = json.loads(to_json(job.settings))
    differs = [key for key in wanted if there.get(key) != wanted[key]]
    if differs:
        raise RunFolderError(
            f"{str(job.parts)!r} holds parts that were made with another {', '.join(differs)}; repeat that command, "
            "name another --out, or remove the folder to begin anew."
        )


def _store(job: _Job, file: Path, part: _Finished) -> None:
    """Write a part beside its place and rename it. The first part makes the folder, so that bad input leaves none."""
    job.parts.mkdir(parents=True, exist_ok=True)
    if not (job.parts / SETTINGS).exists():
        write_atomically(job.parts / SETTINGS, to_json(job.settings))
    draft = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    save_file({FEATURES: part.features, KEPT: part.kept}, draft, metadata={BAD: json.dumps(part.bad)})
    sync(draft)
    draft.replace(file)


def _load(file: Path) -> _Finished:
    if not file.exists():
        raise RunFolderError(
            f"{str(file)!r} has gone: another taskrl embed with the same --out ended first; name another --out."
        )
    with safe_open(file, framework="pt") as content:
        bad = [(position, reason) for position, reason in json.loads(content.metadata()[BAD])]
        return _Finished(content.get_tensor(FEATURES), content.get_tensor(KEPT), bad)


def _is_whole(file: Path) -> bool:
    try:
        return file.exists() and bool(_load(file))
    except (OSError, SafetensorError):
        return False


def _write(job: _Job, path: Path, sha256: str, bad: Sequence[tuple[int, str]], out: Path, reporter: Reporter) -> int:
    """Put the parts together, give the file its name, and remove the parts."""
    num_rows, images = len(job.images.names) - len(bad), job.images
    metadata = {
        "encoder": str(path),
        "encoder_sha256": sha256,
        "architecture": job.loaded.config["architecture"],
        "feature_dim": job.loaded.encoder.feature_dim,
        "data": images.source,
        "image_shape": list(images.shape),
        "num_images": num_rows,
        "num_unreadable": len(bad),
        "taskrl_version": taskrl.__version__,
        "torch_version": torch.__version__,
    }

    def rows() -> Iterator[FeatureRows]:
        for bounds in job.bounds:
            part = _load(job.file(*bounds))
            about = [images.about[position] for position in part.kept.tolist()]
            names, classes, labels, splits = zip(*about, strict=True) if about else ((), (), (), ())
            yield FeatureRows(
                names=names, classes=classes, labels=labels, splits=splits, features=part.features.numpy()
            )

    draft, beside = job.parts / out.name, sidecar(out)
    write_features(draft, rows(), num_rows=num_rows, feature_dim=job.loaded.encoder.feature_dim, metadata=metadata)
    refuse_existing(out)
    if beside is not None:
        (job.parts / beside.name).replace(beside)
    draft.replace(out)
    shutil.rmtree(job.parts)
    reporter.say(f"Features of {num_rows} images, {metadata['feature_dim']} each: {out}")
    return num_rows


def _printable(name: str) -> str:
    """`name` as text that every format holds: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
