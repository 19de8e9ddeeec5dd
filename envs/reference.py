"""What a recipe reaches on a problem."""

from collections.abc import Callable

from envs.task_generation import TaskGenerationEnv
from taskrl.meta import Action
from taskrl.types import Compute


def quality_curve(
    env: TaskGenerationEnv, action_at: Callable[[int], Action], *, seed: int
) -> tuple[tuple[float, ...], Compute]:
    """Quality before the first and after each decision of one episode, and what that cost. action_at: the action of a
    decision by its number.
    """
    _, info = env.reset(seed=seed)
    curve, done = [info["quality"]], False
    while not done:
        _, _, done, _, info = env.step(action_at(env.num_decisions))
        curve.append(info["quality"])
    trained, measured = env.spent
    return tuple(curve), trained + measured


def reference_curve(env: TaskGenerationEnv, *, seed: int) -> tuple[tuple[float, ...], Compute]:
    """`quality_curve` of the reference recipe."""
    action = env.problem.task_space.encode(env.problem.task_space.reference)
    return quality_curve(env, lambda index: action, seed=seed)
