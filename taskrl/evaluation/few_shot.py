"""Accuracy at few labels: features, frozen, and classifiers fitted on k labels of each class, drawn several times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from taskrl.evaluation.accuracy import Accuracy, measure
from taskrl.evaluation.statistics import Interval, bootstrap
from taskrl.seeding import numpy_generator

NUM_DRAWS = 10
MEASURES = tuple(field.name for field in fields(Accuracy))


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """One encoder at `labels_per_class`. draws: an accuracy for each draw of labels. means: by measure, in percent,
    with the interval over draws; what has no value in a draw is left out.
    """

    labels_per_class: int
    draws: tuple[Accuracy, ...]
    means: Mapping[str, Interval]


def class_sizes(labels_N: Tensor) -> dict[int, int]:
    """Number of images of each class that has any."""
    kinds, counts = labels_N.unique(return_counts=True)
    return dict(zip(kinds.tolist(), counts.tolist(), strict=True))


def draw_rows(labels_N: Tensor, per_class: int, *, seed: int, draw: int) -> Tensor:
    """Rows of `per_class` images of each class, sorted. The rows of a smaller number are among them. Raises ValueError
    where a class has fewer.
    """
    rng = numpy_generator(seed, "few-shot", draw)
    labels = labels_N.numpy()
    rows = [rng.permutation(np.flatnonzero(labels == kind))[:per_class] for kind in np.unique(labels)]
    if min(map(len, rows)) < per_class:
        raise ValueError(f"a class has fewer than {per_class} images")
    return torch.from_numpy(np.sort(np.concatenate(rows)))


def few_shot(
    features: Mapping[str, tuple[Tensor, Tensor]],
    fit_labels: Tensor,
    score_labels: Tensor,
    per_class: int,
    *,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, FewShot]:
    """Accuracies of each encoder by name. features: its features of the labelled and of the scored images, (N, D) and
    (M, D). Every encoder meets the same draws. Raises ValueError where a class has fewer labels.
    """
    draws: dict[str, list[Accuracy]] = {name: [] for name in features}
    for draw in range(NUM_DRAWS):
        rows = draw_rows(fit_labels, per_class, seed=seed, draw=draw)
        for name, (fit_ND, score_MD) in features.items():
            draws[name] += measure(fit_ND[rows], fit_labels[rows], [(score_MD, score_labels)])
            advance()
    return {name: _summary(per_class, found) for name, found in draws.items()}


def _summary(per_class: int, draws: Sequence[Accuracy]) -> FewShot:
    values = {name: [getattr(accuracy, name) for accuracy in draws] for name in MEASURES}
    means = {name: bootstrap(found) for name, found in values.items() if None not in found}
    return FewShot(labels_per_class=per_class, draws=tuple(draws), means=means)
