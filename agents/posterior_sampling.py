"""Posterior sampling: an SB3 algorithm that plays tasks which may be the best, and plays what it found again."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from agents.posterior import Posterior
from agents.prior import set_logits
from agents.searches.thompson import Memory, TaskFeatures, Vector
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import FORBIDDEN_LOGIT, TaskSpace

Levels = NDArray[np.int64]
PRIOR_SHARE = 0.5
WIDTHS = (1.0, 2.0, 4.0)
SMALLEST_GROUPS = 4
SURE = 1000  # draws that agree, as which the task counts that was found
ROUNDING = 1e-9


class PlannedPolicy(ActorCriticPolicy):
    """SB3's policy, but that rollouts play what is planned, decision by decision, for as long as there is a plan."""

    plan: Iterator[Levels] = iter(())

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions, values and log probabilities."""
        planned = next(self.plan, None)
        if planned is None:
            return super().forward(obs, deterministic)
        actions = torch.as_tensor(planned, device=self.device)
        values, log_prob, _ = self.evaluate_actions(obs, actions)
        return actions, values, log_prob


@final
class PosteriorSampling(OnPolicyAlgorithm):
    """Thompson sampling (1933) over the tasks of whole episodes, under the posterior of a Bayesian linear model.

    The model says what the levels of a task add to the return of an episode, relative to its group (equal seed). It is
    fitted to every episode so far, where a policy gradient learns from the last group only. In every group the first
    episode plays the reference; while it looks, each of the others plays the task that is best under a draw of its own
    from the posterior, in at most `deviations` parts. None is played twice in a group, as long as there are enough.

    The last groups, a share `again` of all, do not look for more: candidates are played in each of them beside the
    reference. What the policy plays in the end is one of them, found by leaving the reference step by step for the
    candidate of fewest changes that is better by `caution` posterior sds (1.64: one-sided 95 %; a lower bound on what
    was learned, as in Jin, Yang and Wang, "Is Pessimism Provably Efficient for Offline RL?", 2021). A weaker view makes
    the pretext task easier, which pays early in training and less later (Wu et al., "Understanding Short-Horizon Bias
    in Stochastic Meta-Optimization", 2018), so that each also has to add `horizon` times what an episode of the
    reference gains.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": PlannedPolicy}

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
        drift: float = 0.0,
        num_draws: int = 1000,
        deviations: int = 3,
        again: float = 0.25,
        caution: float = 1.64,
        horizon: float = 0.25,
        without_gain: float = 0.0,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: str = "cpu",
    ) -> None:
        """task_space: of the actions. names: entries of the observation. n_steps: decisions of an episode. drift: how
        much an effect may change over an episode, relative to its size; with 0 an episode plays one task. without_gain:
        what an episode of the reference would return that gained nothing.
        """
        self._features = TaskFeatures(task_space, PRIOR_SHARE * prior_strength, drift=drift)
        self.memory = Memory(self._features.prior_mean)
        self._space = task_space
        self._names = tuple(names)
        self._persistence = persistence
        self._num_draws = num_draws
        self._deviations = deviations
        self._again = again
        self._caution = caution
        self._horizon = horizon
        self._without_gain = without_gain
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

    def collect_rollouts(self, *arguments: Any, **keywords: Any) -> bool:
        """Play a group of whole episodes as planned."""
        policy: Any = self.policy
        policy.plan = iter(self._plan().swapaxes(0, 1))
        return super().collect_rollouts(*arguments, **keywords)

    def train(self) -> None:
        """Remember a group of whole episodes, and match."""
        actions = self.rollout_buffer.actions.reshape(self.n_steps, self.n_envs, -1).astype(np.int64)
        self.memory.add(
            self._features.episodes(actions.swapaxes(0, 1), self._middles),
            self.rollout_buffer.rewards.sum(axis=0, dtype=float),
        )
        self._n_updates += 1
        if len(self.memory.gains) < self._num_groups:
            self._match()
        else:
            self._settle()
        self.logger.record("train/n_updates", self._n_updates)

    @property
    def _num_groups(self) -> int:
        return int(self._total_timesteps) // (self.n_steps * self.n_envs)

    @property
    def _num_looking(self) -> int:
        """Groups before the candidates are played again; too few to play any again: all."""
        groups = self._num_groups
        return groups - int(self._again * groups) if groups >= SMALLEST_GROUPS else groups

    def _plan(self) -> Levels:
        """What each episode of the next group plays: (num_envs, n_steps, num_parts)."""
        finished = len(self.memory.gains)
        if finished >= self._num_looking:
            return self._candidates()
        return self._group(self._looking(self._posterior(finished), self._rng("plan", finished)))

    def _candidates(self) -> Levels:
        """The reference; the best single change of it on average, the best two, and so on; then what else seems best,
        as far as a group has room.
        """
        looked = min(self._num_looking, len(self.memory.gains))
        posterior, rng = self._posterior(looked), self._rng("candidates", looked)
        draws = posterior.samples(rng, self._num_draws, width=0.5) - self._asked(looked)
        mean = draws.mean(axis=0)
        nested = [self._best_plans(mean[None], most=most) for most in range(1, len(self._space.parts) + 1)]
        others = np.unique(self._best_plans(draws, most=None), axis=0)
        order = np.argsort(-(self._features.episodes(others, self._middles) @ mean), kind="stable")
        return self._group(chain(nested, [others[order]], self._looking(posterior, rng)))

    def _looking(self, posterior: Posterior, rng: np.random.Generator) -> Iterator[Levels]:
        """Plans that may be the best, spread further with every item."""
        for width in WIDTHS:
            draws = posterior.samples(rng, 8 * self.n_envs, width=width)
            yield self._best_plans(draws, most=self._deviations)

    def _group(self, sources: Iterable[Levels]) -> Levels:
        """The reference's plan, and distinct others from `sources` in their order; where they are too few, the
        reference's again. A task that several levels mean has those that it is encoded with.
        """
        reference = np.array([part.reference for part in self._space.parts], dtype=np.int64)
        always = np.tile(reference, (1, self.n_steps, 1))
        chosen: dict[bytes, Levels] = {}
        for plans in chain([always], sources):
            for row, plan in zip(self._features.episodes(plans, self._middles), plans, strict=True):
                chosen.setdefault(row.tobytes(), plan)
            if len(chosen) >= self.n_envs:
                break
        group = [*chosen.values(), *np.repeat(always, self.n_envs, axis=0)][: self.n_envs]
        canonical = [[self._space.level_indices(self._space.decode(levels)) for levels in plan] for plan in group]
        return np.array(canonical, dtype=np.int64)

    def _best_plans(self, draws: Vector, *, most: int | None) -> Levels:
        """The best task at each decision under each draw (S, n_steps, num_parts). most: as in `best_levels`."""
        effects = [self._features.effects(draws, middle) for middle in self._middles]
        return np.stack([self._features.best_levels(each, most=most) for each in effects], axis=1)

    @property
    def _middles(self) -> list[float]:
        """Progress amid each decision, so that effects drift symmetrically about mid-episode."""
        return [(index + 0.5) / self.n_steps for index in range(self.n_steps)]

    def _posterior(self, groups: int, tasks: Vector | None = None) -> Posterior:
        return Posterior(self.memory.x[:groups], self.memory.gains[:groups], self._features.prior_mean, tasks)

    def _rng(self, *path: str | int) -> np.random.Generator:
        return numpy_generator(self.seed or 0, "posterior sampling", *path)

    def _match(self) -> None:
        """While it learns, the policy is what would be drawn next: each level as likely as it is the best."""
        finished = len(self.memory.gains)
        draws = self._posterior(finished).samples(self._rng("match", finished), self._num_draws)
        plans = self._best_plans(draws, most=self._deviations)
        self._set(plans[:, 0], plans[:, -1])

    def _settle(self) -> None:
        """In the end the policy is one candidate. From the reference on it is left for another with the fewest changes,
        as long as one is probably better.
        """
        candidates = self._candidates()
        tasks = self._features.episodes(candidates, self._middles)
        distinct = np.sort(np.unique(tasks, axis=0, return_index=True)[1])
        candidates, tasks = candidates[distinct], tasks[distinct]
        groups = len(self.memory.gains)
        values = self._posterior(groups, tasks).values(self._rng("settle"), self._num_draws)
        asked = tasks @ self._asked(groups)
        num_changes = (np.abs(tasks) > ROUNDING).sum(axis=1)
        best = 0  # the reference
        while True:
            leads = values - values[:, [best]]
            least = np.maximum(self._caution * leads.std(axis=0), asked - asked[best])
            better = np.flatnonzero(leads.mean(axis=0) > least)
            if not len(better):
                break
            best = int(min(better, key=lambda index: (num_changes[index], -leads[:, index].mean())))
        self._set(*(np.tile(candidates[best, row], (SURE, 1)) for row in (0, -1)))

    def _asked(self, groups: int) -> Vector:
        """What each effect has to be at least (D,), in return, after `groups` groups."""
        # the reference is the first of its group
        gains = [returns[0] - self._without_gain for returns in self.memory.gains[:groups]]
        return self._horizon * max(float(np.median(gains)), 0.0) * self._features.weaker

    def _set(self, first: Levels, last: Levels) -> None:
        """Logits on a line through those of the first and the last decision."""
        start, end = self._logits(first), self._logits(last)
        slope = (end - start) / (1 - 1 / self.n_steps)  # the last decision is observed at this progress
        set_logits(self.policy, self._space, self._names, start=start, slope=slope, persistence=self._persistence)

    def _logits(self, levels: Levels) -> Vector:
        """Log shares of the draws (S, num_parts) that play a level, all parts in a row; half a draw is added to each
        open level, so that none is ever shut.
        """
        logits = []
        for part, played in zip(self._space.parts, levels.T, strict=True):
            counts = np.bincount(played, minlength=len(part.levels)) + 0.5
            logits.append(np.where(part.allowed, np.log(counts / counts.sum()), FORBIDDEN_LOGIT))
        return np.concatenate(logits)
