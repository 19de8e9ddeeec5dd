"""Promises of the observation: named, bounded, float32, and blind to labels."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from envs.factory import make_env
from envs.observation import ObservationBuilder
from envs.task_generation import TaskGenerationEnv
from taskrl.assemble import assemble
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport, Compute
from tests.envs.tiny import play, random_actions, reference_action, tiny_config, tiny_data, tiny_problem

SIGNALS = {"feature_std": 0.5, "effective_rank": 0.25, "uniformity": 0.75}


def builder() -> ObservationBuilder:
    return ObservationBuilder(tiny_problem().problem.task_space)


def test_entries_are_named_bounded_and_float32(env: TaskGenerationEnv) -> None:
    assert len(env.observation_names) == len(set(env.observation_names)) == env.observation_space.shape[0]
    assert {"progress", "effective_rank", "share/contrastive", "loss/rotation", "level/crop"} <= set(
        env.observation_names
    )
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
    assert [row["share/contrastive"] for row in values] == [0.0, 1.0, 1.0]
    assert [row["share/rotation"] for row in values] == [0.0, 0.0, 0.0]
    assert values[0]["loss/contrastive"] == 0 < values[1]["loss/contrastive"]
    assert values[1]["level/mirror"] == 1.0, "the reference mirrors as strongly as the levels go"
    assert values[1]["level/rotation"] == 0.0


def test_shuffled_labels_change_rewards_but_no_observation_and_no_action() -> None:
    from agents.policy import SB3TaskPolicy, build_policy  # the policy of an agent reads the observation alone
    from agents.catalogue import AGENTS

    config = tiny_config(agent__hidden=[8])
    dataset = tiny_data()
    assert dataset.train.labels is not None
    order = torch.randperm(len(dataset.train.labels), generator=torch.Generator().manual_seed(0))
    results: list[dict[str, Any]] = []
    actions: list[list[Any]] = []
    assembled = assemble(config, dataset)
    labels = assembled.problem.probe_data.labels
    assert labels is not None
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    for probe_labels in (labels, shuffled):
        data = dataclasses.replace(assembled.problem.probe_data, labels=probe_labels)
        env = make_env(dataclasses.replace(assembled.problem, probe_data=data), config.episode)
        torch.manual_seed(0)
        policy = build_policy(config.agent, assembled.problem.task_space)
        agent = SB3TaskPolicy(policy, AGENTS["ppo"], assembled.problem.task_space, config.agent, seed=1)
        observation, _ = env.reset(seed=7)
        chosen = [agent.propose(observation)[0]]
        chosen.append(agent.propose(env.step(chosen[0])[0])[0])
        actions.append(chosen)
        results.append(play(env, chosen, seed=7))
    assert results[0]["rewards"] != results[1]["rewards"], "the labels must matter for the reward"
    assert np.array_equal(results[0]["observations"], results[1]["observations"])
    assert np.array_equal(actions[0], actions[1])
    assert len(order) == len(dataset.train.labels)


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
    assert values["share/rotation"] == 0.5
    assert values["share_so_far/rotation"] == 0.25
    assert values["share_so_far/contrastive"] == pytest.approx(0.75)
    assert values["effective_rank"] == 0.25
