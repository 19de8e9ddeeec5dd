"""Linear Thompson sampling: what each level of a task adds to a gain, learned as a Bayesian linear regression."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import final

import numpy as np
from numpy.typing import NDArray

from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

Vector = NDArray[np.float64]
FORGETTING = 0.99  # an episode
SCALES = (0.03, 0.1, 0.3, 1.0)  # of effects and of noise, in units of the gains' root mean square


@final
class LinearThompson:
    """Gain = weights . x + noise, with a Gaussian prior on the weights and noise of known sd.

    Bishop, "Pattern Recognition and Machine Learning", 3.49 to 3.51. With `forgetting` below 1 every update first fades
    what was observed before (never the prior), for effects that drift.
    """

    def __init__(self, prior_mean: Vector, prior_sd: Vector, *, noise_sd: float, forgetting: float = 1.0) -> None:
        """prior_mean, prior_sd (D,): of independent weights. Raises ValueError for sds that are not above 0, or a
        forgetting factor outside (0, 1].
        """
        if not (np.all(prior_sd > 0) and noise_sd > 0 and 0 < forgetting <= 1):
            raise ValueError("prior_sd and noise_sd must be above 0, forgetting in (0, 1]")
        self._prior_precision = np.diag(1 / np.square(prior_sd))
        self._prior_shift = self._prior_precision @ prior_mean
        self._observed = np.zeros_like(self._prior_precision)  # sum of x x' / noise variance
        self._pull = np.zeros_like(self._prior_shift)  # sum of x gain / noise variance
        self._noise_variance = noise_sd**2
        self._forgetting = forgetting

    @property
    def covariance(self) -> Vector:
        """Posterior covariance of the weights (D, D)."""
        return np.asarray(np.linalg.inv(self._prior_precision + self._observed), dtype=np.float64)

    @property
    def mean(self) -> Vector:
        """Posterior mean of the weights (D,)."""
        mean = np.linalg.solve(self._prior_precision + self._observed, self._prior_shift + self._pull)
        return np.asarray(mean, dtype=np.float64)

    def update(self, x: Vector, gain: Vector | float) -> None:
        """Learn from one observation, x (D,), or from several made at the same time, x (N, D) and gain (N,)."""
        rows, gains = np.atleast_2d(x), np.atleast_1d(np.asarray(gain, dtype=np.float64))
        self._observed = self._forgetting * self._observed + rows.T @ rows / self._noise_variance
        self._pull = self._forgetting * self._pull + rows.T @ gains / self._noise_variance

    def sample(self, rng: np.random.Generator) -> Vector:
        """Weights (D,) drawn from the posterior."""
        # L L' = precision: L'^-1 z has the posterior's covariance
        factor = np.linalg.cholesky(self._prior_precision + self._observed)
        return np.asarray(self.mean + np.linalg.solve(factor.T, rng.standard_normal(len(self._pull))))


def log_evidence(x: Vector, gain: Vector, prior_mean: Vector, prior_sd: Vector, *, noise_sd: float) -> float:
    """Log density of gains (N,) at x (N, D) under the prior (Bishop, 3.86): what says which sds fit."""
    residual = gain - x @ prior_mean
    covariance = (x * np.square(prior_sd)) @ x.T + noise_sd**2 * np.eye(len(gain))
    _, log_determinant = np.linalg.slogdet(covariance)
    fit = residual @ np.linalg.solve(covariance, residual)
    return float(-0.5 * (fit + log_determinant + len(gain) * np.log(2 * np.pi)))


@final
@dataclass
class Memory:
    """What was observed, episode by episode: tasks as vectors (N, D), and their gains over the control's (N,)."""

    prior_mean: Vector
    x: list[Vector] = field(default_factory=list)
    gains: list[Vector] = field(default_factory=list)

    def add(self, x: Vector, gains: Vector) -> None:
        self.x.append(x)
        self.gains.append(gains)

    def model(self) -> LinearThompson:
        """The posterior. The sds of effects and noise are those that explain the gains best (empirical Bayes)."""
        mean = self.prior_mean
        if not self.gains:
            return LinearThompson(mean, np.ones_like(mean), noise_sd=1.0)
        x, gains = np.concatenate(self.x), np.concatenate(self.gains)
        scale = max(float(np.sqrt(np.mean(np.square(gains)))), 1e-9)

        def evidence(pair: tuple[float, float]) -> float:
            effect, noise = pair
            return log_evidence(x, gains, effect * mean, np.full_like(mean, effect), noise_sd=noise)

        effect, noise = max(((scale * first, scale * second) for first in SCALES for second in SCALES), key=evidence)
        model = LinearThompson(effect * mean, np.full_like(mean, effect), noise_sd=noise, forgetting=FORGETTING)
        for rows, row_gains in zip(self.x, self.gains, strict=True):
            model.update(rows, row_gains)
        return model


