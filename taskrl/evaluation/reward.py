"""Reward signals: pure functions of what a decision changed. All telescope, alone and wrapped in one another: an
episode's rewards sum to its whole gain, minus the reference's whole gain, minus its whole cost.
"""

from collections.abc import Sequence
from typing import Protocol, final

from taskrl.types import Outcome, Reward


class RewardSignal(Protocol):
    """Numbers in, numbers out. `parts` are for the log: what was added up, before any scale."""

    def __call__(self, outcome: Outcome) -> Reward: ...


@final
class Gain:
    """Change of quality over the decision. Whatever is part of quality, a penalty for collapse too, telescopes."""

    def __call__(self, outcome: Outcome) -> Reward:
        """Parts: the gain of the quality and of each of its parts."""
        gain = outcome.after.value - outcome.before.value
        parts = {
            f"gain/{name}": value - outcome.before.parts[name]
            for name, value in outcome.after.parts.items()
            if name in outcome.before.parts
        }
        return Reward(total=gain, parts={"gain": gain, **parts})


@final
class RelativeToReference:
    """`inner` minus what the reference recipe gained at the same decision: a control variate that no action moves.

    In lock-step groups with group-relative rewards it cancels (docs/reward-noise.md).
    """

    def __init__(self, inner: RewardSignal, curve: Sequence[float]) -> None:
        """curve: quality of the reference recipe before the first and after each decision of an episode."""
        self.inner = inner
        self.curve = tuple(curve)

    def __call__(self, outcome: Outcome) -> Reward:
        """Adds the part `reference_gain`. Raises ValueError for a decision that the curve does not reach."""
        if not 0 <= outcome.index < len(self.curve) - 1:
            raise ValueError(
                f"decision {outcome.index} is not on the reference curve of {max(len(self.curve) - 1, 0)} decisions"
            )
        reward = self.inner(outcome)
        reference = self.curve[outcome.index + 1] - self.curve[outcome.index]
        return Reward(total=reward.total - reference, parts={**reward.parts, "reference_gain": reference})


@final
class CostAware:
    """`inner` minus `weight` times the decision's training FLOPs in units of `unit_flops`.

    A difference: gain over cost would not telescope, and an agent could earn more by many cheap detours.
    """

    def __init__(self, inner: RewardSignal, *, weight: float, unit_flops: int) -> None:
        """unit_flops: of one decision of the reference recipe."""
        self.inner = inner
        self.weight = weight
        self.unit_flops = unit_flops

    def __call__(self, outcome: Outcome) -> Reward:
        """Adds the part `cost`: reference decisions that were spent."""
        reward = self.inner(outcome)
        cost = outcome.report.compute.flops / self.unit_flops
        return Reward(total=reward.total - self.weight * cost, parts={**reward.parts, "cost": cost})


@final
class Scaled:
    """`inner` times one constant: the unit in which the agent is paid."""

    def __init__(self, inner: RewardSignal, scale: float) -> None:
        self.inner = inner
        self.scale = scale

    def __call__(self, outcome: Outcome) -> Reward:
        reward = self.inner(outcome)
        return Reward(total=self.scale * reward.total, parts=reward.parts)
