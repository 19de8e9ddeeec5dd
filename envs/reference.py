"""What a recipe reaches on a problem."""

import math
from collections.abc import Callable, Sequence

from envs.task_generation import TaskGenerationEnv
from taskrl.errors import ConfigError
from taskrl.meta import Action
from taskrl.types import Compute


def quality_curve(
    env: TaskGenerationEnv, action_at: Callable[[int], Action], *, seed: int
) -> tuple[tuple[float, ...], Compute]:
    """Quality before the first and after each decision of one episode, and what that cost. action_at: the action of a
    decision by its number. Raises ConfigError as `refuse_ruined` does.
    """
    _, info = env.reset(seed=seed)
    curve, done = [info["quality"]], False
    while not done:
        _, _, done, _, info = env.step(action_at(env.num_decisions))
        curve.append(info["quality"])
    refuse_ruined(curve, f"the encoder of episode seed {seed}")
    trained, measured = env.spent
    return tuple(curve), trained + measured


def refuse_ruined(qualities: Sequence[float], whose: str) -> None:
    """Raises ConfigError where training has ruined an encoder. qualities: before the first and after each decision."""
    ruined = next((index for index, quality in enumerate(qualities) if not math.isfinite(quality)), None)
    if ruined is not None:
        raise ConfigError(
            f"Training ruined {whose}: from decision {ruined} on its features are not finite numbers; start again with "
            "a lower predictor.learning_rate."
        )


def reference_curve(env: TaskGenerationEnv, *, seed: int) -> tuple[tuple[float, ...], Compute]:
    """`quality_curve` of the reference recipe."""
    action = env.problem.task_space.encode(env.problem.task_space.reference)
    return quality_curve(env, lambda index: action, seed=seed)
