"""Searches without reinforcement learning: what they are given, what they find, and their names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from envs.pool import Pool
from taskrl.config import EpisodeConfig
from taskrl.errors import ConfigError
from taskrl.meta import MetaProblem
from taskrl.registry import Registry
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.types import Compute


@dataclass(frozen=True, kw_only=True)
class Played:
    """One episode. qualities: before the first and after each decision; compute: training and measuring."""

    qualities: tuple[float, ...]
    compute: Compute

    @property
    def final(self) -> float:
        """Quality at the end."""
        return self.qualities[-1]


@dataclass(frozen=True, kw_only=True)
class SearchSetting:
    """A search's problem and budget.

    num_episodes: what it plays, no more and no less. num_slots: episodes that a method which learns from episode to
    episode asks for at a time; a number of its own, so that results do not depend on the workers. prior_strength: of
    `TaskSpace.prior_logits`. after_episode: told the number of finished episodes and the last one, in order.
    """

    problem: MetaProblem
    pool: Pool
    episode: EpisodeConfig
    num_episodes: int
    seed: int
    num_slots: int = 4
    prior_strength: float = 1.0
    after_episode: Callable[[int, Played], None] = lambda number, played: None

    def __post_init__(self) -> None:
        if self.num_episodes < 2 or self.num_slots < 1:
            raise ConfigError(
                f"A search of {self.num_episodes} episodes in {self.num_slots} slots compares nothing; "
                "give it at least 2 episodes and 1 slot."
            )

    @property
    def space(self) -> TaskSpace:
        """The task space in its canonical codec, whatever the problem's is."""
        space = self.problem.task_space
        return TaskSpace(objectives=space.objectives, knobs=space.knobs)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found. specs: a recipe (one task) or a schedule of equally long rows; spent: on all its episodes;
    record: its trials and what it made of them, as JSON.
    """

    specs: tuple[TaskSpec, ...]
    spent: Compute
    record: dict[str, Any]


class Search(Protocol):
    """A way to find a recipe or a schedule."""

    def __call__(self, setting: SearchSetting) -> Found: ...


SEARCHES: Registry[Search] = Registry("search")
