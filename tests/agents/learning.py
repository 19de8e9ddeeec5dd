"""Short searches in this process, and what they went through."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.catalogue import AGENTS
from agents.policy import SB3TaskPolicy
from agents.sb3 import Decision, SB3MetaOptimizer
from envs.host import WorkerSetup
from envs.pool import SerialPool
from taskrl.assemble import load_data, task_space
from taskrl.config import ExperimentConfig
from taskrl.meta import MetaProblem, SearchBudget
from taskrl.tasks.space import Codec, TaskSpace
from taskrl.tracking import NullTracker
from tests.envs.tiny import tiny_config

NAMES = ("thompson", "ppo", "a2c", "dqn", "sac", "tqc", "maskable-ppo", "recurrent-ppo")
EPISODES, DECISIONS = 8, 2
IMAGE = (1, 16, 16)


@dataclass(frozen=True)
class Search:
    """A finished search. prior: the policy before it."""

    policy: SB3TaskPolicy
    prior: SB3TaskPolicy
    problem: MetaProblem
    optimizer: SB3MetaOptimizer
    decisions: list[Decision]


def space_for(config: ExperimentConfig, codec: Codec) -> TaskSpace:
    return task_space(config, IMAGE, codec)


def serial_pool(config: ExperimentConfig) -> SerialPool:
    return SerialPool(WorkerSetup(config, load_data(config), AGENTS[config.agent.name].codec))


def search(name: str, folder: Path | None = None, *, stop_after: int | None = None, **changes: Any) -> Search:
    """Train for 8 episodes; KeyboardInterrupt from the observer after `stop_after` decisions."""
    config = tiny_config(**({"agent__name": name, "agent__episodes": EPISODES} | changes))
    pool = serial_pool(config)
    decisions: list[Decision] = []

    def observe(decision: Decision) -> None:
        if stop_after is not None and len(decisions) == stop_after:
            raise KeyboardInterrupt
        decisions.append(decision)

    optimizer = SB3MetaOptimizer(
        agent=config.agent,
        pool=pool,
        decisions=config.episode.decisions,
        seed=config.seed,
        checkpoints=folder,
        observer=observe,
    )
    problem = pool._host.assembled.problem
    prior = optimizer.prior(problem)
    budget = SearchBudget(num_episodes=config.agent.episodes)
    try:
        policy = optimizer.fit(problem, budget=budget, tracker=NullTracker())
    except KeyboardInterrupt:
        policy = prior
    return Search(policy, prior, problem, optimizer, decisions)


def first_observation(search: Search) -> NDArray[np.float32]:
    """What an episode begins with: nothing played, an untrained encoder."""
    observation = np.zeros(search.policy.policy.observation_space.shape or (), dtype=np.float32)
    observation[1:4] = (0.1, 0.2, 0.1)
    return observation


def equal_tables(first: Mapping[str, NDArray[np.float64]], second: Mapping[str, NDArray[np.float64]]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
