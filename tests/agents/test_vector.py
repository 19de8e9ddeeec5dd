"""Promises of LockstepVecEnv: groups with a common seed, paid by their differences, ending together.

That one and two workers give the same bits is shown in tests/envs/test_pool.py, where two workers are at hand.
"""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecCheckNan

from envs.pool import Pool
from tests.agents.learning import serial_pool, space_for
from tests.agents.lockstep import GROUP, actions, rollout, vector
from tests.envs.tiny import tiny_config


@pytest.fixture(scope="module")
def pool() -> Pool:
    return serial_pool(tiny_config())


def test_a_group_shares_its_seed_and_the_next_group_has_another(pool: Pool) -> None:
    environment = vector(pool, group_relative=False)
    same = [np.repeat(row[:1], GROUP, axis=0) for row in actions(4)]
    steps = rollout(environment, same)
    assert len(np.unique(steps[0], axis=0)) == 1
    for observations, rewards, _, _ in steps[1:]:
        assert len(np.unique(observations, axis=0)) == 1
        assert len(set(rewards.tolist())) == 1, "the same actions must earn the same"
    assert not np.array_equal(steps[0], steps[2][0]), "the second group must begin with another encoder"
    assert environment.num_groups_begun == 3


def test_seeds_are_keyed_by_the_group_so_that_a_run_can_go_on(pool: Pool) -> None:
    whole = rollout(vector(pool), actions(4))
    rest = rollout(vector(pool, first_group=1), actions(4)[2:])
    np.testing.assert_equal(rest[0], whole[2][0])
    np.testing.assert_equal(rest[1:], whole[3:])


def test_rewards_are_paid_relative_to_the_group_and_still_telescope(pool: Pool) -> None:
    paid, plain = (rollout(vector(pool, group_relative=relative), actions(2)) for relative in (True, False))
    for (_, ours, _, infos), (_, theirs, _, _) in zip(paid[1:], plain[1:], strict=True):
        assert ours.sum() == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(ours, theirs - theirs.mean(), atol=1e-7)
        np.testing.assert_allclose([info["reward"] for info in infos], theirs, rtol=1e-6)
    finals = np.array([info["quality"] for info in plain[2][3]])
    totals = plain[1][1] + plain[2][1]
    np.testing.assert_allclose(totals - totals.mean(), finals - finals.mean(), atol=1e-6)


def test_shuffled_rewards_are_the_groups_own_in_an_order_that_means_nothing(pool: Pool) -> None:
    """The control: what is learned from has the same values at every decision; what is logged stays true."""
    rows = actions(6)
    shuffled, again, plain = (rollout(vector(pool, shuffle_rewards=on), rows)[1:] for on in (True, True, False))
    for (_, ours, _, infos), (_, theirs, _, plain_infos) in zip(shuffled, plain, strict=True):
        np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))
        assert [info["reward"] for info in infos] == [info["reward"] for info in plain_infos]
    orders = {
        tuple(np.argsort(ours)[np.argsort(np.argsort(theirs))])
        for (_, ours, *_), (_, theirs, *_) in zip(shuffled, plain, strict=True)
    }
    assert len(orders) > 2, "each decision is dealt out in an order of its own"
    np.testing.assert_equal(shuffled, again)


@pytest.mark.parametrize("branches", [False, True])
def test_every_decision_says_what_it_cost_and_what_its_path_has_earned(pool: Pool, branches: bool) -> None:
    steps = rollout(vector(pool, branches=branches), actions(2))
    whole = [info["compute"] for info in steps[1][3]]
    for info, compute in zip(steps[1][3], whole, strict=True):
        assert info["charged"].flops == compute["train_flops"] + compute["measure_flops"]
        assert info["return"] == info["reward"]
    measured = {info["quality"] - info["return"] for info in steps[2][3]}
    assert max(measured) - min(measured) < 1e-9, "all paths begin with one encoder"


def test_episodes_end_together_and_keep_their_last_observation(pool: Pool) -> None:
    steps = rollout(vector(pool), actions(2))
    assert [step[2].tolist() for step in steps[1:]] == [[False] * GROUP, [True] * GROUP]
    for row, info in enumerate(steps[2][3]):
        assert info["terminal_observation"][0] == 1.0, "progress"
        assert steps[2][0][row][0] == 0.0, "the next episode has begun"
        assert info["TimeLimit.truncated"] is False
    assert not any("terminal_observation" in info for info in steps[1][3])


def test_no_number_is_nan(pool: Pool) -> None:
    environment = VecCheckNan(vector(pool), raise_exception=True)
    environment.reset()
    for row in actions(4, seed=3):
        environment.step(row)


def test_one_ruined_encoder_is_the_worst_of_its_group_and_shows_no_nan() -> None:
    pool = serial_pool(tiny_config())
    environment = VecCheckNan(vector(pool, group_relative=False), raise_exception=True)
    environment.reset()
    for parameter in pool._host._envs[0].predictor.encoder.parameters():
        parameter.data.fill_(np.nan)
    for row in actions(2):
        observations, paid, _, infos = environment.step(row)
        assert np.isnan(infos[0]["reward"]) and paid[0] == min(paid[1:]), "it says nothing about the others"
        assert np.isfinite(observations).all() and np.isfinite(paid).all()
    assert np.isfinite(infos[0]["terminal_observation"]).all()
    assert np.isfinite([info["quality"] for info in infos[1:]]).all()


def test_masks_reach_sb3(pool: Pool) -> None:
    mask = space_for(tiny_config(tasks__forbid=["mirror"]), "multidiscrete").action_mask()
    environment = vector(pool, action_mask=mask)
    masks = environment.env_method("action_masks")
    assert len(masks) == GROUP
    assert all(np.array_equal(row, mask) for row in masks)
    assert environment.has_attr("action_masks")


def test_every_decision_says_what_share_of_it_was_not_training(pool: Pool) -> None:
    environment = vector(pool)
    environment.reset()
    for row in actions(3):
        *_, infos = environment.step(row)
        (whole,) = {(info["timings"]["decision_s"], info["timings"]["overhead_share"]) for info in infos}
        measured_s = sum(info["timings"]["measure_s"] for info in infos)
        trained_s = sum(info["timings"]["train_s"] for info in infos)
        assert 0 < measured_s / whole[0] <= whole[1] < 1
        assert trained_s + measured_s <= whole[0] * 1.001, "one worker does one thing after the other"
