"""Can the reward be trusted: do quality, which is paid, and a hidden measure, which is not, rank encoders alike, before
and after the search optimised quality (Goodhart's law)?

Pure numbers. Legend: N values, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskrl.evaluation.statistics import NUM_RESAMPLES, Interval
from taskrl.seeding import numpy_generator

FEWEST = 10
FEWEST_BLOCKS = 3
WORSE_BY = 0.1
MAX_DRAWN = 4_000_000
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One encoder. block: what shares its start with others: a group of episodes, a seed of final encoders."""

    block: int
    quality: float
    other: float


@dataclass(frozen=True, kw_only=True)
class Validity:
    """Rank correlations of quality and the hidden measure over the first and the last third of a search's episodes.

    change: by how much the later one misses what the earlier one lets expect where quality varies as little as in the
    last third. quality_change, hidden_change: how far their means moved. None: cannot be said.
    """

    num_before: int
    num_after: int
    before: Interval | None = None
    after: Interval | None = None
    change: Interval | None = None
    quality_change: Interval | None = None
    hidden_change: Interval | None = None

    @property
    def goodhart(self) -> str | None:
        """One sentence when the search has moved quality away from what it stands for."""
        before, after, change = self.before, self.after, self.change
        if after and after.high < 0:
            return (
                "Goodhart: in the last third of the search, encoders of higher quality are worse by the hidden measure "
                f"(rank correlation {_text(after)}); do not trust this reward."
            )
        if before and after and change and change.mean < -WORSE_BY and change.high < 0:
            return (
                "Goodhart: quality and the hidden measure agree less since the search optimised quality (rank "
                f"correlation {before.mean:.2f} in its first third, {after.mean:.2f} in its last, {_text(change)} from "
                "what was to be expected); prefer a shorter search or another probe."
            )
        if self.quality_change and self.hidden_change and self.quality_change.low > 0 and self.hidden_change.high < 0:
            return (
                f"Goodhart: over the search quality rose by {_text(self.quality_change)} while the hidden measure fell "
                f"({_text(self.hidden_change)}); what was learned may serve the probe more than the encoder."
            )
        return None

    @property
    def sentence(self) -> str:
        """What the numbers say, no louder than they allow."""
        if self.before is None or self.after is None:
            return (
                f"Validity: nothing can be said about the reward from {self.num_before} and {self.num_after} episodes "
                f"in the first and last third of the search ({FEWEST} that differ are needed in each)."
            )
        return (
            "Validity: quality and the hidden measure rank encoders of one start alike by "
            f"{_text(self.before)} in the first third of the search and by {_text(self.after)} in the last "
            "(rank correlation)."
        )


