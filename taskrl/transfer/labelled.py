"""Labelled images for fine-tuning: as many a class as are asked for, an inner part of them set aside to choose by."""

from dataclasses import dataclass

import torch

from taskrl.data.splits import Fitting, Splits
from taskrl.errors import DataError
from taskrl.measuring import label_folds
from taskrl.seeding import torch_generator

INNER_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images with labels, int64 in [0, num_classes). inner chooses how train is trained on; together are both, which
    are training labels in the sense of the protocol.
    """

    train: Fitting
    inner: Fitting
    together: Fitting
    num_classes: int


def draw_labelled(splits: Splits, per_class: int | None, *, seed: int) -> Labelled:
    """`per_class` labelled images of every class (None: all), a fifth of each class as the inner part, by `seed`.

    Groups stay whole between the two parts. Raises DataError without labels, with one class, or with too few images of
    a class.
    """
    fitting = splits.fitting
    if fitting is None:
        raise DataError(f"{splits.unlabelled}, and fine-tuning needs them; name data with labels.")
    labels = fitting.labels
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
    together = fitting.take(chosen)
    fold = label_folds(together.labels, together.groups, INNER_FOLDS, seed=seed)
    train, inner = fitting.take(chosen[fold != 0]), fitting.take(chosen[fold == 0])
    if min(len(part.labels.unique()) for part in (train, inner)) < 2:
        raise DataError(
            f"The groups of {splits.name} leave fewer than 2 classes on one side of the inner split; "
            "give more labels, or more groups of every class."
        )
    return Labelled(train=train, inner=inner, together=together, num_classes=len(counts))


def class_name(splits: Splits, label: int) -> str:
    """The name of a class, or its number where the data name none."""
    return splits.class_names[label] if label < len(splits.class_names) else str(label)
