"""What the levels of a task add to the return of an episode: a Bayesian linear model of groups of episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
# sds, the first two in units of the returns' root mean square, the last in units of the effects'
EFFECTS, NOISES, OWN = (0.15, 0.3, 0.6, 1.2), (0.2, 0.4, 0.8, 1.2), (0.1, 0.4)
OUTLYING = 4.0
LEAST = 1e-9


@dataclass(frozen=True)
class _Component:
    """The posterior under one choice of sds: mean (P,), and a factor F (P, P) with F F' its covariance."""

    mean: Vector
    factor: Vector


@final
class Posterior:
    """Return = luck of the group + x . effects + what the episode's task is worth beyond its levels + noise.

    Nothing is assumed about the luck. Effects and noise are Gaussian (Bishop, "Pattern Recognition and Machine
    Learning", 3.49 to 3.51); their sds are not known, and every choice of them counts as much as it explains the
    returns (its evidence, 3.86). A task beyond its levels is asked about only for `tasks`, those to be chosen from.
    """

    def __init__(
        self, x: Sequence[Vector], returns: Sequence[Vector], prior_mean: Vector, tasks: Vector | None = None
    ) -> None:
        """x: for each group, its episodes (N, D); returns: (N,). prior_mean (D,): in sds. tasks (K, D)."""
        self._tasks = np.zeros((0, len(prior_mean))) if tasks is None else tasks
        rows, gains, num_groups = _centred(x, returns, self._tasks)
        scale = max(float(np.sqrt(np.mean(np.square(gains)))), LEAST) if len(gains) else 1.0
        self._dimension = len(prior_mean)
        self._components: list[_Component] = []
        evidence = []
        for effect, noise, own in product(EFFECTS, NOISES, OWN):
            sd = np.concatenate([np.full(len(prior_mean), effect), np.full(len(self._tasks), own * effect)]) * scale
            mean = np.concatenate([effect * scale * prior_mean, np.zeros(len(self._tasks))])
            component, log = _component(rows, gains, mean, sd, noise * scale, len(gains) - num_groups)
            self._components.append(component)
            evidence.append(log)
        weights = np.exp(np.array(evidence) - max(evidence))
        self._weights = weights / weights.sum()

    def samples(self, rng: np.random.Generator, num: int, *, width: float = 1.0) -> Vector:
        """Draws of the effects (num, D). width: of their distance from the mean, as a multiple."""
        return self._draws(rng, num, width)[:, : self._dimension]

    def values(self, rng: np.random.Generator, num: int) -> Vector:
        """Draws of what each of `tasks` adds to a return (num, K); only differences between tasks mean anything."""
        draws = self._draws(rng, num, 1.0)
        return draws[:, : self._dimension] @ self._tasks.T + draws[:, self._dimension :]

    def _draws(self, rng: np.random.Generator, num: int, width: float) -> Vector:
        chosen = rng.choice(len(self._weights), size=num, p=self._weights)
        noise = rng.standard_normal((num, self._dimension + len(self._tasks)))
        draws = np.empty_like(noise)
        for index in np.unique(chosen):
            component, mine = self._components[index], chosen == index
            draws[mine] = component.mean + width * noise[mine] @ component.factor.T
        return draws


def _centred(x: Sequence[Vector], returns: Sequence[Vector], tasks: Vector) -> tuple[Vector, Vector, int]:
    """Rows (N, D + K) and returns (N,) relative to the mean of their group, and the number of groups.

    The same episode twice in a group is one observation. A collapse can cost a hundred times what is to be told apart.
    It shall count, but neither as the unit nor in its group's mean: differences to the median are cut at four times
    what three in four of all episodes stay below.
    """
    groups = [_distinct(*group) for group in zip(x, returns, strict=True)]
    gains = [row - np.median(row) for _, row in groups]
    bound = OUTLYING * float(np.quantile(np.abs(np.concatenate(gains)), 0.75)) if gains else 0.0
    cut = [np.clip(row, -bound, bound) for row in gains]
    rows = [np.concatenate([part, _same(part, tasks)], axis=1) for part, _ in groups]
    width = tasks.shape[1] + len(tasks)
    centred = np.concatenate([np.zeros((0, width)), *(part - part.mean(axis=0) for part in rows)])
    return centred, np.concatenate([np.zeros(0), *(row - row.mean() for row in cut)]), len(groups)


def _distinct(x: Vector, returns: Vector) -> tuple[Vector, Vector]:
    rows = np.unique(np.column_stack([x, returns]), axis=0)
    return rows[:, :-1], rows[:, -1]


def _same(x: Vector, tasks: Vector) -> Vector:
    """1 where a row of x is a row of tasks (N, K)."""
    return np.array(np.isclose(x[:, None], tasks[None]).all(axis=2), dtype=np.float64)


def _component(
    rows: Vector, gains: Vector, mean: Vector, sd: Vector, noise: float, freedom: int
) -> tuple[_Component, float]:
    """The posterior, and the log of its evidence but for a constant. freedom: observations without the groups' luck."""
    residual = gains - rows @ mean
    scaled = rows * sd / noise
    lower = np.linalg.cholesky(np.eye(len(mean)) + scaled.T @ scaled)
    half = np.linalg.solve(lower, scaled.T @ residual / noise)
    inverse = np.linalg.solve(lower, np.eye(len(mean)))  # L^-1
    fit = residual @ residual / noise**2 - half @ half
    evidence = -0.5 * (fit + 2 * np.log(np.diag(lower)).sum() + 2 * freedom * np.log(noise))
    factor = sd[:, None] * inverse.T
    return _Component(mean + factor @ half, factor), float(evidence)
