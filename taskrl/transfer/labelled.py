"""Labelled images for fine-tuning: as many a class as are asked for, an inner part of them set aside to choose by."""

from dataclasses import dataclass

import torch
from torch import Tensor

from taskrl.data.dataset import Subset
from taskrl.data.splits import Splits
from taskrl.errors import DataError
from taskrl.measuring import label_folds
from taskrl.seeding import torch_generator
from taskrl.types import Inputs

INNER_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images with labels (N,), int64 in [0, num_classes). inner_inputs choose how the others are trained on; all_inputs
    are both parts, which are training labels in the sense of the protocol.
    """

    inputs: Inputs
    labels: Tensor
    inner_inputs: Inputs
    inner_labels: Tensor
    all_inputs: Inputs
    all_labels: Tensor
    num_classes: int


def draw_labelled(splits: Splits, per_class: int | None, *, seed: int) -> Labelled:
    """`per_class` labelled images of every class (None: all), a fifth of each class as the inner part, by `seed`.

    Groups stay whole between the two parts. Raises DataError without labels, with one class, or with too few images of
    a class.
    """
    if splits.fitting is None:
        raise DataError(f"{splits.unlabelled}, and fine-tuning needs them; name data with labels.")
    labels = splits.fitting.labels
    counts = torch.bincount(labels, minlength=len(splits.class_names))
    classes = counts.nonzero().flatten().tolist()
    if len(classes) < 2:
        raise DataError(
            f"{splits.name} has one class, and a classifier needs at least 2; give images of another class."
        )
    smallest = min(classes, key=lambda label: int(counts[label]))
    wanted = 2 if per_class is None else per_class
    if wanted < 2:
        raise DataError(f"--labels-per-class {wanted} leaves no label to choose the learning rate by; give at least 2.")
    if counts[smallest] < wanted:
        raise DataError(
            f"{splits.name} has {int(counts[smallest])} labelled training images of class "
            f"{class_name(splits, smallest)!r}, not {wanted}; "
            "ask for fewer with --labels-per-class, or give more images."
        )
    rng = torch_generator(seed, "labelled images")
    rows = []
    for label in classes:
        of_class = (labels == label).nonzero().flatten()
        rows.append(of_class[torch.randperm(len(of_class), generator=rng)[:per_class]])
    chosen = torch.cat(rows).sort().values
    groups = _groups(splits)
    held = None if groups is None else groups[chosen]
    fold = label_folds(labels[chosen], held, INNER_FOLDS, seed=seed)
    train, inner = chosen[fold != 0], chosen[fold == 0]
    if min(len(labels[part].unique()) for part in (train, inner)) < 2:
        raise DataError(
            f"The groups of {splits.name} leave fewer than 2 classes on one side of the inner split; "
            "give more labels, or more groups of every class."
        )
    inputs = splits.fitting.inputs
    return Labelled(
        inputs=Subset(inputs, train),
        labels=labels[train],
        inner_inputs=Subset(inputs, inner),
        inner_labels=labels[inner],
        all_inputs=Subset(inputs, chosen),
        all_labels=labels[chosen],
        num_classes=len(counts),
    )


def class_name(splits: Splits, label: int) -> str:
    """The name of a class, or its number where the data name none."""
    return splits.class_names[label] if label < len(splits.class_names) else str(label)


def _groups(splits: Splits) -> Tensor | None:
    """Groups of the fitting images, in their order: pretraining images, then probe images."""
    parts = splits.pretraining.groups, splits.probe.groups
    return None if parts[0] is None or parts[1] is None else torch.cat([part for part in parts if part is not None])
