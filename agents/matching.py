"""Probability matching: an SB3 algorithm that plays each level as often as it is likely to be the best one."""

from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from agents.prior import set_logits
from agents.searches.thompson import LinearThompson, Memory, TaskFeatures, Vector
from taskrl.errors import ConfigError
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import FORBIDDEN_LOGIT, TaskSpace

OUTLYING = 4.0


@final
class ProbabilityMatching(OnPolicyAlgorithm):
    """Thompson sampling (1933) whose draws are a policy: softmax probabilities are those of being best under the
    posterior of a Bayesian linear model.

    The model says what the levels of a task add to the return of a whole episode, relative to the mean of its group
    (equal seed), and how that changes over the episode. It is fitted to every episode so far, where a policy
    gradient learns from the last group only. Levels of different parts add up, so that each part's probabilities are
    a softmax of their own, linear in progress; after the first decision, what was played last stays likely.

    While it learns, doubt is explored. At the end of `learn` doubt is what is left to avoid: probabilities are those
    under the mean of `sharpness` draws from the posterior instead of one, each effect lowered by `caution` times its
    posterior sd. A level that is not the reference's is then played only where it is probably better (a lower
    confidence bound: Jin, Yang and Wang, "Is Pessimism Provably Efficient for Offline RL?", 2021).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": ActorCriticPolicy}

    def __init__(
        self,
        policy: str,
        env: Any,
        *,
        task_space: TaskSpace,
        names: Sequence[str],
        n_steps: int,
        prior_strength: float,
        persistence: float,
        drift: float = 0.2,
        num_draws: int = 1000,
        sharpness: float = 100.0,
        caution: float = 1.0,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: str = "cpu",
    ) -> None:
        """task_space: of the actions. names: entries of the observation. n_steps: decisions of an episode. drift: how
        much an effect may change over an episode, relative to its size. caution: 1 is one-sided 84 %.
        """
        if not (drift >= 0 and num_draws >= 2 and sharpness > 0 and caution >= 0):
            raise ConfigError(
                f"Options drift={drift}, num_draws={num_draws}, sharpness={sharpness}, caution={caution} of thompson "
                "are out of range; use drift >= 0, num_draws >= 2, sharpness > 0 and caution >= 0."
            )
        self._features = TaskFeatures(task_space, prior_strength, drift=drift)
        self.memory = Memory(self._features.prior_mean)
        self._space = task_space
        self._names = tuple(names)
        self._persistence = persistence
        self._num_draws = num_draws
        self._sharpness = sharpness
        self._caution = caution
        super().__init__(
            policy,
            env,
            learning_rate=0.0,
            n_steps=n_steps,
            gamma=1.0,
            gae_lambda=1.0,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=0.0,
            use_sde=False,
            sde_sample_freq=-1,
            policy_kwargs=policy_kwargs,
            seed=seed,
            device=device,
        )

    def learn(self, *arguments: Any, **keywords: Any) -> "ProbabilityMatching":
        """Play and fit; what was learned before counts."""
        if self.memory.gains:
            self._match(final=False)
        super().learn(*arguments, **keywords)
        return self

    def train(self) -> None:
        """Remember a group of whole episodes, and match."""
        actions = self.rollout_buffer.actions.reshape(self.n_steps, self.n_envs, -1).astype(np.int64)
        middles = [self._middle(index) for index in range(self.n_steps)]
        rows = [
            self._features.rows([self._space.decode(a) for a in actions[:, i]], middles) for i in range(self.n_envs)
        ]
        x, returns = np.stack([row.mean(axis=0) for row in rows]), self.rollout_buffer.rewards.sum(axis=0, dtype=float)
        self.memory.add(x, returns - np.median(returns))
        self._n_updates += 1
        self._match(final=self.num_timesteps >= self._total_timesteps)
        self.logger.record("train/n_updates", self._n_updates)

    def _match(self, *, final: bool) -> None:
        """Probabilities under the posterior: logits on a line through those of the first and the last decision."""
        rng = numpy_generator(self.seed or 0, "probability matching", len(self.memory.gains))
        draws = self._model().samples(rng, self._num_draws)
        first, last = (self._logits(draws, self._middle(index), final) for index in (0, self.n_steps - 1))
        slope = (last - first) / (1 - 1 / self.n_steps)  # the last decision is observed at this progress
        set_logits(self.policy, self._space, self._names, start=first, slope=slope, persistence=self._persistence)

    def _model(self) -> LinearThompson:
        """The posterior, from returns relative to the mean of their group.

        A collapse can cost a hundred times what is to be told apart. It shall count, but neither as the unit nor in its
        group's mean: differences to the median are cut at four times what three in four of all episodes stay below.
        """
        bound = OUTLYING * float(np.quantile(np.abs(np.concatenate(self.memory.gains)), 0.75))
        centred = Memory(self._features.prior_mean)
        for x, gains in zip(self.memory.x, self.memory.gains, strict=True):
            cut = np.clip(gains, -bound, bound)
            centred.add(x - x.mean(axis=0), cut - cut.mean())
        return centred.model()

    def _middle(self, index: int) -> float:
        """Of a decision, so that effects drift symmetrically about mid-episode."""
        return (index + 0.5) / self.n_steps

    def _logits(self, draws: Vector, progress: float, final: bool) -> NDArray[np.float64]:
        """Log shares of the draws (S, D) under which a level is its part's best, all parts in a row; half a draw is
        added to each open level, so that none is ever shut.
        """
        effects = self._features.effects(draws, progress)
        if final:
            mean, sd = effects.mean(axis=0), effects.std(axis=0)
            effects = mean - self._caution * sd + (effects - mean) / np.sqrt(self._sharpness)
        logits = []
        for part, best in zip(self._space.parts, self._features.best_levels(effects).T, strict=True):
            counts = np.bincount(best, minlength=len(part.levels)) + 0.5
            logits.append(np.where(part.allowed, np.log(counts / counts.sum()), FORBIDDEN_LOGIT))
        return np.concatenate(logits)
