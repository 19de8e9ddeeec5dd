"""How much of a reward is chance: gains of a few actions over a few draws -> signal and noise.

Legend: A actions, D draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskrl.evaluation.statistics import NUM_RESAMPLES
from taskrl.seeding import numpy_generator

PAID_SD = 0.01
LEAST_SD = 1e-6
SCALE_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations of the gain of one decision from one state.

    aa_sd: of one action over draws (other batches, other views), pooled over actions: the A/A test. paired_sd: what is
    left of it when actions share their draws, as in a lock-step group. signal_sd: between the actions' true means.
    ratio_low, ratio_high: 95 % interval of signal_to_noise, if gains are about normal.
    """

    aa_sd: float
    paired_sd: float
    signal_sd: float
    ratio_low: float
    ratio_high: float

    @property
    def signal_to_noise(self) -> float:
        """signal_sd / aa_sd; 0 when nothing moves the gain, infinite when chance does not."""
        if self.aa_sd == 0:
            return math.inf if self.signal_sd > 0 else 0.0
        return self.signal_sd / self.aa_sd


def noise_of(gains: Sequence[Sequence[float]]) -> Noise:
    """Noise of gains[action][draw]; draw d of every action shares its random streams.

    aa_sd pools all draws. The other two come from the two-way layout of the draws that all actions have: paired_sd is
    the residual's, and signal_sd squared is the variance of the actions' means minus residual variance / D, at least 0
    (Scheffe 1959, section 7.4). Raises ValueError for fewer than two actions or two draws.
    """
    num_draws = min((len(row) for row in gains), default=0)
    if len(gains) < 2 or num_draws < 2:
        raise ValueError(f"got {len(gains)} actions with {num_draws} draws each; noise needs at least two of both")
    squares = sum(float(np.square(np.asarray(row) - np.mean(row)).sum()) for row in gains)
    aa_freedom = sum(len(row) - 1 for row in gains)
    aa = squares / aa_freedom
    table_AD = np.array([list(row)[:num_draws] for row in gains], dtype=float)
    residual = table_AD - table_AD.mean(1, keepdims=True) - table_AD.mean(0, keepdims=True) + table_AD.mean()
    freedom = len(gains) - 1
    paired = float(np.square(residual).sum()) / (freedom * (num_draws - 1))
    between = float(table_AD.mean(1).var(ddof=1))
    low = high = math.inf if between > 0 else 0.0
    if aa > 0:
        low, high = _ratio_interval(between, paired / num_draws, aa, (freedom, freedom * (num_draws - 1), aa_freedom))
    return Noise(
        aa_sd=math.sqrt(aa),
        paired_sd=math.sqrt(paired),
        signal_sd=math.sqrt(max(between - paired / num_draws, 0.0)),
        ratio_low=low,
        ratio_high=high,
    )


def _ratio_interval(between: float, within: float, aa: float, freedom: tuple[int, int, int]) -> tuple[float, float]:
    """95 % interval of sqrt(signal variance / A/A variance): each mean square over its chi-squared variable, drawn
    10,000 times (a generalised confidence interval, Weerahandi 1993).
    """
    rng = numpy_generator(0, "noise", *freedom)
    true_between, true_within, true_aa = (
        square * count / rng.chisquare(count, NUM_RESAMPLES)
        for square, count in zip((between, within, aa), freedom, strict=True)
    )
    ratios = np.sqrt(np.maximum(true_between - true_within, 0.0) / true_aa)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def reward_scale(aa_sd: float) -> float:
    """The constant that makes chance move a decision's reward by 0.01, to three digits; 1 when no chance was seen."""
    if not math.isfinite(aa_sd) or aa_sd < LEAST_SD:
        return 1.0
    return float(f"{PAID_SD / aa_sd:.{SCALE_DIGITS}g}")
