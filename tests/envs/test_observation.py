"""Promises of the observation: named, bounded, float32, and blind to labels."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agents.catalogue import AGENTS
from agents.policy import SB3TaskPolicy, build_policy
from envs.factory import make_env
from envs.observation import ObservationBuilder
from envs.task_generation import TaskGenerationEnv
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport, Compute
from tests.envs.tiny import play, random_actions, reference_action, tiny_problem

SIGNALS = {"feature_std": 0.5, "effective_rank": 0.25, "uniformity": 0.75}


def builder() -> ObservationBuilder:
    return ObservationBuilder(tiny_problem().problem.task_space)


def test_entries_are_named_bounded_and_float32(env: TaskGenerationEnv) -> None:
    assert len(env.observation_names) == len(set(env.observation_names)) == env.observation_space.shape[0]
    some = {"progress", "effective_rank", "share_so_far/contrastive", "loss/rotation", "last/crop/2"}
    assert some <= set(env.observation_names)
    for seed in range(5):
        observations = play(env, random_actions(env, 2, seed=seed), seed=seed)["observations"]
        assert observations.dtype == np.float32
        assert np.isfinite(observations).all()
        assert observations.min() >= 0 and observations.max() <= 1
        assert all(row in env.observation_space for row in observations)


def test_observations_of_an_episode_share_no_memory(env: TaskGenerationEnv) -> None:
    first, _ = env.reset(seed=0)
    copy = first.copy()
    second = env.step(reference_action(env))[0]
    assert np.array_equal(first, copy)
    assert not np.shares_memory(first, second)


def test_entries_say_what_was_played(env: TaskGenerationEnv) -> None:
    result = play(env, [reference_action(env)] * 2, seed=0)
    values = [dict(zip(env.observation_names, row.tolist(), strict=True)) for row in result["observations"]]
    assert [row["progress"] for row in values] == [0.0, 0.5, 1.0]
    assert [row["share_so_far/contrastive"] for row in values] == [0.0, 1.0, 1.0]
    assert values[0]["loss/contrastive"] == 0 < values[1]["loss/contrastive"] < 1
    assert not any(value for name, value in values[0].items() if name.startswith("last/"))
    for part in env.problem.task_space.parts:
        shown = [values[1][f"last/{part.name}/{index}"] for index in range(len(part.levels))]
        assert shown == [float(index == part.reference) for index in range(len(part.levels))], part.name


def test_shuffled_labels_change_rewards_but_no_observation_and_no_action() -> None:
    assembled = tiny_problem()
    problem, agent = assembled.problem, assembled.config.agent
    labels = problem.probe_data.labels
    assert labels is not None
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    results: list[dict[str, Any]] = []
    actions: list[list[Any]] = []
    for probe_labels in (labels, labels[order]):
        data = dataclasses.replace(problem.probe_data, labels=probe_labels)
        env = make_env(dataclasses.replace(problem, probe_data=data), assembled.config.episode)
        torch.manual_seed(0)
        policy = SB3TaskPolicy(
            build_policy(agent, problem.task_space), AGENTS["ppo"], problem.task_space, agent, seed=1
        )
        observation, _ = env.reset(seed=7)
        chosen = [policy.propose(observation)[0]]
        chosen.append(policy.propose(env.step(chosen[0])[0])[0])
        actions.append(chosen)
        results.append(play(env, chosen, seed=7))
    assert results[0]["rewards"] != results[1]["rewards"], "the labels must matter for the reward"
    assert np.array_equal(results[0]["observations"], results[1]["observations"])
    assert np.array_equal(actions[0], actions[1])


def test_values_that_are_not_finite_are_bounded() -> None:
    observe = builder()
    spec = TaskSpec(mixture=(("contrastive", 1.0),), levels=(("crop", 0.3),))
    for loss in (float("nan"), float("inf"), -1.0, 1e30):
        report = AdaptReport(losses={"contrastive": loss}, num_steps={"contrastive": 1}, compute=Compute())
        signals = SIGNALS | {"uniformity": float("nan"), "feature_std": float("inf")}
        row = observe.build(progress=2.0, signals=signals, specs=[spec], report=report)
        assert row in observe.observation_space
        assert row.dtype == np.float32


def test_shares_are_averaged_over_the_episode() -> None:
    observe = builder()
    alone = TaskSpec(mixture=(("contrastive", 1.0),), levels=())
    mixed = TaskSpec(mixture=(("contrastive", 0.5), ("rotation", 0.5)), levels=())
    row = observe.build(progress=0.5, signals=SIGNALS, specs=[alone, mixed], report=None)
    values = dict(zip(observe.names, row.tolist(), strict=True))
    assert values["share_so_far/rotation"] == 0.25
    assert values["share_so_far/contrastive"] == pytest.approx(0.75)
    assert values["last/weight/rotation/2"] == 1.0, "equal shares are equal weights"
    assert values["effective_rank"] == 0.25
