"""Promises of `taskrl inspect --why`: it finds what a policy answers to, and nothing else, and says so in words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.catalogue import AGENTS
from agents.inspection.explaining import explained
from agents.inspection.observed import Observed, observed_in
from agents.inspection.trees import distilled
from agents.inspection.why import distance, entries_of, permuted, swept, thinned
from agents.policy import SB3TaskPolicy, build_policy, load_policy
from agents.results import StoredFinal
from envs.observation import ObservationBuilder
from taskrl.assemble import task_space
from taskrl.folders import read_json
from taskrl.meta import ObservationSpec
from taskrl.run_folder import RunFolder, write_result
from taskrl.seeding import numpy_generator
from tests.agents.conftest import WHOLE
from tests.agents.learning import Search
from tests.agents.runs import snapshot, taskrl
from tests.agents.test_inspection import made_up

NUM_RUNS, NUM_DECISIONS = 4, 10
STEEP = 60.0


def planted(folder: Path, entry: str | None) -> RunFolder:
    """A run whose policy plays mirror 0.5 where `entry` is above 0.5 and mirror 0 below, and the reference's levels in
    all other choices, whatever it observes. It met values about 0.2 and 0.8 of every entry, independent of each other.
    """
    run, space = made_up(folder, {}, agent__name="ppo")
    builder = ObservationBuilder(space)
    policy: Any = build_policy(run.config().agent, space, ObservationSpec())
    places = np.cumsum([0, *(len(part.levels) for part in space.parts)])
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.zero_()
        for part, place in zip(space.parts, places, strict=False):
            policy.action_net.bias[place + part.reference] = 3.0
            if part.name == "mirror" and entry:
                policy.action_net.bias[place : place + 2] = torch.tensor([STEEP / 2, 0.0])
                policy.action_net.weight[place + 1, builder.names.index(entry)] = STEEP
    agent = run.config().agent
    SB3TaskPolicy(policy, AGENTS[agent.name], space, agent, ObservationSpec(), seed=0).save(run.policy, {})
    rng = numpy_generator(0, "planted")
    rows = []
    for seed in range(NUM_RUNS):
        shape = (NUM_DECISIONS, len(builder.names))
        values = rng.choice([0.2, 0.8], shape) + rng.uniform(-0.05, 0.05, shape)
        rows.append((seed, values.tolist(), list(builder.names), ["{}"] * NUM_DECISIONS))
    observed = observed_in(rows)
    assert observed
    observed.write(run.observations)
    write_result(run.result_file, run.result() | {"notes": [], "verdict": "None."})
    return run


def why_in_json(run: RunFolder) -> dict[str, Any]:
    result = taskrl("inspect", run.path, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["why"] is None) != (document["why_missing"] is None)
    return dict(document["why"])


@pytest.mark.parametrize("entry", ["loss/contrastive", "effective_rank"])
def test_the_entry_that_decides_a_choice_is_found_and_no_other(tmp_path: Path, entry: str) -> None:
    run = planted(tmp_path / "run", entry)
    before = snapshot(run.path)
    why = why_in_json(run)
    assert why["answers_to"] == {entry: 1.0}
    for name, choice in why["choices"].items():
        for other, value in choice["sensitivity"].items():
            # two in four pairs of values lie on different sides
            expected = 0.5 if (name, other) == ("mirror", entry) else 0.0
            assert value == pytest.approx(expected, abs=0.1 if expected else 1e-6), (name, other)
        tree = choice["tree"]
        assert (tree["text"] is None) == (name != "mirror")
        if name == "mirror":
            assert tree["fidelity"] == 1 and entry in tree["text"] and tree["text"].count("class:") == 2
            assert tree["commonest"] < 0.9
    assert [(sweep["choice"], sweep["entry"]) for sweep in why["sweeps"]] == [("mirror", entry)]
    on = [row[1] for row in why["sweeps"][0]["probabilities"]]
    assert on == sorted(on) and on[0] == 0 and on[-1] == 1
    low, high = why["sweeps"][0]["recorded"].index(True), why["sweeps"][0]["recorded"][::-1].index(True)
    assert low > 0 and high > 0, "0 and 1 were never met"
    text = taskrl("inspect", run.path, "--why")
    assert text.exit_code == 0 and f"mirror on {entry}" in text.stdout and "right for 100%" in text.stdout
    assert f"mirror 0 by {entry}: 0* 100%" in text.stdout or f"mirror 0.5 by {entry}: 0* 0%" in text.stdout
    assert snapshot(run.path) == before


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (None, "ignores its observation"),
        ("progress", "depend on progress (which changes a probability by at most 1.00) alone"),
        ("last/crop/1", "depend on what it played last (last/*, at most 1.00) alone"),
        ("loss/contrastive", "1 of 23 entries change"),
    ],
)
def test_what_a_policy_ignores_is_said(tmp_path: Path, entry: str | None, sentence: str) -> None:
    result = taskrl("inspect", planted(tmp_path / "run", entry).path, "--why")
    assert result.exit_code == 0 and sentence in result.stdout


def test_permutation_is_the_mean_over_shuffled_states_written_as_a_loop() -> None:
    rng = np.random.default_rng(0)
    names = ("a", "b", "last/x/0", "last/x/1")
    states = rng.random((30, 4)).astype(np.float32)
    weight = np.array([3.0, 0.0, 2.0, -2.0])

    def ask(rows: Any) -> dict[str, Any]:
        p = 1 / (1 + np.exp(-(rows.astype(float) - 0.5) @ weight))
        return {"choice": np.stack([1 - p, p], axis=1)}

    found = permuted(ask, states, entries_of(names))["choice"]
    for entry in entries_of(names):
        pairs = []
        for state in states:
            for other in states:
                changed = state.copy()
                changed[list(entry.columns)] = other[list(entry.columns)]
                (before,), (after,) = ask(state[None])["choice"], ask(changed[None])["choice"]
                pairs.append(0.5 * np.abs(before - after).sum())
        assert found[entry.name] == pytest.approx(np.mean(pairs), abs=0.02), entry.name
    assert [entry.name for entry in entries_of(names)] == ["a", "b", "last/x"]
    assert found["b"] == 0 and found["a"] > 0.1 and found[""] > found["a"]
    assert permuted(ask, states, entries_of(names)) == permuted(ask, states, entries_of(names))


def test_distance_is_0_for_equal_and_1_for_disjoint_distributions() -> None:
    assert distance(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.5, 0.0])) == 0
    assert distance(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])) == 1


def test_a_sweep_of_a_last_level_plays_each_level_alone() -> None:
    asked: list[Any] = []

    def ask(rows: Any) -> dict[str, Any]:
        asked.append(rows)
        return {"choice": np.ones((len(rows), 1))}

    states = np.array([[0.3, 0, 0], [0.4, 0, 1]], dtype=np.float32)
    sweep = swept(ask, states, entries_of(("a", "last/x/0", "last/x/1"))[1])
    assert sweep.points == (-1.0, 0.0, 1.0) and sweep.recorded == (True, False, True)
    assert {tuple(row) for row in asked[0][:, 1:].tolist()} == {(0, 0), (1, 0), (0, 1)}
    assert len(thinned(np.zeros((1001, 2), dtype=np.float32))) == 100


def test_a_tree_is_scored_on_runs_that_it_was_not_fitted_to() -> None:
    """What tells the levels apart in one run says nothing in the other: fitted to both, the tree would be right."""
    states = np.array([[0.1], [0.2], [0.8], [0.9]], dtype=np.float32)
    likeliest, runs = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    found = distilled(states, likeliest, runs, entries=["a"], levels=[0.0, 0.5])
    assert found["fidelity"] == 0.5 and found["text"].count("class:") == 4
    alone = distilled(states, likeliest, np.zeros(4, dtype=int), entries=["a"], levels=[0.0, 0.5])
    assert alone["fidelity"] is None and alone["text"] == found["text"]


@pytest.mark.parametrize("name", ["dqn", "sac", "recurrent-ppo"])
def test_policies_of_every_kind_can_be_asked(name: str, searches: Callable[[str], Search]) -> None:
    found = searches(name)
    names = ObservationBuilder(found.problem.task_space, found.policy.shown).names
    rng = np.random.default_rng(0)
    rows = [(seed, rng.random((3, len(names))).tolist(), names, ["{}"] * 3) for seed in range(2)]
    observed = observed_in(rows)
    assert observed
    why = explained(found.policy, observed, None)
    json.dumps(why, allow_nan=False)
    assert list(why["choices"]) == list(found.problem.task_space.part_names())
    numbers = [
        value for choice in why["choices"].values() for value in (choice["any"], *choice["sensitivity"].values())
    ]
    assert min(numbers) >= 0 and max(numbers) <= 1
    memory = any("has a memory" in sentence for sentence in why["sentences"])
    assert memory == (name == "recurrent-ppo")


def test_a_run_keeps_what_its_policy_observed_and_why_it_chooses(finished: RunFolder) -> None:
    stored = [StoredFinal.read(path) for path in sorted((finished.checkpoints / "finals").glob("learned-[0-9]*.json"))]
    observed = Observed.read(finished.observations)
    assert [run.train_seed for run in observed.runs] == [0, 1]
    config = finished.config()
    policy = load_policy(finished.policy, lambda codec: task_space(config, (1, 16, 16), codec), seed=0)
    for run, final in zip(observed.runs, stored, strict=True):
        assert list(run.tasks) == final.specs and len(run.observations) == WHOLE.get("final__decisions", 2)
        answers = policy.probabilities_of(run.observations)
        for index, choices in enumerate(final.choices):
            for name, row in choices.items():
                assert answers[name][index] == pytest.approx(row, abs=1e-4), "what it chose there"
    others = (finished.checkpoints / "finals").glob("reference-*.json")
    assert all(not StoredFinal.read(path).observations for path in others)
    why = finished.result()["why"]
    assert set(why["answers_to"]) <= {"progress", *(f"last/{part}" for part in why["choices"])}
    assert why["description"]["detectability"]["mirror"] > 0.5
    assert why_in_json(finished) == why
    text = taskrl("inspect", finished.path, "--why").stdout
    assert "last/*" in text and "told from untouched images" in text and "brightness" in text


def test_what_is_measured_anew_is_what_was_stored(finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path)
    kept = run.result()
    write_result(run.result_file, {key: value for key, value in kept.items() if key != "why"})
    assert why_in_json(run) == kept["why"] | {"description": None}
    result = taskrl("inspect", run.path, "--why")
    assert result.exit_code == 0 and "not recorded with this run" in result.stdout


def old_run(finished: RunFolder, folder: Path) -> RunFolder:
    """As an earlier version left it."""
    run = RunFolder(folder)
    shutil.copytree(finished.path, run.path)
    run.observations.unlink()
    write_result(run.result_file, {key: value for key, value in run.result().items() if key != "why"})
    for file in (run.checkpoints / "finals").iterdir():
        content = read_json(file)
        write_result(file, {key: content[key] for key in ("row", "specs", "qualities", "choices")})
    return run


def test_an_old_run_opens_and_says_what_to_do(finished: RunFolder, tmp_path: Path) -> None:
    run = old_run(finished, tmp_path / "old")
    assert taskrl("inspect", run.path).exit_code == 0
    assert StoredFinal.read(run.checkpoints / "finals" / "learned-0.json").observations == []
    result = taskrl("inspect", run.path, "--why")
    assert result.exit_code == 2 and result.stdout == "" and len(result.stderr.strip().splitlines()) == 1
    assert f"taskrl train --mode apply --policy {run.path}" in result.stderr
    document = json.loads(taskrl("inspect", run.path, "--json").stdout)
    assert document["why"] is None and "--mode apply" in document["why_missing"]


@pytest.mark.parametrize(
    ("played", "sentence"),
    [
        ("random", "every open level with the same probability"),
        ("fixed:no-mirror", "one recipe, fixed:no-mirror"),
        ("online", "learns within each final run"),
        ("plan.yaml", "plays a schedule"),
        ("runs/other", "give taskrl inspect that run"),
    ],
)
def test_what_has_no_policy_to_ask_gets_a_sentence(tmp_path: Path, played: str, sentence: str) -> None:
    run, _ = made_up(tmp_path / "run", {})
    run.checkpoints.mkdir()
    write_result(run.checkpoints / "pretraining.json", {"policy": played})
    result = taskrl("inspect", run.path, "--why")
    assert result.exit_code == 0 and sentence in result.stdout
    refused = taskrl("inspect", run.path, "--counterfactuals")
    assert refused.exit_code == 2 and sentence in refused.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: {**record, "format_version": 99},
        lambda record: {**record, "final_runs": []},
        lambda record: {**record, "entries": record["entries"][:-1]},
        lambda record: {**record, "entries": record["entries"][::-1]},
        lambda record: {"entries": 3},
        lambda record: None,
    ],
)
def test_a_spoilt_record_is_one_sentence(tmp_path: Path, spoil: Callable[[Any], Any]) -> None:
    run = planted(tmp_path / "run", "progress")
    run.observations.write_text(json.dumps(spoil(read_json(run.observations))))
    result = taskrl("inspect", run.path, "--why")
    assert result.exit_code == 2 and "observations.json" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_unfinished_run_is_told_to_be_finished(tmp_path: Path) -> None:
    run, _ = made_up(tmp_path / "run", {})
    run.result_file.unlink()
    for option in ("--why", "--counterfactuals"):
        result = taskrl("inspect", run.path, option)
        assert result.exit_code == 2 and f"taskrl resume {run.path}" in result.stderr


def test_why_stands_alone(tmp_path: Path) -> None:
    run, _ = made_up(tmp_path / "run", {})
    for other in (["--json"], ["--counterfactuals"], ["--schedule", tmp_path / "s.yaml"]):
        result = taskrl("inspect", run.path, "--why", *other)
        assert result.exit_code == 2 and "one at a time" in result.stderr
    result = taskrl("inspect", run.path, "--why", "--rows", 3)
    assert result.exit_code == 2 and "--rows 3 is for" in result.stderr
