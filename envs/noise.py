"""The A/A test: how much of a decision's gain is chance, and how much is the task that was chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from envs.factory import make_env
from taskrl.config import EpisodeConfig
from taskrl.evaluation.noise import Noise, noise_of
from taskrl.meta import MetaProblem
from taskrl.seeding import derive_seed
from taskrl.types import Compute

NUM_DEVIATIONS = 6
NUM_DRAWS = 2
NUM_REFERENCE_DRAWS = 3
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class NoiseReport:
    """gains: [action][draw], of the tasks in `actions`, the reference first. index: of the decision that was tested.
    compute: what the test spent.
    """

    noise: Noise
    actions: tuple[str, ...]
    gains: tuple[tuple[float, ...], ...]
    index: int
    steps_per_decision: int
    compute: Compute


def num_decisions(problem: MetaProblem, episode: EpisodeConfig) -> int:
    """How many decisions `measure_noise` plays."""
    others = min(len(problem.task_space.deviations), NUM_DEVIATIONS)
    return episode.decisions // 2 + NUM_REFERENCE_DRAWS + others * NUM_DRAWS


def measure_noise(
    problem: MetaProblem, episode: EpisodeConfig, *, seed: int, after_decision: Callable[[], None] = lambda: None
) -> NoiseReport | None:
    """Half an episode of the reference recipe; from there, the recipe and deviations from it in one part each, every
    one with several draws of batches and views. None where the user's limits leave nothing but the recipe.
    """
    env = make_env(problem.unshaped(), episode)
    space = problem.task_space
    deviations = _spread(space.deviations, NUM_DEVIATIONS)
    if not deviations:
        return None
    env.reset(seed=derive_seed(seed, "noise test"))
    index = episode.decisions // 2
    for _ in range(index):
        env.step(space.encode(space.reference))
        after_decision()
    snapshot = env.snapshot()
    half = compute = _sum(env.spent)
    gains = []
    for spec in (space.reference, *deviations):
        row = []
        for draw in range(NUM_REFERENCE_DRAWS if spec == space.reference else NUM_DRAWS):
            env.restore(snapshot, redraw=draw)
            row.append(env.step(space.encode(spec))[1])
            spent = _sum(env.spent)
            compute += Compute(flops=spent.flops - half.flops, images=spent.images - half.images)
            after_decision()
        gains.append(tuple(row))
    return NoiseReport(
        noise=noise_of(gains),
        actions=tuple(spec.describe() for spec in (space.reference, *deviations)),
        gains=tuple(gains),
        index=index,
        steps_per_decision=episode.steps_per_decision,
        compute=compute,
    )


def _sum(spent: tuple[Compute, Compute]) -> Compute:
    trained, measured = spent
    return trained + measured


def _spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """`count` of the items (all, if there are fewer), evenly from the first to the last."""
    if len(items) <= count:
        return tuple(items)
    return tuple(items[round(i * (len(items) - 1) / (count - 1))] for i in range(count))
