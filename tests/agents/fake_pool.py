"""A pool whose episodes have a known quality: what each level adds, the luck of the seed, and noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.schedule import row_at
from agents.searches.base import Played, SearchSetting
from envs.host import Stepped
from envs.observation import ObservationBuilder, RunState
from taskrl.config import EpisodeConfig
from taskrl.seeding import derive_seed, numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.types import Compute

EPISODE = EpisodeConfig(decisions=4, steps_per_decision=1)
Effect = Callable[[TaskSpec, float], float]


class FakePool:
    """effect: what a task adds to an episode's quality when it is played throughout, by progress. luck, noise: sd of
    what the episodes of a seed share and of what they do not. Results come in reverse order, as from fast workers.
    """

    num_workers = 2

    def __init__(self, effect: Effect, *, luck: float = 0.03, noise: float = 0.01) -> None:
        self._effect = effect
        self._luck, self._noise = luck, noise

    def map(self, job: Any, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        for index in reversed(range(len(arguments))):
            yield index, self.play(*arguments[index])

    def play(self, specs: tuple[TaskSpec, ...], episode: EpisodeConfig, seed: int) -> Played:
        progress = np.arange(episode.decisions) / episode.decisions
        tasks = [specs[row_at(start, len(specs))] for start in progress]
        gains = np.array([0.5 + self._effect(*row) for row in zip(tasks, progress, strict=True)]) / episode.decisions
        start = numpy_generator(seed, "luck").normal(0, self._luck)
        own = numpy_generator(seed, "noise", *(spec.to_json() for spec in tasks))
        noise = own.normal(0, self._noise / np.sqrt(episode.decisions), len(gains))
        qualities = (start, *(start + np.cumsum(gains + noise)))
        return Played(qualities=tuple(float(value) for value in qualities), compute=Compute(flops=10, images=3))

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        raise NotImplementedError

    def result(self, worker: int) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def level_effects(space: TaskSpace, good: Mapping[str, int], *, seed: int = 0) -> dict[tuple[str, int], float]:
    """What each open level is worth beside the reference's: `good` names the parts and levels that help (by 0.05),
    all others hurt by up to 0.1.
    """
    rng = numpy_generator(derive_seed(seed, "effects"))
    effects = {}
    for part in space.parts:
        for index in range(len(part.levels)):
            harm = rng.uniform(0.01, 0.1)
            if index != part.reference:
                effects[part.name, index] = 0.05 if good.get(part.name) == index else -harm
    return effects


def additive(space: TaskSpace, effects: Mapping[tuple[str, int], float]) -> Effect:
    def effect(spec: TaskSpec, progress: float) -> float:
        rows = zip(space.part_names(), space.level_indices(spec), strict=True)
        return sum(effects.get((name, index), 0.0) for name, index in rows)

    return effect


def fake_setting(space: TaskSpace, pool: FakePool, **changes: Any) -> SearchSetting:
    class Problem:
        task_space = space

    arguments: dict[str, Any] = {"problem": Problem(), "pool": pool, "episode": EPISODE, "num_episodes": 48, "seed": 0}
    return SearchSetting(**(arguments | changes))


class FakeEpisodes:
    """Environments in lock-step whose gains are known, for learners that act decision by decision (a `Pool`)."""

    num_workers = 2

    def __init__(self, space: TaskSpace, effect: Effect, *, decisions: int = 4, noise: float = 0.01) -> None:
        self._space = space
        self._effect = effect
        self._decisions = decisions
        self._noise = noise
        self._observe = ObservationBuilder(space)
        self._specs: dict[int, list[TaskSpec]] = {}
        self._seeds: dict[int, int] = {}
        self._answers: dict[int, list[Any]] = {0: [], 1: []}

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        self._answers[worker].append(getattr(self, method)(*arguments))

    def result(self, worker: int) -> Any:
        return self._answers[worker].pop(0)

    def reset(self, env_id: int, seed: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self._specs[env_id], self._seeds[env_id] = [], seed
        return self._observation(env_id), {}

    def step(self, env_id: int, index: int, action: Any) -> Stepped:
        specs = self._specs[env_id]
        gain = self._effect(self._space.decode(action), len(specs) / self._decisions)
        specs.append(self._space.decode(action))
        own = numpy_generator(self._seeds[env_id], "noise", *(spec.to_json() for spec in specs))
        luck = numpy_generator(self._seeds[env_id], "luck", index).normal(0, 0.03)
        reward = (0.5 + gain) / self._decisions + luck + own.normal(0, self._noise)
        spent = {"train_flops": len(specs), "train_images": 1, "measure_flops": 0, "measure_images": 0}
        info = {"compute": spent, "quality": 0.0}
        done = len(specs) == self._decisions
        values = (self._observation(env_id), reward, done, False, info)
        return Stepped(values, {"train_s": 0.0, "measure_s": 0.0}, None)

    def map(self, job: Any, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def _observation(self, env_id: int) -> NDArray[np.float32]:
        specs = self._specs[env_id]
        signals = dict.fromkeys(("feature_std", "effective_rank", "uniformity"), 0.5)
        progress = len(specs) / self._decisions
        return self._observe.build(RunState(progress=progress, num_steps=4, signals=signals, specs=specs))
