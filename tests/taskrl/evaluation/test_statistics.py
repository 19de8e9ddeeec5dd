import numpy as np
import pytest

from taskrl.evaluation.statistics import Interval, bootstrap, paired_difference


def test_the_interval_of_a_large_sample_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / np.sqrt(len(values))
    interval = bootstrap(values.tolist())
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_of_two_values_is_the_two_values() -> None:
    assert bootstrap([1.0, 2.0]) == Interval(mean=1.5, low=1.0, high=2.0)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap([2.5] * 7) == Interval(mean=2.5, low=2.5, high=2.5)


def test_the_same_values_always_have_the_same_interval() -> None:
    values = [0.3, 1.2, -0.5, 0.8, 2.0]
    assert bootstrap(values) == bootstrap(values)


def test_a_paired_difference_is_the_interval_of_the_differences() -> None:
    ours, theirs = [3.0, 5.0, 4.0, 9.0], [1.0, 4.5, 4.5, 6.0]
    assert paired_difference(ours, theirs) == bootstrap([2.0, 0.5, -0.5, 3.0])


def test_pairing_sees_a_constant_gain_through_seeds_that_differ_much() -> None:
    seeds = np.random.default_rng(1).normal(50, 20, size=10)
    interval = paired_difference((seeds + 1).tolist(), seeds.tolist())
    assert interval.above_zero and interval.mean == pytest.approx(1)


def test_only_an_interval_above_zero_is_above_zero() -> None:
    assert not Interval(mean=1.0, low=0.0, high=2.0).above_zero
    assert Interval(mean=1.0, low=0.1, high=2.0).above_zero
    assert not bootstrap([-1.0, 2.0, 1.0]).above_zero


def test_values_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        paired_difference([1.0, 2.0], [1.0])


def test_an_interval_is_written_with_signs_and_one_decimal() -> None:
    assert str(Interval(mean=1.24, low=-0.36, high=2.0)) == "+1.2 [-0.4, +2.0]"
