"""Promises of `profile` and of what a final encoder's generator observes: no labels, no search, charged."""

import dataclasses
import json
from pathlib import Path

import pytest

from agents.final import FinalJob, Generator, check_generator, generator_named, train_final
from agents.policy import CARD, SB3TaskPolicy, load_policy
from agents.profile import INVISIBLE, profile_spec
from agents.sb3 import SB3MetaOptimizer
from envs.observation import ObservationBuilder
from taskrl.assemble import Assembled
from taskrl.errors import RunFolderError
from taskrl.evaluation.detectability import Description
from taskrl.folders import to_json, write_manifest
from taskrl.meta import MetaProblem
from taskrl.tasks.spec import TaskSpec
from taskrl.types import Compute
from tests.agents.learning import Search, search, serial_pool, space_for
from tests.envs.tiny import tiny_config, tiny_problem

DRAWN = {"data__source": "simulated-grey", "data__image_size": 16}
SHOWS, HIDES = INVISIBLE + 0.01, INVISIBLE - 0.01


def profiled(problem: MetaProblem, **detectability: float) -> TaskSpec:
    """The recipe for a made-up description."""
    found = Description(detectability=dict.fromkeys(("mirror", "upside_down", "rotation"), SHOWS) | detectability)
    return profile_spec(dataclasses.replace(problem, describe=lambda: found), problem.task_space)


def final(assembled: Assembled, generator: Generator) -> dict[str, float]:
    job = FinalJob(
        generator=generator,
        episode=assembled.config.final.episode,
        search_seed=0,
        train_seed=0,
        export_to=None,
        read_test=False,
    )
    return train_final(assembled, job).row


def test_an_invisible_symmetry_is_played_at_full_strength_and_a_visible_one_is_off() -> None:
    problem = tiny_problem().problem
    visible, hidden = profiled(problem), profiled(problem, mirror=HIDES, upside_down=HIDES, rotation=HIDES)
    assert [visible.level(name) for name in ("mirror", "upside_down", "rotation")] == [0, 0, 0]
    strengths = [hidden.level(name) for name in ("mirror", "upside_down", "rotation")]
    assert strengths == pytest.approx([0.5, 0.5, 3.141593])


def test_what_is_no_symmetry_stays_as_in_the_reference() -> None:
    problem = tiny_problem().problem
    others = {knob.name: 1.0 for knob in problem.task_space.knobs if knob.name not in ("mirror", "rotation")}
    spec, reference = profiled(problem, **others), problem.task_space.reference
    assert spec.mixture == reference.mixture
    changed = {name for name, level in spec.levels if level != reference.level(name)}
    assert changed == {"mirror"}


def test_the_users_limits_are_kept() -> None:
    problem = tiny_problem(tasks__forbid=["mirror"], tasks__limit=["rotation<=0.5"]).problem
    spec = profiled(problem, mirror=HIDES, rotation=HIDES)
    assert spec.level("mirror") == 0 and spec.level("rotation") == 0.5


def test_digits_are_not_mirrored_and_no_label_is_read() -> None:
    """Also without labels: a mirrored digit is told from a digit."""
    for changes in ({}, {"data__use_labels": False, "tasks__objectives": ["contrastive"]}):
        problem = tiny_problem(**changes).problem
        spec = profile_spec(problem, problem.task_space)
        assert problem.describe().detectability["mirror"] > 0.7
        assert spec.level("mirror") == 0 and spec.level("rotation") == 0


def test_a_final_encoder_under_profile_is_charged_for_the_description() -> None:
    assembled = tiny_problem()
    assert generator_named("profile") == Generator(name="profile", source="profile")
    rows = [final(assembled, generator_named(name)) for name in ("profile", "fixed:no-mirror")]
    spent = assembled.problem.describe().compute
    assert rows[0]["linear_accuracy"] == rows[1]["linear_accuracy"], "on digits, it is that recipe"
    assert rows[0]["train_flops"] - rows[1]["train_flops"] == spent.flops > 0
    assert rows[0]["train_images"] - rows[1]["train_images"] == spent.images > 0


