"""Reward signals: pure functions of what a decision changed. All telescope: an episode's rewards sum to its
whole gain.
"""

from typing import Protocol, final

from taskrl.types import Outcome, Reward


class RewardSignal(Protocol):
    """Numbers in, numbers out."""

    def __call__(self, outcome: Outcome) -> Reward: ...


@final
class Gain:
    """Change of quality over the decision, times a constant scale."""

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, outcome: Outcome) -> Reward:
        """Parts: the gain of the quality and of each of its parts (unscaled)."""
        gain = outcome.after.value - outcome.before.value
        parts = {
            f"gain/{name}": value - outcome.before.parts[name]
            for name, value in outcome.after.parts.items()
            if name in outcome.before.parts
        }
        return Reward(total=self.scale * gain, parts={"gain": gain, **parts})
