import numpy as np
import pytest

from taskrl.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_each,
    hierarchical_bootstrap,
    hierarchical_ratio,
    paired_difference,
)


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


def nested(rng: np.random.Generator, num_groups: int, size: int, *, between: float, within: float) -> list[list[float]]:
    """Normal groups around 0: a deviation for each group and one for each value."""
    means = between * rng.standard_normal((num_groups, 1))
    return [list(row) for row in means + within * rng.standard_normal((num_groups, size))]


def test_groups_of_equal_values_are_resampled_as_groups_alone() -> None:
    values = [0.5, 2.0, -1.0, 1.2, 0.1, 3.0]
    plain, grouped = bootstrap(values), hierarchical_bootstrap([[value] * 4 for value in values])
    assert grouped.mean == pytest.approx(plain.mean)
    assert grouped.low == pytest.approx(plain.low, abs=0.1) and grouped.high == pytest.approx(plain.high, abs=0.1)


def test_one_group_is_resampled_as_its_values() -> None:
    values = [0.5, 2.0, -1.0, 1.2, 0.1, 3.0]
    plain, grouped = bootstrap(values), hierarchical_bootstrap([values])
    assert grouped.low == pytest.approx(plain.low, abs=0.1) and grouped.high == pytest.approx(plain.high, abs=0.1)


def test_the_spread_of_two_stages_is_the_one_in_closed_form() -> None:
    groups = nested(np.random.default_rng(3), 20, 10, between=2.0, within=1.0)
    table = np.array(groups)
    variance = (table.mean(1).var() + (table.var(1) / table.shape[1]).mean()) / len(table)
    interval = hierarchical_bootstrap(groups)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)
    pooled = bootstrap(table.ravel().tolist())
    assert interval.high - interval.low > 1.5 * (pooled.high - pooled.low)


def test_intervals_over_searches_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    held = {"grouped": 0, "pooled": 0}
    for _ in range(200):
        groups = nested(rng, 10, 4, between=1.0, within=1.0)
        grouped, pooled = hierarchical_bootstrap(groups), bootstrap([value for group in groups for value in group])
        held["grouped"] += grouped.low <= 0 <= grouped.high
        held["pooled"] += pooled.low <= 0 <= pooled.high
    assert 0.89 <= held["grouped"] / 200 <= 0.99
    assert held["pooled"] / 200 < 0.85


def test_groups_of_different_sizes_count_alike() -> None:
    assert hierarchical_bootstrap([[1.0] * 9, [3.0]]).mean == 2.0


def test_empty_groups_are_refused() -> None:
    for groups in ([], [[]], [[1.0], []]):
        with pytest.raises(ValueError, match="needs a value"):
            hierarchical_bootstrap(groups)


def test_a_ratio_of_proportional_values_has_no_width() -> None:
    below = nested(np.random.default_rng(5), 4, 3, between=1.0, within=1.0)
    below = [[value + 20 for value in group] for group in below]
    interval = hierarchical_ratio([[0.3 * value for value in group] for group in below], below)
    assert interval is not None
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.3, 0.3, 0.3))


def test_a_ratio_over_something_that_may_be_zero_is_none() -> None:
    assert hierarchical_ratio([[1.0, 2.0]], [[-1.0, 1.0]]) is None
    with pytest.raises(ValueError, match="equal sizes"):
        hierarchical_ratio([[1.0]], [[1.0, 2.0]])


def test_a_ratio_is_finite_where_a_few_resamples_have_nothing_below() -> None:
    interval = hierarchical_ratio([[0.0, 1.0, 1.0, 1.5]], [[0.0, 5.0, 5.0, 5.0]])  # one resample in 256 has only zeros
    assert interval is not None
    assert interval.mean == pytest.approx(3.5 / 15) and 0.19 < interval.low < interval.mean < interval.high < 0.31


def test_bootstrap_of_each_is_the_bootstrap() -> None:
    samples = [[0.1, 0.4, 0.2], [1.0, 5.0], [0.3, 0.3, 0.9], [7.0]]
    for found, sample in zip(bootstrap_each(samples), samples, strict=True):
        assert vars(found) == pytest.approx(vars(bootstrap(sample)))
    assert bootstrap_each([]) == []
