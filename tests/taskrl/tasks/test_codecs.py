"""Promises of the three codecs between actions and specs."""

from collections.abc import Sequence

import numpy as np
import pytest
from gymnasium import spaces

from taskrl.errors import ConfigError
from taskrl.tasks.space import Codec, Knob, TaskSpace
from taskrl.tasks.spec import TaskSpec
from tests.taskrl.tasks.spaces import CODECS, KNOBS, OBJECTIVES, some_actions, space

RESTRICTIONS: list[tuple[Sequence[str], Sequence[str]]] = [
    ((), ()),
    (("mirror",), ("rotation<=0.2",)),
    ((), ("crop>=0.6",)),
    ((), ("crop>=0.3", "crop<=0.6", "jitter>=0.1")),
]


@pytest.mark.parametrize("codec", CODECS)
def test_the_action_space_is_the_codecs(codec: Codec) -> None:
    kind = {"multidiscrete": spaces.MultiDiscrete, "discrete": spaces.Discrete, "box": spaces.Box}[codec]
    assert isinstance(space(codec).action_space, kind)
    assert space("box").action_space == spaces.Box(-1.0, 1.0, (8,), np.float32)
    assert space("multidiscrete").action_space == spaces.MultiDiscrete([3, 3, 3, 4, 2, 4, 3, 3])


