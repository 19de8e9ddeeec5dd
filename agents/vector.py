"""SB3's VecEnv over a pool of workers: environments that run in lock-step, so that they finish together.

The number of environments is a setting of the agent (its group of episodes); the number of workers only says how many
of them run at the same time. Seeds are keyed by the episode's index, so results do not depend on the workers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from envs.host import Stepped
from envs.pool import Pool
from taskrl.seeding import derive_seed


class LockstepVecEnv(VecEnv):
    """`group_size` environments on a pool. With `group_relative`, rewards are paid relative to the group's mean
    at the same decision.

    Episodes of a group share their seed: initial encoder, order of the data, draws of the views. What differs between
    them is what was played, so that the group's mean is a control variate; totals still telescope.
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
    ) -> None:
        """first_group: number of groups already played (resume)."""
        self._pool = pool
        self._mask = action_mask
        self._seed_of_search = seed
        self.num_groups_begun = first_group
        self._group_relative = group_relative
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
        results = self._everywhere("reset", [(seed,)] * self.num_envs)
        self.reset_infos = [info for _, info in results]
        self._answered = time.perf_counter()
        return np.stack([observation for observation, _ in results])

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions
        self._asked = time.perf_counter()

    def step_wait(self) -> VecEnvStepReturn:
        """One decision everywhere; when the episodes end, the next group begins."""
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
            info = {**info, **extra, "TimeLimit.truncated": truncated and not terminated}
            infos.append(info | ({"terminal_observation": observation} if dones[row] else {}))
        if dones.all():
            observations = np.asarray(self.reset())
        else:
            self._answered = time.perf_counter()
        return observations, self._paid(rewards), dones, infos

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
        if self._group_relative and self.num_envs > 1:
            return np.asarray(rewards - rewards.mean(), dtype=np.float32)
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
