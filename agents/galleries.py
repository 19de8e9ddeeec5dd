"""Real views for the report: what the tasks that were played and the reference recipe make of the same images."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from agents.final import final_seed
from taskrl.assemble import Assembled
from taskrl.modalities.image.views import make_view
from taskrl.report_images import Gallery, Strip, image_grid, with_mask
from taskrl.seeding import torch_generator
from taskrl.tasks.spec import TaskSpec
from taskrl.tasks.task import Mixture

NUM_IMAGES = 10
MAX_OBJECTIVES = 4
MAX_SIDE_PX = 96
TILE_PX = 64


def view_galleries(assembled: Assembled, played: Sequence[Sequence[str]], who: str = "learned") -> list[Gallery]:
    """The views of the reference recipe, and those of the early, middle and late decisions of `played`: the tasks (JSON
    specs) of each final run of one generator, called `who`.

    The same images and the same random draws everywhere, so that what differs comes from the task.
    """
    problem = assembled.problem
    drawing = Drawing(_calibration(assembled), problem.build_task, problem.task_space.reference, assembled.config.seed)
    return galleries_of(drawing, played, who)


@dataclass(frozen=True)
class Drawing:
    """What galleries are drawn from. images_BCHW: uint8. reference: the recipe that tasks are held against."""

    images_BCHW: Tensor
    build_task: Callable[[TaskSpec], Mixture]
    reference: TaskSpec
    seed: int


def galleries_of(drawing: Drawing, played: Sequence[Sequence[str]], who: str) -> list[Gallery]:
    """As `view_galleries`."""
    galleries = [task_gallery(drawing, drawing.reference, "Reference recipe", "What a search starts from.")]
    for place, specs in _moments(played):
        spec, times = Counter(specs).most_common(1)[0]
        often = f"Trained in {times} of {len(specs)} final runs" if len(specs) > 1 else "Trained in the final run"
        task = TaskSpec.from_json(spec)
        told = _differences(task, drawing.reference)
        galleries.append(task_gallery(drawing, task, f"{who}: {place}", told, f"{often}."))
    return galleries


def _moments(played: Sequence[Sequence[str]]) -> list[tuple[str, list[str]]]:
    """(which decisions, the runs' specs there) early, in the middle and late; equal neighbours are one."""
    num = max((len(specs) for specs in played), default=0)
    columns = [sorted(specs[place] for specs in played if place < len(specs)) for place in range(num)]
    stretches = [list(group) for _, group in groupby(range(num), key=columns.__getitem__)]
    moments = {}
    for place in (0, num // 2, num - 1) if num else ():
        stretch = next(stretch for stretch in stretches if place in stretch)
        first, last = stretch[0] + 1, stretch[-1] + 1
        which = f"decision {first}" if first == last else f"decisions {first} to {last}"
        moments[f"{which} of {num}"] = columns[place]
    return list(moments.items())


def _differences(task: TaskSpec, reference: TaskSpec) -> str:
    """E.g. "Differs in crop 0.6 (reference 0.3), mirror 0 (reference 0.5)."; says so where there are none."""
    told = []
    if task.mixture != reference.mixture:
        told.append(f"{task.describe().partition(';')[0]} (reference {reference.describe().partition(';')[0]})")
    usual = dict(reference.levels)
    for name, level in task.levels:
        if name not in usual:
            told.append(f"{name} {level:g}")
        elif usual[name] != level:
            told.append(f"{name} {level:g} (reference {usual[name]:g})")
    return f"Differs in {', '.join(told)}." if told else "This is the reference recipe: its views are the first ones."


def task_gallery(drawing: Drawing, spec: TaskSpec, title: str, told: str = "", often: str = "") -> Gallery:
    """What one task makes of the images; without images where they would be those of the reference recipe again. often:
    a sentence on how often it was trained.
    """
    departs = spec != drawing.reference
    if often and not departs:
        return Gallery(title=title, told=told, caption=often, strips=())
    images = _small(drawing.images_BCHW[:NUM_IMAGES])
    scale = max(1, TILE_PX // images.shape[3])
    mixture = drawing.build_task(spec)
    strips = [Strip(label="The images", image=image_grid(list(images.float() / 255), columns=NUM_IMAGES, scale=scale))]
    masked = False
    for part in sorted(mixture.parts, key=lambda part: -part.share)[:MAX_OBJECTIVES]:
        rows: list[Tensor] = []
        rng = torch_generator(drawing.seed, "gallery", part.name)
        while len(rows) < 2 * len(images):  # two draws of objectives that make one view
            drawn = _shown(part.task.make_views(images, rng))
            shown, has_mask = drawn or (list(make_view(images, rng, dict(spec.levels))), False)
            rows, masked = [*rows, *shown], masked or has_mask
        share = "" if part.share == 1 else f", {part.share:.0%} of the compute"
        grid = image_grid(rows[: 2 * len(images)], columns=len(images), scale=scale)
        strips.append(Strip(label=f"{part.name}{share}: two draws of each", image=grid))
    caption = [often, f"Task: {spec.describe()}.", "Orange: what is to be predicted." if masked else ""]
    return Gallery(
        title=title, told=told, caption=" ".join(filter(None, caption)), strips=tuple(strips), departs=departs
    )


def _calibration(assembled: Assembled) -> Tensor:
    """Pretraining images, uint8 (B, C, H, W); where sets are drawn, of the set of the first final runs."""
    return assembled.at(final_seed(assembled, 0)).problem.calibration.cpu()


def _small(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W), at most 96 pixels a side: views depend on the size little, the size of the page much."""
    side = max(images.shape[2:])
    if side <= MAX_SIDE_PX:
        return images
    size = [max(1, round(length * MAX_SIDE_PX / side)) for length in images.shape[2:]]
    return F.interpolate(images.float(), size, mode="area").round().byte()


def _shown(views: Any) -> tuple[list[Tensor], bool] | None:
    """The images of what an objective drew, each (C, H, W), and whether there are masks on them; None where its type
    has neither `images` nor `corrupted`.
    """
    images = views if isinstance(views, Tensor) else getattr(views, "images", getattr(views, "corrupted", None))
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        return None
    mask = getattr(views, "mask", None)
    if mask is None:
        return list(images.float().cpu()), False
    return [with_mask(image, where) for image, where in zip(images.float().cpu(), mask.cpu(), strict=True)], True
