"""Promises of the searches without reinforcement learning: exact budgets, honest books, and that they find what there
is to be found.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agents.final import reference_episode
from agents.rollout import run_episode
from agents.schedule import SchedulePolicy
from agents.searches.base import Found, Played, SearchSetting
from agents.searches.catalogue import searches
from agents.searches.one_knob import changes
from agents.searches.playing import play_episode
from envs.factory import make_env
from envs.host import WorkerSetup
from envs.pool import Pool, SerialPool
from envs.workers import open_pool
from taskrl.assemble import load_data
from taskrl.errors import ConfigError
from taskrl.seeding import derive_seed, numpy_generator
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.types import Compute
from tests.agents.fake_pool import EPISODE, Effect, FakePool, additive, fake_setting, level_effects
from tests.agents.learning import space_for
from tests.envs.tiny import tiny_config, tiny_problem

NAMES = searches().names()
FORBID: dict[str, Any] = {"tasks__forbid": ["mirror", "noise"], "tasks__limit": ["crop>=0.6"]}
SEEDS = range(12)


def space_of(*objectives: str, **changes: Any) -> TaskSpace:
    names = list(objectives or ("contrastive", "rotation"))
    return space_for(tiny_config(tasks__objectives=names, **changes), "multidiscrete")


def worth(found: Found, effect: Effect) -> float:
    """What the found recipe or schedule adds to an episode's quality."""
    num = EPISODE.decisions
    return float(np.mean([effect(found.specs[k * len(found.specs) // num], k / num) for k in range(num)]))


def tasks_of(found: Found) -> list[TaskSpec]:
    played = [TaskSpec.from_json(text) for trial in found.record["trials"] for text in trial["tasks"]]
    return [*found.specs, *played]


# ---- on a real problem


@pytest.fixture(scope="module")
def pools() -> Iterator[tuple[Pool, Pool]]:
    """One worker and two."""
    config = tiny_config(**FORBID)
    setup = WorkerSetup(config, load_data(config), "multidiscrete")
    two = WorkerSetup(config.model_copy(update={"workers": 2}), setup.dataset, "multidiscrete")
    pair = SerialPool(setup), open_pool(two, warn=lambda sentence: None)
    yield pair
    for pool in pair:
        pool.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_search_is_charged_repeatable_and_keeps_to_what_is_open(name: str, pools: tuple[Pool, Pool]) -> None:
    assembled = tiny_problem(**FORBID)
    results = []
    for pool in pools:
        played: list[tuple[int, Played]] = []
        setting = SearchSetting(
            problem=assembled.problem,
            pool=pool,
            episode=assembled.config.episode,
            num_episodes=9,
            seed=5,
            after_episode=lambda number, episode, seen=played: seen.append((number, episode)),
        )
        results.append((searches()[name](setting), played))
    (one, played), other = results
    assert (one, played) == other, "one worker and two must find the same"
    assert [number for number, _ in played] == list(range(1, 10))
    assert one.spent == sum((episode.compute for _, episode in played), Compute())
    assert [trial["qualities"] for trial in one.record["trials"]] == [list(row.qualities) for _, row in played]
    box = space_for(tiny_config(**FORBID), "box")
    for spec in tasks_of(one):
        assert spec.level("mirror") == spec.level("noise") == 0
        assert (spec.level("crop") or 0) >= 0.6
        assert box.decode(box.encode(spec)) == spec
    assert len(one.specs) in (1, assembled.config.episode.decisions)


@pytest.mark.parametrize("codec", ["multidiscrete", "discrete"])
def test_an_episode_is_what_the_environment_plays_and_is_charged_as_there(codec: Any) -> None:
    config = tiny_config(episode__decisions=3)
    assembled = tiny_problem(codec, episode__decisions=3)
    space = space_for(config, "box")
    specs = (space.recipe("no-mirror"), space.recipe("rotation=0.3,masked=0.5"))
    played = play_episode(assembled, specs, config.episode, 7)
    trace = run_episode(
        make_env(tiny_problem("box").problem.unshaped(), config.episode), SchedulePolicy(space, specs), seed=7
    )
    assert [TaskSpec.from_json(text) for text in trace.specs] == [specs[0], specs[0], specs[1]]
    assert played == Played(qualities=trace.qualities, compute=trace.compute)


@pytest.mark.parametrize("source", ["digits", "simulated"])
def test_an_episode_of_the_reference_is_the_reference_episode(source: str) -> None:
    assembled = tiny_problem(data__source=source, data__image_size=16)
    played = play_episode(assembled, (assembled.problem.task_space.reference,), assembled.config.episode, 3)
    assert (played.qualities, played.compute) == reference_episode(assembled, 3)


# ---- on a made-up quality


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_episodes", [2, 3, 4, 7, 12, 25])
def test_every_budget_is_spent_to_the_last_episode(name: str, num_episodes: int) -> None:
    space = space_of()
    pool = FakePool(additive(space, level_effects(space, {"mirror": 0})))
    found = searches()[name](fake_setting(space, pool, num_episodes=num_episodes))
    assert len(found.record["trials"]) == num_episodes
    assert found.spent == Compute(flops=10 * num_episodes, images=3 * num_episodes)


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_open_the_reference_is_found(name: str) -> None:
    knobs = [knob.name for knob in space_of("contrastive").knobs]
    space = space_of("contrastive", tasks__forbid=knobs)
    found = searches()[name](fake_setting(space, FakePool(lambda spec, progress: 0.0), num_episodes=10))
    assert set(tasks_of(found)) == {space.reference}
    assert len(found.record["trials"]) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_search_repeats_itself_and_its_seed_matters(name: str) -> None:
    space = space_of()
    pool = FakePool(additive(space, level_effects(space, {"mirror": 0})))
    first, again, other = (searches()[name](fake_setting(space, pool, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.record["trials"] != other.record["trials"]


@functools.cache
def worths(name: str, seed: int) -> tuple[float, bool]:
    """What a search adds where two knobs help, and whether it found the first of them."""
    space = space_of()
    effect = additive(space, level_effects(space, {"mirror": 0, "crop": 1}, seed=seed))
    found = searches()[name](fake_setting(space, FakePool(effect), seed=seed))
    return worth(found, effect), all(spec.level("mirror") == 0 for spec in found.specs)


@pytest.mark.parametrize("name", NAMES)
def test_the_good_knob_is_found_more_often_than_not(name: str) -> None:
    results = [worths(name, seed) for seed in SEEDS]
    assert sum(good for _, good in results) > len(results) / 2
    assert np.mean([value for value, _ in results]) > 0.02


@pytest.mark.parametrize("name", ["static", "one-knob", "bandit"])
def test_what_learns_from_its_trials_beats_random_search(name: str) -> None:
    ours, theirs = (np.mean([worths(method, seed)[0] for seed in SEEDS]) for method in (name, "random-search"))
    assert ours - theirs > 0.01


def test_one_knob_falls_back_to_the_reference_where_nothing_helps() -> None:
    space = space_of()
    pool = FakePool(additive(space, level_effects(space, {})))
    found = [searches()["one-knob"](fake_setting(space, pool, seed=seed)) for seed in SEEDS]
    assert sum(row.specs == (space.reference,) for row in found) >= 10


def test_one_knob_tries_every_knob_down_and_every_weight_up() -> None:
    space = space_of()
    rows = [dict(zip(space.part_names(), space.level_indices(change.spec), strict=True)) for change in changes(space)]
    start = dict(zip(space.part_names(), space.level_indices(space.reference), strict=True))
    turned = [{name: level for name, level in row.items() if level != start[name]} for row in rows]
    assert all(len(row) == 1 for row in turned)
    assert {"mirror": 0} in turned and {"crop": 0} in turned and {"crop": 1} in turned
    assert {"weight/rotation": 1} in turned and {"weight/rotation": 2} in turned
    assert not any("noise" in row for row in turned), "it is off already"


def test_the_bandit_finds_a_task_for_each_part_of_an_episode() -> None:
    space = space_of("contrastive")

    def effect(spec: TaskSpec, progress: float) -> float:
        helps = 0.2 if progress < 0.5 else -0.2
        return helps if spec.level("mirror") == 0 else 0.0

    found = searches()["bandit"](fake_setting(space, FakePool(effect, noise=0.003)))
    assert [spec.level("mirror") for spec in found.specs] == [0, 0, 0.5, 0.5]


class Saturating(FakePool):
    """Rotation gains fast and ends low: each decision goes a part of the way to where its task would end."""

    def play(self, specs: Any, episode: Any, seed: int) -> Played:
        rng = numpy_generator(seed, *(spec.to_json() for spec in specs))
        qualities = [0.0]
        for index in range(episode.decisions):
            share = specs[index * len(specs) // episode.decisions].share("rotation")
            end, rate = 0.7 - 0.35 * share, 0.35 + 0.45 * share
            qualities.append(qualities[-1] + rate * (end - qualities[-1]) + rng.normal(0, 0.005))
        return Played(qualities=tuple(qualities), compute=Compute())


@pytest.mark.parametrize("name", NAMES)
def test_a_task_that_gains_early_and_ends_poorly_is_not_the_last(name: str) -> None:
    space = space_of("contrastive", "rotation")
    last = [
        searches()[name](fake_setting(space, Saturating(additive(space, {})), seed=seed)).specs[-1] for seed in SEEDS
    ]
    assert sum(spec.share("rotation") == 0 for spec in last) >= 10


def test_the_luckiest_of_many_is_not_taken_at_its_word() -> None:
    """Where recipes differ by chance alone, what was tried last counts: fresh seeds, the reference among them."""
    space = space_of()
    pool = FakePool(lambda spec, progress: 0.0, noise=0.05)
    for name in ("random-search", "static"):
        found = searches()[name](fake_setting(space, pool))
        rows = found.record["finalists"]
        assert [space.reference.to_json()] in [row["tasks"] for row in rows]
        best = max(rows, key=lambda row: np.mean(row["qualities"]))
        assert [spec.to_json() for spec in found.specs] == best["tasks"]
        assert all(len(row["qualities"]) == 3 for row in rows), "a third of 48 episodes, for five"
        assert [trial["seed"] for trial in found.record["trials"]].count(0) == 33


def test_every_search_of_a_seed_begins_from_the_same_episodes() -> None:
    space = space_of()
    seeds = []

    class Spy(FakePool):
        def play(self, specs: Any, episode: Any, seed: int) -> Played:
            seeds[-1].add(seed)
            return super().play(specs, episode, seed)

    for name in NAMES:
        seeds.append(set())
        searches()[name](fake_setting(space, Spy(lambda spec, progress: 0.0), seed=4))
    first = derive_seed(4, "search", 0)
    assert all(first in row for row in seeds)
    assert all(len(row) < 48 for row in seeds), "recipes are compared on common seeds"


def test_a_search_too_short_to_compare_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="at least 2 episodes"):
        fake_setting(space_of(), FakePool(lambda spec, progress: 0.0), num_episodes=1)
