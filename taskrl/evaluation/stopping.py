"""When to stop training: quality after every decision -> whether it still rises, and which decision was best."""

import math
from collections.abc import Sequence
from typing import final

import numpy as np

LEAST_DIFFERENCES = 3
SD_OF_MEDIAN = 1.4826
"""The sd of a normal variable over the median of its absolute value."""


@final
class StopRule:
    """Stops when the best of the last `patience` decisions is not above the best before them by more than the noise.

    The noise is estimated anew from all qualities so far (`measurement_noise`). Needs no labels.
    """

    def __init__(self, patience: int) -> None:
        """patience: at least 1."""
        if patience < 1:
            raise ValueError(f"a patience of {patience} decisions; it must be at least 1")
        self.patience = patience
        self._qualities: list[float] = []

    def add(self, quality: float) -> bool:
        """Enter the quality after one more decision; whether to stop. One that is not finite is worse than any."""
        self._qualities.append(quality if math.isfinite(quality) else -math.inf)
        before, recent = self._qualities[: -self.patience], self._qualities[-self.patience :]
        if not before:
            return False
        if max(before) == -math.inf:
            return max(recent) == -math.inf
        return max(recent) - max(before) <= measurement_noise(self._qualities)

    @property
    def best_index(self) -> int:
        """The decision, from 0, after which quality was best; the first of equals. Raises ValueError before `add`."""
        if not self._qualities:
            raise ValueError("no quality has been added yet")
        return self._qualities.index(max(self._qualities))


def measurement_noise(qualities: Sequence[float]) -> float:
    """Robust sd of the noise around a smooth curve: median of |q[t-1] - 2 q[t] + q[t+1]| x 1.4826 / sqrt(6).

    Second differences cancel a steady rise; of independent noise they have sqrt(6) times its sd (Gasser, Sroka &
    Jennen-Steinmetz 1986). The median bears a few jumps. 0 with fewer than three second differences (five qualities).
    """
    finite = np.array([quality for quality in qualities if math.isfinite(quality)])
    if len(finite) < LEAST_DIFFERENCES + 2:
        return 0.0
    return float(np.median(np.abs(np.diff(finite, n=2))) * SD_OF_MEDIAN / math.sqrt(6))
