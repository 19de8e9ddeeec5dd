from itertools import pairwise

import pytest

from taskrl.evaluation.reward import Gain
from taskrl.types import AdaptReport, Compute, Outcome, Quality

REPORT = AdaptReport(losses={}, num_steps={}, compute=Compute())


def outcome(before: Quality, after: Quality) -> Outcome:
    return Outcome(before=before, after=after, report=REPORT)


def test_gains_telescope_to_the_scaled_gain_of_the_episode() -> None:
    values = [0.1, 0.35, 0.2, 0.6, 0.55]
    qualities = [Quality(value=value, parts={"ridge_r2": 2 * value}) for value in values]
    rewards = [Gain(scale=10.0)(outcome(a, b)) for a, b in pairwise(qualities)]
    assert sum(reward.total for reward in rewards) == pytest.approx(10 * (values[-1] - values[0]))
    assert sum(reward.parts["gain"] for reward in rewards) == pytest.approx(values[-1] - values[0])
    assert sum(reward.parts["gain/ridge_r2"] for reward in rewards) == pytest.approx(2 * (values[-1] - values[0]))


def test_a_loss_of_quality_costs_and_no_change_pays_nothing() -> None:
    good, bad = Quality(value=0.5), Quality(value=0.2)
    assert Gain()(outcome(good, bad)).total == pytest.approx(-0.3)
    assert Gain()(outcome(good, good)).total == 0


def test_a_part_that_was_not_measured_before_has_no_gain() -> None:
    before, after = Quality(value=0.0, parts={"a": 0.1}), Quality(value=1.0, parts={"a": 0.3, "b": 9.0})
    assert Gain()(outcome(before, after)).parts == pytest.approx({"gain": 1.0, "gain/a": 0.2})
