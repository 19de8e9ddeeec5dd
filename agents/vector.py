"""SB3's VecEnv over a pool of workers: environments that run in lock-step, so that they finish together.

With branches, they also begin every decision together (agents/branching.py).

The number of environments is a setting of the agent (its group of episodes); the number of workers only says how many
of them run at the same time. Seeds are keyed by the episode's index, so results do not depend on the workers.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from agents.branching import Branches
from envs.host import Stepped
from envs.pool import Pool
from taskrl.seeding import derive_seed, numpy_generator
from taskrl.types import Compute


class LockstepVecEnv(VecEnv):
    """`group_size` environments on a pool. With `group_relative`, rewards are paid relative to the group's mean
    at the same decision.

    Episodes of a group share their seed: initial encoder, order of the data, draws of the views. What differs between
    them is what was played, so that the group's mean is a control variate; totals still telescope.

    Infos have, beside the environment's: "reward", the true one, whatever is paid; "return", the gain of its path from
    the first encoder; "charged", what the decision cost, so that the sum over all rows is what was spent.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        group_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        action_mask: NDArray[np.bool_],
        seed: int,
        first_group: int = 0,
        group_relative: bool = True,
        shuffle_rewards: bool = False,
        branches: bool = False,
    ) -> None:
        """first_group: number of groups already played (resume). shuffle_rewards: a control that deals each decision's
        rewards out anew. branches: after every decision, all go on from one of the environments.
        """
        self._pool = pool
        self._mask = action_mask
        self._seed_of_search = seed
        self.num_groups_begun = first_group
        self.num_groups = math.inf  # after which no other is begun
        self._group_relative = group_relative
        self._shuffle_rewards = shuffle_rewards
        self._branches = Branches(pool, num_envs=group_size, seed=seed) if branches else None
        self._returns = [0.0] * group_size
        self._spent = [Compute()] * group_size
        self._actions: NDArray[Any] | None = None
        self._index = 0
        self._asked = self._answered = time.perf_counter()
        self.render_mode = None
        super().__init__(group_size, observation_space, action_space)

    def reset(self) -> VecEnvObs:
        """Begin the next group of episodes."""
        seed = derive_seed(self._seed_of_search, "search", self.num_groups_begun)
        self.num_groups_begun += 1
        self._index = 0
        self._returns = [0.0] * self.num_envs
        self._spent = [Compute()] * self.num_envs
        results = self._everywhere("reset", [(seed,)] * self.num_envs)
        self.reset_infos = [info for _, info in results]
        self._answered = time.perf_counter()
        return np.stack([observation for observation, _ in results])

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions
        self._asked = time.perf_counter()

    def step_wait(self) -> VecEnvStepReturn:
        """One decision everywhere; when the episodes end, the next group begins, if there is one."""
        assert self._actions is not None
        stepped: list[Stepped] = self._everywhere("step", [(self._index, action) for action in self._actions])
        self._index += 1
        results = [answer.values for answer in stepped]
        observations = np.stack([result[0] for result in results])
        rewards = np.array([result[1] for result in results], dtype=np.float32)
        dones = np.array([result[2] or result[3] for result in results])
        timings = self._timings([answer.timings for answer in stepped])
        infos: list[dict[str, Any]] = []
        for row, (observation, reward, terminated, truncated, info) in enumerate(results):
            extra = {"reward": reward, "action": self._actions[row], "timings": timings[row]}
            extra |= {"TimeLimit.truncated": truncated and not terminated, **self._books(row, reward, info)}
            info = {**info, **extra}
            infos.append(info | ({"terminal_observation": observation} if dones[row] else {}))
        paid = self._paid(rewards)
        if not dones.all():
            self._answered = time.perf_counter()
            if self._branches:
                observations = self._go_on(self._branches, observations)
        elif self.num_groups_begun < self.num_groups:
            observations = np.asarray(self.reset())
        return observations, paid, dones, infos

    def _go_on(self, branches: Branches, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """All environments stand where one of them is; what it sees is what all see."""
        chosen = branches.go_on(group=self.num_groups_begun - 1, index=self._index)
        self._returns = [self._returns[chosen]] * self.num_envs
        self._spent = [self._spent[chosen]] * self.num_envs
        return np.repeat(observations[chosen : chosen + 1], self.num_envs, axis=0)

    def _books(self, row: int, reward: float, info: Mapping[str, Any]) -> dict[str, Any]:
        """Return so far and cost of the decision that `info` tells of."""
        self._returns[row] += reward
        spent = _spent_by(info["compute"])
        before, self._spent[row] = self._spent[row], spent
        charged = Compute(flops=spent.flops - before.flops, images=spent.images - before.images)
        return {"return": self._returns[row], "charged": charged}

    def _timings(self, timings: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        """Each environment's timings with the decision's: seconds since the last one's answer, those of policy, log and
        learner, and the share of all but training (policy, log, learner, measuring).
        """
        policy_s = self._asked - self._answered
        decision_s = time.perf_counter() - self._answered
        measure_s = sum(row["measure_s"] for row in timings) / self._pool.num_workers
        whole = {"policy_s": policy_s, "decision_s": decision_s, "overhead_share": (policy_s + measure_s) / decision_s}
        return [{**row, **whole} for row in timings]

    def close(self) -> None:
        """The pool belongs to whoever opened it."""

    def _paid(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        finite = np.isfinite(rewards)
        if not finite.all():  # one ruined encoder says nothing about the others of its group
            worst = rewards[finite].min() if finite.any() else np.float32(0)
            rewards = np.where(finite, rewards, worst)
        if self._group_relative and self.num_envs > 1:
            rewards = np.asarray(rewards - rewards.mean(), dtype=np.float32)
        if self._shuffle_rewards:
            path = ("shuffled rewards", self.num_groups_begun - 1, self._index)
            rewards = numpy_generator(self._seed_of_search, *path).permutation(rewards)
        return rewards

    def _everywhere(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call `method` in every environment; environment i lives in worker i modulo the number of workers."""
        for env_id, row in enumerate(arguments):
            self._pool.call(env_id % self._pool.num_workers, method, env_id, *row)
        return [self._pool.result(env_id % self._pool.num_workers) for env_id in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        known: dict[str, Any] = {"render_mode": None, "action_masks": self._masks}
        if attr_name not in known:
            raise AttributeError(f"environments in workers have no attribute {attr_name!r} here")
        return [known[attr_name] for _ in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        return attr_name in ("render_mode", "action_masks")

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"environments in workers are not changed from outside ({attr_name!r})")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        methods: dict[str, Callable[[], Any]] = {"action_masks": self._masks}
        return [methods[method_name]() for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds are keyed by the episode; SB3's calls change nothing."""
        return [seed] * self.num_envs

    def _masks(self) -> NDArray[np.bool_]:
        return self._mask


def _spent_by(compute: Mapping[str, int]) -> Compute:
    """Training and measuring together, of an environment's info."""
    flops = compute["train_flops"] + compute["measure_flops"]
    return Compute(flops=flops, images=compute["train_images"] + compute["measure_images"])
