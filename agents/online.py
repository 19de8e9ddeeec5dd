"""Learning while training: one run in which the task policy learns from its own gains, decision by decision."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agents.searches.playing import prior_probabilities
from agents.searches.thompson import Memory, TaskFeatures
from envs.observation import ObservationBuilder
from taskrl.config import EpisodeConfig
from taskrl.meta import Action, Observation
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

ONLINE = "online"
EVERY = 4  # decisions, of which one is the reference's
STEPS_PER_DECISION = 20
MIN_DECISIONS, MAX_DECISIONS = 2 * EVERY, 64
EXPLORING = 0.5  # of the run; what an encoder is trained on last counts most, so that the rest is played for good
PRIOR_STRENGTH = 2.0  # a run pays for what it tries, and tries too little to tell many changes apart
DRIFT = 0.2  # one run says too little about how effects change over it to be believed at once


def online_episode(episode: EpisodeConfig) -> EpisodeConfig:
    """As many steps as `episode` within 1 %, or as near as can be, in decisions of about 20 steps, 8 to 64 of them."""
    steps = episode.decisions * episode.steps_per_decision
    wanted = min(max(steps // STEPS_PER_DECISION, MIN_DECISIONS), MAX_DECISIONS, max(steps, 2))
    numbers = range(min(wanted, MIN_DECISIONS), min(MAX_DECISIONS, max(steps, 2)) + 1)
    plans = [EpisodeConfig(decisions=number, steps_per_decision=max(round(steps / number), 1)) for number in numbers]
    errors = [abs(plan.num_steps - steps) for plan in plans]
    close = max(min(errors), steps // 100)
    fitting = [plan for plan, error in zip(plans, errors, strict=True) if error <= close]
    return min(fitting, key=lambda plan: abs(plan.decisions - wanted))


@final
class OnlinePolicy:
    """Linear Thompson sampling within a single run (agents/searches/bandit.py has the model and its source).

    Every fourth decision plays the reference. Its gains, interpolated between two of them, are the baseline of the
    three decisions in between: gains shrink as training goes on whatever is played, and the baseline takes that away.
    What was played between two references is learned from when the second one is known.

    In the second half of the run nothing is tried any more: the best task under the posterior mean is played.
    """

    def __init__(self, space: TaskSpace, *, seed: int) -> None:
        """space: of the canonical codec."""
        self._space = space
        self._features = TaskFeatures(space, PRIOR_STRENGTH, drift=DRIFT)
        self._memory = Memory(self._features.prior_mean)
        self._rng = numpy_generator(seed, "online policy")
        self._progress = ObservationBuilder(space).names.index("progress")
        self._index = 0
        self._spec: TaskSpec | None = None
        self._at = 0.0
        self._reference_gain: float | None = None
        self._waiting: list[tuple[TaskSpec, float, float]] = []  # task, progress when it began, gain

    @property
    def num_learned_from(self) -> int:
        """Decisions whose advantage over the reference is known so far."""
        return sum(len(gains) for gains in self._memory.gains)

    def propose(
        self, observation: Observation, state: Any = None, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        """The reference at every fourth decision of the exploring half, else the best task under a draw of the model's
        weights; under their mean in the other half.
        """
        self._at = float(observation[self._progress])
        self._spec = self._settled(self._at)
        if self._spec is None:
            model = self._memory.model()
            self._spec = self._features.best(model.mean if deterministic else model.sample(self._rng), self._at)
        return self._space.encode(self._spec), state

    def learn(self, gain: float) -> None:
        """The gain of the task that was proposed last. Raises ValueError when there is none."""
        if self._spec is None:
            raise ValueError("learn() needs a task that was proposed and not yet learned from; call propose() first")
        if self._is_control(self._at):
            self._close(gain)
        elif self._at < EXPLORING:
            self._waiting.append((self._spec, self._at, gain))
        self._spec = None
        self._index += 1

    def probabilities(self, observation: Observation) -> Mapping[str, NDArray[np.float64]]:
        """Certain where the reference, or what was found, is played; elsewhere the prior, which the first draws follow:
        what later draws follow is in what was played.
        """
        spec = self._settled(float(observation[self._progress]))
        if spec is None:
            rows = prior_probabilities(self._space, PRIOR_STRENGTH)
        else:
            levels = zip(self._space.parts, self._space.level_indices(spec), strict=True)
            rows = [np.eye(len(part.levels))[level] for part, level in levels]
        return dict(zip(self._space.part_names(), rows, strict=True))

    def _settled(self, progress: float) -> TaskSpec | None:
        """What the present decision plays for certain; None while it explores."""
        if self._is_control(progress):
            return self._space.reference
        return self._features.best(self._memory.model().mean, progress) if progress >= EXPLORING else None

    def _is_control(self, progress: float) -> bool:
        """Whether the present decision is the reference's; what was tried last meets one more of them."""
        return self._index % EVERY == 0 and (progress < EXPLORING or bool(self._waiting))

    def _close(self, gain: float) -> None:
        """Learn from the decisions between the last reference and this one, whose gain is `gain`."""
        before, self._reference_gain = self._reference_gain, gain
        waiting, self._waiting = self._waiting, []
        if before is None or not waiting or not np.isfinite([before, gain, *(row[2] for row in waiting)]).all():
            return
        baselines = np.linspace(before, gain, len(waiting) + 2)[1:-1]
        specs, progress, gains = zip(*waiting, strict=True)
        self._memory.add(self._features.rows(specs, progress), np.asarray(gains) - baselines)
