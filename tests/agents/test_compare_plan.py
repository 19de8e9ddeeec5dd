"""Promises of a comparison's plan: what two methods share is one cell, and a cell is named by what decides it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.compare.methods import catalogue, chosen_methods
from agents.compare.plan import Plan
from agents.final import FIXED
from taskrl.assemble import task_space
from taskrl.data.fingerprint import images_fingerprint
from taskrl.errors import ConfigError
from tests.envs.tiny import tiny_config, tiny_problem


def test_what_two_methods_have_in_common_is_run_once() -> None:
    changes: dict[str, Any] = {"agent__name": "ppo", "agent__group": "branches"}
    config = tiny_config(compare__methods=["learned", "branches"], **changes)
    assembled = tiny_problem(compare__methods=["learned", "branches"], **changes)
    known = catalogue(config, 1)
    plan = Plan(assembled, (known["learned"], known["branches"]), "data")
    assert len(plan.searches) == config.compare.searches
    cells = [plan.cell_of(final, 0).name for final in plan.finals]
    assert len(cells) == 2 * len(set(cells))


def test_more_finals_keep_the_encoders_that_are_there() -> None:
    def cells(finals: int) -> set[str]:
        assembled = tiny_problem(compare__searches=3, compare__finals=finals)
        known = catalogue(assembled.config, 1)
        plan = Plan(assembled, (known["learned"], known["static"], known["reference"]), "data")
        return {plan.cell_of(final, 0).name for final in plan.finals}

    assert cells(1) < cells(2) < cells(5)
    assert len(cells(5)) == 3 * 3 * 5


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"workers": 2}, True),
        ({"tracking__uri": "elsewhere"}, True),
        ({"final__seeds": 9}, True),
        ({"data__memory_limit_mb": 99}, True),
        ({"agent__episodes": 6}, True),  # no search of the reference's
        ({"seed": 1}, False),
        ({"final__steps_per_decision": 3}, False),
        ({"final__test": True}, False),
        ({"predictor__width": 12}, False),
        ({"tasks__forbid": ["mirror"]}, False),
        ({"reward__labels_per_class": 20}, False),
        ({"predictor__compile": "always"}, False),
        ({"envs": "batched"}, False),
    ],
)
def test_a_cell_is_named_by_what_decides_it(changes: dict[str, Any], same: bool) -> None:
    def name(**options: Any) -> str:
        assembled = tiny_problem(**options)
        plan = Plan(assembled, (catalogue(assembled.config, 1)["reference"],), "data")
        return plan.cell_of(plan.finals[0], 0).name

    assert (name(**changes) == name()) == same


@pytest.mark.parametrize(
    ("agent", "changes", "same"),
    [
        ("ppo", {"reward__probe": "panel"}, False),
        ("ppo", {"episode__steps_per_decision": 3}, False),
        ("ppo", {"reward__labels_per_class": 20}, True),
        ("thompson", {"reward__probe": "panel"}, False),
        ("thompson", {"episode__steps_per_decision": 3}, True),
    ],
)
def test_a_policy_before_training_is_named_by_what_it_observes(agent: str, changes: dict[str, Any], same: bool) -> None:
    def name(**options: Any) -> str:
        assembled = tiny_problem(agent__name=agent, **options)
        plan = Plan(assembled, (catalogue(assembled.config, 1)["prior"],), "data")
        return plan.searches[0].cell.name

    assert (name(**changes) == name()) == same


def test_cells_do_not_depend_on_where_the_images_lie(tmp_path: Path) -> None:
    names = set()
    for place in ("here", "there"):
        file = tmp_path / place / "set.npz"
        file.parent.mkdir()
        np.savez(file, x_train=np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8))
        assembled = tiny_problem(data__source=str(file))
        plan = Plan(assembled, (catalogue(assembled.config, 1)["learned"],), images_fingerprint(assembled.splits))
        names.add((plan.searches[0].cell.name, plan.cell_of(plan.finals[0], 0).name))
    assert len(names) == 1


def test_longer_final_runs_are_multiples_of_the_final_run() -> None:
    assembled = tiny_problem(compare__lengths=[1, 5])
    known = catalogue(assembled.config, 1)
    plan = Plan(assembled, (known["reference"], known["untrained"]), "data")
    steps = {(final.method.name, final.length): plan.episode_of(final, 0).steps_per_decision for final in plan.finals}
    assert steps == {("reference", 1): 2, ("reference", 5): 10, ("untrained", 1): 2}


def test_the_constant_recipe_keeps_to_what_the_user_knows() -> None:
    config = tiny_config(tasks__forbid=["upside_down"], tasks__limit=["jitter<=0.2", "crop >= 0.6"])
    recipe = catalogue(config, 1)["constant"].source.removeprefix(FIXED)
    levels = dict(task_space(config, (1, 8, 8), "box").recipe(recipe).levels)
    assert (levels["upside_down"], levels["jitter"], levels["crop"], levels["mirror"]) == (0.0, 0.2, 0.6, 0.5)


def test_plain_searches_are_not_compared_with_searches_of_another_cost() -> None:
    config = tiny_config(reward__noise_test="lengthen")
    names = {method.name for method in chosen_methods(config, labelled=True, paid_by_labels=True, num_channels=1)}
    assert "learned" in names and not names & {"static", "random-search", "bandit", "one-knob"}
    named = tiny_config(reward__noise_test="lengthen", compare__methods=["static"])
    with pytest.raises(ConfigError, match=r"'static' cannot be compared here: reward\.noise_test"):
        chosen_methods(named, labelled=True, paid_by_labels=True, num_channels=1)
