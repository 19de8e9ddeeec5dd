"""Promises of the observation: named, bounded, float32, blind to labels; what its ablations leave of it."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check

from agents.catalogue import AGENTS
from agents.policy import SB3TaskPolicy, build_policy
from envs.factory import make_env
from envs.observation import LAST, ObservationBuilder, RunState
from envs.task_generation import TaskGenerationEnv
from taskrl.config import EpisodeConfig
from taskrl.evaluation.detectability import Description
from taskrl.meta import ObservationSpec
from taskrl.tasks.spec import TaskSpec
from taskrl.types import AdaptReport, Compute
from tests.envs.tiny import play, random_actions, reference_action, tiny_env, tiny_problem

DRAWN = {"data__source": "simulated-grey", "data__image_size": 16}
SIGNALS = {"feature_std": 0.5, "effective_rank": 0.25, "uniformity": 0.75}


def builder(shown: ObservationSpec | None = None) -> ObservationBuilder:
    return ObservationBuilder(tiny_problem().problem.task_space, shown)


def named(observe: ObservationBuilder | TaskGenerationEnv, row: np.ndarray) -> dict[str, float]:
    names = observe.names if isinstance(observe, ObservationBuilder) else observe.observation_names
    return dict(zip(names, row.tolist(), strict=True))


def told(values: dict[str, float]) -> dict[str, float]:
    """All but the policy's own memory."""
    return {name: value for name, value in values.items() if not name.startswith(LAST)}


def test_entries_are_named_bounded_and_float32(env: TaskGenerationEnv) -> None:
    assert len(env.observation_names) == len(set(env.observation_names)) == env.observation_space.shape[0]
    some = {"progress", "budget", "effective_rank", "share_so_far/contrastive", "loss/rotation", "last/crop/2"}
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
            build_policy(agent, problem.task_space, problem.observation),
            AGENTS["ppo"],
            problem.task_space,
            agent,
            problem.observation,
            seed=1,
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
        row = observe.build(RunState(progress=2.0, num_steps=60, signals=signals, specs=[spec], report=report))
        assert row in observe.observation_space
        assert row.dtype == np.float32


def test_shares_are_averaged_over_the_episode() -> None:
    observe = builder()
    alone = TaskSpec(mixture=(("contrastive", 1.0),), levels=())
    mixed = TaskSpec(mixture=(("contrastive", 0.5), ("rotation", 0.5)), levels=())
    values = named(observe, observe.build(RunState(progress=0.5, num_steps=60, signals=SIGNALS, specs=[alone, mixed])))
    assert values["share_so_far/rotation"] == 0.25
    assert values["share_so_far/contrastive"] == pytest.approx(0.75)
    assert values["last/weight/rotation/2"] == 1.0, "equal shares are equal weights"
    assert values["effective_rank"] == 0.25


def test_budget_grows_with_the_length_of_the_episode() -> None:
    observe = builder()
    rows = [observe.build(RunState(progress=0, num_steps=steps, signals=SIGNALS)) for steps in (1, 60, 1500, 10**6)]
    budgets = [named(observe, row)["budget"] for row in rows]
    assert budgets == sorted(set(budgets)) and budgets[-1] == 1.0
    short, long = tiny_env(), tiny_env(episode__steps_per_decision=3)
    first, second = (named(env, env.reset(seed=0)[0])["budget"] for env in (short, long))
    assert 0 < first < second < 1


def test_a_length_that_was_never_learned_from_is_shown_as_the_nearest_that_was() -> None:
    observe = builder(ObservationSpec(lengths=(60, 240)))
    rows = [observe.build(RunState(progress=0, num_steps=steps, signals=SIGNALS)) for steps in (1, 60, 100, 240, 9000)]
    budgets = [named(observe, row)["budget"] for row in rows]
    assert budgets[0] == budgets[1] < budgets[2] < budgets[3] == budgets[4]
    problem = tiny_env().problem
    longer = make_env(problem, EpisodeConfig(decisions=2, steps_per_decision=50))
    assert named(longer, longer.reset(seed=0)[0])["budget"] == named(tiny_env(), tiny_env().reset(seed=0)[0])["budget"]


def test_no_part_of_a_labelled_quality_is_observed() -> None:
    """Ridge reads labels: nothing of it. Few labels and the panel: the panel's parts, no gains. Panel alone: both."""
    names = {}
    for probe in ("ridge", "few", "panel", "solvability"):
        problem = tiny_problem(reward__probe=probe, tasks__objectives=["contrastive"]).problem
        names[probe] = [name for name in ObservationBuilder.of(problem).names if name.startswith(("quality/", "gain/"))]
    assert names["ridge"] == []
    assert names["few"] and not any("label" in name or name.startswith("gain/") for name in names["few"])
    for probe in ("panel", "solvability"):
        kinds = {name.partition("/")[0] for name in names[probe]}
        assert kinds == {"quality", "gain"}
        assert not any("label" in name for name in names[probe])


def test_few_labels_shuffled_change_the_quality_and_no_observation() -> None:
    assembled = tiny_problem(reward__probe="few", tasks__objectives=["contrastive"])
    problem = assembled.problem
    labels = problem.probe_data.labels
    assert labels is not None
    results = []
    for probe_labels in (labels, labels.flip(0)):
        data = dataclasses.replace(problem.probe_data, labels=probe_labels)
        env = make_env(dataclasses.replace(problem, probe_data=data), assembled.config.episode)
        results.append(play(env, [reference_action(env)] * 2, seed=7))
    assert [info["quality"] for info in results[0]["infos"]] != [info["quality"] for info in results[1]["infos"]]
    assert np.array_equal(results[0]["observations"], results[1]["observations"])


