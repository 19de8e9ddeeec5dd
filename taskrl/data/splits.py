"""Four disjoint roles, one type each, so that no function can be handed images of a role it must not see.

Pretraining images are used without labels by anything. Probe labels feed the reward. Validation chooses. Test is opened
through `Splits.open_test`, which logs the read. `Fitting` (labels of pretraining and probe images) exists only for the
linear evaluation of a finished encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskrl.data.dataset import Part, RawDataset, Subset
from taskrl.errors import DataError
from taskrl.seeding import numpy_generator
from taskrl.types import Inputs

STOPPED = "stopped:"  # begins a line of a record of test reads that names none
SHARES_WITHOUT_TEST = (0.60, 0.10, 0.15, 0.15)
SHARES_WITH_TEST = (0.70, 0.12, 0.18)
SHARES_WITH_VALIDATION = (0.75, 0.25)
MIN_ROLE_SIZE = 4


@dataclass(frozen=True)
class Pretraining:
    """Images that encoders are trained on; no labels. groups: (N,) of images that belong together, or None."""

    inputs: Inputs
    groups: Tensor | None = None


@dataclass(frozen=True)
class Probe:
    """Images whose labels the reward may read."""

    inputs: Inputs
    labels: Tensor | None
    groups: Tensor | None


@dataclass(frozen=True)
class Fitting:
    """Pretraining and probe images with labels (N,), for the classifier that scores a finished encoder. groups: (N,) of
    images that belong together, or None.
    """

    inputs: Inputs
    labels: Tensor
    groups: Tensor | None = None

    def take(self, rows: Tensor) -> "Fitting":
        """These images alone."""
        groups = None if self.groups is None else self.groups[rows]
        return Fitting(Subset(self.inputs, rows), self.labels[rows], groups)


@dataclass(frozen=True)
class Validation:
    """Images that choose policies, checkpoints and settings."""

    inputs: Inputs
    labels: Tensor | None


@dataclass(frozen=True)
class Test:
    """Images for the last number; see `Splits.open_test`."""

    __test__ = False

    inputs: Inputs
    labels: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The four roles of one data set."""

    name: str
    pretraining: Pretraining
    probe: Probe
    fitting: Fitting | None
    validation: Validation
    class_names: tuple[str, ...]
    split_seed: int
    _test: Test
    notes: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> str:
        """What is to be said of it where labels are needed and there are none: the beginning of a sentence."""
        reason = next((note.removeprefix("no labels, ") for note in self.notes if note.startswith("no labels, ")), "")
        return f"{self.name} has no labels" + (f" ({reason})" if reason else "")

    def scored_on(self, *, test: bool) -> str:
        """Which images say how good a finished encoder is: "test" or "validation" by accuracy, "probe" by quality where
        labels are missing. test: whether test images may be read.
        """
        labels = (self._test if test else self.validation).labels
        if self.fitting is None or labels is None:
            return "probe"
        return "test" if test else "validation"

    def open_test(self, log: Callable[[str], None], reason: str) -> Test:
        """The test images. `log` gets a sentence first: every read is on record."""
        log(f"test images of {self.name} (split seed {self.split_seed}) read: {reason}")
        return self._test


def make_splits(dataset: RawDataset, *, seed: int) -> Splits:
    """Divide by a fixed seed: 70/12/18 with a test part of its own, 75/25 with a validation part as well, else
    60/10/15/15 (docs/protocol.md).

    Groups stay whole; without groups the division is stratified by label. Raises DataError when a role gets too few
    images.
    """
    shares: tuple[float, ...] = SHARES_WITH_TEST if dataset.test else SHARES_WITHOUT_TEST
    if dataset.validation and dataset.test:
        shares = SHARES_WITH_VALIDATION
    train = dataset.train
    roles = [torch.from_numpy(rows) for rows in _divide(train, shares, seed)]
    smallest = min(len(rows) for rows in roles)
    if smallest < MIN_ROLE_SIZE:
        # one more than the share asks for: dealing is exact to less than one image of a class (`_stratified`)
        needed = int(np.ceil((MIN_ROLE_SIZE + 1) / min(shares)))
        found, remedy = f"{len(train.inputs)} images", f"at least {needed} images"
        if train.groups is not None:
            found = f"{found} in {len(train.groups.unique())} groups"
            remedy = "more groups" if len(train.inputs) >= needed else f"more groups and {remedy}"
        raise DataError(f"{dataset.name} has {found}, too few to divide into {len(shares)} roles; give {remedy}.")
    test = dataset.test or _part(train, roles[3])
    both = torch.cat([roles[0], roles[1]])
    fitting = None if train.labels is None else Fitting(train.inputs, train.labels, train.groups).take(both)
    probe, validation = _part(train, roles[1]), dataset.validation or _part(train, roles[2])
    return Splits(
        name=dataset.name,
        pretraining=Pretraining(Subset(train.inputs, roles[0]), _part(train, roles[0]).groups),
        probe=Probe(probe.inputs, probe.labels, probe.groups),
        fitting=fitting,
        validation=Validation(validation.inputs, validation.labels),
        class_names=dataset.class_names,
        split_seed=seed,
        _test=Test(test.inputs, test.labels),
        notes=dataset.notes,
    )


