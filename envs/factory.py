"""Entry point of gymnasium.make: assembles the problem from keyword arguments."""

from typing import Any

from envs.episode import EpisodeLength
from envs.observation import ObservationBuilder
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import assemble, load_data
from taskrl.config import EpisodeConfig, load_config
from taskrl.meta import MetaProblem
from taskrl.tasks.space import Codec


def make_env(problem: MetaProblem, episode: EpisodeConfig) -> TaskGenerationEnv:
    """The environment on an assembled problem."""
    length = EpisodeLength(decisions=episode.decisions, steps_per_decision=episode.steps_per_decision)
    return TaskGenerationEnv(problem=problem, episode=length, observe=ObservationBuilder(problem.task_space))


def make_task_generation(
    *, data: str = "cluttered-digits", codec: Codec = "multidiscrete", settings: dict[str, Any] | None = None
) -> TaskGenerationEnv:
    """`gymnasium.make("taskrl/TaskGeneration-v0", data="digits", settings={"episode.decisions": 4})`.

    data: a name or a path. settings: any configuration keys in dotted form. Raises ConfigError or DataError.
    """
    config = load_config(given={"data.source": data, **(settings or {})})
    assembled = assemble(config, load_data(config), codec=codec)
    return make_env(assembled.problem, config.episode)
