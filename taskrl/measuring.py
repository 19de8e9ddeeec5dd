"""What judges the encoder in a run: the reward's probe and the hidden measure, each with its frozen data.

Chosen by the configuration and the split seed alone, before anything is trained: the same judge for every action and
every generator of a run.
"""

import dataclasses
from collections.abc import Collection

import torch
from torch import Tensor

from taskrl.config import ExperimentConfig
from taskrl.data.splits import Probe as ProbeSplit
from taskrl.data.splits import cap_labels, folds
from taskrl.evaluation.panel import (
    COPIES,
    FEW_LABELS,
    LABELS,
    ONE_LABEL,
    Panel,
    Solvability,
    allowed_parts,
    calibrated,
    calibration,
)
from taskrl.evaluation.probes import Probe, RidgeProbe
from taskrl.modalities.image.questions import OPENED_BY, image_questions, played, related_tasks
from taskrl.seeding import torch_generator
from taskrl.tasks.space import Knob
from taskrl.types import Inputs, ProbeData

Judge = tuple[Probe, ProbeData]
NUM_SOURCES = 256
ENOUGH_LABELS, FEWEST_THERE = 20, 10  # a class: as the cap, and in the data
MAX_FOLDS = 10
COPY, BUSY_COPY = COPIES  # of the full panel, and of the reward's one look


def judges(
    config: ExperimentConfig, split: ProbeSplit, sources: Inputs, knobs: tuple[Knob, ...], device: torch.device
) -> tuple[Judge, Judge]:
    """The reward's probe and the hidden measure. sources: pretraining images, for patches to plant.

    Where labels alone pay, the hidden measure is the label-free panel; elsewhere it is one question that no weight of
    the panel reads.
    """
    settings, open_ = config.reward, played(config.tasks.objectives, knobs)
    hidden: str = calibration()["hidden"]

    def panel(size: str) -> Panel:
        return Panel(allowed_parts(calibrated(settings.goal, size), OPENED_BY, open_))

    def questions(*names: str) -> ProbeData:
        return unlabelled(config, split, sources, device, names=names)

    if settings.probe == "ridge":
        judge = panel("reward")
        return (RidgeProbe(), _labelled(config, split, device)), (judge, questions(*judge.parts, BUSY_COPY))
    unseen = Solvability([hidden])
    if settings.probe == "solvability":
        solved = Solvability([name for name in related_tasks(open_) if name != hidden])
        asked = questions(*solved.names, hidden)
        return (solved, asked), (unseen, asked)
    size = "reward"
    if settings.probe == "few":
        num = min(settings.labels_per_class, independent_labels(split))
        size = f"few_{max(few for few in FEW_LABELS if few <= num)}"
    paid = panel(size)
    asked = questions(*paid.parts, BUSY_COPY, hidden)
    if settings.probe == "few":
        labelled = _labelled(config, split, device)
        return (paid, dataclasses.replace(labelled, questions=asked.questions)), (unseen, asked)
    return (paid, asked), (unseen, asked)


def independent_labels(split: ProbeSplit) -> int:
    """Labels of a typical class (the median), those of one group counted once, since near copies tell nothing of other
    groups; 0 where there are none.
    """
    if split.labels is None:
        return 0
    if split.groups is None:
        return _of_a_typical_class(split.labels)
    return _of_a_typical_class(torch.stack([split.labels, split.groups]).unique(dim=1)[0])


def _of_a_typical_class(labels: Tensor) -> int:
    counts = torch.bincount(labels)
    return int(counts[counts > 0].median())


def labels_a_class(split: ProbeSplit, cap: int) -> int:
    """How many images of a typical class the reward reads the labels of."""
    assert split.labels is not None
    return min(cap, _of_a_typical_class(split.labels))


def labels_are_few(split: ProbeSplit, cap: int) -> bool:
    """Whether labels alone, at most `cap` a class, are too few to pay by."""
    return cap < ENOUGH_LABELS or independent_labels(split) < FEWEST_THERE


def observed_parts(probe: Probe) -> tuple[dict[str, tuple[float, float]], bool]:
    """The parts of a probe's quality that no label enters, each with its bounds, and whether that is all of them."""
    if isinstance(probe, Solvability):
        return dict.fromkeys(probe.names, (0.0, 1.0)), True
    if not isinstance(probe, Panel):
        return {}, False
    parts = {name: (part.low, part.high) for name, part in probe.parts.items() if name not in (LABELS, ONE_LABEL)}
    return parts, len(parts) == len(probe.parts)


def full_panel(
    config: ExperimentConfig, split: ProbeSplit, sources: Inputs, open_: set[str], device: torch.device
) -> tuple[Panel, ProbeData]:
    """Every calibrated part that is not played, for the end of an episode and for `taskrl quality`.

    open_: what is played, from `played`; empty where nothing is.
    """
    parts = allowed_parts(calibrated(config.reward.goal, "full"), OPENED_BY, open_)
    return Panel(parts), unlabelled(config, split, sources, device, names={*parts, COPY})


def label_folds(labels: Tensor, groups: Tensor | None, num_folds: int, *, seed: int) -> Tensor:
    """Cross-fit fold of each labelled image, (N,) int64: groups whole, else every fold has its share of each class.

    Never more folds than groups. Without groups and with as many folds as labels a class, each fold holds one image a
    class.
    """
    if groups is not None and len(groups.unique()) >= 2:
        return folds(len(labels), labels, groups, num_folds, seed=seed)
    fold = torch.empty_like(labels)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=torch_generator(seed, "label folds", int(label)))
        fold[rows[order]] = torch.arange(len(rows)) % num_folds
    return fold


def _labelled(config: ExperimentConfig, split: ProbeSplit, device: torch.device) -> ProbeData:
    settings, seed = config.reward, config.data.split_seed
    capped = cap_labels(split, settings.labels_per_class, seed=seed)
    assert capped.labels is not None
    everything = capped.inputs.take(torch.arange(len(capped.inputs)))
    cap = settings.labels_per_class
    if labels_are_few(split, cap):  # so few that each counts: one a class is left out at a time
        num_folds = min(_of_a_typical_class(capped.labels), MAX_FOLDS)
        fold = label_folds(capped.labels, capped.groups, num_folds, seed=seed)
    else:
        fold = folds(len(everything), capped.labels, capped.groups, settings.num_folds, seed=seed)
    return ProbeData(inputs=everything.to(device), labels=capped.labels.to(device), folds=fold.to(device))


def unlabelled(
    config: ExperimentConfig,
    split: ProbeSplit,
    sources: Inputs,
    device: torch.device,
    *,
    names: Collection[str] | None = None,
) -> ProbeData:
    """The label-free measuring data: questions about at most `reward.panel_images` probe images. names: of the parts
    that are read (all, when left out); a question is the same whatever else is asked.
    """
    settings, seed = config.reward, config.data.split_seed
    count = min(settings.panel_images, len(split.inputs))
    # drawn, not the first ones: a folder lists its images class by class
    rows = torch.randperm(len(split.inputs), generator=torch_generator(seed, "panel images"))[:count]
    images = split.inputs.take(rows)
    groups = None if split.groups is None else split.groups[rows]
    fold = folds(count, None, groups, settings.num_folds, seed=seed).to(device)
    drawn = torch.randperm(len(sources), generator=torch_generator(seed, "sources"))[:NUM_SOURCES]
    # drawn on the CPU: the same questions on every device
    questions = image_questions(images, fold.cpu(), sources.take(drawn), seed=seed, names=names)
    moved = {name: question.to(device) for name, question in questions.items()}
    return ProbeData(inputs=images.to(device), folds=fold, questions=moved)