def cap_labels(probe: Probe, per_class: int, *, seed: int) -> Probe:
    """At most `per_class` images of each class, drawn once by `seed`. Raises DataError without labels."""
    if probe.labels is None:
        raise DataError("Labels cannot be capped where there are none; use the label-free panel.")
    labels = probe.labels.numpy()
    rng = numpy_generator(seed, "labelled probe images")
    kept = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    rows = torch.from_numpy(np.sort(np.concatenate(kept)))
    groups = None if probe.groups is None else probe.groups[rows]
    return Probe(Subset(probe.inputs, rows), probe.labels[rows], groups)


def folds(num_inputs: int, labels: Tensor | None, groups: Tensor | None, num_folds: int, *, seed: int) -> Tensor:
    """Cross-fit fold of each input, (N,) int64: groups whole, else stratified by label. Never more folds than
    groups.
    """
    rng = numpy_generator(seed, "folds")
    if groups is not None and len(groups.unique()) >= 2:
        sizes = [1.0] * min(num_folds, len(groups.unique()))
        rows = _whole_groups(groups.numpy(), sizes, rng)
    else:
        keys = np.zeros(num_inputs, dtype=np.int64) if labels is None else labels.numpy()
        rows = _stratified(keys, [1.0] * min(num_folds, num_inputs), rng)
    result = torch.empty(num_inputs, dtype=torch.int64)
    for fold, members in enumerate(rows):
        result[torch.from_numpy(members)] = fold
    return result


def _part(part: Part, rows: Tensor) -> Part:
    return Part(
        inputs=Subset(part.inputs, rows),
        labels=None if part.labels is None else part.labels[rows],
        groups=None if part.groups is None else part.groups[rows],
    )


def _divide(part: Part, shares: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    rng = numpy_generator(seed, "splits")
    if part.groups is not None:
        return _whole_groups(part.groups.numpy(), shares, rng)
    labels = np.zeros(len(part.inputs), dtype=np.int64) if part.labels is None else part.labels.numpy()
    return _stratified(labels, shares, rng)


def _stratified(keys: NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Every key's rows are dealt out by `shares`; rounding is carried from key to key, so that totals fit as well."""
    edges = np.cumsum(shares) / np.sum(shares)
    order = np.concatenate([rng.permutation(np.flatnonzero(keys == key)) for key in np.unique(keys)])
    # dealing by a low-discrepancy sequence over the sorted keys gives every key its shares to within one row
    position = (np.arange(len(order)) * 0.6180339887498949 + rng.random()) % 1.0
    role = np.searchsorted(edges, position, side="right").clip(max=len(edges) - 1)
    return [np.sort(order[role == index]) for index in range(len(edges))]


def _whole_groups(
    groups: NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Whole groups, largest first, each to the role that is furthest below its share."""
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    wanted = np.asarray(shares) / np.sum(shares) * len(groups)
    given = np.zeros(len(wanted))
    role_of = np.empty(len(names), dtype=np.int64)
    for group in order:
        role = int(np.argmax((wanted - given) / wanted))
        role_of[group] = role
        given[role] += counts[group]
    roles = role_of[inverse]
    return [np.flatnonzero(roles == index) for index in range(len(wanted))]
