"""Paired comparisons with bootstrap intervals (docs/protocol.md, statistics)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskrl.seeding import numpy_generator

NUM_RESAMPLES = 10_000


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
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean=float(array.mean()), low=float(low), high=float(high))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Interval of the mean of ours - theirs, seed by seed. Raises ValueError when the lengths differ."""
    if len(ours) != len(theirs):
        raise ValueError("paired values need equal lengths")
    return bootstrap([a - b for a, b in zip(ours, theirs, strict=True)])
