"""Playing a search's episodes in the workers of a pool, keeping its books, and comparing recipes on common seeds."""

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agents.schedule import row_at
from agents.searches.base import Found, Played, SearchSetting
from envs.factory import make_env
from envs.reference import quality_curve
from taskrl.assemble import Assembled
from taskrl.config import EpisodeConfig
from taskrl.seeding import derive_seed
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.types import Compute

Schedule = tuple[TaskSpec, ...]
MAX_DRAWS = 1000
NUM_FINALISTS = 5
RESCORING_SHARE = 3  # a third of the budget


def play_episode(assembled: Assembled, specs: Schedule, episode: EpisodeConfig, seed: int) -> Played:
    """A pool's job: one episode under the rows of `specs`, from the encoder, the set, the batches and the views of
    `seed`.
    """
    problem = assembled.at(seed).problem.unshaped()
    space = problem.task_space
    box = TaskSpace(objectives=space.objectives, knobs=space.knobs, codec="box")
    env = make_env(dataclasses.replace(problem, task_space=box), episode)
    actions = [box.encode(spec) for spec in specs]
    curve, spent = quality_curve(env, lambda index: actions[row_at(index / episode.decisions, len(actions))], seed=seed)
    return Played(qualities=curve, compute=spent)


@final
class Player:
    """The episodes of one search: plays them, charges them, records them, and never plays more than its budget."""

    def __init__(self, setting: SearchSetting) -> None:
        self.setting = setting
        self.space = setting.space
        self.spent = Compute()
        self._trials: list[dict[str, Any]] = []

    @property
    def left(self) -> int:
        """Episodes that may still be played."""
        return self.setting.num_episodes - len(self._trials)

    def seed(self, number: int) -> int:
        """Seed of the common episodes number `number`; the same for every search of the same seed."""
        return derive_seed(self.setting.seed, "search", number)

    def play(self, episodes: Sequence[tuple[Schedule, int]]) -> list[Played]:
        """(schedule, number of its seed) of each episode -> the episodes, in this order whoever finishes first.

        Raises ValueError when the budget does not allow them.
        """
        if len(episodes) > self.left:
            raise ValueError(f"{len(episodes)} episodes are too many, the search has {self.left} left")
        setting = self.setting
        rows = [(specs, setting.episode, self.seed(number)) for specs, number in episodes]
        finished: dict[int, Played] = {}
        results: list[Played] = []
        for index, played in setting.pool.map(play_episode, rows):
            finished[index] = played
            while len(results) in finished:
                results.append(self._keep(*episodes[len(results)], finished[len(results)]))
        return results

    def _keep(self, specs: Schedule, number: int, played: Played) -> Played:
        self.spent += played.compute
        tasks = [spec.to_json() for spec in specs]
        self._trials.append({"tasks": tasks, "seed": number, "qualities": list(played.qualities)})
        self.setting.after_episode(len(self._trials), played)
        return played

    def score(self, specs: Sequence[TaskSpec], number: int) -> list[float]:
        """Final quality of each recipe on the common episode `number`."""
        return [played.final for played in self.play([((spec,), number) for spec in specs])]

    def found(self, specs: Schedule, **notes: Any) -> Found:
        """The result, with the books."""
        return Found(specs=specs, spent=self.spent, record={**notes, "trials": self._trials})


def prior_probabilities(space: TaskSpace, strength: float) -> list[NDArray[np.float64]]:
    """Probability of each level of each part under the prior; closed levels have none."""
    rows = []
    for part, logits in zip(space.parts, space.prior_logits(strength), strict=True):
        weights = np.exp(logits.astype(np.float64)) * np.array(part.allowed)
        rows.append(weights / weights.sum())
    return rows


def prior_recipe(space: TaskSpace, strength: float, rng: np.random.Generator) -> TaskSpec:
    """A recipe drawn part by part from the prior."""
    levels = [rng.choice(len(row), p=row) for row in prior_probabilities(space, strength)]
    return space.decode(np.array(levels, dtype=np.int64))


def new_prior_recipe(
    space: TaskSpace, strength: float, rng: np.random.Generator, known: Sequence[TaskSpec]
) -> TaskSpec:
    """A recipe of the prior that is not among `known`, unless a thousand draws gave none."""
    seen = set(known)
    spec = prior_recipe(space, strength, rng)
    for _ in range(MAX_DRAWS):
        if spec not in seen:
            break
        spec = prior_recipe(space, strength, rng)
    return spec


@dataclasses.dataclass(frozen=True)
class Shares:
    """How a budget is divided: recipes tried once, and how many of the best are played again with what is left."""

    tried: int
    finalists: int

    @staticmethod
    def of(num_episodes: int) -> "Shares":
        """A third for playing again, as far as it makes whole seeds; too few episodes for two finalists: none."""
        again = num_episodes // RESCORING_SHARE
        finalists = min(NUM_FINALISTS, again)
        if finalists < 2:
            return Shares(num_episodes, 0)
        return Shares(num_episodes - again // finalists * finalists, finalists)


def best_schedule(
    player: Player, schedules: Sequence[Schedule], *, first_seed: int
) -> tuple[Schedule, list[dict[str, Any]]]:
    """Spend what is left of the budget on playing `schedules` on fresh common seeds; that of the best mean, the first
    of equals, and all scores as JSON.
    """
    distinct = list(dict.fromkeys(schedules))
    episodes = [(distinct[index % len(distinct)], first_seed + index // len(distinct)) for index in range(player.left)]
    scores: dict[Schedule, list[float]] = {schedule: [] for schedule in distinct}
    for (schedule, _), played in zip(episodes, player.play(episodes), strict=True):
        scores[schedule].append(played.final)
    whole = len(episodes) // len(distinct)  # seeds that all have played; others say nothing about who is better
    notes = [{"tasks": [spec.to_json() for spec in schedule], "qualities": row} for schedule, row in scores.items()]
    if not whole:
        return distinct[0], notes
    return max(distinct, key=lambda schedule: float(np.mean(scores[schedule][:whole]))), notes


def best_again(player: Player, tried: dict[TaskSpec, float], shares: Shares, *, first_seed: int) -> Found:
    """Play the best of `tried` on fresh common seeds; the best mean there wins, since the best of many single scores
    is mostly the luckiest. The reference is always played again too.
    """
    ranked = sorted(tried, key=lambda spec: -tried[spec])
    finalists = ranked[: max(shares.finalists, 1)]
    reference = player.space.reference
    if shares.finalists and reference in tried and reference not in finalists:
        finalists[-1] = reference
    best, notes = best_schedule(player, [(spec,) for spec in finalists], first_seed=first_seed)
    return player.found(best, finalists=notes)
