"""Promises of SB3MetaOptimizer: seven agents learn; an interrupted search goes on as if nothing had happened."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import taskrl.folders
from agents.catalogue import AGENTS, algorithm_settings
from agents.sb3 import LATEST
from envs.host import EnvHost
from taskrl.config import AgentConfig
from taskrl.errors import ConfigError, RunFolderError
from taskrl.folders import write_manifest
from tests.agents.learning import DECISIONS, EPISODES, NAMES, Search, equal_tables, first_observation, search
from tests.envs.tiny import tiny_config

GROUP = 2


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.marker,))  # type: ignore[return-value]


def weights(result: Search) -> list[torch.Tensor]:
    return list(result.policy.policy.state_dict().values())


def test_there_are_exactly_these_agents() -> None:
    assert set(AGENTS) == set(NAMES)


def test_a_short_search_completes_and_changes_the_policy(found: Search) -> None:
    assert len(found.decisions) == EPISODES * DECISIONS
    seen = {(decision.episode, decision.index) for decision in found.decisions}
    assert seen == {(episode, index) for episode in range(EPISODES) for index in range(DECISIONS)}
    pairs = zip(found.prior.policy.state_dict().values(), weights(found), strict=True)
    assert any(not torch.equal(before, after) for before, after in pairs)
    assert all(torch.isfinite(value).all() for value in weights(found))


def test_the_observer_gets_the_true_rewards_not_the_groups_differences(found: Search) -> None:
    for decision in found.decisions:
        assert decision.reward == pytest.approx(decision.info["reward_parts"]["gain"])
    group = [decision.reward for decision in found.decisions if decision.episode < GROUP and decision.index == 0]
    assert sum(group) != pytest.approx(0, abs=1e-6)


def test_all_compute_of_the_search_is_added_up(found: Search) -> None:
    last = [decision.info["compute"] for decision in found.decisions if decision.index == DECISIONS - 1]
    assert found.optimizer.spent.flops == sum(row["train_flops"] + row["measure_flops"] for row in last) > 0
    assert found.optimizer.spent.images == sum(row["train_images"] + row["measure_images"] for row in last) > 0


def test_an_interrupted_search_continues_to_the_same_policy(found: Search, tmp_path: Path) -> None:
    """Stopped in the third group: two groups are finished, the third is played again."""
    name = found.policy.agent.name
    first = search(name, tmp_path, stop_after=2 * GROUP * DECISIONS + 1)
    assert json.loads((tmp_path / "agent-000004" / "counters.json").read_text())["episodes"] == 2 * GROUP
    second = search(name, tmp_path)
    assert [decision.episode for decision in second.decisions][:GROUP] == [4, 5]
    assert len(second.decisions) == 2 * GROUP * DECISIONS
    assert second.optimizer.spent == found.optimizer.spent
    rewards = [decision.reward for decision in first.decisions[:-1] + second.decisions]
    assert rewards == [decision.reward for decision in found.decisions]
    pairs = zip(weights(found), weights(second), strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)
    observation = first_observation(found)
    assert equal_tables(found.policy.probabilities(observation), second.policy.probabilities(observation))


def test_a_finished_search_is_not_repeated_and_can_be_prolonged(
    searches: Callable[[str], Search], tmp_path: Path
) -> None:
    first = search("ppo", tmp_path, agent__episodes=4)
    again = search("ppo", tmp_path, agent__episodes=4)
    assert again.decisions == []
    assert again.optimizer.spent == first.optimizer.spent
    assert all(torch.equal(before, after) for before, after in zip(weights(first), weights(again), strict=True))
    longer = search("ppo", tmp_path, agent__episodes=5)
    assert [decision.episode for decision in longer.decisions] == [4, 5, 4, 5], "rounded up to a whole group"


def test_no_episode_is_begun_that_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    reset = EnvHost.reset
    monkeypatch.setattr(EnvHost, "reset", lambda *given: (seeds.append(given[2]), reset(*given))[1])
    search("ppo", agent__episodes=4)
    assert len(seeds) == 4 and len(set(seeds)) == 4 / GROUP


def test_only_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    search("ppo", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent-000008", "latest"]
    assert (tmp_path / "latest").read_text() == "agent-000008"


def test_a_checkpoint_that_nothing_pointed_at_yet_is_the_latest(tmp_path: Path) -> None:
    """As after a kill between the two; the older one is removed only when the pointer is on the disk."""
    search("ppo", tmp_path, agent__episodes=4)
    shutil.copytree(tmp_path / "agent-000004", tmp_path / "kept")
    (tmp_path / LATEST).unlink()
    search("ppo", tmp_path, agent__episodes=2)
    (tmp_path / "kept").rename(tmp_path / "agent-000004")
    assert (tmp_path / LATEST).read_text() == "agent-000002"
    synced: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taskrl.folders, "sync", lambda path: synced.append(path.name))
        search("ppo", tmp_path, agent__episodes=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent-000004", LATEST]
    assert (tmp_path / LATEST).read_text() == "agent-000004"
    assert any(name.startswith(LATEST) for name in synced)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    search("ppo", folder, agent__episodes=2)
    return folder


def copied(checkpoints: Path, target: Path) -> Path:
    shutil.copytree(checkpoints, target)
    return target / "agent-000002"


@pytest.mark.parametrize("earlier", [True, False])
def test_time_is_counted_over_all_sittings(earlier: bool, checkpoints: Path, tmp_path: Path) -> None:
    folder = copied(checkpoints, tmp_path / "c")
    counters = json.loads((folder / "counters.json").read_text())
    times = {"seconds": 5000.0, "decision_seconds": 4000.0, "overhead_seconds": 1000.0}
    assert all(0 < counters.pop(name) < 1000 for name in times)
    (folder / "counters.json").write_text(json.dumps(counters if earlier else counters | times))
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    optimizer = search("ppo", tmp_path / "c", agent__episodes=4).optimizer
    if earlier:  # a checkpoint of an earlier version says nothing of its time
        assert 0 < optimizer.seconds < 1000
    else:
        assert 5000 < optimizer.seconds < 6000 and optimizer.overhead_share == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "missing"])
@pytest.mark.parametrize("name", ["agent.pt", "counters.json"])
def test_a_damaged_checkpoint_is_refused_by_the_files_name(
    name: str, damage: str, checkpoints: Path, tmp_path: Path
) -> None:
    path = copied(checkpoints, tmp_path / "c") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "short": content[:-9]}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    with pytest.raises(RunFolderError, match=name):
        search("ppo", tmp_path / "c", agent__episodes=4)


def test_a_crafted_pickle_is_refused_and_does_not_run(checkpoints: Path, tmp_path: Path) -> None:
    folder = copied(checkpoints, tmp_path / "c")
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists(), "the payload must be able to run"
    marker.unlink()
    torch.save({"parameters": Payload(marker)}, folder / "agent.pt")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(RunFolderError, match="does not fit"):
        search("ppo", tmp_path / "c", agent__episodes=4)
    assert not marker.exists()


def test_a_checkpoint_of_another_agent_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    copied(checkpoints, tmp_path / "c")
    with pytest.raises(RunFolderError, match="does not fit this configuration"):
        search("dqn", tmp_path / "c")


def test_another_seed_finds_another_policy(searches: Callable[[str], Search]) -> None:
    other = search("ppo", seed=1)
    assert [d.reward for d in other.decisions] != [d.reward for d in searches("ppo").decisions]


@pytest.mark.parametrize("name", ["dqn", "sac", "tqc"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_search_of_few_groups_teaches_agents_that_warm_up(name: str, groups: int) -> None:
    found = search(name, agent__episodes=groups * tiny_config().agent.group_size)
    before, after = (policy.policy.state_dict() for policy in (found.prior, found.policy))
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_options_reach_the_algorithm() -> None:
    settings = algorithm_settings(AgentConfig(name="ppo", options={"n_epochs": 3, "clip_range": 0.1}), 4)
    assert (settings["n_epochs"], settings["clip_range"], settings["n_steps"]) == (3, 0.1, 4)
    settings = algorithm_settings(AgentConfig(name="sac", options={"ent_coef": "auto_0.1", "gradient_steps": -1}), 4)
    assert settings["ent_coef"] == "auto_0.1"
    settings = algorithm_settings(AgentConfig(name="sac", options={"ent_coef": 0.1, "target_entropy": -3}), 4)
    assert (settings["ent_coef"], settings["target_entropy"]) == (0.1, -3)


@pytest.mark.parametrize(
    ("agent", "options", "sentence"),
    [
        ("ppo", {"gae_lamda": 0.9}, "Did you mean 'gae_lambda'"),
        ("ppo", {"gae_lambda": "much"}, "agent.options.gae_lambda.*'much'.*like 0.95"),
        ("ppo", {"n_epochs": 0}, "agent.options.n_epochs.*at least 1"),
        ("ppo", {"n_epochs": 2.5}, "like 10"),
        ("ppo", {"batch_size": 1}, "at least 2"),
        ("ppo", {"normalize_advantage": 1}, "like True"),
        ("ppo", {"vf_coef": -0.5}, "at least 0"),
        ("ppo", {"gamma": 1.5}, "agent.options.gamma.*1.5.*0 to 1"),
        ("ppo", {"target_kl": "abc"}, "agent.options.target_kl.*'abc'.*like 0.1"),
        ("ppo", {"clip_range_vf": 0}, "agent.options.clip_range_vf.*at least 1e-06"),
        ("sac", {"ent_coef": "foo"}, "agent.options.ent_coef.*'foo'.*like 'auto'"),
        ("sac", {"ent_coef": "auto_0"}, "'auto_0'"),
        ("sac", {"target_entropy": "auto_1"}, "'auto_1'"),
        ("tqc", {"top_quantiles_to_drop_per_net": 25}, "0 to 24"),
        ("thompson", {"drift": 1e300}, "agent.options.drift.*0 to 100"),
        ("dqn", {"buffer_size": 10**9}, "agent.options.buffer_size.*1 to 1e\\+07"),
        ("thompson", {"again": 0.9}, "agent.options.again.*0.9.*0 to 0.5"),
        ("thompson", {"num_draws": 1}, "at least 2"),
        ("dqn", {"clip_range": 0.2}, "Unknown option of dqn"),
        *(("ppo", {name: 1}, "Unknown option") for name in ("n_steps", "seed", "device", "use_sde")),
    ],
)
def test_options_that_do_not_fit_are_sentences(agent: str, options: dict[str, object], sentence: str) -> None:
    config = AgentConfig.model_validate({"name": agent, "options": options})
    with pytest.raises(ConfigError, match=sentence):
        algorithm_settings(config, 4)