def validity_of(episodes: Sequence[Measured]) -> Validity:
    """Validity of a search from its episodes, in order; the thirds are whole blocks (of two blocks, one each)."""
    blocks = list(dict.fromkeys(episode.block for episode in episodes))
    num = max(len(blocks) // 3, min(len(blocks) // 2, 1))
    first, last = set(blocks[:num]), set(blocks[len(blocks) - num :])
    before = [episode for episode in episodes if episode.block in first]
    after = [episode for episode in episodes if episode.block in last]
    early, late = _ranked(before, "before"), _ranked(after, "after")
    if early is None or late is None:
        return Validity(num_before=len(before), num_after=len(after))
    return Validity(
        num_before=len(before),
        num_after=len(after),
        before=_interval(early.value, early.resampled_R),
        after=_interval(late.value, late.resampled_R),
        change=_interval(
            late.value - float(_narrowed(early.value, late.spread / early.spread)),
            late.resampled_R - _narrowed(early.resampled_R, late.spreads_R / early.spreads_R),
        ),
        quality_change=_moved(_means(before, "quality"), _means(after, "quality")),
        hidden_change=_moved(_means(before, "other"), _means(after, "other")),
    )


def agreement(encoders: Sequence[Measured]) -> Interval | None:
    """Rank correlation of quality and the other measure within blocks; None for fewer than 10 or where nothing
    varies.
    """
    ranked = _ranked(encoders, "agreement")
    return None if ranked is None else _interval(ranked.value, ranked.resampled_R)


def spearman(first_N: Vector, second_N: Vector) -> float:
    """Rank correlation with average ranks for ties (Spearman 1904); nan when one of them does not vary."""
    return float(_correlations(_below(first_N), _below(second_N), np.ones((1, len(first_N))))[0])


@dataclass(frozen=True)
class _Ranked:
    """A rank correlation within blocks and the spread of quality there; the same of the resamples."""

    value: float
    spread: float
    resampled_R: Vector
    spreads_R: Vector


def _ranked(measured: Sequence[Measured], name: str) -> _Ranked | None:
    """None for too few encoders, values that are not finite, or nothing that varies. Encoders are what is resampled,
    after their block's mean has been taken off: what the whole block shares is no difference between tasks.
    """
    values_N2 = np.array([[row.quality, row.other] for row in measured], dtype=float)
    if len(measured) < FEWEST or not np.isfinite(values_N2).all():
        return None
    blocks_N = np.array([row.block for row in measured])
    if len(np.unique(blocks_N)) < len(measured):
        for block in np.unique(blocks_N):
            values_N2[blocks_N == block] -= values_N2[blocks_N == block].mean(0)
    first, second = values_N2.T.round(12)  # what a subtraction left over is a tie
    value = spearman(first, second)
    if not np.isfinite(value):
        return None
    num = len(measured)
    num_resamples = min(NUM_RESAMPLES, max(MAX_DRAWN // num, 1000))
    rng = numpy_generator(0, "validity", name, num)
    weights_RN = rng.multinomial(num, np.full(num, 1 / num), size=num_resamples).astype(float)
    means_R = weights_RN @ first / num
    spreads_R = np.sqrt(np.maximum(weights_RN @ first**2 / num - means_R**2, 0))
    resampled_R = _correlations(_below(first), _below(second), weights_RN)
    return _Ranked(value, float(first.std()), resampled_R, spreads_R)


def _narrowed(correlation: float | Vector, spread: float | Vector) -> Vector:
    """The correlation to be expected where the first variable's spread is `spread` (at most 1) times as wide: a policy
    that has settled varies less, and a correlation falls by that alone (Thorndike 1949, case 2).
    """
    value, ratio = np.asarray(correlation), np.minimum(spread, 1.0)
    return np.asarray(value * ratio / np.sqrt(1 - value**2 + (value * ratio) ** 2))


def _below(values_N: Vector) -> Vector:
    """[j, i] = 1 where value j lies below value i, 1/2 where they are equal: weights @ this = ranks, up to 1/2."""
    return np.asarray((values_N[:, None] < values_N) + 0.5 * (values_N[:, None] == values_N))


def _correlations(first_NN: Vector, second_NN: Vector, weights_RN: Vector) -> Vector:
    """Rank correlation of every resample, in which value i stands weights[r, i] times; nan where nothing varies."""

    def standardised(below_NN: Vector) -> Vector:
        ranks = weights_RN @ below_NN
        centred = ranks - np.average(ranks, axis=1, weights=weights_RN)[:, None]
        spread = np.sqrt((weights_RN * centred**2).sum(1, keepdims=True))
        shares: Vector = np.divide(centred, spread, out=np.full_like(centred, np.nan), where=spread > 1e-9)
        return shares

    return np.asarray((weights_RN * standardised(first_NN) * standardised(second_NN)).sum(1))


def _interval(value: float, resamples_R: Vector) -> Interval:
    low, high = np.quantile(resamples_R[np.isfinite(resamples_R)], (0.025, 0.975))
    return Interval(mean=value, low=float(low), high=float(high))


def _means(measured: Sequence[Measured], name: str) -> Vector:
    """The mean of each block: episodes of a group share their start, so that groups are what is drawn."""
    blocks = dict.fromkeys(row.block for row in measured)
    means = [np.mean([getattr(row, name) for row in measured if row.block == block]) for block in blocks]
    return np.array(means, dtype=np.float64)


def _moved(before: Vector, after: Vector) -> Interval | None:
    """Difference of means with its bootstrap interval over blocks; None for fewer than 3 blocks."""
    if min(len(before), len(after)) < FEWEST_BLOCKS:
        return None
    rng = numpy_generator(0, "validity", "moved", len(before))
    many = [part[rng.integers(len(part), size=(NUM_RESAMPLES, len(part)))].mean(1) for part in (before, after)]
    return _interval(float(after.mean() - before.mean()), many[1] - many[0])


def _text(interval: Interval) -> str:
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
