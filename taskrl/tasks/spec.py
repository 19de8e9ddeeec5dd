"""TaskSpec: which pretext task an action chose, as plain data."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A mixture of objectives and the strengths of views and masks; hashable, comparable, JSON.

    mixture: (objective, share of the decision's compute), shares positive and summing to 1. levels: (knob, strength)
    for every knob that one of these objectives uses.
    """

    mixture: tuple[tuple[str, float], ...]
    levels: tuple[tuple[str, float], ...]

    def share(self, objective: str) -> float:
        """Share of compute for `objective`; 0 when it is not in the mixture."""
        return dict(self.mixture).get(objective, 0.0)

    def level(self, knob: str) -> float | None:
        """Strength of `knob`; None when no objective of the mixture uses it."""
        return dict(self.levels).get(knob)

    def to_json(self) -> str:
        """One line that `from_json` reads back to an equal spec."""
        return json.dumps({"mixture": dict(self.mixture), "levels": dict(self.levels)})

    @staticmethod
    def from_json(text: str) -> "TaskSpec":
        data = json.loads(text)
        return TaskSpec(mixture=tuple(data["mixture"].items()), levels=tuple(data["levels"].items()))

    def describe(self) -> str:
        """Short text for people, e.g. "contrastive 67% + rotation 33%; crop 0.3, mirror 0.5"."""
        mixture = " + ".join(name if share == 1 else f"{name} {share:.0%}" for name, share in self.mixture)
        return f"{mixture}; " + ", ".join(f"{name} {value:g}" for name, value in self.levels)
