"""SB3MetaOptimizer: trains a task policy with a Stable-Baselines3 algorithm on a lock-step group of environments."""

import json
import math
import pickle
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from agents.catalogue import AGENTS, AgentKind, algorithm_settings, policy_settings
from agents.policy import SB3TaskPolicy
from agents.posterior_sampling import PosteriorSampling
from agents.prior import centre, exploring_space
from agents.sb3_logging import make_logger
from agents.vector import LockstepVecEnv
from envs.observation import ObservationBuilder
from envs.pool import Pool
from taskrl.config import AgentConfig
from taskrl.errors import RunFolderError
from taskrl.folders import new_folder, read_json, sync, to_json, verify, write_atomically, write_manifest, write_text
from taskrl.meta import MetaProblem, SearchBudget
from taskrl.seeding import derive_seed
from taskrl.tracking import Tracker
from taskrl.types import Compute

REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
LATEST, COUNTERS, STATE = "latest", "counters.json", "agent.pt"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the log gets of one decision of one search episode."""

    episode: int
    index: int
    reward: float
    info: Mapping[str, Any]


Observer = Callable[[Decision], None]


@final
class SB3MetaOptimizer:
    """Learns a TaskPolicy by reinforcement learning.

    `spent`, `seconds` and `overhead_share` are of all sittings, as far as checkpoints remember them.

    Checkpoints are written after every update, when all episodes of a group have ended, so that a run goes on from its
    last finished episode.
    """

    def __init__(
        self,
        *,
        agent: AgentConfig,
        pool: Pool,
        decisions: int,
        seed: int,
        checkpoints: Path | None = None,
        observer: Observer = lambda decision: None,
        without_gain: float = 0.0,
    ) -> None:
        """without_gain: what an episode of the reference would be paid that gained nothing."""
        self.agent = agent
        self.kind: AgentKind = AGENTS[agent.name]
        self.spent = Compute()
        self._per_group = Compute()
        self._began, self._earlier_s = time.perf_counter(), 0.0
        self._decisions_s = self._overhead_s = 0.0
        self._pool = pool
        self._decisions = decisions
        self._seed = seed
        self._checkpoints = checkpoints
        self._observer = observer
        self._without_gain = without_gain

    @property
    def seconds(self) -> float:
        """Wall time of the search so far."""
        return self._earlier_s + time.perf_counter() - self._began

    @property
    def overhead_share(self) -> float:
        """The share of the decisions' time that was not training: measuring, policy, log, learner."""
        return self._overhead_s / self._decisions_s if self._decisions_s else 0.0

    def add(self, info: Mapping[str, Any]) -> None:
        """Charge one decision of one episode."""
        self.spent += info["charged"]
        timings = info["timings"]
        self._decisions_s += timings["decision_s"]
        self._overhead_s += timings["decision_s"] * timings["overhead_share"]

    def fit(self, problem: MetaProblem, *, budget: SearchBudget, tracker: Tracker) -> SB3TaskPolicy:
        """Train for `budget.num_episodes` (rounded up to whole groups), going on from the last checkpoint if
        there is one.
        """
        model = self._make_model(problem)
        finished = self._load(model)
        environment = model.get_env()
        assert isinstance(environment, LockstepVecEnv)
        environment.num_groups_begun = finished // self.agent.group_size
        groups = environment.num_groups = math.ceil(budget.num_episodes / self.agent.group_size)
        remaining = groups * self._decisions * self.agent.group_size - model.num_timesteps
        model.set_logger(make_logger(tracker))
        per_set = problem.describe().compute if ObservationBuilder.of(problem).reads_description else Compute()
        if problem.drawn is None and not finished:
            self.spent += per_set
        self._per_group = Compute() if problem.drawn is None else per_set
        if remaining > 0:
            model.learn(remaining, callback=_Watch(self, finished), reset_num_timesteps=False, log_interval=1)
            self.save(model, groups * self.agent.group_size)
        return self.policy_of(model, problem)

    def prior(self, problem: MetaProblem) -> SB3TaskPolicy:
        """The policy before any training."""
        return self.policy_of(self._make_model(problem), problem)

    def policy_of(self, model: BaseAlgorithm, problem: MetaProblem) -> SB3TaskPolicy:
        seed = derive_seed(self._seed, "learned")
        space, shown = problem.task_space, problem.observation
        return SB3TaskPolicy(model.policy, self.kind, space, self.agent, shown, seed=seed)

    def _make_model(self, problem: MetaProblem) -> BaseAlgorithm:
        space = problem.task_space
        environment = LockstepVecEnv(
            self._pool,
            group_size=self.agent.group_size,
            observation_space=ObservationBuilder.of(problem).observation_space,
            action_space=exploring_space(space, self.agent.prior_strength),
            action_mask=space.action_mask(),
            seed=self._seed,
            group_relative=self.agent.group_relative and not self.kind.plans,  # which makes groups relative itself
            shuffle_rewards=self.agent.shuffle_rewards,
            branches=self.agent.group == "branches",
        )
        algorithm: Any = self.kind.algorithm
        linear = self.kind.policy == "MlpPolicy" and not self.agent.hidden
        # branches compare actions: that most of them repeat the last one would leave little to compare
        persistence = self.agent.persistence if linear and self.agent.group == "episodes" else 0.0
        settings = algorithm_settings(self.agent, self._decisions)
        if self.kind.plans:
            names = ObservationBuilder.of(problem).names
            settings |= {"task_space": space, "names": names, "persistence": persistence}
            settings["without_gain"] = self._without_gain
        model: BaseAlgorithm = algorithm(
            self.kind.policy,
            environment,
            policy_kwargs=policy_settings(self.agent, self.kind),
            seed=derive_seed(self._seed, "sb3") % 2**31,
            device="cpu",
            **settings,
        )
        strength = self.agent.prior_strength
        shown = problem.observation
        centre(model.policy, self.kind.family, space, shown, strength=strength, persistence=persistence)
        return model

    def save(self, model: BaseAlgorithm, finished: int) -> None:
        """Write checkpoints/agent-N beside the last one, point `latest` at it, then drop the older one."""
        if self._checkpoints is None:
            return
        target = self._checkpoints / f"agent-{finished:06d}"
        if not target.exists():  # else a sitting was killed before it could point at it
            self._write(model, target, finished)
        write_atomically(self._checkpoints / LATEST, target.name)
        sync(self._checkpoints)
        for old in self._checkpoints.glob("agent-??????"):
            if old != target:
                shutil.rmtree(old)

    def _write(self, model: BaseAlgorithm, target: Path, finished: int) -> None:
        with new_folder(target) as draft:
            torch.save(_state_of(model), draft / STATE)
            counters = {
                "episodes": finished,
                "num_timesteps": model.num_timesteps,
                "flops": self.spent.flops,
                "images": self.spent.images,
                "seconds": self.seconds,
                "decision_seconds": self._decisions_s,
                "overhead_seconds": self._overhead_s,
            }
            write_text(draft / COUNTERS, to_json(counters))
            write_manifest(draft)

    def _load(self, model: BaseAlgorithm) -> int:
        """Put the last checkpoint into `model`; the number of finished episodes (0 without a checkpoint)."""
        if self._checkpoints is None or not (self._checkpoints / LATEST).is_file():
            return 0
        name = (self._checkpoints / LATEST).read_text().strip()
        folder = self._checkpoints / Path(name).name
        verify(folder, (STATE, COUNTERS))
        counters = read_json(folder / COUNTERS)
        try:
            _restore_state(model, torch.load(folder / STATE, weights_only=True))
        except (KeyError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as error:
            raise RunFolderError(
                f"The checkpoint {str(folder)!r} does not fit this configuration ({str(error).splitlines()[0]}); "
                "resume with the config.yaml of the run."
            ) from error
        model.num_timesteps = int(counters["num_timesteps"])
        self.spent = Compute(flops=int(counters["flops"]), images=int(counters["images"]))
        self._earlier_s = float(counters.get("seconds", 0.0))  # 0: a checkpoint of an earlier version
        self._decisions_s = float(counters.get("decision_seconds", 0.0))
        self._overhead_s = float(counters.get("overhead_seconds", 0.0))
        return int(counters["episodes"])


class _Watch(BaseCallback):
    """Hands every decision to the observer, adds up the compute, and saves when a group of episodes has been
    learned from.
    """

    def __init__(self, owner: SB3MetaOptimizer, finished: int) -> None:
        super().__init__()
        self._owner = owner
        self._finished = finished
        self._index = 0
        self._learned_from = finished

    def _on_rollout_start(self) -> None:
        # here the update on the last rollout is done and all its episodes have ended
        if self._finished > self._learned_from:
            self._owner.save(self.model, self._finished)
            self._learned_from = self._finished

    def _on_step(self) -> bool:
        for row, info in enumerate(self.locals["infos"]):
            decision = Decision(episode=self._finished + row, index=self._index, reward=info["reward"], info=info)
            self._owner._observer(decision)
            self._owner.add(info)
        self._index += 1
        if all(self.locals["dones"]):
            self._owner.spent += self._owner._per_group  # a group that is drawn a set of its own describes it
            self._finished += len(self.locals["dones"])
            self._index = 0
        return True


def _state_of(model: BaseAlgorithm) -> dict[str, Any]:
    """Everything that a later, exact resume needs, as plain containers and tensors."""
    python_state = random.getstate()
    state: dict[str, Any] = {
        "parameters": model.get_parameters(),
        "num_updates": int(getattr(model, "_n_updates", 0)),
        "exploration_rate": float(getattr(model, "exploration_rate", 0.0)),
        "rng_torch": torch.get_rng_state(),
        "rng_numpy": json.dumps(_numpy_state()),
        "rng_python": [python_state[0], list(python_state[1]), python_state[2]],
        "rng_actions": json.dumps(model.action_space.np_random.bit_generator.state),
        "num_calls": int(getattr(model, "_n_calls", 0)),
    }
    if getattr(model, "log_ent_coef", None) is not None:
        state["log_ent_coef"] = model.log_ent_coef.detach().clone()  # type: ignore[attr-defined]
    if isinstance(model, PosteriorSampling):
        state["memory"] = [_as_tensor(np.stack(rows)) for rows in (model.memory.x, model.memory.gains)]
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        state["replay"] = {name: _as_tensor(getattr(buffer, name)) for name in REPLAY_ARRAYS if hasattr(buffer, name)}
        state["replay_position"] = [int(buffer.pos), bool(buffer.full)]
    return state


def _restore_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    model.set_parameters(state["parameters"], exact_match=True)
    model._n_updates = state["num_updates"]
    model.action_space.np_random.bit_generator.state = json.loads(state["rng_actions"])
    if hasattr(model, "_n_calls"):  # DQN counts them for its target network
        model._n_calls = state["num_calls"]
    if hasattr(model, "exploration_rate"):
        model.exploration_rate = state["exploration_rate"]
    if "log_ent_coef" in state:
        model.log_ent_coef.data.copy_(state["log_ent_coef"])  # type: ignore[attr-defined]
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        for name, tensor in state["replay"].items():
            getattr(buffer, name)[...] = tensor.numpy()
        buffer.pos, buffer.full = state["replay_position"]
    if isinstance(model, PosteriorSampling):
        model.memory.x, model.memory.gains = (list(rows.numpy()) for rows in state["memory"])
    torch.set_rng_state(state["rng_torch"])
    name, keys, position, has_gauss, cached = json.loads(state["rng_numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002 (SB3's)
    version, internal, gauss = state["rng_python"]
    random.setstate((version, tuple(internal), gauss))


def _numpy_state() -> list[Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (SB3's generator)
    return [name, np.asarray(keys).tolist(), position, has_gauss, cached]


def _as_tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
