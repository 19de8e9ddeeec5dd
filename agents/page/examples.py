"""Real images of a run under the views of a task, drawn from the few that the run keeps for onlookers."""

import base64
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from agents.sitting import KEY, NUM_EXAMPLES, examples_file
from taskrl.modalities.image.views import make_view, view_knobs
from taskrl.report import image_grid
from taskrl.run_folder import RunFolder
from taskrl.seeding import torch_generator
from taskrl.tasks.spec import TaskSpec

LARGEST_FILE = 64_000_000
LARGEST_SIDE = 1024
NUM_VIEWS = 3
TILE_PX = 64


def sample_shape(folder: RunFolder) -> tuple[int, int, int] | None:
    """(C, H, W) of the images that the run keeps; None where it keeps none."""
    images = _images(folder)
    return None if images is None else (images.shape[1], images.shape[2], images.shape[3])


@dataclass(frozen=True, kw_only=True)
class Views:
    """Images of a run in the top row, and views of each below. png: base64."""

    title: str
    task: str
    png: str


def example_views(folder: RunFolder, title: str, spec: TaskSpec) -> Views | None:
    """At the strengths of the task; None where the run keeps no images."""
    file = examples_file(folder)
    stamp = _stamp(file)
    png = _drawn(file, stamp, spec.levels) if stamp else None
    return None if png is None else Views(title=title, task=spec.describe(), png=png)


def _images(folder: RunFolder) -> Tensor | None:
    file = examples_file(folder)
    stamp = _stamp(file)
    return _loaded(file, stamp) if stamp else None


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if found.st_size <= LARGEST_FILE else None


@lru_cache(maxsize=16)
def _loaded(file: Path, stamp: tuple[int, int]) -> Tensor | None:
    """uint8 (N, C, H, W); None where the file holds something else."""
    try:
        images = load_file(file).get(KEY)
    except (SafetensorError, OSError):
        return None
    if images is None or images.ndim != 4 or images.dtype != torch.uint8:
        return None
    fits = images.shape[1] in (1, 3) and min(images.shape) > 0 and max(images.shape[2:]) <= LARGEST_SIDE
    return images[:NUM_EXAMPLES] if fits else None


@lru_cache(maxsize=256)
def _drawn(file: Path, stamp: tuple[int, int], levels: tuple[tuple[str, float], ...]) -> str | None:
    images = _loaded(file, stamp)
    if images is None:
        return None
    strongest = {knob.name: max(knob.levels) for knob in view_knobs(images.shape[1], images.shape[2])}
    # a record may hold anything: strengths are kept within what the views know
    known = {name: min(max(value, 0.0), strongest[name]) for name, value in levels if name in strongest}
    known["crop"] = max(known.get("crop", 1.0), 0.05)
    rng = torch_generator(0, "gallery")
    rows = [images.float() / 255, *(make_view(images, rng, known) for _ in range(NUM_VIEWS))]
    scale = max(1, TILE_PX // images.shape[3])
    return base64.b64encode(image_grid(list(torch.cat(rows)), columns=len(images), scale=scale)).decode()
