"""One whole episode under a task policy: how every final encoder is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.task_generation import TaskGenerationEnv
from taskrl.meta import Observation, OnlineTaskPolicy, TaskPolicy
from taskrl.types import Compute


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What happened in an episode, decision by decision; one that was stopped has fewer than `num_planned` of them.

    qualities has one entry more than specs: the untrained encoder's comes first. choices: probabilities at each
    decision. observations: what was observed there (size,) each; entries: their names.
    """

    specs: tuple[str, ...]
    rewards: tuple[float, ...]
    qualities: tuple[float, ...]
    infos: tuple[Mapping[str, Any], ...]
    choices: tuple[Mapping[str, NDArray[np.float64]], ...]
    observations: tuple[Observation, ...]
    entries: tuple[str, ...]
    compute: Compute
    wall_seconds: float
    num_planned: int


def run_episode(
    env: TaskGenerationEnv,
    policy: TaskPolicy,
    *,
    seed: int,
    deterministic: bool = False,
    after_decision: Callable[[int, Mapping[str, Any]], None] = lambda index, info: None,
    stop: Callable[[float], bool] = lambda quality: False,
) -> Trace:
    """Train a fresh predictor for one episode; afterwards `env.predictor` is the result.

    stop: told the quality after every decision; when it says so, no further decision is taken or charged.
    """
    observation, first = env.reset(seed=seed)
    state: Any = None
    specs, rewards, qualities, infos, choices, observations = [], [], [first["quality"]], [], [], []
    wall_s = 0.0
    done = False
    while not done:
        observations.append(observation)
        choices.append(policy.probabilities(observation))
        action, state = policy.propose(observation, state, deterministic=deterministic)
        observation, reward, done, _, info = env.step(action)
        if isinstance(policy, OnlineTaskPolicy):
            policy.learn(reward)
        wall_s += sum(env.timings.values())
        specs.append(info["spec"])
        rewards.append(reward)
        qualities.append(info["quality"])
        infos.append(info)
        after_decision(len(specs) - 1, info)
        done = stop(info["quality"]) or done
    trained, measured = env.spent
    return Trace(
        specs=tuple(specs),
        rewards=tuple(rewards),
        qualities=tuple(qualities),
        infos=tuple(infos),
        choices=tuple(choices),
        observations=tuple(observations),
        entries=env.observation_names,
        compute=trained + measured,
        wall_seconds=wall_s,
        num_planned=env.episode.decisions,
    )
