"""Promises about compute: an episode costs the same whatever is played, and everything is charged."""

import numpy as np
import pytest

from envs.episode import EpisodeLength
from envs.task_generation import TaskGenerationEnv
from taskrl.errors import ConfigError
from tests.envs.tiny import play, random_actions, reference_action


def dearest_step(env: TaskGenerationEnv) -> int:
    """FLOPs of the most expensive objective's training step."""
    predictor = env.problem.make_predictor(0)
    space = env.problem.task_space
    batch = next(env.problem.stream.batches(env._running().rng))
    costs = []
    for name in space.objectives:
        weights = ",".join(f"weight/{other}={float(other == name)}" for other in space.objectives)
        (part,) = env.problem.build_task(space.recipe(weights)).parts
        predictor.add_heads(part.task.head_specs(predictor.feature_dim))
        costs.append(env.problem.meter.step(predictor, part, batch))
    assert len(set(costs)) > 1, "objectives that cost the same would show nothing"
    return max(costs)


def test_every_episode_costs_the_same_flops_within_half_a_step(long_env: TaskGenerationEnv) -> None:
    target = 3 * 12 * long_env.problem.reference_step_flops
    actions = [[reference_action(long_env)] * 3, *(random_actions(long_env, 3, seed=seed) for seed in range(5))]
    for index in range(1, 4):
        alone = reference_action(long_env).copy()
        alone[:4] = np.eye(4, dtype=int)[index] * 2
        actions.append([reference_action(long_env), alone, alone])
    spent = [play(long_env, row, seed=0)["infos"][-1]["compute"]["train_flops"] for row in actions]
    assert len(set(spent[1:])) > 1
    half = dearest_step(long_env) / 2
    assert max(abs(flops - target) for flops in spent) <= half


def test_compute_adds_up_over_the_decisions(long_env: TaskGenerationEnv) -> None:
    infos = play(long_env, random_actions(long_env, 3, seed=1), seed=0)["infos"][1:]
    for key in ("train_flops", "train_images", "measure_flops", "measure_images"):
        counts = [info["compute"][key] for info in infos]
        assert counts == sorted(counts) and counts[0] > 0
    trained, measured = long_env.spent
    assert (trained.flops, measured.flops) == (
        infos[-1]["compute"]["train_flops"],
        infos[-1]["compute"]["measure_flops"],
    )


def test_measuring_is_charged_from_the_reset_on(env: TaskGenerationEnv) -> None:
    env.reset(seed=0)
    trained, measured = env.spent
    assert trained.flops == 0
    assert measured.flops > 0 and measured.images > len(env.problem.calibration)


def test_an_episode_too_short_to_choose_anything_is_refused() -> None:
    for values in ({"decisions": 1}, {"steps_per_decision": 0}):
        with pytest.raises(ConfigError, match="at least 2 decisions"):
            EpisodeLength(**values)
