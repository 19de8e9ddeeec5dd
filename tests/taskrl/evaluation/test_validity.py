"""Validity: what is found in made-up searches whose truth is known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from taskrl.evaluation import validity
from taskrl.evaluation.validity import Measured, agreement, spearman, validity_of

NUM_GROUPS, GROUP = 14, 8


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of them finds the same."""
    monkeypatch.setattr(validity, "NUM_RESAMPLES", 1000)


def search(
    seed: int, *, late: float = 0.7, late_spread: float = 1.0, drift: tuple[float, float] = (0.0, 0.0)
) -> list[Measured]:
    """Groups with starts of their own; within them the hidden measure follows quality with slope 0.7, in the second
    half with slope `late`, where quality spreads by `late_spread`. drift: of both from group to group.
    """
    rng = np.random.default_rng(seed)
    episodes = []
    for group in range(NUM_GROUPS):
        start, second_half = 3 * rng.normal(size=2), group >= NUM_GROUPS // 2
        for _ in range(GROUP):
            quality = rng.normal() * (late_spread if second_half else 1.0)
            hidden = (late if second_half else 0.7) * quality + np.sqrt(1 - 0.7**2) * rng.normal()
            values = start[0] + quality + drift[0] * group, start[1] + hidden + drift[1] * group
            episodes.append(Measured(block=group, quality=values[0], other=values[1]))
    return episodes


def alarms(**truth: float | tuple[float, float]) -> float:
    """Share of 40 such searches that warn."""
    return float(np.mean([validity_of(search(seed, **truth)).goodhart is not None for seed in range(40)]))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_values", [3, 1000])
def test_rank_correlation_is_scipys_with_and_without_ties(num_values: int) -> None:
    rng = np.random.default_rng(0)
    first, noise = rng.integers(num_values, size=(2, 40)).astype(float)
    assert spearman(first, first + noise) == pytest.approx(spearmanr(first, first + noise).statistic)


def test_a_valid_reward_is_not_doubted_and_starts_do_not_count() -> None:
    found = validity_of(search(0))
    assert (found.num_before, found.num_after) == (32, 32)
    assert found.before and found.after and found.before.low > 0.3 and found.after.low > 0
    assert found.goodhart is None and "alike by" in found.sentence
    assert alarms() <= 0.1


def test_quality_that_says_nothing_any_more_or_the_opposite_is_doubted() -> None:
    assert alarms(late=0.0) > 0.7
    assert alarms(late=-0.7) > 0.9
    sentence = validity_of(search(0, late=-0.7)).goodhart
    assert sentence is not None and sentence.startswith("Goodhart: ") and "do not trust" in sentence


def test_a_policy_that_has_settled_is_no_reason_to_doubt() -> None:
    """The correlation falls, since little varies; that alone says nothing about the reward."""
    found = validity_of(search(1, late_spread=0.25))
    assert found.before and found.after and found.after.mean < found.before.mean
    assert alarms(late_spread=0.25) <= 0.1


def test_quality_that_rises_while_the_hidden_measure_falls_is_doubted() -> None:
    assert alarms(drift=(1.0, -1.0)) > 0.9
    assert alarms(drift=(1.0, 1.0)) <= 0.1
    found = validity_of(search(0, drift=(1.0, -1.0)))
    assert found.quality_change and found.quality_change.low > 0
    assert found.goodhart and "while the hidden measure fell" in found.goodhart


@pytest.mark.parametrize("num_groups", [0, 1, 2, 3])
def test_few_episodes_say_nothing(num_groups: int) -> None:
    found = validity_of(search(0)[: num_groups * GROUP])
    assert found.before is found.after is found.change is None and found.goodhart is None
    assert "nothing can be said" in found.sentence


def test_constant_or_broken_values_say_nothing() -> None:
    constant = [Measured(block=i // GROUP, quality=0.5, other=float(i)) for i in range(60)]
    assert validity_of(constant).before is None and agreement(constant) is None
    broken = [Measured(block=0, quality=float("nan"), other=float(i)) for i in range(60)]
    assert validity_of(broken).before is None


def test_agreement_takes_off_what_a_seed_shares() -> None:
    rows = [Measured(block=seed, quality=seed + g, other=-5.0 * seed + g) for seed in range(4) for g in range(5)]
    found = agreement(rows)
    assert found is not None and found.mean == pytest.approx(1)
    assert agreement(rows[:9]) is None


def test_the_same_episodes_give_the_same_numbers() -> None:
    assert validity_of(search(3)) == validity_of(search(3))