@pytest.mark.parametrize("name", ["MultiDiscrete", "foo", ""])
def test_an_unknown_codec_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Unknown codec '{name}'; known: box, discrete, multidiscrete"):
        space(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(("forbid", "limit"), RESTRICTIONS)
@pytest.mark.parametrize("codec", CODECS)
def test_every_action_decodes_to_a_spec_that_encodes_to_an_action_of_the_same_spec(
    codec: Codec, forbid: Sequence[str], limit: Sequence[str]
) -> None:
    task_space = space(codec, forbid=forbid, limit=limit)
    for action in some_actions(task_space):
        spec = task_space.decode(action)
        again = task_space.encode(spec)
        assert task_space.action_space.contains(again if codec != "discrete" else again[()])
        assert task_space.decode(again) == spec


@pytest.mark.parametrize("codec", CODECS)
def test_specs_are_well_formed(codec: Codec) -> None:
    task_space = space(codec)
    for action in some_actions(task_space):
        spec = task_space.decode(action)
        shares = [share for _, share in spec.mixture]
        assert min(shares) >= 0.05 - 1e-6 and sum(shares) == pytest.approx(1, abs=1e-9)
        assert {name for name, _ in spec.mixture} <= set(OBJECTIVES)
        for knob in KNOBS:
            level = spec.level(knob.name)
            if level is not None:
                assert min(knob.levels) <= level <= max(knob.levels)
        assert TaskSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("codec", CODECS)
def test_samples_of_the_action_space_decode(codec: Codec) -> None:
    task_space = space(codec)
    task_space.action_space.seed(0)
    for _ in range(50):
        task_space.decode(task_space.action_space.sample())


@pytest.mark.parametrize("codec", CODECS)
def test_the_reference_encodes_and_decodes_in_every_codec(codec: Codec) -> None:
    task_space = space(codec)
    assert task_space.decode(task_space.encode(task_space.reference)) == task_space.reference
    assert task_space.reference == space("multidiscrete").reference


GOOD = [2, 0, 0, 2, 1, 0, 1, 1]
BAD_ACTIONS = {
    "multidiscrete": [
        np.array([-1, *GOOD[1:]]),
        np.array([3, *GOOD[1:]]),
        np.array(GOOD, dtype=np.float64),
        np.array([0.5, *GOOD[1:]]),
        np.array([np.nan, *GOOD[1:]]),
        np.array(GOOD[:-1]),
        np.array([*GOOD, 0]),
        np.array([GOOD]),
        np.array(2),
        np.array(GOOD, dtype=bool),
        np.array(GOOD, dtype=object),
        "2",
        None,
    ],
    "discrete": [-1, 10_000, 1.0, np.nan, np.array([1]), np.array([[1]]), True, "1", None],
    "box": [
        np.full(8, 1.1, np.float32),
        np.full(8, -1.1, np.float32),
        np.array([np.nan] + [0.0] * 7, np.float32),
        np.array([np.inf] + [0.0] * 7, np.float32),
        np.zeros(7, np.float32),
        np.zeros((1, 8), np.float32),
        np.float32(0),
        "0",
        None,
        {"crop": 0.3},
    ],
}


@pytest.mark.parametrize(
    ("codec", "action"), [(codec, action) for codec, actions in BAD_ACTIONS.items() for action in actions], ids=repr
)
def test_an_action_outside_the_space_raises_value_error(codec: Codec, action: object) -> None:
    with pytest.raises(ValueError, match="action"):
        space(codec).decode(action)  # type: ignore[arg-type]


def test_any_integer_type_of_a_multidiscrete_action_is_taken() -> None:
    task_space = space()
    for dtype in (np.int8, np.int32, np.int64, np.uint8):
        assert task_space.decode(np.array(GOOD, dtype=dtype)) == task_space.decode(np.array(GOOD))


def test_multidiscrete_parts_are_the_weights_and_then_the_knobs() -> None:
    assert space().part_names() == (*(f"weight/{name}" for name in OBJECTIVES), *(knob.name for knob in KNOBS))
    spec = space().decode(np.array([2, 0, 1, 0, 0, 3, 2, 2]))
    assert spec.mixture == (("contrastive", 0.666667), ("masked", 0.333333))
    assert dict(spec.levels) == {
        "crop": 1.0,
        "mirror": 0.0,
        "rotation": 3.141593,
        "jitter": 0.8,
        "mask_ratio": 0.75,
    }


@pytest.mark.parametrize("codec", ["multidiscrete", "box"])
def test_all_weights_zero_means_the_first_objective_alone(codec: Codec) -> None:
    lowest = np.zeros(8, np.int64) if codec == "multidiscrete" else np.full(8, -1, np.float32)
    assert space(codec).decode(lowest).mixture == (("contrastive", 1.0),)


def test_one_objective_has_no_weight_part() -> None:
    task_space = space(objectives=["masked"])
    assert task_space.part_names() == tuple(knob.name for knob in KNOBS)
    assert task_space.reference.mixture == (("masked", 1.0),)


def test_knobs_that_no_chosen_objective_uses_are_dropped_and_encoding_puts_the_reference_back() -> None:
    task_space = space()
    unused, used = ([2, 0, weight, 2, 1, 0, 1, 2] for weight in (0, 1))
    assert task_space.decode(np.array(unused)).level("mask_ratio") is None
    assert task_space.decode(np.array(used)).level("mask_ratio") == 0.75
    assert task_space.encode(task_space.decode(np.array(unused)))[-1] == 1
    assert space("box").encode(task_space.decode(np.array(unused)))[-1] == pytest.approx(0.0)


def test_box_coordinates_go_through_the_levels_in_order() -> None:
    task_space = space("box", objectives=["contrastive"])
    crops = [
        task_space.decode(np.array([at, 0, 0, 0, 0], np.float32)).level("crop") for at in (-1, -1 / 3, 0, 1 / 3, 1)
    ]
    assert crops == pytest.approx([1.0, 0.6, 0.45, 0.3, 0.15], abs=1e-5)


def test_box_shares_below_a_twentieth_are_dropped() -> None:
    spec = space("box").decode(np.array([1, -0.95, -1, 0, 0, 0, 0, 0], np.float32))
    assert spec.mixture == (("contrastive", 1.0),)


def test_discrete_holds_the_reference_each_single_deviation_and_each_objective_alone_once() -> None:
    task_space = space("discrete")
    chosen = [task_space.decode(action) for action in some_actions(task_space)]
    assert chosen[0] == task_space.reference
    assert len(chosen) == len(set(chosen)) <= 64
    canonical = space()
    start = [part.reference for part in canonical.parts]
    expected = {canonical.reference}
    for index, part in enumerate(canonical.parts):
        for level in range(len(part.levels)):
            expected.add(canonical.decode(np.array([*start[:index], level, *start[index + 1 :]])))
    for index in range(len(OBJECTIVES)):
        expected.add(canonical.decode(np.array([2 * (i == index) for i in range(3)] + start[3:])))
    assert set(chosen) == expected


def test_more_than_64_discrete_actions_are_refused() -> None:
    knobs = [Knob(name=f"knob{i}", levels=(0.0, 0.5, 1.0), reference=0, logit=1.0) for i in range(32)]
    with pytest.raises(ConfigError, match="at most 64"):
        TaskSpace(objectives=["contrastive"], knobs=knobs, codec="discrete")
    TaskSpace(objectives=["contrastive"], knobs=knobs[:31], codec="discrete")


def test_a_codec_that_cannot_express_a_spec_says_so() -> None:
    between = space("box").decode(np.full(8, 0.123, np.float32))
    for codec in ("multidiscrete", "discrete"):
        with pytest.raises(ValueError, match=f"the {codec} codec cannot express"):
            space(codec).encode(between)


def test_level_indices_are_the_nearest_levels() -> None:
    spec = TaskSpec(mixture=(("contrastive", 0.8), ("rotation", 0.2)), levels=(("crop", 0.55), ("jitter", 0.7)))
    assert space().level_indices(spec) == [2, 0, 0, 1, 1, 0, 2, 1]


@pytest.mark.parametrize("objectives", [[], ["rotation", "rotation"]])
def test_empty_or_repeated_objectives_are_refused(objectives: list[str]) -> None:
    with pytest.raises(ConfigError, match="empty or repeated"):
        TaskSpace(objectives=objectives, knobs=KNOBS)


@pytest.mark.parametrize(("forbid", "limit"), RESTRICTIONS)
@pytest.mark.parametrize("objectives", [OBJECTIVES, OBJECTIVES[:1]])
def test_levels_of_many_box_actions_are_those_of_each(
    objectives: Sequence[str], forbid: Sequence[str], limit: Sequence[str]
) -> None:
    task_space = space("box", objectives, forbid=forbid, limit=limit)
    actions = np.stack(some_actions(task_space))
    expected = [task_space.level_indices(task_space.decode(action)) for action in actions]
    assert task_space.box_level_indices(actions).tolist() == expected
