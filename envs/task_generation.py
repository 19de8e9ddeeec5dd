"""TaskGenerationEnv: choosing pretext tasks for an encoder as a Gymnasium environment."""

import copy
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.episode import CountedBatches, EpisodeLength, EpisodeState, PackedEpisode
from envs.observation import ObservationBuilder, RunState, collapse_signals
from taskrl.meta import MetaProblem
from taskrl.predictor.inner_loop import Assignment
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import derive_seed, torch_generator
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport, Compute, Outcome, Quality

StepResult = tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]


class TaskGenerationEnv(gymnasium.Env[NDArray[np.float32], Any]):
    """One episode is one pretraining run of a fresh predictor.

    Description: at every step the agent proposes a pretext task; a predictor trains on it for a fixed budget of FLOPs.
    Action space: `problem.task_space.action_space` (MultiDiscrete by default: weights of objectives, then strengths).
    Observation space: Box(0, 1, float32), entries named by `observation_names`; label-free.
    Rewards: gain of a frozen probe's quality over the step (`problem.reward`); an episode's rewards telescope.
    Episode end: `terminated` after `episode.decisions` steps; never `truncated`.
    Data: a fixed set, or where `problem.drawn` is given one that the seed of the episode draws; info of reset names it.
    Info: "spec" (JSON), "reward_parts", "quality", "losses", "num_steps", "diverged", "compute" (training, measuring);
    at the end "hidden_quality" where the problem has a hidden measure.
    Arguments: problem, the bundle of parts; episode, its length; observe, the observation builder.
    """

    metadata = {  # noqa: RUF012 (gymnasium declares it)
        "render_modes": [],
        "autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED,
    }

    def __init__(self, *, problem: MetaProblem, episode: EpisodeLength, observe: ObservationBuilder) -> None:
        self.problem = problem
        self.episode = episode
        self.observe = observe
        self.action_space = problem.task_space.action_space
        self.observation_space = observe.observation_space
        self.observation_names = observe.names
        self.render_mode = None
        self.timings: dict[str, float] = {}
        self._played = problem  # on the set of the present episode
        self._state: EpisodeState | None = None
        self._spec: TaskSpec | None = None
        self._begun = 0.0

    @property
    def predictor(self) -> Predictor:
        """The predictor of the present episode. Raises gymnasium's ResetNeeded before the first reset."""
        return self._running().predictor

    @property
    def spent(self) -> tuple[Compute, Compute]:
        """Compute of the present episode so far: training, measuring."""
        state = self._running()
        return state.trained, state.measured

    @property
    def num_decisions(self) -> int:
        """Decisions taken in the present episode; 0 before the first reset."""
        return len(self._state.specs) if self._state else 0

    def action_masks(self) -> NDArray[np.bool_]:
        """Which choices the user's knowledge leaves open (for MaskablePPO)."""
        return self.problem.task_space.action_mask()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A fresh predictor. `seed` decides its initial weights, the order of the data and the draws of the views, and
        which set is drawn where there are several.
        """
        super().reset(seed=seed)
        episode_seed = int(seed) if seed is not None else int(self.np_random.integers(2**62))
        predictor = self._begin_on(episode_seed)
        self._state = EpisodeState(
            seed=episode_seed,
            draws=episode_seed,
            predictor=predictor,
            batches=self._batches(episode_seed),
            rng=self._views(episode_seed, predictor),
            flops_per_decision=self.episode.steps_per_decision * self.problem.reference_step_flops,
            num_decisions=self.episode.decisions,
            quality=Quality(value=0.0),
        )
        quality, features = self._measure(self._state)
        self._state.quality = quality
        info = {
            "quality": quality.value,
            "quality_parts": dict(quality.parts),
            **copy.deepcopy(dict(self._played.facts)),
        }
        return self._observation(features), info

    def snapshot(self) -> bytes:
        """The present episode as bytes for `restore`, in this process or another."""
        return self._running().pack()

    def restore(self, snapshot: bytes, *, redraw: int | None = None) -> None:
        """Go on where an environment on an equal problem was when it took `snapshot` (trusted: it is unpickled).

        redraw: number of another future: the same predictor, with other batches and other draws of the views.
        """
        packed = PackedEpisode.unpack(snapshot)
        predictor = self._begin_on(packed.seed)
        self._spec = None
        if redraw is None:
            self._state = packed.resumed(predictor, self._batches(packed.draws, skip=packed.num_batches))
        else:
            draws = derive_seed(packed.seed, "redraw", redraw)
            self._state = packed.redrawn(predictor, draws, self._batches(draws), self._views(draws, predictor))

    def _begin_on(self, seed: int) -> Predictor:
        """The data of an episode of `seed`, and its fresh predictor."""
        self._played = self.problem.of_episode(seed)
        return self._played.make_predictor(derive_seed(seed, "predictor"))

    def _batches(self, seed: int, *, skip: int = 0) -> CountedBatches:
        order = torch_generator(seed, "order")
        return CountedBatches(self._played.stream.batches(order, skip=skip), num_taken=skip)

    def _views(self, seed: int, predictor: Predictor) -> torch.Generator:
        return torch_generator(seed, "views", device=predictor.device)

    def step(self, action: Any) -> StepResult:
        """Train on the task that `action` chose. Raises ValueError, before any change, when it is not in the space."""
        work = self.begin(action)
        report = self._played.inner_loop.adapt(work.predictor, work.task, work.batches, work.rng, work.budget)
        return self.finish(report)

    def begin(self, action: Any) -> Assignment:
        """The first half of `step`: what is to be trained. Whoever trains it hands the report to `finish`."""
        state = self._running()
        if state.done:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset() before step()")
        self._begun = time.perf_counter()
        self._spec = self.problem.task_space.decode(action)
        return Assignment(
            predictor=state.predictor,
            task=self.problem.build_task(self._spec),
            batches=state.batches,
            rng=state.rng,
            budget=state.next_budget(),
        )

    def finish(self, report: AdaptReport) -> StepResult:
        """The second half of `step`: measure, pay, observe."""
        state = self._running()
        if self._spec is None:
            raise gymnasium.error.ResetNeeded("call begin() before finish()")
        spec, self._spec = self._spec, None
        trained = time.perf_counter()
        before, index = state.quality, len(state.specs)
        state.specs.append(spec)
        state.report = report
        state.trained += report.compute
        state.quality, features = self._measure(state)
        state.gains.append(state.quality.value - before.value)
        hidden = self._measure_hidden(state)
        reward = self._played.reward(Outcome(index=index, before=before, after=state.quality, report=report))
        observation = self._observation(features)
        self.timings = {"train_s": trained - self._begun, "measure_s": time.perf_counter() - trained}
        info = {
            "spec": spec.to_json(),
            "reward_parts": dict(reward.parts),
            "quality": state.quality.value,
            "quality_parts": dict(state.quality.parts),
            "losses": dict(report.losses),
            "num_steps": dict(report.num_steps),
            "diverged": bool(report.diverged),
            "compute": {
                "train_flops": state.trained.flops,
                "train_images": state.trained.images,
                "measure_flops": state.measured.flops,
                "measure_images": state.measured.images,
            },
            **hidden,
        }
        return observation, float(reward.total), state.done, False, info

    def _running(self) -> EpisodeState:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before using the environment")
        return self._state

    def _measure(self, state: EpisodeState) -> tuple[Quality, Tensor]:
        """Quality and the features of the calibration images; charged."""
        quality, features, spent = self._played.measure(state.predictor)
        state.measured += spent
        return quality, features

    def _measure_hidden(self, state: EpisodeState) -> dict[str, float]:
        """The entry of info that an episode's end has more, charged; empty before, and without a hidden measure."""
        found = self._played.measure_hidden(state.predictor) if state.done else None
        if found is None:
            return {}
        quality, spent = found
        state.measured += spent
        return {"hidden_quality": quality.value}

    def _observation(self, features: Tensor) -> NDArray[np.float32]:
        state = self._running()
        situation = RunState(
            progress=state.progress,
            num_steps=self.episode.decisions * self.episode.steps_per_decision,
            signals=collapse_signals(features),
            specs=state.specs,
            report=state.report,
            quality=state.quality.parts,
            gains=state.gains,
            seed=state.draws,
        )
        return self.observe.build(situation, self._played.describe)
