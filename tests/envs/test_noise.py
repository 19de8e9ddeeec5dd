"""Promises of other futures, of the A/A test, and of the hidden measure."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from envs.episode import PackedEpisode
from envs.factory import make_env, make_task_generation
from envs.noise import NUM_DEVIATIONS, measure_noise, num_decisions
from envs.reference import reference_curve
from envs.task_generation import TaskGenerationEnv
from taskrl.meta import MetaProblem
from taskrl.tasks.space import Codec
from tests.envs.tiny import TINY, play, random_actions, reference_action, tiny_env, tiny_problem


def halfway(env: TaskGenerationEnv, *, seed: int = 3) -> bytes:
    env.reset(seed=seed)
    env.step(reference_action(env))
    return env.snapshot()


def test_a_redrawn_future_has_the_same_predictor_and_other_batches_and_views(long_env: TaskGenerationEnv) -> None:
    env, action = long_env, reference_action(long_env)
    snapshot = halfway(env)
    weights, batches, rewards = [], [], []
    for draw in (None, 0, 1, 0):
        env.restore(snapshot, redraw=draw)
        weights.append({name: value.clone() for name, value in env.predictor.nets.state_dict().items()})
        work = env.begin(action)
        batches.append((next(work.batches), torch.rand(2, generator=work.rng)))
        env.restore(snapshot, redraw=draw)
        rewards.append(env.step(action)[1])
    for name, value in weights[0].items():
        assert all(torch.equal(value, other[name]) for other in weights[1:])
    assert len(set(rewards)) == 3 and rewards[1] == rewards[3], "draws differ, and each repeats"
    for first, second in ((0, 1), (1, 2)):
        for one, other in zip(batches[first], batches[second], strict=True):
            assert not torch.equal(one, other)


def test_a_snapshot_of_a_redrawn_future_goes_on_in_that_future(long_env: TaskGenerationEnv) -> None:
    env, action = long_env, reference_action(long_env)
    env.restore(halfway(env), redraw=5)
    env.step(action)
    later = env.snapshot()
    expected = env.step(action)
    env.reset(seed=0)
    env.restore(later)
    again = env.step(action)
    assert np.array_equal(again[0], expected[0]) and again[1:] == expected[1:]


def test_restoring_twice_from_one_unpacked_snapshot_shares_no_history(long_env: TaskGenerationEnv) -> None:
    snapshot = halfway(long_env)
    packed = PackedEpisode.unpack(snapshot)
    long_env.restore(snapshot, redraw=0)
    long_env.step(reference_action(long_env))
    assert len(packed.kept["specs"]) == 1


@pytest.mark.parametrize("codec", ["discrete", "box"])
def test_the_aa_test_plays_the_reference_and_deviations_in_every_codec(codec: Codec) -> None:
    assembled = tiny_problem(codec)
    problem, episode = assembled.problem, assembled.config.episode
    played: list[None] = []
    report = measure_noise(problem, episode, seed=0, after_decision=lambda: played.append(None))
    assert report is not None
    assert len(played) == num_decisions(problem, episode) == 1 + 3 + 2 * NUM_DEVIATIONS
    assert len(report.actions) == len(set(report.actions)) == len(report.gains) == 1 + NUM_DEVIATIONS
    assert report.actions[0] == problem.task_space.reference.describe()
    assert [len(row) for row in report.gains] == [3] + [2] * NUM_DEVIATIONS
    assert (report.index, report.steps_per_decision) == (1, 2)
    assert math.isfinite(report.noise.aa_sd) and report.noise.aa_sd > 0


def test_the_aa_test_repeats_and_leaves_the_reward_and_the_hidden_measure_alone(tiny_one: MetaProblem) -> None:
    assembled = tiny_problem(reward__scale=100.0, reward__cost_weight=3.0)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the hidden measure is for the ends of search episodes")

    problem = dataclasses.replace(assembled.problem, hidden=refuse)  # type: ignore[arg-type]
    first = measure_noise(problem, assembled.config.episode, seed=0)
    assert first is not None and first == measure_noise(tiny_one, assembled.config.episode, seed=0)


def test_every_decision_of_the_aa_test_is_charged(tiny_one: MetaProblem) -> None:
    config = tiny_problem().config
    report = measure_noise(tiny_one, config.episode, seed=0)
    assert report is not None
    num = num_decisions(tiny_one, config.episode)
    _, _, once = tiny_one.measure(tiny_one.make_predictor(0))
    trained = report.compute.flops - (num + 1) * once.flops
    decision = 2 * tiny_one.reference_step_flops
    # mixtures meet new heads, whose warm-up is charged beyond the decision's budget
    assert num * decision * 0.8 < trained < num * decision * 2.5


@pytest.fixture(scope="module")
def tiny_one() -> MetaProblem:
    return tiny_problem().problem


def test_nothing_but_the_reference_left_means_no_aa_test() -> None:
    knobs = ["crop", "mirror", "upside_down", "rotation", "jitter", "blur", "noise", "cutout"]
    forbidden = tiny_problem(tasks__objectives=["contrastive"], tasks__forbid=knobs)
    assert forbidden.problem.task_space.deviations == ()
    assert measure_noise(forbidden.problem, forbidden.config.episode, seed=0) is None


def test_the_hidden_measure_is_read_at_the_end_only_and_charged() -> None:
    assembled = tiny_problem()
    assert assembled.problem.hidden is not None
    env = make_env(assembled.problem, assembled.config.episode)
    bare = make_env(assembled.problem.unshaped(), assembled.config.episode)
    actions = random_actions(env, 2, seed=0)
    with_hidden, without = play(env, actions, seed=0), play(bare, actions, seed=0)
    assert ["hidden_quality" in info for info in with_hidden["infos"]] == [False, False, True]
    assert not any("hidden_quality" in info for info in without["infos"])
    assert np.array_equal(with_hidden["observations"], without["observations"])
    assert with_hidden["rewards"] == without["rewards"]
    ends = with_hidden["infos"][-1], without["infos"][-1]
    assert math.isfinite(ends[0]["hidden_quality"])
    json.dumps(ends[0])
    found = assembled.problem.measure_hidden(env.predictor)
    assert found is not None and found[0].value == ends[0]["hidden_quality"]
    difference = ends[0]["compute"]["measure_flops"] - ends[1]["compute"]["measure_flops"]
    assert difference == found[1].flops > 0
    assert play(env, actions, seed=0)["infos"] == with_hidden["infos"]


def test_rewards_relative_to_the_reference_telescope_and_pay_the_reference_nothing() -> None:
    curve = [0.1, 0.3, 0.35]
    plain = tiny_env(reward__scale=2.0)
    shaped = tiny_env(
        reward__scale=2.0, reward__shaping="relative", reward__reference_curve=curve, reward__cost_weight=0.5
    )
    actions = random_actions(plain, 2, seed=0)
    first, second = play(plain, actions, seed=0), play(shaped, actions, seed=0)
    unit = 2 * shaped.problem.reference_step_flops
    cost = second["infos"][-1]["compute"]["train_flops"] / unit
    gap = sum(first["rewards"]) - sum(second["rewards"])
    assert gap == pytest.approx(2 * (curve[-1] - curve[0] + 0.5 * cost))
    parts = [info["reward_parts"] for info in second["infos"][1:]]
    assert [part["reference_gain"] for part in parts] == pytest.approx([0.2, 0.05])


def test_gymnasium_measures_a_missing_reference_curve() -> None:
    settings = {key: value for key, value in TINY.items() if key != "data.source"}
    env = make_task_generation(data="digits", settings=settings | {"reward.shaping": "relative"})
    rewards = play(env, [reference_action(env)] * 2, seed=1)["rewards"]
    curve, spent = reference_curve(tiny_env(), seed=0)
    plain = play(tiny_env(), [reference_action(env)] * 2, seed=1)["rewards"]
    assert rewards == pytest.approx(
        [reward - (after - before) for reward, before, after in zip(plain, curve, curve[1:], strict=False)]
    )
    assert len(curve) == 3 and spent.flops > 0
