"""Promises about data that are drawn at reset: the seed of an episode decides its set, everywhere and for good."""

import os
import signal
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check

from envs.factory import make_env
from envs.host import WorkerSetup
from envs.pool import SerialPool, WorkerPool
from envs.processes import Processes
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import ExperimentConfig
from taskrl.modalities.image.simulated.source import world_for
from tests.agents.lockstep import actions, rollout, vector
from tests.envs import pool_jobs
from tests.envs.tiny import TINY, play, random_actions, tiny_config

DRAWN = {"data__source": "simulated-grey", "data__image_size": 16}


def drawn_config(**changes: object) -> ExperimentConfig:
    return tiny_config(**{**DRAWN, **changes})


def drawn_problem(**changes: object) -> Assembled:
    config = drawn_config(**changes)
    return assemble(config, load_data(config))


@pytest.fixture(scope="module")
def assembled() -> Assembled:
    return drawn_problem()


@pytest.fixture
def env(assembled: Assembled) -> TaskGenerationEnv:
    return make_env(assembled.problem, assembled.config.episode)


def test_gymnasiums_checker_passes_and_it_is_made_by_name() -> None:
    settings = {key: value for key, value in TINY.items() if key != "data.source"} | {"data.image_size": 16}
    env = gymnasium.make("taskrl/TaskGeneration-v0", data="simulated", settings=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped, skip_render_check=True)


def test_the_same_seed_is_the_same_world_and_the_same_rewards(env: TaskGenerationEnv) -> None:
    chosen = random_actions(env, 2, seed=1)
    first = play(env, chosen, seed=5)
    play(env, chosen, seed=6)
    play(env, chosen, seed=7)
    again = play(env, chosen, seed=5)
    fresh = drawn_problem()
    elsewhere = play(make_env(fresh.problem, fresh.config.episode), chosen, seed=5)
    for other in (again, elsewhere):
        np.testing.assert_equal(other, first)


def test_info_of_reset_names_the_world_of_the_seed(env: TaskGenerationEnv) -> None:
    families = set()
    for seed in range(4):
        world = world_for(seed, channels=1)
        assert env.reset(seed=seed)[1]["world"] == {"seed": world.seed, "family": world.family}
        families.add(world.family)
    assert len(families) > 1


def test_another_seed_is_another_set_in_the_same_spaces(assembled: Assembled, env: TaskGenerationEnv) -> None:
    problems = [assembled.problem.of_episode(seed) for seed in (1, 2)]
    first, second = (problem.calibration for problem in problems)
    assert first.shape == second.shape == (256, 1, 16, 16)
    assert not torch.equal(first, second)
    for problem in problems:
        assert problem.task_space.action_space == env.action_space
        assert problem.reference_step_flops == assembled.problem.reference_step_flops
        env.reset(seed=3)
        assert make_env(problem, assembled.config.episode).observation_space == env.observation_space


def test_every_encoder_normalises_by_the_statistics_of_its_own_set(
    assembled: Assembled, env: TaskGenerationEnv
) -> None:
    means = []
    for seed in (1, 2):
        env.reset(seed=seed)
        means.append(env.predictor.encoder.mean.tolist())
        assert assembled.at(seed).encoder_config["mean"] == pytest.approx(means[-1])
    assert means[0] != means[1]


def test_restore_in_the_middle_goes_on_to_the_bit_on_the_same_world(env: TaskGenerationEnv) -> None:
    chosen = random_actions(env, 2, seed=1)
    whole = play(env, chosen, seed=5)
    env.reset(seed=5)
    env.step(chosen[0])
    snapshot = env.snapshot()
    play(env, chosen, seed=6)
    fresh = drawn_problem()
    for other in (env, make_env(fresh.problem, fresh.config.episode)):
        other.restore(snapshot)
        observation, reward, _, _, info = other.step(chosen[1])
        assert np.array_equal(observation, whole["observations"][2])
        assert reward == whole["rewards"][1]
        assert info == whole["infos"][2]


def test_a_killed_worker_draws_its_world_again_and_no_bit_changes() -> None:
    config = drawn_config(workers=2)
    setup = WorkerSetup(config, load_data(config), "multidiscrete")
    rows = actions(2)
    calm = rollout(vector(SerialPool(setup)), rows)
    said: list[str] = []
    pool = WorkerPool(Processes(setup, 2), deadline_s=60, warn=said.append)
    try:
        environment = vector(pool)
        steps = [environment.reset()]
        for index, row in enumerate(rows):
            if index == 1:  # in the middle of an episode
                pool.call(1, "run", pool_jobs.process_id)
                os.kill(pool.result(1), signal.SIGKILL)
            observations, rewards, dones, infos = environment.step(row)
            for info in infos:
                info.pop("timings")
            steps.append((observations, rewards, dones, infos))
    finally:
        pool.close()
    np.testing.assert_equal(steps, calm)
    assert len(said) == 1


def test_all_that_is_no_search_stays_on_one_set(assembled: Assembled) -> None:
    env = make_env(assembled.problem.unshaped(), assembled.config.episode)
    first, second = (env.reset(seed=seed)[1]["world"] for seed in (1, 2))
    assert first == second == assembled.problem.facts["world"]
    assert first == {"seed": world_for(0, channels=1).seed, "family": world_for(0, channels=1).family}
