"""A LockstepVecEnv on the tiny problem, and everything that a rollout of it gives."""

from typing import Any

import numpy as np

from agents.vector import LockstepVecEnv
from envs.observation import ObservationBuilder
from envs.pool import Pool
from tests.agents.learning import space_for
from tests.envs.tiny import tiny_config

GROUP = 3


def vector(pool: Pool, **changes: Any) -> LockstepVecEnv:
    space = space_for(tiny_config(), "multidiscrete")
    arguments: dict[str, Any] = {
        "group_size": GROUP,
        "observation_space": ObservationBuilder(space).observation_space,
        "action_space": space.action_space,
        "action_mask": space.action_mask(),
        "seed": 0,
    }
    return LockstepVecEnv(pool, **(arguments | changes))


def actions(count: int, *, seed: int = 0) -> list[np.ndarray]:
    space = space_for(tiny_config(), "multidiscrete").action_space
    space.seed(seed)
    return [np.stack([space.sample() for _ in range(GROUP)]) for _ in range(count)]


def rollout(environment: LockstepVecEnv, rows: list[np.ndarray]) -> list[Any]:
    """Everything but the timings."""
    steps: list[Any] = [environment.reset()]
    for row in rows:
        observations, rewards, dones, infos = environment.step(row)
        for info in infos:
            assert set(info.pop("timings")) == {"train_s", "measure_s", "policy_s", "decision_s", "overhead_share"}
        steps.append((observations, rewards, dones, infos))
    return steps