@final
class TaskFeatures:
    """Tasks as vectors for a linear model, and the best task of such a model.

    For each open level that is not the reference's, an indicator and its product with `drift` x (progress from -1 to
    1): the reference is the zero vector, and an effect may change over an episode. `prior_mean`, in units of the prior
    sd, is such that the best task of weights drawn from the prior follows `TaskSpace.prior_logits` at mid-episode.
    """

    def __init__(self, space: TaskSpace, prior_strength: float, *, drift: float = 0.5) -> None:
        """space: of the canonical codec."""
        self._space = space
        self._drift = drift
        self._columns: list[tuple[int, int]] = []  # part, level
        means: list[float] = []
        for index, part in enumerate(space.parts):
            open_ = [level for level, flag in enumerate(part.allowed) if flag and level != part.reference]
            self._columns += [(index, level) for level in open_]
            means += [_prior_mean(prior_strength * part.logit, len(open_))] * len(open_)
        self.prior_mean: Vector = np.array([*means, *np.zeros(len(means))])
        knobs = len(space.parts) - len(space.knobs)
        weaker = [float(part >= knobs and level < space.parts[part].reference) for part, level in self._columns]
        self.weaker: Vector = np.array([*weaker, *np.zeros(len(weaker))])

    def of(self, spec: TaskSpec, progress: float) -> Vector:
        """The vector (D,) of a task played at `progress`, in [0, 1]."""
        levels = self._space.level_indices(spec)
        indicators = np.array([float(levels[part] == level) for part, level in self._columns])
        return np.concatenate([indicators, indicators * self._slope(progress)])

    def best(self, weights: Vector, progress: float) -> TaskSpec:
        """The task of the largest weights . of(task, progress)."""
        return self._space.decode(self.best_levels(self.effects(weights[None], progress))[0])

    def effects(self, weights: Vector, progress: float) -> Vector:
        """For each row of weights (S, D), what each level but the reference's adds at `progress` (S, D / 2)."""
        constant, slope = np.split(weights, 2, axis=1)
        return constant + self._slope(progress) * slope

    def best_levels(self, effects: Vector, *, most: int | None = None) -> NDArray[np.int64]:
        """For each row of `effects`, the level of each part that is best (S, num_parts). most: the number of parts in
        which it may differ from the reference's; those that add least are put back.
        """
        reference = np.array([part.reference for part in self._space.parts], dtype=np.int64)
        levels = np.tile(reference, (len(effects), 1))
        gains = np.zeros(levels.shape)
        for column, (part, level) in enumerate(self._columns):
            better = effects[:, column] > gains[:, part]
            levels[better, part], gains[better, part] = level, effects[better, column]
        if most is not None and most < levels.shape[1]:
            least = np.argsort(-gains, axis=1, kind="stable")[:, most:]
            np.put_along_axis(levels, least, reference[least], axis=1)
        return levels

    def rows(self, specs: Sequence[TaskSpec], progress: Sequence[float]) -> Vector:
        """`of` for several tasks (N, D)."""
        return np.stack([self.of(spec, at) for spec, at in zip(specs, progress, strict=True)])

    def episodes(self, plans: NDArray[np.int64], progress: Sequence[float]) -> Vector:
        """The mean vector of each episode (N, D). plans (N, T, num_parts): levels played at each of T decisions, begun
        at `progress` (T,).
        """
        distinct, where = np.unique(plans.reshape(-1, plans.shape[-1]), axis=0, return_inverse=True)
        vectors = np.stack([self.of(self._space.decode(levels), 1.0) for levels in distinct])
        indicators = np.split(vectors, 2, axis=1)[0][where.reshape(plans.shape[:2])]
        slopes = np.array([self._slope(at) for at in progress])[:, None]
        return np.concatenate([indicators.mean(axis=1), (indicators * slopes).mean(axis=1)], axis=1)

    def _slope(self, progress: float) -> float:
        return self._drift * (2 * progress - 1)


def _prior_mean(logit: float, num_others: int) -> float:
    """Mean, in sds, of the effects of the levels beside the reference's, such that all of them are below 0 as often as
    a softmax with this logit chooses the reference.
    """
    if not num_others:
        return 0.0
    share = np.exp(logit) / (np.exp(logit) + num_others)
    return -NormalDist().inv_cdf(float(share) ** (1 / num_others))
