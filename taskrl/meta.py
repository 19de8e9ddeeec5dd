"""Interfaces between the problem (what a task generator acts on) and whatever trains the generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskrl.data.stream import BatchStream
from taskrl.evaluation.probes import Probe
from taskrl.evaluation.reward import RewardSignal
from taskrl.predictor.batched import BatchedSteps
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import InnerLoop
from taskrl.predictor.predictor import Predictor
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.tasks.task import Mixture
from taskrl.tracking import Tracker
from taskrl.types import Compute, ProbeData, Quality

Action = NDArray[np.generic]
Observation = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MetaProblem:
    """Everything that a task generator acts on. The parts are shared: RL uses `make_env`, gradient-based
    optimisers the rest.

    make_predictor: fresh predictor from a seed. calibration: frozen clean pretraining images for batch-norm statistics
    and the collapse signals. reference_step_flops: one training step of the reference recipe, the unit of an episode's
    budget. batched_loop: the same training for several predictors at once.
    """

    task_space: TaskSpace
    build_task: Callable[[TaskSpec], Mixture]
    make_predictor: Callable[[int], Predictor]
    inner_loop: InnerLoop
    batched_loop: BatchedSteps
    stream: BatchStream
    probe: Probe
    probe_data: ProbeData
    calibration: Tensor
    reward: RewardSignal
    meter: FlopMeter
    reference_step_flops: int
    make_env: Callable[["MetaProblem"], Any] | None = None

    def measure(self, predictor: Predictor) -> tuple[Quality, Tensor, Compute]:
        """Quality, the features of the calibration images (B, D), and what both cost.

        On batch-norm statistics that the agent cannot choose, and in the training's precision: final encoders are
        scored in float32, rewards need not be.
        """
        with predictor.autocast():
            features = predictor.recalibrate(self.calibration)
            quality = self.probe(predictor.encode, self.probe_data)
        num_encoded = quality.num_encoded + len(self.calibration)
        flops = num_encoded * self.meter.encode(predictor) + quality.solve_flops
        return quality, features, Compute(flops=flops, images=num_encoded)


class TaskPolicy(Protocol):
    """A task generator: what is inspected, saved and replayed."""

    def propose(
        self, observation: Observation, state: Any = None, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        """An action for `observation` (size of the observation space) and the state to hand back at the next
        decision.
        """
        ...

    def probabilities(self, observation: Observation) -> Mapping[str, NDArray[np.float64]]:
        """Part of the action -> probability of each of its levels."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """How much a meta-optimizer may spend."""

    num_episodes: int


class MetaOptimizer(Protocol):
    """What trains a task generator: RL here; bilevel gradients, adversaries and generators later."""

    def fit(self, problem: MetaProblem, *, budget: SearchBudget, tracker: Tracker) -> TaskPolicy: ...
