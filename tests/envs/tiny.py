"""The smallest real problem, and how tests play on it."""

from typing import Any

import numpy as np

from envs.factory import make_env
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import ExperimentConfig, load_config
from taskrl.tasks.space import Codec

CODECS: tuple[Codec, ...] = ("multidiscrete", "discrete", "box")
TINY: dict[str, Any] = {
    "data.source": "digits",
    "predictor.batch_size": 32,
    "predictor.width": 8,
    "predictor.device": "cpu",
    "predictor.precision": "fp32",
    "episode.decisions": 2,
    "episode.steps_per_decision": 2,
    "agent.group_size": 2,
    "agent.episodes": 4,
    "final.seeds": 2,
    "final.decisions": 2,
    "final.steps_per_decision": 2,
    "tracking.uri": "none",
    "workers": 1,
    "envs": "processes",
    "predictor.compile": "never",
    "reward.noise_test": "off",
}


def tiny_config(**changes: Any) -> ExperimentConfig:
    """TINY with changes; dots are written as double underscores."""
    return load_config(given=TINY | {key.replace("__", "."): value for key, value in changes.items()})


def tiny_problem(codec: Codec = "multidiscrete", **changes: Any) -> Assembled:
    config = tiny_config(**changes)
    return assemble(config, load_data(config), codec=codec)


def tiny_env(codec: Codec = "multidiscrete", **changes: Any) -> TaskGenerationEnv:
    assembled = tiny_problem(codec, **changes)
    return make_env(assembled.problem, assembled.config.episode)


def reference_action(env: TaskGenerationEnv) -> Any:
    space = env.problem.task_space
    return space.encode(space.reference)


def play(env: TaskGenerationEnv, actions: list[Any], *, seed: int) -> dict[str, Any]:
    """One episode: everything that it gave."""
    observation, info = env.reset(seed=seed)
    observations, rewards, infos = [observation], [], [info]
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        infos.append(info)
    return {"observations": np.stack(observations), "rewards": rewards, "infos": infos}


def random_actions(env: TaskGenerationEnv, count: int, *, seed: int) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]
