"""Promises to the user: what --forbid and --limit name is never trained, whatever the action."""

from typing import Any

import numpy as np
import pytest

from envs.task_generation import TaskGenerationEnv
from taskrl.tasks.space import Codec
from taskrl.tasks.spec import TaskSpec
from tests.envs.tiny import CODECS, tiny_env

FORBID = ["mirror", "upside_down"]
LIMIT = ["rotation<=0.2", "crop>=0.6"]
NUM_ACTIONS = 300


def restricted(codec: Codec) -> TaskGenerationEnv:
    return tiny_env(codec, tasks__forbid=FORBID, tasks__limit=LIMIT)


def corners(env: TaskGenerationEnv, codec: Codec) -> list[Any]:
    if codec == "discrete":
        return list(range(int(env.action_space.n)))  # type: ignore[attr-defined]
    if codec == "box":
        return [np.full(env.action_space.shape, value, dtype=np.float32) for value in (-1.0, 1.0)]  # type: ignore[arg-type]
    return [np.zeros_like(env.action_space.nvec), env.action_space.nvec - 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", CODECS)
def test_forbidden_and_limited_views_hold_for_random_actions(codec: Codec) -> None:
    env = restricted(codec)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(NUM_ACTIONS)] + corners(env, codec)
    specs = [env.problem.task_space.decode(action) for action in actions]
    assert len(set(specs)) > 10, "the restrictions must leave something to choose"
    for spec in specs:
        for knob in FORBID:
            assert spec.level(knob) in (None, 0.0)
        rotation, crop = spec.level("rotation"), spec.level("crop")
        assert rotation is None or 0 <= rotation <= 0.2
        assert crop is None or 0.6 <= crop <= 1
    assert max(spec.level("rotation") or 0 for spec in specs) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_step_reports_is_within_the_limits(codec: Codec) -> None:
    env = restricted(codec)
    env.reset(seed=0)
    env.action_space.seed(1)
    for _ in range(2):
        spec = TaskSpec.from_json(env.step(env.action_space.sample())[4]["spec"])
        assert spec.level("mirror") in (None, 0.0)
        assert (spec.level("rotation") or 0) <= 0.2


@pytest.mark.parametrize("codec", CODECS)
def test_the_reference_obeys_the_restrictions_too(codec: Codec) -> None:
    space = restricted(codec).problem.task_space
    assert space.decode(space.encode(space.reference)) == space.reference
    assert space.reference.level("mirror") == 0.0
    assert space.reference.level("crop") == 0.6


def test_the_mask_closes_what_is_forbidden() -> None:
    env = restricted("multidiscrete")
    mask = env.action_masks()
    parts = env.problem.task_space.parts
    assert mask.dtype == np.bool_
    assert mask.shape == (sum(len(part.levels) for part in parts),)
    start = 0
    for part in parts:
        row = mask[start : start + len(part.levels)].tolist()
        start += len(part.levels)
        assert any(row), part.name
        assert row == ([True, False] if part.name in FORBID else list(part.allowed))
    assert tiny_env().action_masks().all()
