"""The rule that ends training: what it does on curves whose shape is known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from taskrl.evaluation.stopping import StopRule, measurement_noise
from taskrl.seeding import numpy_generator

PATIENCE = 3
LENGTH = 24
STEPS = np.arange(1, LENGTH + 1)
RISE = 0.1 * STEPS
SATURATING = 1 - np.exp(-STEPS / 4)
PLATEAU = np.minimum(STEPS, 8) / 8
PEAK = np.where(STEPS < 8, STEPS / 8, 1 - 0.05 * (STEPS - 8))
FLAT = np.ones(LENGTH)


def told(qualities: Sequence[float], patience: int = PATIENCE) -> tuple[int, int]:
    """Decisions taken until the rule stops (all when it does not), and the best of them, both from 1."""
    rule = StopRule(patience)
    count = next((count for count, quality in enumerate(qualities, start=1) if rule.add(float(quality))), LENGTH)
    return count, rule.best_index + 1


def noisy(curve: np.ndarray, sd: float, draw: int) -> np.ndarray:
    return curve + sd * numpy_generator(0, "stopping", draw).normal(size=len(curve))


@pytest.mark.parametrize("curve", [RISE, SATURATING], ids=["steady", "saturating"])
def test_a_smooth_rise_is_never_stopped(curve: np.ndarray) -> None:
    assert told(curve) == (LENGTH, LENGTH)


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
def test_a_plateau_ends_after_the_patience_at_its_first_decision(patience: int) -> None:
    assert told(PLATEAU, patience) == (8 + patience, 8)


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
def test_a_fall_ends_after_the_patience_and_the_peak_is_the_best(patience: int) -> None:
    assert told(PEAK, patience) == (8 + patience, 8)


@pytest.mark.parametrize("curve", [PLATEAU, PEAK, FLAT], ids=["plateau", "peak", "flat"])
@pytest.mark.parametrize("sd", [0.003, 0.01, 0.03])
def test_noise_does_not_keep_a_run_that_has_stopped_rising(curve: np.ndarray, sd: float) -> None:
    ends = [told(noisy(curve, sd, draw)) for draw in range(100)]
    first = 1 if curve is FLAT else 8
    assert max(count for count, _ in ends) <= first + 4 * PATIENCE
    assert np.mean([count for count, _ in ends]) <= first + 2 * PATIENCE
    losses = [curve.max() - curve[best - 1] for _, best in ends]
    assert np.mean(losses) < 0.01 and max(losses) <= 4 * sd + 0.05


@pytest.mark.parametrize("sd", [0.003, 0.01, 0.03])
def test_a_noisy_rise_that_is_clear_over_the_patience_goes_on(sd: float) -> None:
    assert all(told(noisy(RISE, sd, draw))[0] == LENGTH for draw in range(100))


def test_more_patience_carries_further_through_noise() -> None:
    counts = [
        np.mean([told(noisy(SATURATING, 0.1, draw), patience)[0] for draw in range(50)]) for patience in (1, 3, 6)
    ]
    assert counts == sorted(counts) and counts[0] + 4 < counts[-1]


def test_units_and_offsets_do_not_matter() -> None:
    for draw in range(20):
        curve = noisy(SATURATING, 0.05, draw)
        assert told(curve) == told(1000 * curve) == told(0.001 * curve - 5)


def test_it_never_stops_within_the_patience() -> None:
    assert not any(StopRule(5).add(quality) for quality in (3.0, 2.0, 1.0))
    rule = StopRule(2)
    assert [rule.add(quality) for quality in (3.0, 2.0, 1.0)] == [False, False, True]


def test_what_is_not_finite_is_worse_than_any() -> None:
    rule = StopRule(2)
    assert [rule.add(quality) for quality in (math.nan, -5.0, math.inf, math.nan)] == [False, False, False, True]
    assert rule.best_index == 1
    hopeless = StopRule(1)
    assert [hopeless.add(math.nan), hopeless.add(math.nan)] == [False, True]


def test_the_noise_is_that_of_the_measurement_not_of_the_trend() -> None:
    assert measurement_noise(RISE) == pytest.approx(0, abs=1e-12)
    assert measurement_noise([0.1, 0.9, 0.2, 0.8]) == 0, "too few to tell"
    found = [measurement_noise(noisy(RISE, 0.02, draw)) for draw in range(200)]
    assert np.median(found) == pytest.approx(0.02, rel=0.15)
    with_a_jump = noisy(np.where(STEPS < 12, 0.0, 1.0), 0.02, 0)
    assert measurement_noise(with_a_jump) < 0.04


def test_a_patience_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        StopRule(0)
    with pytest.raises(ValueError, match="no quality"):
        _ = StopRule(1).best_index
