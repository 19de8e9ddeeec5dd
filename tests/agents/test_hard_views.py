"""Promises of the opponent `hard-views`: the reference recipe on harder views, for the same FLOPs."""

import json

import pytest

from agents.final import FinalJob, FinalResult, check_generator, generator_named, train_final
from taskrl.assemble import Assembled
from taskrl.config import EpisodeConfig
from taskrl.errors import ConfigError
from tests.envs.tiny import tiny_problem


@pytest.fixture(scope="module")
def assembled() -> Assembled:
    return tiny_problem()


def final(assembled: Assembled, name: str) -> FinalResult:
    job = FinalJob(
        generator=generator_named(name),
        episode=EpisodeConfig(decisions=2, steps_per_decision=6),
        search_seed=0,
        train_seed=0,
        export_to=None,
        read_test=False,
    )
    return train_final(assembled, job)


def test_it_plays_the_reference_recipe_in_fewer_steps_for_the_same_flops(assembled: Assembled) -> None:
    hard, reference = (final(assembled, name) for name in ("hard-views", "reference"))
    assert hard.trace is not None and reference.trace is not None
    assert [json.loads(spec) for spec in hard.trace.specs] == [json.loads(spec) for spec in reference.trace.specs]
    steps = [sum(sum(info["num_steps"].values()) for info in found.trace.infos) for found in (hard, reference)]  # type: ignore[union-attr]
    assert steps[0] < 0.75 * steps[1] == 9
    assert hard.row["train_flops"] == pytest.approx(reference.row["train_flops"], rel=0.1)
    assert hard.row["linear_accuracy"] != reference.row["linear_accuracy"]
    assert hard.trace.infos[0]["losses"]["hard-views"] > reference.trace.infos[0]["losses"]["contrastive"]


def test_it_needs_the_contrastive_objective_as_the_reference() -> None:
    assembled = tiny_problem(tasks__objectives=["rotation", "contrastive"])
    with pytest.raises(ConfigError, match="the recipe's objective is rotation, not contrastive; name contrastive"):
        check_generator(assembled, generator_named("hard-views"))
