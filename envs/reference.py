"""What the reference recipe reaches on a problem."""

from envs.task_generation import TaskGenerationEnv
from taskrl.types import Compute


def reference_curve(env: TaskGenerationEnv, *, seed: int) -> tuple[tuple[float, ...], Compute]:
    """Quality of the reference recipe before the first and after each decision of one episode, and what that cost."""
    action = env.problem.task_space.encode(env.problem.task_space.reference)
    _, info = env.reset(seed=seed)
    curve, done = [info["quality"]], False
    while not done:
        _, _, done, _, info = env.step(action)
        curve.append(info["quality"])
    trained, measured = env.spent
    return tuple(curve), trained + measured
