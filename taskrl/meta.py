"""Interfaces between the problem (what a task generator acts on) and whatever trains the generator."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskrl.data.stream import BatchStream
from taskrl.evaluation.detectability import Description
from taskrl.evaluation.probes import Probe
from taskrl.evaluation.reward import Gain, RewardSignal
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
class ObservationSpec:
    """What is observed beside the state of the run (docs/observation.md); a saved policy keeps its own.

    mode: "full" or an ablation. description: entries of the data set's description, where sets differ. quality:
    label-free parts of the paid quality with the bounds that they are shown between. gains: whether gains are shown,
    which only a quality without labels allows. lengths: shortest and longest episode that is learned from, in steps of
    the reference recipe; others are shown as the nearest of them, since what a policy never saw vary means nothing to
    it (None: all are shown as they are).
    """

    mode: str = "full"
    description: tuple[str, ...] = ()
    quality: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gains: bool = False
    lengths: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "ObservationSpec":
        """Raises KeyError, TypeError or ValueError for what is no such record."""
        return ObservationSpec(
            mode=str(record["mode"]),
            description=tuple(str(name) for name in record["description"]),
            quality={str(name): (float(low), float(high)) for name, (low, high) in record["quality"].items()},
            gains=bool(record["gains"]),
            lengths=None if record.get("lengths") is None else (int(record["lengths"][0]), int(record["lengths"][1])),
        )


@dataclass(frozen=True, kw_only=True)
class MetaProblem:
    """Everything that a task generator acts on: the environment is made of it (envs/factory.py), and optimisers that
    need no environment find the same parts here.

    make_predictor: fresh predictor from a seed. calibration: frozen clean pretraining images for batch-norm statistics
    and the collapse signals. reference_step_flops: one training step of the reference recipe, the unit of an episode's
    budget. batched_loop: the same training for several predictors at once. hidden, hidden_data: a measure that is
    neither paid nor observed; it is read when an episode ends, to see whether the reward can be trusted. facts: what is
    known of the data by construction, for info. observation: what a learner on this problem observes. describe: the
    description of the data set, found out at the first call and kept; whoever reads it is charged. drawn: where the
    data are a distribution of sets, the problem on the set of an episode's seed; the spaces and the budget are the same
    for all.
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
    hidden: Probe | None = None
    hidden_data: ProbeData | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    observation: ObservationSpec = field(default_factory=ObservationSpec)
    describe: Callable[[], Description] = Description
    drawn: Callable[[int], "MetaProblem"] | None = None

    def unshaped(self) -> "MetaProblem":
        """The same problem on this one set, paid by the plain gain, without a hidden measure and with the plain
        observation: for all that is no search.
        """
        plain = ObservationSpec()
        return replace(self, reward=Gain(), hidden=None, hidden_data=None, drawn=None, observation=plain)

    def of_episode(self, seed: int) -> "MetaProblem":
        """What an episode of `seed` is played on, paid as here."""
        return self if self.drawn is None else replace(self.drawn(seed), reward=self.reward)

    def measure(self, predictor: Predictor) -> tuple[Quality, Tensor, Compute]:
        """Quality, the features of the calibration images (B, D), and what both cost.

        On batch-norm statistics that the agent cannot choose, and in the training's precision: final encoders are
        scored in float32, rewards need not be.
        """
        with predictor.autocast():
            features = predictor.recalibrate(self.calibration)
            quality = self.probe(predictor.encode, self.probe_data)
        return quality, features, self._cost(predictor, quality, quality.num_encoded + len(self.calibration))

    def measure_hidden(self, predictor: Predictor) -> tuple[Quality, Compute] | None:
        """The hidden measure as the predictor was last measured, and its cost; None where there is none."""
        if self.hidden is None or self.hidden_data is None:
            return None
        with predictor.autocast():
            quality = self.hidden(predictor.encode, self.hidden_data)
        return quality, self._cost(predictor, quality, quality.num_encoded)

    def _cost(self, predictor: Predictor, quality: Quality, num_encoded: int) -> Compute:
        return Compute(flops=num_encoded * self.meter.encode(predictor) + quality.solve_flops, images=num_encoded)


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


@runtime_checkable
class OnlineTaskPolicy(TaskPolicy, Protocol):
    """A task generator that learns within the run that it plays."""

    def learn(self, gain: float) -> None:
        """Told the gain of the task that it proposed last, before it proposes the next one."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """How much a meta-optimizer may spend."""

    num_episodes: int


class MetaOptimizer(Protocol):
    """What trains a task generator: RL here; bilevel gradients, adversaries and generators later."""

    def fit(self, problem: MetaProblem, *, budget: SearchBudget, tracker: Tracker) -> TaskPolicy: ...
