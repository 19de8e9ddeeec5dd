"""EnvHost: a worker's side of a pool. It owns environments on one assembled problem and answers requests."""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from envs.factory import make_env
from envs.task_generation import StepResult, TaskGenerationEnv
from taskrl.assemble import Assembled, assemble
from taskrl.config import ExperimentConfig
from taskrl.data.dataset import RawDataset
from taskrl.errors import TaskrlError
from taskrl.tasks.space import Codec

Job = Callable[..., Any]
"""A function of a module, called in the worker as job(assembled, *arguments)."""
Request = tuple[str, tuple[Any, ...]]
"""Name of a method of EnvHost and its arguments."""
RESULT, USER_ERROR, ERROR = "result", "user error", "error"


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker builds its problem from."""

    config: ExperimentConfig
    dataset: RawDataset
    codec: Codec


@dataclass(frozen=True)
class Stepped:
    """Gymnasium's five values, how long the parts of the step took, and the environment as it is now (None at an
    episode's end, and where nothing would be restored from it).
    """

    values: StepResult
    timings: dict[str, float]
    snapshot: bytes | None


class EnvHost:
    """One assembled problem and any number of environments on it."""

    def __init__(self, setup: WorkerSetup, *, snapshots: bool = True) -> None:
        """snapshots: put them into the answers; for a host that can be lost."""
        self.assembled: Assembled = assemble(setup.config, setup.dataset, codec=setup.codec)
        self._episode = setup.config.episode
        self._snapshots = snapshots
        self._envs: dict[int, TaskGenerationEnv] = {}
        self._last: dict[int, tuple[int, Stepped]] = {}

    def reset(self, env_id: int, seed: int) -> tuple[Any, dict[str, Any]]:
        """Observation and info of a fresh episode of environment `env_id` (made on first use)."""
        self._last.pop(env_id, None)
        return self._env(env_id).reset(seed=seed)

    def step(self, env_id: int, index: int, action: Any) -> Stepped:
        """Decision number `index` of the episode. Asked twice, it is played once; out of turn, it is refused."""
        played = self._played(env_id, index)
        if played:
            return played
        env = self._envs[env_id]
        return self._done(env_id, index, env.step(action))

    def step_all(self, calls: Sequence[tuple[int, int, Any]]) -> list[Stepped]:
        """`step` for several environments, their predictors trained as one batch, each booked its share of the time."""
        fresh = [call for call in calls if self._played(call[0], call[1]) is None]
        envs = [self._envs[env_id] for env_id, _, _ in fresh]
        assignments = [env.begin(action) for env, (_, _, action) in zip(envs, fresh, strict=True)]
        begun = time.perf_counter()
        reports = self.assembled.problem.batched_loop.adapt_all(assignments)
        train_s = (time.perf_counter() - begun) / max(len(fresh), 1)
        for env, report, (env_id, index, _) in zip(envs, reports, fresh, strict=True):
            values = env.finish(report)
            env.timings["train_s"] = train_s
            self._done(env_id, index, values)
        return [self._last[env_id][1] for env_id, _, _ in calls]

    def snapshot(self, env_id: int) -> bytes:
        """Environment `env_id` as it is now, for `restore` here or in another host."""
        return self._envs[env_id].snapshot()

    def restore(self, env_id: int, snapshot: bytes) -> None:
        """Put environment `env_id` where another host left it."""
        self._last.pop(env_id, None)
        self._env(env_id).restore(snapshot)

    def run(self, job: Job, *arguments: Any) -> Any:
        """Any other work on the problem."""
        return job(self.assembled, *arguments)

    def _env(self, env_id: int) -> TaskGenerationEnv:
        if env_id not in self._envs:
            self._envs[env_id] = make_env(self.assembled.problem, self._episode)
        return self._envs[env_id]

    def _played(self, env_id: int, index: int) -> Stepped | None:
        last, answer = self._last.get(env_id, (None, None))
        if last == index:
            return answer
        done = self._envs[env_id].num_decisions if env_id in self._envs else None
        if done != index:
            raise gymnasium.error.ResetNeeded(f"environment {env_id} is at decision {done}, not at {index}")
        return None

    def _done(self, env_id: int, index: int, values: StepResult) -> Stepped:
        env = self._envs[env_id]
        over = values[2] or values[3]
        snapshot = env.snapshot() if self._snapshots and not over else None
        answer = Stepped(values, dict(env.timings), snapshot)
        self._last[env_id] = (index, answer)
        return answer


def answer(host: Callable[[], EnvHost], request: Request) -> tuple[str, Any]:
    """(RESULT, value), (USER_ERROR, the error) or (ERROR, its traceback): whatever happens, something to send back."""
    method, arguments = request
    try:
        return RESULT, getattr(host(), method)(*arguments)
    except TaskrlError as error:
        return USER_ERROR, error
    except Exception:  # noqa: BLE001 (whatever it is, the parent reports it)
        return ERROR, traceback.format_exc()
