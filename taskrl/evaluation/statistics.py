"""Paired comparisons with bootstrap intervals (docs/protocol.md, statistics)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskrl.seeding import numpy_generator

NUM_RESAMPLES = 10_000
LEVELS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def bootstrap(values: Sequence[float]) -> Interval:
    """Mean of `values` with the percentile bootstrap interval over them (10,000 resamples, fixed generator)."""
    array = np.asarray(values, dtype=float)
    rng = numpy_generator(0, "bootstrap", len(array))
    means = array[rng.integers(len(array), size=(NUM_RESAMPLES, len(array)))].mean(1)
    return _interval(float(array.mean()), means)


def bootstrap_each(samples: Sequence[Sequence[float]]) -> list[Interval]:
    """`bootstrap` of every sample, in a fraction of its time where many are of one size: these share their resamples,
    as they do there.
    """
    found: dict[int, Interval] = {}
    for size in {len(sample) for sample in samples}:
        rows = [row for row, sample in enumerate(samples) if len(sample) == size]
        drawn = numpy_generator(0, "bootstrap", size).integers(size, size=(NUM_RESAMPLES, size))
        weights_RN = np.zeros((NUM_RESAMPLES, size))
        np.add.at(weights_RN, (np.arange(NUM_RESAMPLES)[:, None], drawn), 1 / size)
        values_NP = np.array([samples[row] for row in rows], dtype=float).T
        means_RP = weights_RN @ values_NP
        for row, resampled, mean in zip(rows, means_RP.T, values_NP.mean(0), strict=True):
            found[row] = _interval(float(mean), resampled)
    return [found[row] for row in range(len(samples))]


def hierarchical_bootstrap(groups: Sequence[Sequence[float]]) -> Interval:
    """Interval of the mean over groups of their means, for values that come in groups: final encoders of several
    searches. Groups are drawn with replacement, then the values of each group that was drawn (10,000 resamples, fixed
    generator; Davison and Hinkley 1997, section 3.8). Raises ValueError where a group is empty or there is none.
    """
    mean = _mean_of_means(groups)
    return _interval(mean, _resampled(groups)[0])


def hierarchical_ratio(
    numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]]
) -> Interval | None:
    """Interval of a ratio of means, whose values are paired: both are resampled together. None where the denominator's
    own interval is not above 0; the few resamples in which it is not are left out, as they say nothing of the ratio.
    Raises ValueError where the groups differ in size.
    """
    if [len(group) for group in numerators] != [len(group) for group in denominators]:
        raise ValueError("paired groups need equal sizes")
    if not hierarchical_bootstrap(denominators).above_zero:
        return None
    above, below = _resampled(numerators, denominators)
    told = below > 0
    return _interval(_mean_of_means(numerators) / _mean_of_means(denominators), above[told] / below[told])


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Interval of the mean of ours - theirs, seed by seed. Raises ValueError when the lengths differ."""
    if len(ours) != len(theirs):
        raise ValueError("paired values need equal lengths")
    return bootstrap([a - b for a, b in zip(ours, theirs, strict=True)])


def _mean_of_means(groups: Sequence[Sequence[float]]) -> float:
    if not groups or not all(groups):
        raise ValueError("every group needs a value, and there must be a group")
    return float(np.mean([np.mean(group) for group in groups]))


def _resampled(*tables: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    """The mean of each resample, of every table by the same draws; (NUM_RESAMPLES,) each."""
    sizes = np.array([len(group) for group in tables[0]])
    rng = numpy_generator(0, "hierarchical bootstrap", *sizes.tolist())
    drawn = rng.integers(len(sizes), size=(NUM_RESAMPLES, len(sizes)))
    totals = [np.zeros(NUM_RESAMPLES) for _ in tables]
    for place in range(len(sizes)):  # the groups that were drawn first, second, ...
        for number, size in enumerate(sizes):
            rows = np.flatnonzero(drawn[:, place] == number)
            values = rng.integers(size, size=(len(rows), size))
            for total, table in zip(totals, tables, strict=True):
                total[rows] += np.asarray(table[number], dtype=float)[values].mean(1)
    return [total / len(sizes) for total in totals]


def _interval(mean: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, LEVELS)
    return Interval(mean=mean, low=float(low), high=float(high))