def test_quality_and_gains_are_observed_where_no_label_enters() -> None:
    env = tiny_env(reward__probe="panel", tasks__objectives=["contrastive", "masked"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env, skip_render_check=True)
    result = play(env, [reference_action(env)] * 2, seed=0)
    first, second, _ = (named(env, row) for row in result["observations"])
    gain = result["infos"][1]["quality"] - result["infos"][0]["quality"]
    assert first["gain/contrastive"] == 0.5, "nothing played yet"
    assert second["gain/contrastive"] == pytest.approx(0.5 + 0.5 * gain / (abs(gain) + 0.1), abs=1e-6)
    assert second["gain/knob/mirror"] == second["gain/contrastive"] and second["gain/masked"] == 0.5
    parts = {name for name in first if name.startswith("quality/")}
    assert parts and any(first[name] != second[name] for name in parts)


def test_gains_are_averaged_by_how_much_was_played() -> None:
    observe = builder(ObservationSpec(gains=True))
    crop = next(knob for knob in tiny_problem().problem.task_space.knobs if knob.name == "crop")
    whole = TaskSpec(mixture=(("contrastive", 1.0),), levels=(("crop", crop.levels[-1]),))
    half = TaskSpec(mixture=(("contrastive", 0.5), ("rotation", 0.5)), levels=(("crop", crop.levels[0]),))
    state = RunState(progress=0.5, num_steps=60, signals=SIGNALS, specs=[whole, half], gains=[0.3, -0.1])
    values = named(observe, observe.build(state))
    assert values["gain/contrastive"] == pytest.approx(0.5 + 0.5 * (0.25 / 1.5) / (0.25 / 1.5 + 0.1))
    assert values["gain/rotation"] == pytest.approx(0.25)
    assert values["gain/knob/crop"] == pytest.approx(0.5 + 0.5 * 0.3 / 0.4), "the second had it at its weakest"
    assert values["gain/knob/mirror"] == 0.5


def test_the_description_is_observed_where_sets_differ() -> None:
    assert not any(name.startswith("detectable/") for name in tiny_env().observation_names)
    env = tiny_env(**DRAWN)
    rows = [named(env, env.reset(seed=seed)[0]) for seed in (1, 1, 2)]
    described = [{name: row[name] for name in row if name.startswith(("detectable/", "statistic/"))} for row in rows]
    assert "detectable/mirror" in described[0] and "statistic/contrast" in described[0]
    assert described[0] == described[1] != described[2]
    found = env.problem.of_episode(2).describe().entries()
    assert described[2] == pytest.approx(found, abs=1e-6)


def test_entries_of_a_description_are_bounded() -> None:
    found = Description(detectability={"mirror": 0.45, "crop": 1.0, "noise": 0.75}, statistics={"contrast": 0.4})
    expected = {"detectable/mirror": 0.0, "detectable/crop": 1.0, "detectable/noise": 0.5, "statistic/contrast": 0.4}
    assert found.entries() == expected


@pytest.mark.parametrize("mode", ["zeroed", "progress", "descriptor", "shuffled"])
def test_an_ablation_keeps_the_policys_memory_and_what_it_is_called_after(mode: str) -> None:
    full, ablated = tiny_env(**DRAWN), tiny_env(agent__observe=mode, **DRAWN)
    assert ablated.observation_names == full.observation_names
    chosen = random_actions(full, 2, seed=3)
    whole, left = (play(env, chosen, seed=5) for env in (full, ablated))
    assert whole["rewards"] == left["rewards"], "what is observed changes no training"
    assert np.array_equal(left["observations"], play(ablated, chosen, seed=5)["observations"])
    kept = {"progress": ("progress", "budget"), "descriptor": ("detectable/", "statistic/")}.get(mode, ())
    for before, after in zip(whole["observations"], left["observations"], strict=True):
        assert after in ablated.observation_space
        all_, rest = named(full, before), named(full, after)
        memory = {name: value for name, value in all_.items() if name.startswith(LAST)}
        assert {name: rest[name] for name in memory} == memory
        if mode == "shuffled":
            assert sorted(told(rest).values()) == sorted(told(all_).values())
            assert told(rest) != told(all_)
        else:
            assert told(rest) == {
                name: value if kept and name.startswith(kept) else 0.0 for name, value in told(all_).items()
            }


def test_shuffled_entries_are_dealt_out_anew_at_every_observation() -> None:
    observe = builder(ObservationSpec(mode="shuffled"))
    spec = tiny_problem().problem.task_space.reference
    places = set()
    for seed in range(4):
        for num in range(4):
            state = RunState(
                progress=0.9, num_steps=60, signals=SIGNALS, specs=[spec] * num, gains=[0] * num, seed=seed
            )
            row = observe.build(state)
            places.add(int(np.argmin(np.abs(row[: len(told(named(observe, row)))] - 0.9))))
    assert len(places) > 4


def test_the_description_is_found_out_only_where_it_is_looked_at() -> None:
    asked = []

    def describe() -> Description:
        asked.append(True)
        return Description(detectability={"mirror": 0.75})

    state = RunState(progress=0, num_steps=60, signals=SIGNALS)
    for mode, looks in {"full": 1, "shuffled": 1, "descriptor": 1, "zeroed": 0, "progress": 0}.items():
        asked.clear()
        observe = builder(ObservationSpec(mode=mode, description=("detectable/mirror",)))
        assert observe.reads_description == bool(looks)
        observe.build(state, describe)
        assert len(asked) == looks, mode
    assert not builder().reads_description
