"""Every reward signal telescopes, alone and wrapped in any order of the others."""

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np
import pytest

from taskrl.evaluation.reward import CostAware, Gain, RelativeToReference, RewardSignal, Scaled
from taskrl.types import AdaptReport, Compute, Outcome, Quality, Reward

UNIT = 1000
Wrap = Callable[[RewardSignal], RewardSignal]


def outcome(before: Quality, after: Quality, index: int = 0, flops: int = UNIT) -> Outcome:
    report = AdaptReport(losses={}, num_steps={}, compute=Compute(flops=flops))
    return Outcome(index=index, before=before, after=after, report=report)


def rewards_of(signal: RewardSignal, qualities: Sequence[Quality], flops: Sequence[int] | None = None) -> list[Reward]:
    """One episode."""
    spent = flops or [UNIT] * (len(qualities) - 1)
    steps = enumerate(zip(pairwise(qualities), spent, strict=True))
    return [signal(outcome(before, after, index, cost)) for index, ((before, after), cost) in steps]


def test_gains_telescope_to_the_gain_of_the_episode() -> None:
    values = [0.1, 0.35, 0.2, 0.6, 0.55]
    rewards = rewards_of(Gain(), [Quality(value=value, parts={"ridge_r2": 2 * value}) for value in values])
    assert sum(reward.total for reward in rewards) == pytest.approx(values[-1] - values[0])
    assert sum(reward.parts["gain"] for reward in rewards) == pytest.approx(values[-1] - values[0])
    assert sum(reward.parts["gain/ridge_r2"] for reward in rewards) == pytest.approx(2 * (values[-1] - values[0]))


def test_a_loss_of_quality_costs_and_no_change_pays_nothing() -> None:
    good, bad = Quality(value=0.5), Quality(value=0.2)
    assert Gain()(outcome(good, bad)).total == pytest.approx(-0.3)
    assert Gain()(outcome(good, good)).total == 0


def test_a_part_that_was_not_measured_before_has_no_gain() -> None:
    before, after = Quality(value=0.0, parts={"a": 0.1}), Quality(value=1.0, parts={"a": 0.3, "b": 9.0})
    assert Gain()(outcome(before, after)).parts == pytest.approx({"gain": 1.0, "gain/a": 0.2})


@pytest.mark.parametrize("shaping", list(product((False, True), repeat=4)), ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_every_combination_telescopes_whatever_the_qualities(shaping: tuple[bool, ...], seed: int) -> None:
    relative, costly, scaled, cost_inside = shaping
    rng = np.random.default_rng(seed)
    num = int(rng.integers(2, 13))
    values = np.cumsum(rng.normal(size=num + 1) * 10.0 ** rng.integers(-3, 3))
    curve = np.cumsum(rng.normal(size=num + 1)).tolist()
    flops = rng.integers(1, 10 * UNIT, size=num).tolist()
    weight, scale = rng.random() if costly else 0.0, float(rng.random() + 0.1) if scaled else 1.0
    wraps: list[Wrap] = []
    if relative:
        wraps.append(lambda inner: RelativeToReference(inner, curve))
    if costly:
        wraps.append(lambda inner: CostAware(inner, weight=weight, unit_flops=UNIT))
    signal: RewardSignal = Gain()
    for wrap in reversed(wraps) if cost_inside else wraps:
        signal = wrap(signal)
    rewards = rewards_of(Scaled(signal, scale), [Quality(value=float(value)) for value in values], flops)
    whole = values[-1] - values[0] - (curve[-1] - curve[0] if relative else 0.0) - weight * sum(flops) / UNIT
    assert sum(reward.total for reward in rewards) == pytest.approx(scale * whole, rel=1e-9, abs=1e-9)


def test_a_penalty_that_is_part_of_quality_is_paid_back_when_the_encoder_recovers() -> None:
    """Collapse penalties belong into quality: as a cost of the step they would be kept after the recovery."""
    clean, penalties = [0.2, 0.3, 0.3, 0.5], [0.0, 0.4, 0.4, 0.0]
    qualities = [Quality(value=value - penalty) for value, penalty in zip(clean, penalties, strict=True)]
    rewards = [reward.total for reward in rewards_of(Gain(), qualities)]
    assert rewards[0] < 0 < rewards[2]
    assert sum(rewards) == pytest.approx(clean[-1] - clean[0])


def test_shaping_cannot_change_which_of_two_actions_pays_more() -> None:
    before, better, worse = Quality(value=0.1), Quality(value=0.3), Quality(value=0.2)
    for index in range(2):
        for signal in (RelativeToReference(Gain(), [0.0, 0.9, 1.0]), CostAware(Gain(), weight=0.5, unit_flops=UNIT)):
            first, second = (signal(outcome(before, after, index)).total for after in (better, worse))
            assert first - second == pytest.approx(0.1)


def test_parts_name_what_was_taken_off_unscaled() -> None:
    signal = Scaled(CostAware(RelativeToReference(Gain(), [0.0, 0.2]), weight=0.5, unit_flops=UNIT), 10.0)
    reward = signal(outcome(Quality(value=0.1), Quality(value=0.4), flops=3 * UNIT))
    assert reward.parts == pytest.approx({"gain": 0.3, "reference_gain": 0.2, "cost": 3.0})
    assert reward.total == pytest.approx(10 * (0.3 - 0.2 - 0.5 * 3))


@pytest.mark.parametrize("curve", [[], [0.1], [0.1, 0.2]])
def test_a_decision_beyond_the_reference_curve_is_refused(curve: list[float]) -> None:
    with pytest.raises(ValueError, match="reference curve"):
        RelativeToReference(Gain(), curve)(outcome(Quality(value=0.0), Quality(value=1.0), index=1))