@pytest.fixture(scope="module")
def drawn() -> Search:
    """PPO on sets that differ: two groups."""
    return search("ppo", agent__episodes=4, **DRAWN)


def test_a_search_pays_once_for_each_set_that_it_describes(drawn: Search) -> None:
    per_set = drawn.problem.describe().compute
    played = [decision.info["charged"] for decision in drawn.decisions]
    expected = sum(played, Compute(flops=2 * per_set.flops, images=2 * per_set.images))
    assert drawn.optimizer.spent == expected


def test_a_search_pays_once_where_all_episodes_share_a_set_and_nothing_where_nobody_looks() -> None:
    extra = {}
    for mode in ("full", "descriptor"):
        found = search("ppo", agent__episodes=4, agent__observe=mode)
        played = sum((decision.info["charged"] for decision in found.decisions), Compute())
        extra[mode] = found.optimizer.spent.images - played.images
        assert (found.optimizer.spent.flops > played.flops) == (mode == "descriptor")
    assert extra == {"full": 0, "descriptor": found.problem.describe().compute.images}


def test_a_saved_policy_is_played_with_what_it_learned_to_observe(drawn: Search, tmp_path: Path) -> None:
    drawn.policy.save(tmp_path / "policy", {})
    config = tiny_config()  # a single set of labelled digits: nobody would describe it here
    loaded = load_policy(tmp_path / "policy", lambda codec: space_for(config, codec), seed=0)
    assert loaded.shown == drawn.problem.observation and loaded.shown.description
    assembled = tiny_problem()
    learned = Generator(name="learned", source=str(tmp_path / "policy"))
    check_generator(assembled, learned)
    described = assembled.problem.describe().compute.images
    rows = [final(assembled, generator) for generator in (learned, generator_named("reference"))]
    assert rows[0]["train_images"] >= rows[1]["train_images"] - 200 + described


def test_an_ablated_policy_stays_ablated_whatever_the_configuration_says(tmp_path: Path) -> None:
    config = tiny_config(agent__observe="zeroed")
    problem = tiny_problem(agent__observe="zeroed").problem
    assert problem.observation.mode == "zeroed"
    optimizer = SB3MetaOptimizer(agent=config.agent, pool=serial_pool(config), decisions=2, seed=0)
    policy: SB3TaskPolicy = optimizer.prior(problem)
    policy.save(tmp_path / "policy", {})
    plain = tiny_config()
    loaded = load_policy(tmp_path / "policy", lambda codec: space_for(plain, codec), seed=0)
    assert loaded.shown.mode == "zeroed"


def test_a_policy_that_observes_other_entries_is_refused(drawn: Search, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    drawn.policy.save(folder, {})
    card = json.loads((folder / CARD).read_text())
    card["observation"].remove("budget")
    (folder / CARD).write_text(to_json(card))
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    config = tiny_config(**DRAWN)
    with pytest.raises(RunFolderError, match="other entries than this version"):
        load_policy(folder, lambda codec: space_for(config, codec), seed=0)


def test_a_policy_that_observes_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    changes = {"reward__probe": "panel", "tasks__objectives": ["contrastive"]}
    config, problem = tiny_config(**changes), tiny_problem(**changes).problem
    policy = SB3MetaOptimizer(agent=config.agent, pool=serial_pool(config), decisions=2, seed=0).prior(problem)
    policy.save(tmp_path / "policy", {})
    assert any(name.startswith("quality/") for name in ObservationBuilder.of(problem).names)
    learned = Generator(name="learned", source=str(tmp_path / "policy"))
    check_generator(tiny_problem(**changes), learned)
    with pytest.raises(RunFolderError, match="--probe of the run that learned it"):
        check_generator(tiny_problem(tasks__objectives=["contrastive"]), learned)
