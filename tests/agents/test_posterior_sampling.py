"""Promises of posterior sampling: it finds what helps, plays it again before it believes it, and is taught nothing by
shuffled rewards.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.policy import SB3TaskPolicy
from agents.sb3 import Decision, SB3MetaOptimizer
from agents.training import train
from taskrl.config import AgentConfig, load_config
from taskrl.errors import ConfigError
from taskrl.evaluation.detectability import Description
from taskrl.meta import ObservationSpec, SearchBudget
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import NullTracker
from tests.agents.conftest import quiet
from tests.agents.fake_pool import Effect, FakeEpisodes, additive, level_effects
from tests.agents.learning import space_for
from tests.envs.tiny import TINY, tiny_config

SPACE = space_for(tiny_config(), "multidiscrete")
GOOD = {"mirror": 0, "crop": 1}
EFFECTS = level_effects(SPACE, GOOD)
BEST = 0.5 + 0.05 * len(GOOD)
REFERENCE = 0.5
DECISIONS, GROUP, EPISODES = 4, 8, 64


def learned(
    effect: Effect, *, seed: int = 0, space: TaskSpace = SPACE, without_gain: float = 0.0, **agent: Any
) -> tuple[SB3TaskPolicy, list[Decision]]:
    """The policy of a search of 64 episodes, and its decisions. Weaker views are as welcome as others, unless `agent`
    says how much more is asked of them.
    """
    decisions: list[Decision] = []
    values = {"name": "thompson", "episodes": EPISODES, "group_size": GROUP, "prior_strength": 1.0} | agent
    if values["name"] == "thompson":
        values["options"] = {"horizon": 0.0} | agent.get("options", {})
    config = AgentConfig(**values)
    pool = FakeEpisodes(space, effect, decisions=DECISIONS)
    optimizer = SB3MetaOptimizer(
        agent=config,
        pool=pool,
        decisions=DECISIONS,
        seed=seed,
        observer=decisions.append,
        without_gain=without_gain,
    )
    problem: Any = SimpleNamespace(task_space=space, observation=ObservationSpec(), drawn=None, describe=Description)
    policy = optimizer.fit(problem, budget=SearchBudget(num_episodes=config.episodes), tracker=NullTracker())
    return policy, decisions


def worth(policy: SB3TaskPolicy, effect: Effect, *, episodes: int = 40, **how: Any) -> float:
    """Mean quality of episodes under the policy, without noise."""
    pool = FakeEpisodes(policy.space, effect, decisions=DECISIONS)
    total = 0.0
    for _ in range(episodes):
        observation, _ = pool.reset(0, 0)
        for index in range(DECISIONS):
            action, _ = policy.propose(observation, **how)
            total += 0.5 + effect(policy.space.decode(action), index / DECISIONS)
            observation = pool.step(0, index, action).values[0]
    return total / episodes / DECISIONS


def mean_worth(effect: Effect, seeds: range, **agent: Any) -> float:
    return float(np.mean([worth(learned(effect, seed=seed, **agent)[0], effect) for seed in seeds]))


def test_most_of_what_helps_is_found_in_64_episodes_where_a_policy_gradient_finds_half() -> None:
    effect, seeds = additive(SPACE, EFFECTS), range(4)
    found = mean_worth(effect, seeds)
    assert found > REFERENCE + 0.75 * (BEST - REFERENCE)
    assert found > mean_worth(effect, seeds, name="ppo") + 0.2 * (BEST - REFERENCE)


def test_it_earns_more_as_it_goes() -> None:
    _, decisions = learned(additive(SPACE, EFFECTS))
    rewards = np.array([decision.reward for decision in decisions]).reshape(EPISODES // GROUP, -1).mean(axis=1)
    assert rewards[-2:].mean() > rewards[:2].mean()


def played(decisions: list[Decision]) -> list[list[tuple[TaskSpec, ...]]]:
    """The tasks of every episode of each group."""
    tasks: dict[int, tuple[TaskSpec, ...]] = {}
    for decision in decisions:
        tasks[decision.episode] = (*tasks.get(decision.episode, ()), SPACE.decode(decision.info["action"]))
    return [[tasks[first + row] for row in range(GROUP)] for first in range(0, len(tasks), GROUP)]


def test_every_group_plays_the_reference_first_and_nothing_twice() -> None:
    _, decisions = learned(additive(SPACE, EFFECTS))
    for episodes in played(decisions):
        assert episodes[0] == (SPACE.reference,) * DECISIONS
        assert len(set(episodes)) == GROUP


def test_while_it_looks_tasks_differ_from_the_reference_in_few_parts() -> None:
    _, decisions = learned(additive(SPACE, EFFECTS), prior_strength=0.0, options={"deviations": 2})
    reference = np.array(SPACE.level_indices(SPACE.reference))
    tasks = {spec for episodes in played(decisions)[:6] for episode in episodes for spec in episode}
    assert max((np.array(SPACE.level_indices(spec)) != reference).sum() for spec in tasks) == 2


def test_the_last_quarter_plays_the_same_candidates_again_and_one_of_them_is_the_policy() -> None:
    effect = additive(SPACE, EFFECTS)
    policy, decisions = learned(effect)
    *_, before, first, second = played(decisions)
    assert set(first) == set(second) != set(before)
    observation, _ = FakeEpisodes(SPACE, effect).reset(0, 0)
    action, _ = policy.propose(observation, deterministic=True)
    assert (SPACE.decode(action),) * DECISIONS in first


def test_changes_that_help_alone_and_ruin_each_other_are_told_by_playing_both() -> None:
    """While it looks it plays single changes, so that only candidates can show what two of them do together."""

    def effect(spec: TaskSpec, progress: float) -> float:
        levels = dict(spec.levels)
        return (0.0, 0.06, -0.2)[(levels["mirror"] == 0) + (levels["crop"] == 0.6)] - 0.05 * (levels["blur"] == 0.5)

    def worths(again: float) -> list[float]:
        options = {"deviations": 1, "again": again}
        return [worth(learned(effect, seed=seed, options=options)[0], effect) for seed in range(4)]

    assert min(worths(0.25)) > REFERENCE - 0.01 > REFERENCE - 0.1 > min(worths(0.0))


def test_a_change_is_found_though_a_group_has_more_places_than_there_are_tasks() -> None:
    config = tiny_config(
        tasks__objectives=["contrastive"],
        tasks__forbid=["upside_down", "rotation", "jitter", "blur", "noise", "cutout"],
        tasks__limit=["crop>=1"],
    )
    space = space_for(config, "multidiscrete")

    def effect(spec: TaskSpec, progress: float) -> float:
        return 0.1 * (dict(spec.levels)["mirror"] == 0)

    assert worth(learned(effect, space=space)[0], effect) == pytest.approx(REFERENCE + 0.1, abs=0.01)


def test_one_ruined_reference_changes_nothing_of_what_weaker_views_have_to_add() -> None:
    groups = []

    def effect(spec: TaskSpec, progress: float) -> float:
        if spec == SPACE.reference and progress == 0:
            groups.append(spec)
            return -50.0 if len(groups) == 3 else 0.0
        return 0.08 * (dict(spec.levels)["crop"] == 0.6)

    policy, _ = learned(effect, options={"horizon": 0.25})
    assert worth(policy, lambda spec, progress: 0.08 * (dict(spec.levels)["crop"] == 0.6)) < REFERENCE + 0.01


def test_in_the_end_only_what_is_probably_better_is_played() -> None:
    """Nothing helps here but by chance: who believes the mean deviates, who is cautious hardly does."""

    def nothing(spec: TaskSpec, progress: float) -> float:
        return 0.0

    def reference_share(caution: float) -> float:
        shares = []
        for seed in range(4):
            policy, _ = learned(nothing, seed=seed, options={"caution": caution})
            observation, _ = FakeEpisodes(SPACE, nothing).reset(0, 0)
            tables = policy.probabilities(observation)
            shares += [tables[part.name][part.reference] for part in SPACE.parts]
        return float(np.mean(shares))

    believing, cautious = reference_share(0.0), reference_share(1.0)
    assert 1 - cautious < 0.5 * (1 - believing)


def test_a_weaker_view_has_to_add_a_share_of_what_the_reference_gains() -> None:
    """Both changes are worth 0.08, where an episode of the reference gains 0.5."""

    def effect(spec: TaskSpec, progress: float) -> float:
        levels = dict(spec.levels)
        return 0.08 * (levels["crop"] == 0.6) + 0.08 * (levels["blur"] == 0.5) - 0.08 * (levels["noise"] == 0.1)

    def shares(horizon: float) -> tuple[float, float]:
        """Of the weaker crop, and of blur, which the reference has not."""
        policy, _ = learned(effect, options={"horizon": horizon})
        observation, _ = FakeEpisodes(SPACE, effect).reset(0, 0)
        tables = policy.probabilities(observation)
        return float(tables["crop"][1]), float(tables["blur"][1])

    assert min(shares(0.05)) > 0.9
    crop, blur = shares(0.25)
    assert crop < 0.1 < 0.9 < blur


def test_what_shaping_takes_off_is_not_taken_off_what_weaker_views_have_to_add() -> None:
    def effect(spec: TaskSpec, progress: float) -> float:
        return 0.08 * (dict(spec.levels)["crop"] == 0.6) - 0.5  # the reference is paid nothing for its gain of 0.5

    def share(without_gain: float) -> float:
        policy, _ = learned(effect, options={"horizon": 0.25}, without_gain=without_gain)
        observation, _ = FakeEpisodes(SPACE, effect).reset(0, 0)
        return float(policy.probabilities(observation)["crop"][1])

    assert share(-0.5) < 0.1 < 0.9 < share(0.0)


@pytest.mark.parametrize(
    ("shaping", "without_gain"),
    [
        ({}, 0.0),
        ({"reward.cost_weight": 0.5}, 2.0 * -0.5 * 2),
        ({"reward.shaping": "relative", "reward.reference_curve": [0.1, 0.3, 0.4]}, 2.0 * -0.3),
    ],
)
def test_a_search_knows_what_shaping_takes_off(
    shaping: dict[str, Any], without_gain: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(**keywords: Any) -> None:
        assert keywords["without_gain"] == pytest.approx(without_gain)
        raise KeyboardInterrupt

    monkeypatch.setattr("agents.policy_search.SB3MetaOptimizer", told)
    config = load_config(given={**TINY, "reward.scale": 2.0, **shaping})
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", quiet())


def test_shuffled_rewards_teach_it_nothing() -> None:
    """On average: a single search believes in some chance pattern."""
    effect, seeds = additive(SPACE, EFFECTS), range(6)
    assert mean_worth(effect, seeds, shuffle_rewards=True) < REFERENCE


def test_an_effect_that_turns_round_within_an_episode_is_followed() -> None:
    def effect(spec: TaskSpec, progress: float) -> float:
        return 0.4 * (progress - 0.4) * (dict(spec.levels)["mirror"] == 0)

    policy, _ = learned(effect, options={"drift": 1.0, "caution": 0.0}, persistence=0.0)
    pool = FakeEpisodes(SPACE, effect, decisions=DECISIONS)
    observation, _ = pool.reset(0, 0)
    unplayed = []
    for index in range(DECISIONS):
        unplayed.append(policy.probabilities(observation)["mirror"][0])
        observation = pool.step(0, index, SPACE.encode(SPACE.reference)).values[0]
    assert unplayed[0] < 0.5 < unplayed[-1]


@pytest.mark.parametrize("ruin", [-50.0, float("-inf"), float("nan")])
def test_a_task_that_ruins_the_encoder_is_avoided_and_hides_nothing_else(ruin: float) -> None:
    effect = additive(SPACE, EFFECTS)

    def ruining(spec: TaskSpec, progress: float) -> float:
        return ruin if dict(spec.levels)["jitter"] == 0 else effect(spec, progress)

    policy, _ = learned(ruining)
    assert worth(policy, effect) > REFERENCE + 0.5 * (BEST - REFERENCE)
    observation, _ = FakeEpisodes(SPACE, effect).reset(0, 0)
    assert policy.probabilities(observation)["jitter"][0] < 0.05


def test_closed_levels_stay_shut() -> None:
    config = tiny_config(tasks__forbid=["blur"], tasks__limit=["crop>=0.6"])
    space = space_for(config, "multidiscrete")
    policy, decisions = learned(additive(space, level_effects(space, {})), space=space, episodes=16)
    (crop,) = [part for part in space.parts if part.name == "crop"]
    observation, _ = FakeEpisodes(space, lambda spec, progress: 0.0).reset(0, 0)
    table = policy.probabilities(observation)
    assert table["blur"][0] == pytest.approx(1)
    assert table["crop"][~np.array(crop.allowed)].max() < 1e-6
    column = space.part_names().index("crop")
    assert all(crop.allowed[decision.info["action"][column]] for decision in decisions)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"group": "branches"}, "group=branches"),
        ({"group_size": 1}, "group_size=1"),
        ({"hidden": [8]}, "hidden"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"options": {"clip_range": 0.1}}, "clip_range"),
        ({"options": {"task_space": 1}}, "task_space"),
        ({"options": {"deviations": 0}}, "deviations"),
        ({"options": {"again": 0.6}}, "again"),
        ({"options": {"horizon": -0.1}}, "horizon"),
        ({"options": {"drift": -1.0}}, "drift"),
        ({"options": {"num_draws": 0}}, "num_draws"),
        ({"options": {"caution": -1.0}}, "caution"),
    ],
)
def test_settings_that_it_cannot_use_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        learned(additive(SPACE, EFFECTS), **changes)
