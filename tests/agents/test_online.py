"""The policy that learns within a single run."""

from pathlib import Path

import numpy as np
import pytest

from agents.online import EVERY, OnlinePolicy, online_episode
from envs.observation import ObservationBuilder
from taskrl.config import EpisodeConfig
from taskrl.run_folder import RunFolder
from taskrl.tasks.space import Knob, TaskSpace
from taskrl.tasks.spec import TaskSpec
from tests.agents.runs import metrics_of, rows_of, taskrl, tiny_options

SPACE = TaskSpace(
    objectives=["contrastive"],
    knobs=[
        Knob(name="mirror", levels=(0.0, 0.5), reference=1, logit=1.0),
        Knob(name="crop", levels=(1.0, 0.6, 0.3), reference=2, logit=1.5),
        Knob(name="blur", levels=(0.0, 0.5), reference=0, logit=1.0),
    ],
)
NUM = 64
HALF = NUM // 2


def gain(spec: TaskSpec, progress: float, rng: np.random.Generator) -> float:
    """Shrinks over the run; mirrors hurt, blur hurts more."""
    levels = dict(spec.levels)
    effect = 0.5 * (levels["mirror"] == 0) - 0.8 * (levels["blur"] > 0)
    return float((1 + effect) * np.exp(-2 * progress) * 0.1 + 0.01 * rng.standard_normal())


def played(seed: int) -> list[TaskSpec]:
    policy = OnlinePolicy(SPACE, seed=seed)
    names, rng, specs = ObservationBuilder(SPACE).names, np.random.default_rng(seed), list[TaskSpec]()
    for index in range(NUM):
        observation = np.zeros(len(names), dtype=np.float32)
        observation[names.index("progress")] = index / NUM
        action, _ = policy.propose(observation)
        specs.append(SPACE.decode(action))
        policy.learn(gain(specs[-1], index / NUM, rng))
    assert policy.num_learned_from == HALF - HALF // EVERY, "each one that was tried meets a second reference"
    return specs


def test_every_fourth_decision_of_the_first_half_is_the_reference() -> None:
    specs = played(0)
    assert all(specs[index] == SPACE.reference for index in range(0, HALF + 1, EVERY))
    assert any(spec != SPACE.reference for spec in specs)


def test_in_the_second_half_nothing_is_tried_any_more() -> None:
    for seed in range(4):
        assert len(set(played(seed)[HALF + 1 :])) <= 2, "one task, or two where the best one changes with progress"


def test_it_learns_which_level_gains_more_as_it_goes() -> None:
    early, late = [], []
    for seed in range(8):
        own = [dict(spec.levels) for index, spec in enumerate(played(seed)) if index % EVERY]
        early.append(np.mean([row["mirror"] == 0 and row["blur"] == 0 for row in own[:8]]))
        late.append(np.mean([row["mirror"] == 0 and row["blur"] == 0 for row in own[-8:]]))
    assert np.mean(late) > 0.7
    assert np.mean(late) > np.mean(early) + 0.2


def test_the_same_seed_plays_the_same() -> None:
    assert played(3) == played(3)
    assert played(3) != played(4)


def test_a_gain_that_is_not_finite_teaches_nothing_and_breaks_nothing() -> None:
    policy = OnlinePolicy(SPACE, seed=0)
    observation = np.zeros(len(ObservationBuilder(SPACE).names), dtype=np.float32)
    for value in (0.1, float("nan"), 0.1, 0.1, 0.1, 0.2, 0.2, 0.2):
        policy.propose(observation)
        policy.learn(value)
    assert policy.num_learned_from == 0


def test_learning_without_a_proposal_is_refused() -> None:
    with pytest.raises(ValueError, match="propose"):
        OnlinePolicy(SPACE, seed=0).learn(0.1)


@pytest.mark.parametrize(
    ("decisions", "steps"), [(4, 40), (4, 15), (4, 1), (8, 1000), (2, 1), (3, 4), (4, 13), (4, 25), (4, 500)]
)
def test_a_run_has_as_many_steps_as_the_episode_it_replaces(decisions: int, steps: int) -> None:
    found = online_episode(EpisodeConfig(decisions=decisions, steps_per_decision=steps))
    assert 2 <= found.decisions <= 64
    total = decisions * steps
    assert abs(found.num_steps - total) <= total / 100


def test_what_is_said_of_stopping_counts_the_decisions_that_are_played(tmp_path: Path) -> None:
    options = tiny_options(final__decisions=2, final__steps_per_decision=8, final__patience=1)
    result = taskrl("pretrain", "--policy", "online", "--out", tmp_path / "run", *options, "--stop", "auto")
    assert result.exit_code == 0, result.output
    assert "too few to stop early" not in result.output
    assert "Trained for 8 decisions" in result.output or "of 8 decisions: quality rose" in result.output


def test_a_real_run_learns_as_it_goes(tmp_path: Path) -> None:
    options = tiny_options(final__decisions=2, final__steps_per_decision=8)
    result = taskrl("pretrain", "--policy", "online", "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    row = rows_of(tmp_path / "run")[0]
    assert row["num_decisions"] == 8
    assert "Pretraining: 8/8 decisions" in result.output and "Trained for 8 decisions" in result.output
    choices = metrics_of(RunFolder(tmp_path / "run"))
    assert len(choices) == 8
