"""Branches: the environments of a group begin every decision at one snapshot, so that it compares their actions."""

from typing import final

from envs.pool import Pool
from taskrl.seeding import numpy_generator


@final
class Branches:
    """After each decision, puts all environments of a group where one of them is: equal predictor, equal batches and
    view seeds to come (common random numbers; the "vine" of Schulman et al. 2015, one decision deep).

    Which one is drawn uniformly, whatever it earned. Each branch played an action of the policy, so that the path that
    is gone on from is an episode of the policy, and the policy learns in the states that it will meet. Going on from
    the best would teach it in states that several draws and a lucky measurement have selected.
    """

    def __init__(self, pool: Pool, *, num_envs: int, seed: int) -> None:
        """Environment i lives in worker i modulo the number of workers. seed: of the search."""
        self._pool = pool
        self._num_envs = num_envs
        self._seed = seed

    def go_on(self, *, group: int, index: int) -> int:
        """The environment where all are now, before decision number `index` of `group`."""
        chosen = int(numpy_generator(self._seed, "branches", group, index).integers(self._num_envs))
        self._call(chosen, "snapshot")
        snapshot = self._result(chosen)
        others = [env_id for env_id in range(self._num_envs) if env_id != chosen]
        for env_id in others:
            self._call(env_id, "restore", snapshot)
        for env_id in others:
            self._result(env_id)
        return chosen

    def _call(self, env_id: int, method: str, *arguments: bytes) -> None:
        self._pool.call(env_id % self._pool.num_workers, method, env_id, *arguments)

    def _result(self, env_id: int) -> bytes:
        answer: bytes = self._pool.result(env_id % self._pool.num_workers)
        return answer
