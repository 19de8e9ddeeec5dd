"""The questions of the label-free panel for images: drawn once, by the split seed alone, never by the agent."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.evaluation.clusters import kmeans
from taskrl.evaluation.panel import CLEAN, PAIR, PAIR_MEASURES
from taskrl.evaluation.probes import standardise
from taskrl.modalities.image import held_out
from taskrl.modalities.image.objectives.jigsaw import PERMUTATIONS, permute_tiles
from taskrl.modalities.image.objectives.rotation import NUM_TURNS, turn
from taskrl.modalities.image.views import make_view
from taskrl.seeding import torch_generator
from taskrl.tasks.space import Knob
from taskrl.types import Question

NUM_GROUPS = (8, 16, 32)
NUM_CLUSTERINGS = 2
NUM_COMPONENTS = 24
NUM_PLANTED = 8
BUSY = "busy_"
COPY_GRID = 8
WEAK_VIEW = {"crop": 0.6, "jitter": 0.2, "noise": 0.05}

OPENED_BY: Mapping[str, tuple[str, ...]] = {
    "rotation": ("objective/rotation", "knob/rotation", "knob/upside_down"),
    "jigsaw": ("objective/jigsaw", "objective/context_restoration"),
    "pixels": ("objective/masked", "objective/block_masked", "objective/context_restoration"),
    "instance": ("objective/contrastive", "objective/relation"),
    "lidar": ("objective/contrastive", "objective/relation"),
    "coarse_edges": ("knob/blur",),
}
"""Part of the panel -> what, open in a run, makes it no judge there. Parts that are not named judge everywhere."""

RELATED_TASKS = ("edges", "edge_shape", "edge_layout", "spectrum", "intensity", "pixels",
                 "edge_groups", "layout_groups", "spectrum_groups", "intensity_groups", "joint_groups",
                 "planted", "corner_edges", "corner_intensity", "coarse_edges", "rotation", "jigsaw")  # fmt: skip
"""Held-out pretext tasks: the set that solvability is the mean of, less what a run plays."""


def played(objectives: Sequence[str], knobs: Sequence[Knob]) -> set[str]:
    """What is open in a run: its objectives, and every view knob that has a choice."""
    open_knobs = {f"knob/{knob.name}" for knob in knobs if sum(knob.allowed) > 1}
    return {f"objective/{name}" for name in objectives} | open_knobs


def related_tasks(open_: set[str]) -> list[str]:
    """The held-out pretext tasks of a run in which `open_` is played."""
    return [name for name in RELATED_TASKS if not open_ & set(OPENED_BY.get(name, ()))]


def image_questions(
    images_NCHW: Tensor,
    folds_N: Tensor,
    sources_MCHW: Tensor,
    *,
    seed: int,
    names: Collection[str] | None = None,
) -> dict[str, Question]:
    """Questions about `images_NCHW` (uint8), that about the clean images first. sources_MCHW: where planted patches are
    taken from. names: of the targets and measures that are read (all, when left out); what only others need is not
    asked, and what is asked does not depend on it.
    """
    about = _Images(images_NCHW, sources_MCHW, seed)
    questions: dict[str, Question] = {}
    for key, question in _QUESTIONS.items():
        targets = {name: make for name, make in question.targets.items() if names is None or name in names}
        if targets or key == CLEAN or names is None or set(question.measures) & set(names):
            made = {name: make(about) for name, make in targets.items()}
            questions[key] = Question(shown=_bytes(question.shown(about)), folds=folds_N, targets=made)
    return questions


class _Described:
    """Statistics of some images, each computed when it is first needed. rng: named generators for the clusterings."""

    def __init__(self, images_NCHW: Tensor, rng: Callable[[str], torch.Generator]) -> None:
        self.images, self._rng = images_NCHW, rng

    @functools.cached_property
    def histograms(self) -> Tensor:
        return held_out.orientation_histograms(self.images, grid=1)

    @functools.cached_property
    def edges(self) -> Tensor:
        return standardise(self.histograms)

    @functools.cached_property
    def layout(self) -> Tensor:
        return standardise(held_out.orientation_histograms(self.images, grid=4))

    @functools.cached_property
    def spectrum(self) -> Tensor:
        return standardise(held_out.spectrum_bands(self.images))

    @functools.cached_property
    def intensity(self) -> Tensor:
        return standardise(held_out.intensity_statistics(self.images))

    @property
    def copy(self) -> Tensor:
        """What a copy of the image would know: asked as a guard, finer than pooled features need to know it."""
        return standardise(held_out.coarse_pixels(self.images, grid=COPY_GRID))

    @property
    def joint(self) -> Tensor:
        return torch.cat([self.edges, self.spectrum, self.intensity], dim=1)

    def groups(self, of: str) -> Tensor:
        """Memberships in the clusters of one of the above."""
        return groups_of(getattr(self, of), self._rng(f"{of} groups"))


class _Images:
    """What several questions about the same images share, computed when it is first needed."""

    def __init__(self, images_NCHW: Tensor, sources_MCHW: Tensor, seed: int) -> None:
        self.images, self._sources, self._seed = images_NCHW, sources_MCHW, seed
        self.clean = _Described(images_NCHW, self.rng)

    def rng(self, name: str) -> torch.Generator:
        return torch_generator(self._seed, "questions", name)

    @functools.cached_property
    def busy(self) -> _Described:
        """The images with patches planted in them."""
        return _Described(self.planted[0], lambda name: self.rng(f"busy {name}"))

    @functools.cached_property
    def corners(self) -> tuple[Tensor, Tensor]:
        return held_out.crops(self.images, self.rng("corners"))

    @functools.cached_property
    def planted(self) -> tuple[Tensor, Tensor]:
        """Images with a patch, and which. Patches have mirror twins: an encoder that cannot tell left from right cannot
        tell them apart.
        """
        patches = held_out.prototypes(self._sources, self.rng("patches"))[:NUM_PLANTED]
        return held_out.plant(self.images, torch.cat([patches, patches.flip(3)]), self.rng("places"))

    @functools.cached_property
    def turns(self) -> Tensor:
        return torch.randint(NUM_TURNS, (len(self.images),), generator=self.rng("turns"))

    @functools.cached_property
    def order(self) -> Tensor:
        return torch.randint(len(PERMUTATIONS), (len(self.images),), generator=self.rng("tiles"))

    def view(self, name: str) -> Tensor:
        return make_view(self.images, self.rng(name), WEAK_VIEW)


_Make = Callable[[_Images], Tensor]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """How a question is made. measures: names of those that read the features of what is shown and no target."""

    shown: _Make
    targets: Mapping[str, _Make] = field(default_factory=dict)
    measures: Collection[str] = ()


def _statistics(side: Callable[[_Images], _Described], prefix: str = "") -> dict[str, _Make]:
    """The questions about the images themselves: descriptors, and memberships in their clusters."""
    return {
        f"{prefix}edges": lambda about: side(about).edges,
        f"{prefix}edge_layout": lambda about: side(about).layout,
        f"{prefix}spectrum": lambda about: side(about).spectrum,
        f"{prefix}intensity": lambda about: side(about).intensity,
        f"{prefix}edge_groups": lambda about: side(about).groups("edges"),
        f"{prefix}layout_groups": lambda about: side(about).groups("layout"),
        f"{prefix}spectrum_groups": lambda about: side(about).groups("spectrum"),
        f"{prefix}intensity_groups": lambda about: side(about).groups("intensity"),
        f"{prefix}joint_groups": lambda about: side(about).groups("joint"),
        f"{prefix}copy": lambda about: side(about).copy,
    }


_QUESTIONS: Mapping[str, _Asked] = {
    CLEAN: _Asked(
        shown=lambda about: about.images,
        targets={
            **_statistics(lambda about: about.clean),
            "edge_shape": lambda about: standardise(held_out.turned_alike(about.clean.histograms)),
            "pixels": lambda about: standardise(held_out.coarse_pixels(about.images)),
        },
    ),
    "planted": _Asked(
        shown=lambda about: about.planted[0],
        targets={
            "planted": lambda about: F.one_hot(about.planted[1], 2 * NUM_PLANTED),
            **_statistics(lambda about: about.busy, BUSY),
        },
    ),
    "corner": _Asked(
        shown=lambda about: about.corners[0],
        targets={
            "corner_edges": lambda about: standardise(held_out.orientation_histograms(about.corners[1], grid=1)),
            "corner_intensity": lambda about: standardise(held_out.intensity_statistics(about.corners[1])),
        },
    ),
    "coarse": _Asked(
        shown=lambda about: held_out.coarse(about.images), targets={"coarse_edges": lambda about: about.clean.edges}
    ),
    "turned": _Asked(
        shown=lambda about: turn(about.images, about.turns),
        targets={"rotation": lambda about: F.one_hot(about.turns, NUM_TURNS)},
    ),
    "permuted": _Asked(
        shown=lambda about: permute_tiles(about.images, about.order),
        targets={"jigsaw": lambda about: F.one_hot(about.order, len(PERMUTATIONS))},
    ),
    PAIR[0]: _Asked(shown=lambda about: about.view("view"), measures=tuple(PAIR_MEASURES)),
    PAIR[1]: _Asked(shown=lambda about: about.view("other view"), measures=tuple(PAIR_MEASURES)),
}


def groups_of(statistics_NK: Tensor, rng: torch.Generator) -> Tensor:
    """Membership, one-hot, in the clusters of a statistic: k-means with 8, 16 and 32 clusters, twice each, side by
    side (N, at most 112); of the 24 largest principal components where there are more.

    Memberships are no linear function of the statistic: an encoder has to tell kinds of images apart, and several
    clusterings make it matter little where one of them draws its borders.
    """
    left, sizes, _ = torch.linalg.svd(statistics_NK - statistics_NK.mean(0), full_matrices=False)
    reduced = (left * sizes)[:, :NUM_COMPONENTS]
    members = []
    for num_clusters in (number for number in NUM_GROUPS for _ in range(NUM_CLUSTERINGS)):
        clusters = kmeans(reduced, num_clusters, rng)
        members.append(F.one_hot(clusters.assignments_N, len(clusters.centres_KD)))
    return torch.cat(members, dim=1)


def _bytes(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else (images.clamp(0, 1) * 255).round().to(torch.uint8)
