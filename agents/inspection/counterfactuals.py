"""What another task would have gained: alternatives played from one snapshot of an episode under the policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.final import final_seed, shown_to
from agents.inspection.why_of_run import policy_in
from envs.factory import make_env
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import Assembled, task_space
from taskrl.config import EpisodeConfig
from taskrl.errors import ConfigError, unknown_name
from taskrl.evaluation.statistics import bootstrap
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

REFERENCE = "reference"


@dataclass(frozen=True)
class Alternative:
    """The policy's own tasks with one choice held at a level; or the reference recipe (choice None)."""

    choice: str | None
    level: int = 0

    def name(self, space: TaskSpace) -> str:
        if self.choice is None:
            return REFERENCE
        return f"{self.choice}={space.parts[space.part_names().index(self.choice)].levels[self.level]:g}"

    def instead_of(self, spec: TaskSpec, box: TaskSpace) -> TaskSpec:
        """What is played where the policy plays `spec`. box: a space of that codec, which can change one choice of any
        task, strengths between the levels included, and leave the others as they are.
        """
        if self.choice is None:
            return box.reference
        column = box.part_names().index(self.choice)
        action = np.array(box.encode(spec))
        action[column] = 2 * self.level / max(len(box.parts[column].levels) - 1, 1) - 1
        return box.decode(action)


def alternatives_of(space: TaskSpace, choices: Sequence[str] | None) -> tuple[Alternative, ...]:
    """The reference, then every open level of the choices that are named (None: of all). Raises ConfigError."""
    names = space.part_names()
    for name in choices or ():
        if name not in names:
            raise ConfigError(unknown_name("choice", name, set(names)))
    levels = [
        Alternative(part.name, level)
        for part in space.parts
        if choices is None or part.name in choices
        for level, open_ in enumerate(part.allowed)
        if open_
    ]
    return (Alternative(None), *levels)


@dataclass(frozen=True, kw_only=True)
class BranchJob:
    """One episode under the policy in `policy`, and alternatives from where it stands before decision `start`, each
    played for `ahead` decisions.
    """

    policy: Path
    episode: EpisodeConfig
    train_seed: int
    start: int
    ahead: int
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Branched:
    """qualities: of the policy's own path, up to `start` + `ahead` decisions. played: its tasks from `start` on. gains:
    of an alternative's quality over the policy's own at the end, by its number; what the policy plays itself is left
    out.
    """

    job: BranchJob
    qualities: tuple[float, ...]
    played: tuple[TaskSpec, ...]
    gains: Mapping[int, float]


def branch(assembled: Assembled, job: BranchJob) -> Branched:
    """Play a job; batches and draws of the views to come are the same for all branches (ADR 0019).

    The policy plays its likeliest task at every decision, in the episode that trains the final encoder of its seed
    (`learned-argmax` in the table).
    """
    seed = final_seed(assembled, job.train_seed)
    assembled = assembled.at(seed)
    shape = assembled.splits.pretraining.inputs.sample_shape
    policy, box = policy_in(job.policy, assembled.config, shape), task_space(assembled.config, shape, "box")
    observed = shown_to(policy, assembled.problem)
    env = make_env(replace(assembled.problem.unshaped(), task_space=box, observation=observed), job.episode)
    observation, info = env.reset(seed=seed)
    qualities, played = [float(info["quality"])], list[TaskSpec]()
    snapshot, state = b"", None
    for index in range(job.start + job.ahead):
        if index == job.start:
            snapshot = env.snapshot()
        action, state = policy.propose(observation, state, deterministic=True)
        played.append(policy.space.decode(action))
        observation, _, _, _, info = env.step(box.encode(played[-1]))
        qualities.append(float(info["quality"]))
    ours, gains = tuple(played[job.start :]), {}
    for number, alternative in enumerate(job.alternatives):
        specs = tuple(alternative.instead_of(spec, box) for spec in ours)
        if specs != ours:
            gains[number] = _quality(env, snapshot, specs) - qualities[-1]
    return Branched(job, tuple(qualities), ours, gains)


def _quality(env: TaskGenerationEnv, snapshot: bytes, specs: Sequence[TaskSpec]) -> float:
    """After the tasks, from the snapshot."""
    env.restore(snapshot)
    infos = [env.step(env.problem.task_space.encode(spec))[4] for spec in specs]
    return float(infos[-1]["quality"])


def compared(found: Sequence[Branched], space: TaskSpace) -> list[dict[str, Any]]:
    """For each start and alternative: gains over the policy's own by seed, and their mean with its interval. num_own:
    seeds in which the policy plays the alternative itself. Means need one other seed, intervals two; else they are
    None.
    """
    rows = []
    for start in sorted({one.job.start for one in found}):
        there = sorted((one for one in found if one.job.start == start), key=lambda one: one.job.train_seed)
        job = there[0].job
        for number, alternative in enumerate(job.alternatives):
            gains = [one.gains[number] for one in there if number in one.gains]
            interval = bootstrap(gains) if len(gains) > 1 else None
            rows.append(
                {
                    "progress": start / job.episode.decisions,
                    "ahead": job.ahead,
                    "choice": alternative.choice,
                    "alternative": alternative.name(space),
                    "num_own": len(there) - len(gains),
                    "gains": gains,
                    "mean": float(np.mean(gains)) if gains else None,
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                }
            )
    return rows
