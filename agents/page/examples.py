"""Real images of a run under its tasks, drawn from the few that the run keeps for onlookers."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from agents.galleries import Drawing, galleries_of, task_gallery
from agents.sitting import KEY, NUM_EXAMPLES, examples_file
from taskrl.errors import TaskrlError
from taskrl.modalities.image.objectives.catalogue import image_objectives
from taskrl.report_images import Gallery
from taskrl.run_folder import RunFolder
from taskrl.tasks.build import build_mixture
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

LARGEST_FILE = 64_000_000
LARGEST_SIDE = 1024


def sample_shape(folder: RunFolder) -> tuple[int, int, int] | None:
    """(C, H, W) of the images that the run keeps; None where it keeps none."""
    images = _images(folder)
    return None if images is None else (images.shape[1], images.shape[2], images.shape[3])


def example_views(folder: RunFolder, space: TaskSpace, spec: TaskSpec) -> Gallery | None:
    """What the task makes of the images; None where the run keeps none, or where they cannot be drawn."""
    known = _known(spec, space)
    return _one(examples_file(folder), _stamp(examples_file(folder)), space.reference, known) if known else None


def final_views(folder: RunFolder, space: TaskSpace, played: Sequence[Sequence[str]], who: str) -> tuple[Gallery, ...]:
    """As in the report: the reference recipe, and what was played (JSON specs of each final run)."""
    specs = []
    try:
        for run in played:
            found = [_known(TaskSpec.from_json(text), space) for text in run]
            specs.append(tuple(spec.to_json() for spec in found if spec))
    except (AttributeError, KeyError, TypeError, ValueError):  # a record may hold anything
        specs = []
    file = examples_file(folder)
    return _all(file, _stamp(file), space.reference, tuple(specs), who)


def _known(spec: TaskSpec, space: TaskSpace) -> TaskSpec | None:
    """The spec with what this run can play, strengths within their ranges; None where nothing is left."""
    ranges = {knob.name: (min(knob.levels), max(knob.levels)) for knob in space.knobs}
    mixture = tuple((name, share) for name, share in spec.mixture if name in space.objectives and share > 0)
    levels = tuple((name, _within(value, ranges[name])) for name, value in spec.levels if name in ranges)
    return TaskSpec(mixture=mixture, levels=levels) if mixture else None


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])


def _images(folder: RunFolder) -> Tensor | None:
    file = examples_file(folder)
    return _loaded(file, _stamp(file))


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if found.st_size <= LARGEST_FILE else None


@lru_cache(maxsize=16)
def _loaded(file: Path, stamp: tuple[int, int] | None) -> Tensor | None:
    """uint8 (N, C, H, W); None where there is no file or it holds something else."""
    if stamp is None:
        return None
    try:
        images = load_file(file).get(KEY)
    except (SafetensorError, OSError):
        return None
    if images is None or images.ndim != 4 or images.dtype != torch.uint8:
        return None
    fits = images.shape[1] in (1, 3) and min(images.shape) > 0 and max(images.shape[2:]) <= LARGEST_SIDE
    return images[:NUM_EXAMPLES] if fits else None


def _drawing(file: Path, stamp: tuple[int, int] | None, reference: TaskSpec) -> Drawing | None:
    images = _loaded(file, stamp)
    if images is None:
        return None
    shape = tuple(images.shape[1:])
    return Drawing(images, lambda spec: build_mixture(spec, image_objectives(), shape), reference, seed=0)


@lru_cache(maxsize=256)
def _one(file: Path, stamp: tuple[int, int] | None, reference: TaskSpec, spec: TaskSpec) -> Gallery | None:
    drawing = _drawing(file, stamp, reference)
    try:
        return task_gallery(drawing, spec, "now") if drawing else None
    except (TaskrlError, ValueError, RuntimeError):  # images of a size that an objective refuses
        return None


@lru_cache(maxsize=32)
def _all(
    file: Path,
    stamp: tuple[int, int] | None,
    reference: TaskSpec,
    played: tuple[tuple[str, ...], ...],
    who: str,
) -> tuple[Gallery, ...]:
    drawing = _drawing(file, stamp, reference)
    try:
        return tuple(galleries_of(drawing, played, who)) if drawing else ()
    except (TaskrlError, ValueError, RuntimeError):
        return ()
