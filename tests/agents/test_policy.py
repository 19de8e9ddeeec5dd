"""Promises of every agent's policy: valid, normalised, centred on the reference, its own randomness, saved whole."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from agents.catalogue import AGENTS
from agents.policy import SB3TaskPolicy, load_policy
from agents.prior import exploring_space
from envs.observation import ObservationBuilder
from taskrl.errors import RunFolderError
from tests.agents.learning import EPISODES, Search, equal_tables, first_observation, search, space_for
from tests.envs.tiny import tiny_config

LOGITS = ("ppo", "a2c", "maskable-ppo", "recurrent-ppo")
GAUSSIAN = ("sac", "tqc")


def reload(found: Search, folder: Path, *, seed: int = 5) -> SB3TaskPolicy:
    found.policy.save(folder, {"data": "digits"})
    config = tiny_config(agent__name=found.policy.agent.name)
    return load_policy(folder, lambda codec: space_for(config, codec), seed=seed)


def observations(found: Search) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    size = len(first_observation(found))
    return [first_observation(found), *(rng.random((3, size), dtype=np.float32))]


def test_proposals_are_valid_actions(found: Search) -> None:
    space = found.problem.task_space
    for policy in (found.prior, found.policy):
        for observation in observations(found):
            for deterministic in (True, False):
                action, _ = policy.propose(observation, deterministic=deterministic)
                assert space.action_space.contains(action if space.codec != "discrete" else action[()])
                space.decode(action)


def test_probabilities_of_each_part_sum_to_one(found: Search) -> None:
    for observation in observations(found):
        table = found.policy.probabilities(observation)
        assert tuple(table) == found.problem.task_space.part_names()
        for part in found.problem.task_space.parts:
            row = table[part.name]
            assert row.shape == (len(part.levels),)
            assert (row >= 0).all()
            assert row.sum() == pytest.approx(1, abs=1e-9)


def test_many_observations_are_answered_as_each_by_itself(found: Search) -> None:
    rows = observations(found)
    together = found.policy.probabilities_of(np.stack(rows))
    for index, observation in enumerate(rows):
        for name, row in found.policy.probabilities(observation).items():
            assert together[name][index] == pytest.approx(row, abs=1e-6), name


def test_sampled_levels_follow_the_probabilities(searches: Callable[[str], Search], tmp_path: Path) -> None:
    policy = reload(searches("ppo"), tmp_path / "policy")
    observation = first_observation(searches("ppo"))
    draws = np.stack([policy.propose(observation)[0] for _ in range(400)])
    for column, (name, row) in zip(draws.T, policy.probabilities(observation).items(), strict=True):
        shares = np.bincount(column, minlength=len(row)) / len(draws)
        assert np.abs(shares - row).max() < 0.12, name


def test_the_deterministic_proposal_is_the_likeliest(searches: Callable[[str], Search]) -> None:
    for name in LOGITS:
        policy = searches(name).policy
        observation = first_observation(searches(name))
        rows = policy.probabilities(observation).values()
        assert policy.propose(observation, deterministic=True)[0].tolist() == [int(row.argmax()) for row in rows]


def test_a_saved_policy_loads_to_the_same_probabilities_and_draws(found: Search, tmp_path: Path) -> None:
    first, second = reload(found, tmp_path / "a", seed=5), reload(found, tmp_path / "b", seed=5)
    other = reload(found, tmp_path / "c", seed=6)
    drawn: list[list[list[float]]] = [[], [], []]
    for observation in observations(found):
        assert equal_tables(first.probabilities(observation), found.policy.probabilities(observation))
        for policy, actions in zip((first, second, other), drawn, strict=True):
            actions += [np.atleast_1d(policy.propose(observation)[0]).tolist() for _ in range(10)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_draws_ignore_the_global_seed(found: Search, tmp_path: Path) -> None:
    drawn = []
    for index in range(2):
        policy = reload(found, tmp_path / str(index))
        torch.manual_seed(index)
        np.random.seed(index)  # noqa: NPY002 (the global generator is what is tested)
        before = torch.get_rng_state()
        actions = [policy.propose(first_observation(found))[0] for _ in range(8)]
        policy.probabilities(first_observation(found))
        assert torch.equal(before, torch.get_rng_state()), "nor may it draw from there"
        drawn.append([np.atleast_1d(action).tolist() for action in actions])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("strength", [1.0, 0.0])
@pytest.mark.parametrize("name", LOGITS)
def test_before_training_the_probabilities_are_the_prior(name: str, strength: float) -> None:
    result = search(name, agent__prior_strength=strength, stop_after=0)
    space = result.problem.task_space
    table = result.prior.probabilities(first_observation(result))
    for part, logits in zip(space.parts, space.prior_logits(strength), strict=True):
        assert table[part.name] == pytest.approx(softmax(logits), abs=0.1)
        if strength and part.logit >= 1:
            assert table[part.name].argmax() == part.reference
        if not strength:
            assert np.ptp(table[part.name]) < 0.1


@pytest.mark.parametrize("name", ["ppo", "a2c", "maskable-ppo"])
def test_the_level_of_the_last_decision_is_favoured_at_first(name: str, searches: Callable[[str], Search]) -> None:
    result = searches(name)
    names = ObservationBuilder(result.problem.task_space).names
    observation = first_observation(result)
    before = result.prior.probabilities(observation)["mirror"]
    observation[names.index("last/mirror/0")] = 1.0
    after = result.prior.probabilities(observation)["mirror"]
    assert before.argmax() == 1
    assert after[0] > 0.8 > before[0]


def test_before_training_dqn_prefers_the_reference(searches: Callable[[str], Search]) -> None:
    result = searches("dqn")
    space = result.problem.task_space
    for observation in observations(result):
        action, _ = result.prior.propose(observation, deterministic=True)
        assert space.decode(action) == space.reference


@pytest.mark.parametrize("name", GAUSSIAN)
def test_before_training_the_mean_action_is_near_the_reference(name: str, searches: Callable[[str], Search]) -> None:
    result = searches(name)
    space = result.problem.task_space
    for observation in observations(result):
        spec = space.decode(result.prior.propose(observation, deterministic=True)[0])
        assert spec.share("contrastive") == 1.0
        assert space.level_indices(spec) == space.level_indices(space.reference)
    table = result.prior.probabilities(first_observation(result))
    assert table["weight/contrastive"].argmax() == 2
    assert max(table["crop"]) < 1, "there must be something to explore"


@pytest.mark.parametrize("codec", ["discrete", "box"])
def test_exploration_is_drawn_around_the_reference(codec: str) -> None:
    space = space_for(tiny_config(), codec)  # type: ignore[arg-type]
    exploring = exploring_space(space, 1.0)
    exploring.seed(0)
    actions = [exploring.sample() for _ in range(400)]
    assert all(space.action_space.contains(action) for action in actions)
    specs = [space.decode(action) for action in actions]
    shares = np.mean([spec.share("contrastive") for spec in specs])
    assert len(set(specs)) > 20
    uniform = space.action_space
    uniform.seed(0)
    assert shares > np.mean([space.decode(uniform.sample()).share("contrastive") for _ in range(400)])
    weights = space.prior_weights(1.0) if codec == "discrete" else None
    if weights is not None:
        share = np.mean([spec == space.reference for spec in specs])
        assert share == pytest.approx(weights[int(space.encode(space.reference))], abs=0.08)


@pytest.mark.parametrize("name", ["ppo", "maskable-ppo", "dqn", "sac"])
def test_forbidden_levels_have_no_probability(name: str) -> None:
    result = search(name, tasks__forbid=["mirror"], tasks__limit=["rotation<=0.2"], agent__episodes=4)
    closed = [
        (part, i) for part in result.problem.task_space.parts for i, open_ in enumerate(part.allowed) if not open_
    ]
    assert {part.name for part, _ in closed} == {"mirror", "rotation"}
    for policy in (result.prior, result.policy):
        for observation in observations(result):
            table = policy.probabilities(observation)
            assert all(table[part.name][index] < 1e-6 for part, index in closed)
            for deterministic in (True, False):
                spec = result.problem.task_space.decode(policy.propose(observation, deterministic=deterministic)[0])
                assert spec.level("mirror") in (None, 0.0)
    for decision in result.decisions:
        levels = json.loads(decision.info["spec"])["levels"]
        assert levels.get("mirror", 0.0) == 0.0 and levels.get("rotation", 0.0) <= 0.2


def test_a_saved_policy_holds_no_pickle_and_says_what_it_is(found: Search, tmp_path: Path) -> None:
    reload(found, tmp_path / "policy")
    names = {path.name for path in (tmp_path / "policy").iterdir()}
    assert names == {"policy.safetensors", "policy.json", "manifest.json"}
    card = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert card["agent"]["name"] == found.policy.agent.name
    assert card["codec"] == AGENTS[found.policy.agent.name].codec
    assert card["objectives"] == list(found.problem.task_space.objectives)
    assert card["agent"]["episodes"] == EPISODES


def test_a_policy_for_other_tasks_is_refused(searches: Callable[[str], Search], tmp_path: Path) -> None:
    searches("ppo").policy.save(tmp_path / "policy", {})
    config = tiny_config(tasks__objectives=["contrastive"])
    with pytest.raises(RunFolderError, match="--objectives"):
        load_policy(tmp_path / "policy", lambda codec: space_for(config, codec), seed=0)


def test_a_policy_does_not_play_stronger_than_its_run_allowed(
    searches: Callable[[str], Search], tmp_path: Path
) -> None:
    """Level 2 of crop is 0.5 under its limit, and would be 0.3 without. Tighter limits are kept to."""
    found = searches("ppo")
    spaces = {
        name: space_for(tiny_config(tasks__limit=limits, tasks__forbid=forbidden), "multidiscrete")
        for name, limits, forbidden in (
            ("open", [], []),
            ("limited", ["crop>=0.5", "rotation<=0.2"], []),
            ("half", ["crop>=0.5"], []),
            ("tighter", ["crop>=0.5", "rotation<=0.1"], ["mirror"]),
        )
    }
    for name, space in spaces.items():
        policy = copy.copy(found.policy)
        policy.space = space
        policy.save(tmp_path / name, {})
    for name, under, remedy in (
        ("limited", "open", r"crop from 0\.5 to 1\.0, .*--limit 'crop>=0\.5'"),
        ("limited", "half", r"--limit 'rotation<=0\.2'"),
        ("tighter", "limited", r"--limit 'rotation<=0\.1'"),
    ):
        with pytest.raises(RunFolderError, match=remedy):
            load_policy(tmp_path / name, lambda _, under=under: spaces[under], seed=0)
    for name, most in (("open", 0.1), ("limited", 0.1)):
        policy = load_policy(tmp_path / name, lambda _: spaces["tighter"], seed=0)
        played = [policy.space.decode(policy.propose(first_observation(found))[0]) for _ in range(50)]
        assert max(spec.level("rotation") for spec in played) == most
        assert max(spec.level("mirror") for spec in played) == 0


@pytest.mark.parametrize(("name", "told"), [("sac", True), ("ppo", False)])
def test_what_the_run_forbade_is_not_played(
    name: str, told: bool, searches: Callable[[str], Search], tmp_path: Path
) -> None:
    """A continuous action reaches every level that is open; logits keep those shut that were."""
    found = search(name, tasks__forbid=["mirror"], agent__episodes=4)
    found.policy.save(tmp_path / "policy", {})
    shut, open_ = (tiny_config(agent__name=name, tasks__forbid=forbidden) for forbidden in (["mirror"], []))
    load_policy(tmp_path / "policy", lambda codec: space_for(shut, codec), seed=0)
    if told:
        with pytest.raises(RunFolderError, match=r"mirror from 0\.0 to 0\.0, .*--limit 'mirror<=0\.0'"):
            load_policy(tmp_path / "policy", lambda codec: space_for(open_, codec), seed=0)
        return
    policy = load_policy(tmp_path / "policy", lambda codec: space_for(open_, codec), seed=0)
    played = [policy.space.decode(policy.propose(first_observation(found))[0]) for _ in range(50)]
    assert max(spec.level("mirror") for spec in played) == 0


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.json", "manifest.json"])
def test_a_damaged_policy_is_refused_by_the_files_name(
    name: str, searches: Callable[[str], Search], tmp_path: Path
) -> None:
    searches("ppo").policy.save(tmp_path / "policy", {})
    path = tmp_path / "policy" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    config = tiny_config()
    with pytest.raises(RunFolderError, match=r"policy\.safetensors|policy\.json|manifest\.json"):
        load_policy(tmp_path / "policy", lambda codec: space_for(config, codec), seed=0)
