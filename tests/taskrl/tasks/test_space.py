"""Promises of restrictions, the prior and fixed recipes."""

from collections.abc import Sequence

import numpy as np
import pytest

from taskrl.errors import ConfigError
from taskrl.tasks.space import Codec, restrict
from taskrl.tasks.spec import TaskSpec
from tests.taskrl.tasks.spaces import CODECS, KNOBS, OBJECTIVES, some_actions, space


@pytest.mark.parametrize("codec", CODECS)
def test_a_forbidden_knob_keeps_its_weakest_level_in_every_action(codec: Codec) -> None:
    task_space = space(codec, forbid=["mirror", "crop"])
    for action in some_actions(task_space):
        spec = task_space.decode(action)
        assert (spec.level("mirror"), spec.level("crop")) == (0.0, 1.0)
    assert (task_space.reference.level("mirror"), task_space.reference.level("crop")) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("limit", "knob", "low", "high"),
    [
        (["rotation<=0.2"], "rotation", 0.0, 0.2),
        (["rotation>=0.2"], "rotation", 0.2, 3.141593),
        (["crop>=0.6"], "crop", 0.6, 1.0),
        (["crop<=0.5", "crop>=0.2"], "crop", 0.2, 0.5),
        (["jitter<=0"], "jitter", 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("codec", CODECS)
def test_limits_hold_in_every_action_and_both_ends_can_be_reached(
    codec: Codec, limit: Sequence[str], knob: str, low: float, high: float
) -> None:
    task_space = space(codec, limit=limit)
    seen = {task_space.decode(action).level(knob) for action in some_actions(task_space)}
    levels = [level for level in seen if level is not None]
    assert (min(levels), max(levels)) == pytest.approx((low, high))
    reference = task_space.reference.level(knob)
    assert reference is not None and low <= reference <= high


def test_the_reference_moves_to_the_nearest_level_that_a_limit_leaves_open() -> None:
    assert space(limit=["crop>=0.6"]).reference.level("crop") == 0.6
    assert space(limit=["crop<=0.2"]).reference.level("crop") == pytest.approx(0.2)
    assert space(limit=["rotation<=0.2"]).reference == space().reference


@pytest.mark.parametrize(("knob", "limit"), [("mirror", "mirror>=0.5"), ("crop", "crop<=0.6")])
def test_a_limit_that_would_play_a_forbidden_view_is_refused(knob: str, limit: str) -> None:
    with pytest.raises(ConfigError, match=f"{limit}.*forbidding it"):
        restrict(KNOBS, forbid=[knob], limit=[limit])


def test_a_limit_that_leaves_a_forbidden_view_out_changes_nothing() -> None:
    forbidden = space(forbid=["crop"]).reference
    assert space(forbid=["crop"], limit=["crop>=0.6"]).reference == forbidden
    assert forbidden.level("crop") == 1.0


def test_limits_close_the_copies_of_a_level_in_mask_and_prior() -> None:
    task_space = space(objectives=["contrastive"], limit=["rotation<=0.2"], forbid=["mirror"])
    open_levels = dict(zip(task_space.part_names(), (part.allowed for part in task_space.parts), strict=True))
    assert open_levels["rotation"] == (True, True, False, False)
    assert open_levels["mirror"] == (True, False)
    assert task_space.action_mask().tolist() == [flag for part in task_space.parts for flag in part.allowed]
    rotation = task_space.prior_logits(1.0)[task_space.part_names().index("rotation")]
    probabilities = np.exp(rotation) / np.exp(rotation).sum()
    assert float(probabilities[2:].sum()) < 1e-6


def test_the_mask_of_the_discrete_codec_leaves_all_of_its_choices_open() -> None:
    task_space = space("discrete", forbid=["mirror"])
    assert task_space.action_mask().tolist() == [True] * int(task_space.action_space.n)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("rotation<0.2", r"'rotation<0\.2' is not KNOB<=NUMBER"),
        ("rotation<=", "is not KNOB<=NUMBER"),
        ("rotation<=few", "is not KNOB<=NUMBER"),
        ("rotation", "is not KNOB<=NUMBER"),
        ("rotation<=nan", "outside the range of rotation"),
        ("rotation<=-1", r"choose a number in \[0, 3\.14159\]"),
        ("crop>=2", r"choose a number in \[0\.15, 1\]"),
        ("rotatoin<=0.2", "Did you mean 'rotation'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_in_one_sentence(limit: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        restrict(KNOBS, forbid=[], limit=[limit])


def test_forbidding_an_unknown_knob_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown knob 'miror'; known: .* Did you mean 'mirror'\?"):
        restrict(KNOBS, forbid=["miror"], limit=[])


def test_prior_logits_are_the_strength_times_the_knobs_number_at_the_reference_and_0_elsewhere() -> None:
    for strength in (0.5, 1.0, 2.0):
        rows = dict(zip(space().part_names(), space().prior_logits(strength), strict=True))
        assert rows["weight/contrastive"].tolist() == [0, 0, 2 * strength]
        assert rows["weight/rotation"].tolist() == [2 * strength, 0, 0]
        assert rows["crop"].tolist() == [0, 0, 1.5 * strength, 0]
        assert rows["mirror"].tolist() == [0, strength]
        assert rows["mask_ratio"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("forbid", "limit"), [((), ()), (("mirror",), ("rotation<=0.2",))])
def test_prior_strength_0_is_uniform_over_the_open_levels(forbid: Sequence[str], limit: Sequence[str]) -> None:
    task_space = space(forbid=forbid, limit=limit)
    for part, row in zip(task_space.parts, task_space.prior_logits(0.0), strict=True):
        assert set(row[np.array(part.allowed)].tolist()) == {0.0}


def test_discrete_prior_weights_are_uniform_at_0_and_favour_the_reference_by_e_to_the_2() -> None:
    task_space = space("discrete")
    uniform, centred = task_space.prior_weights(0.0), task_space.prior_weights(1.0)
    assert uniform == pytest.approx(np.full(len(uniform), 1 / len(uniform)))
    assert centred.sum() == pytest.approx(1)
    reference = int(task_space.encode(task_space.reference))
    others = np.delete(centred, reference)
    assert centred[reference] / others == pytest.approx(np.full(len(others), np.exp(2)))


def test_recipe_reference_and_the_empty_recipe_are_the_reference() -> None:
    for text in ("reference", "", " reference , "):
        assert space().recipe(text) == space().reference


def test_recipes_change_strengths_and_weights_of_the_reference() -> None:
    task_space = space()
    assert task_space.recipe("no-mirror").level("mirror") == 0.0
    assert task_space.recipe("no-crop").level("crop") == 1.0
    assert task_space.recipe("rotation=0.4, crop=0.5").levels == (
        ("crop", 0.5),
        ("mirror", 0.5),
        ("rotation", 0.4),
        ("jitter", 0.4),
    )
    mixed = task_space.recipe("masked=1,mask_ratio=0.7")
    assert mixed.mixture == (("contrastive", 0.5), ("masked", 0.5)) and mixed.level("mask_ratio") == 0.7
    assert task_space.recipe("contrastive=0,masked=1").mixture == (("masked", 1.0),)


def test_a_recipes_strength_wins_over_an_objective_of_the_same_name() -> None:
    assert "rotation" in OBJECTIVES and any(knob.name == "rotation" for knob in KNOBS)
    spec = space().recipe("rotation=1")
    assert spec.level("rotation") == 1.0 and spec.share("rotation") == 0.0


def test_recipes_of_the_levels_are_actions_of_the_box_codec() -> None:
    task_space = space("box")
    for text in ("reference", "no-mirror", "masked=0.5,jitter=0.8", "crop=0.45"):
        spec = task_space.recipe(text)
        assert isinstance(spec, TaskSpec)
        assert task_space.decode(task_space.encode(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no-miror", "Unknown recipe part 'no-miror'.* Did you mean 'no-mirror'"),
        ("jitterr=0.2", "Did you mean 'jitter'"),
        ("mirror", "'mirror' is not NAME=NUMBER; write e.g. mirror=0"),
        ("mirror=much", "is not NAME=NUMBER"),
        ("mirror=2", r"mirror takes a number in \[0, 0\.5\]"),
        ("masked=-1", r"masked takes a number in \[0, 1\]"),
        ("crop=nan", "out of range"),
        ("contrastive=0", "gives every objective the weight 0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space().recipe(text)


def test_deviations_change_one_part_each_as_far_as_it_goes() -> None:
    made = space(codec="multidiscrete")
    reference = np.array(made.encode(made.reference))
    assert made.reference not in made.deviations and len(set(made.deviations)) == len(made.deviations) > 0
    for spec in made.deviations:
        (changed,) = np.flatnonzero(np.array(made.encode(spec)) != reference)
        part, level = made.parts[changed], int(np.array(made.encode(spec))[changed])
        distances = [abs(index - part.reference) for index, open_ in enumerate(part.allowed) if open_]
        assert abs(level - part.reference) == max(distances)
    for codec in ("discrete", "box"):
        other = space(codec=codec)
        assert other.deviations == made.deviations
        assert [other.decode(other.encode(spec)) for spec in made.deviations] == list(made.deviations)
