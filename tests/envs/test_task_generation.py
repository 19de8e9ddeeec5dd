"""Promises of the environment: Gymnasium's contract, determinism, telescoping rewards, honest misuse."""

import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.utils import set_random_seed

from envs.task_generation import TaskGenerationEnv
from taskrl.tasks.space import Codec
from taskrl.tasks.spec import TaskSpec
from tests.envs.tiny import CODECS, TINY, play, random_actions, reference_action, tiny_env


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        np.array_equal(first["observations"], second["observations"])
        and first["rewards"] == second["rewards"]
        and first["infos"] == second["infos"]
    )


def weights_of(env: TaskGenerationEnv) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in env.predictor.nets.state_dict().items()}


@pytest.mark.parametrize("codec", CODECS)
def test_both_checkers_pass_without_a_warning(codec: Codec) -> None:
    env = tiny_env(codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env, warn=True)


@pytest.mark.parametrize("codec", CODECS)
def test_gymnasium_makes_it_by_name(codec: Codec) -> None:
    settings = {key: value for key, value in TINY.items() if key != "data.source"}
    env = gymnasium.make("taskrl/TaskGeneration-v0", data="digits", codec=codec, settings=settings)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert type(reward) is float
    assert (terminated, truncated) == (False, False)
    assert env.spec is not None and env.spec.max_episode_steps is None
    env.close()


def test_same_seed_and_actions_give_the_same_bits(env: TaskGenerationEnv) -> None:
    actions = random_actions(env, 2, seed=1)
    first = play(env, actions, seed=5)
    play(env, random_actions(env, 2, seed=2), seed=6)
    assert same(first, play(env, actions, seed=5))
    assert same(first, play(tiny_env(), actions, seed=5)), "a new environment must repeat it too"


def test_another_seed_or_another_action_gives_other_numbers(env: TaskGenerationEnv) -> None:
    actions = [reference_action(env)] * 2
    first = play(env, actions, seed=5)
    assert not same(first, play(env, actions, seed=6))
    other = actions[0].copy()
    other[env.problem.task_space.part_names().index("crop")] = 0
    assert first["rewards"] != play(env, [other, other], seed=5)["rewards"]


def test_rewards_telescope_to_the_whole_gain(long_env: TaskGenerationEnv) -> None:
    for seed in range(3):
        result = play(long_env, random_actions(long_env, 3, seed=seed), seed=seed)
        gain = result["infos"][-1]["quality"] - result["infos"][0]["quality"]
        assert gain != 0
        assert sum(result["rewards"]) == pytest.approx(gain, abs=1e-9)


def test_the_scale_of_the_reward_scales_the_return() -> None:
    actions = random_actions(tiny_env(), 2, seed=0)
    plain, scaled = (play(tiny_env(reward__scale=scale), actions, seed=0)["rewards"] for scale in (1.0, 10.0))
    assert scaled == pytest.approx([10 * reward for reward in plain])


def test_only_the_last_step_terminates_and_none_truncates(long_env: TaskGenerationEnv) -> None:
    long_env.reset(seed=0)
    flags = [long_env.step(action)[2:4] for action in random_actions(long_env, 3, seed=0)]
    assert flags == [(False, False), (False, False), (True, False)]


def test_info_says_what_was_done_and_no_wall_time(env: TaskGenerationEnv) -> None:
    info = play(env, [reference_action(env)], seed=0)["infos"][-1]
    assert TaskSpec.from_json(info["spec"]) == env.problem.task_space.reference
    assert info["reward_parts"]["gain"] == pytest.approx(info["quality"] - env.reset(seed=0)[1]["quality"])
    assert info["num_steps"] == {"contrastive": 2}
    assert set(info["losses"]) == {"contrastive"}
    assert info["compute"]["train_images"] == 2 * 32 * 2, "two steps of 32 images in two views"
    assert info["compute"]["train_flops"] == 2 * env.problem.reference_step_flops
    assert info["compute"]["measure_flops"] > 0
    assert info["diverged"] is False
    json.dumps(info)
    assert not [key for key in (*info, *info["compute"]) if "time" in key or "second" in key]


def test_timings_are_kept_beside_the_info(env: TaskGenerationEnv) -> None:
    play(env, [reference_action(env)], seed=0)
    assert set(env.timings) == {"train_s", "measure_s"}
    assert min(env.timings.values()) > 0


def test_infos_of_an_episode_share_nothing(env: TaskGenerationEnv) -> None:
    env.reset(seed=0)
    first = env.step(reference_action(env))[4]
    copy = json.dumps(first)
    env.step(random_actions(env, 1, seed=1)[0])
    assert json.dumps(first) == copy


def test_misuse_raises_reset_needed() -> None:
    env = tiny_env()
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        env.step(reference_action(env))
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        _ = env.predictor
    play(env, [reference_action(env)] * 2, seed=0)
    with pytest.raises(ResetNeeded, match="over"):
        env.step(reference_action(env))
    env.reset(seed=0)
    env.step(reference_action(env))


OUTSIDE: dict[Codec, list[Any]] = {
    "multidiscrete": [[0], [-1] * 13, [99] * 13, [0.5] * 13, [float("nan")] * 13, "text", None, [[0] * 13]],
    "discrete": [-1, 10_000, 0.5, float("nan"), [0], "0", None],
    "box": [[0.0], [1.5] * 13, [float("nan")] * 13, [float("inf")] * 13, [[0.0] * 13]],
}


@pytest.mark.parametrize("codec", CODECS)
def test_an_action_outside_raises_and_changes_nothing(codec: Codec) -> None:
    env = tiny_env(codec)
    env.reset(seed=4)
    assert len(env.problem.task_space.parts) == 13
    before = weights_of(env)
    for action in OUTSIDE[codec]:
        given = action if action is None or isinstance(action, str) else np.array(action)
        with pytest.raises(ValueError, match="action"):
            env.step(given)
    assert all(torch.equal(value, before[name]) for name, value in env.predictor.nets.state_dict().items())
    actions = random_actions(env, 2, seed=4)
    spoilt = [env.step(action)[1] for action in actions]
    assert spoilt == play(env, actions, seed=4)["rewards"], "random streams and batches must not have moved"


def test_the_global_seeds_of_sb3_do_not_reach_the_predictor(env: TaskGenerationEnv) -> None:
    actions = random_actions(env, 2, seed=1)
    set_random_seed(1)
    first = play(env, actions, seed=5)
    set_random_seed(2)
    torch.rand(7)
    assert same(first, play(env, actions, seed=5))


def test_an_episode_leaves_the_global_generators_alone(env: TaskGenerationEnv) -> None:
    actions = random_actions(env, 2, seed=1)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 (the global generator is what is tested)
    play(env, actions, seed=5)
    after = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert after == (torch.rand(1), np.random.rand())  # noqa: NPY002


def test_a_reset_without_a_seed_begins_another_episode(env: TaskGenerationEnv) -> None:
    env.reset(seed=5)
    weights = [weights_of(env) for _ in range(2) if env.reset()]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    env.reset(seed=5)
    env.reset()
    assert all(torch.equal(value, weights[0][name]) for name, value in weights_of(env).items())
