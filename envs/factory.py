"""Entry point of gymnasium.make: assembles the problem from keyword arguments."""

from typing import Any

from envs.episode import EpisodeLength
from envs.observation import ObservationBuilder
from envs.reference import reference_curve
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import assemble, load_data, with_reward
from taskrl.config import EpisodeConfig, load_config
from taskrl.meta import MetaProblem
from taskrl.tasks.space import Codec


def make_env(problem: MetaProblem, episode: EpisodeConfig) -> TaskGenerationEnv:
    """The environment on an assembled problem."""
    length = EpisodeLength(decisions=episode.decisions, steps_per_decision=episode.steps_per_decision)
    return TaskGenerationEnv(problem=problem, episode=length, observe=ObservationBuilder.of(problem))


def make_task_generation(
    *, data: str = "cluttered-digits", codec: Codec = "multidiscrete", settings: dict[str, Any] | None = None
) -> TaskGenerationEnv:
    """`gymnasium.make("taskrl/TaskGeneration-v0", data="digits", settings={"episode.decisions": 4})`.

    data: a name or a path. settings: any configuration keys in dotted form. A reward relative to the reference's curve
    has the curve measured here, by one episode, unless it is given. Raises ConfigError or DataError.
    """
    config = load_config(given={"data.source": data, **(settings or {})})
    assembled = assemble(config, load_data(config), codec=codec)
    if config.reward.shaping == "relative" and not config.reward.reference_curve:
        curve, _ = reference_curve(make_env(assembled.problem.unshaped(), config.episode), seed=config.seed)
        reward = assembled.config.reward.model_copy(update={"reference_curve": list(curve)})
        assembled = with_reward(assembled, assembled.config.model_copy(update={"reward": reward}))
    return make_env(assembled.problem, config.episode)
