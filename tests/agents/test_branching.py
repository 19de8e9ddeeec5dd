"""Promises of branches: every decision compares actions from one state, is charged in full, and is repeatable.

One pool of two real workers serves the tests of losing one.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.catalogue import algorithm_settings
from envs.host import WorkerSetup
from envs.pool import Pool, SerialPool, WorkerPool
from envs.processes import Processes
from envs.workers import open_pool
from taskrl.assemble import load_data
from taskrl.config import AgentConfig
from taskrl.errors import ConfigError
from taskrl.seeding import derive_seed
from taskrl.types import Compute
from tests.agents.learning import DECISIONS, NAMES, search, serial_pool
from tests.agents.lockstep import GROUP, actions, rollout, vector
from tests.envs import pool_jobs
from tests.envs.tiny import play, reference_action, tiny_config, tiny_env

THREE = {"episode__decisions": 3}
PLAIN = {"branches": True, "group_relative": False}


def setup(**changes: Any) -> WorkerSetup:
    config = tiny_config(**(THREE | changes))
    return WorkerSetup(config, load_data(config), "multidiscrete")


@pytest.fixture(scope="module")
def pool() -> SerialPool:
    return serial_pool(tiny_config(**THREE))


@pytest.fixture(scope="module")
def pair() -> Iterator[WorkerPool]:
    """Two workers; losing one is no reason to fail."""
    workers = WorkerPool(Processes(setup(), 2), deadline_s=60, warn=lambda sentence: None)
    yield workers
    workers.close()


def charged(steps: list[Any]) -> Compute:
    return sum((info["charged"] for step in steps[1:] for info in step[3]), Compute())


def continued(steps: list[Any], index: int) -> int:
    """The branch of decision `index` on which decision `index` + 1 was played."""
    returns = np.array([info["return"] for info in steps[index + 1][3]])
    (before,) = {round(info["return"] - info["reward"], 9) for info in steps[index + 2][3]}
    return int(np.abs(returns - before).argmin())


def test_equal_actions_earn_the_same_whatever_the_branches_had_played_before(pool: Pool) -> None:
    rows = actions(3)
    rows[1] = np.repeat(rows[1][:1], GROUP, axis=0)
    steps = rollout(vector(pool, **PLAIN), rows)
    assert len(set(steps[1][1].tolist())) == GROUP, "other actions must earn something else"
    assert len(set(steps[2][1].tolist())) == 1
    assert len({info["quality"] for info in steps[2][3]}) == 1
    assert len(set(steps[3][1].tolist())) == GROUP


def test_the_path_that_is_gone_on_from_is_an_episode_of_its_actions(pool: Pool) -> None:
    rows = actions(3)
    steps = rollout(vector(pool, **PLAIN), rows)
    path = [continued(steps, 0), continued(steps, 1), 0]
    chosen = [row[branch] for row, branch in zip(rows, path, strict=True)]
    alone = play(tiny_env(**THREE), chosen, seed=derive_seed(0, "search", 0))
    for index, branch in enumerate(path):
        observations, rewards, _, infos = steps[index + 1]
        assert rewards[branch] == np.float32(alone["rewards"][index])
        assert infos[branch]["compute"] == alone["infos"][index + 1]["compute"]
        assert infos[branch]["return"] == pytest.approx(sum(alone["rewards"][: index + 1]))
        if index < 2:
            seen = alone["observations"][index + 1]
            np.testing.assert_array_equal(observations, np.repeat(seen[None], GROUP, axis=0))
    assert infos[0]["return"] == pytest.approx(infos[0]["quality"] - alone["infos"][0]["quality"])


def test_every_branch_is_charged_once(pool: Pool) -> None:
    env = tiny_env(**THREE)
    action = reference_action(env)
    compute = play(env, [action] * 3, seed=derive_seed(0, "search", 0))["infos"][-1]["compute"]
    every = np.repeat(np.asarray(action)[None], GROUP, axis=0)
    steps = rollout(vector(pool, **PLAIN), [every] * 3)
    assert charged(steps).flops == GROUP * (compute["train_flops"] + compute["measure_flops"])
    assert charged(steps).images == GROUP * (compute["train_images"] + compute["measure_images"])


def test_what_is_gone_on_from_is_drawn_anew_at_every_decision_whatever_it_earned(pool: Pool) -> None:
    steps = rollout(vector(pool, **PLAIN), actions(24))
    found = [continued(steps[3 * group :], index) for group in range(8) for index in range(2)]
    assert set(found) == set(range(GROUP))
    best = [int(np.argmax(steps[3 * group + index + 1][1])) for group in range(8) for index in range(2)]
    assert found != best


def test_rewards_are_paid_relative_to_the_branches_of_one_decision(pool: Pool) -> None:
    paid, plain = (rollout(vector(pool, branches=True, group_relative=on), actions(3)) for on in (True, False))
    for (_, ours, _, infos), (_, theirs, _, _) in zip(paid[1:], plain[1:], strict=True):
        np.testing.assert_allclose(ours, theirs - theirs.mean(), atol=1e-7)
        np.testing.assert_allclose([info["reward"] for info in infos], theirs, rtol=1e-6)


def test_two_workers_one_of_them_killed_play_the_same_bits_as_one(pair: WorkerPool) -> None:
    """Killed after the branches have met, and again at the end of an episode."""
    calm = rollout(vector(SerialPool(setup()), branches=True), actions(6))
    environment = vector(pair, branches=True)
    steps: list[Any] = [environment.reset()]
    for index, row in enumerate(actions(6)):
        if index in (1, 2, 5):
            pair.call(index % 2, "run", pool_jobs.process_id)
            os.kill(pair.result(index % 2), signal.SIGKILL)
        observations, rewards, dones, infos = environment.step(row)
        for info in infos:
            info.pop("timings")
        steps.append((observations, rewards, dones, infos))
    np.testing.assert_equal(steps, calm)


def test_batched_branches_are_those_of_separate_environments_up_to_rounding() -> None:
    one, batched = SerialPool(setup()), open_pool(setup(envs="batched"), warn=pytest.fail)
    first, second = (rollout(vector(workers, **PLAIN), actions(3)) for workers in (one, batched))
    for plain, together in zip(first[1:], second[1:], strict=True):
        np.testing.assert_allclose(together[1], plain[1], atol=0.02)
        for ours, theirs in zip(together[3], plain[3], strict=True):
            assert ours["spec"] == theirs["spec"] and ours["charged"] == theirs["charged"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "thompson"])
def test_every_agent_learns_on_branches_and_looks_one_decision_ahead(name: str) -> None:
    found = search(name, agent__group="branches")
    before, after = (policy.policy.state_dict().values() for policy in (found.prior, found.policy))
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(torch.isfinite(value).all() for value in after)
    assert algorithm_settings(found.policy.agent, DECISIONS)["gamma"] == 0
    spent = [decision.info["charged"] for decision in found.decisions]
    assert found.optimizer.spent == sum(spent, Compute())


def test_a_branch_is_not_drawn_to_what_was_played_last() -> None:
    """Episodes explore steadily; branches are there to differ."""
    drawn = {}
    for group in ("episodes", "branches"):
        prior = search("ppo", agent__group=group, agent__episodes=2).prior
        before = np.zeros(prior.policy.observation_space.shape or (), dtype=np.float32)
        after = before.copy()
        sizes = {part.name: len(part.levels) for part in prior.space.parts}
        first_of_mirror = sum(list(sizes.values())[: list(sizes).index("mirror")])
        after[len(after) - sum(sizes.values()) + first_of_mirror] = 1.0  # last/mirror/0: these entries come last
        drawn[group] = [float(prior.probabilities(shown)["mirror"][0]) for shown in (before, after)]
    assert drawn["episodes"][1] > drawn["episodes"][0] + 0.3
    assert drawn["branches"][1] == pytest.approx(drawn["branches"][0], abs=0.05)


def test_an_interrupted_search_on_branches_continues_to_the_same_policy(tmp_path: Path) -> None:
    whole = search("ppo", agent__group="branches")
    first = search("ppo", tmp_path, stop_after=9, agent__group="branches")
    second = search("ppo", tmp_path, agent__group="branches")
    assert [decision.episode for decision in second.decisions][:2] == [4, 5], "the third group is played again"
    rewards = [decision.reward for decision in first.decisions[:8] + second.decisions]
    assert rewards == [decision.reward for decision in whole.decisions]
    assert second.optimizer.spent == whole.optimizer.spent
    states = (found.policy.policy.state_dict().values() for found in (whole, second))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*states, strict=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"group": "branches", "group_size": 1}, "agent.group=branches needs agent.group_size of at least 2; it is 1."),
        ({"shuffle_rewards": True, "group_size": 1}, "agent.shuffle_rewards=true needs agent.group_size of at least 2"),
        (
            {"name": "ppo", "group": "branches", "options": {"gamma": 0.9}},
            "agent.options.gamma is 0.9; with agent.group=branches",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_with_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        algorithm_settings(AgentConfig(**settings), 4)
    assert sentence in str(caught.value)
