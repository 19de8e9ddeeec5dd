from typing import Any

import pytest
import torch
from torch import Tensor

from taskrl.errors import ConfigError
from taskrl.registry import Registry
from taskrl.tasks.build import Objective, build_mixture
from taskrl.tasks.spec import TaskSpec
from taskrl.tasks.task import PretextTask
from taskrl.types import HeadSpec, Networks

OBJECTIVES: Registry[Objective] = Registry("objective")


@OBJECTIVES.register("first")
@OBJECTIVES.register("second")
class Recorder(PretextTask):
    """Keeps what it was built from."""

    def __init__(self, levels: Any, sample_shape: tuple[int, ...]) -> None:
        self.levels, self.sample_shape = dict(levels), sample_shape

    def head_specs(self, feature_dim: int) -> dict[str, HeadSpec]:
        return {}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        return batch

    def loss(self, nets: Networks, views: Tensor) -> Tensor:
        return views.sum()

    def num_encoded(self, batch_size: int) -> int:
        return batch_size


def test_a_mixture_has_one_task_an_objective_with_its_share_and_all_strengths() -> None:
    spec = TaskSpec(mixture=(("second", 0.25), ("first", 0.75)), levels=(("crop", 0.3), ("blur", 0.5)))
    parts = build_mixture(spec, OBJECTIVES, (3, 8, 8)).parts
    assert [(part.name, part.share) for part in parts] == [("second", 0.25), ("first", 0.75)]
    for part in parts:
        assert isinstance(part.task, Recorder)
        assert part.task.levels == {"crop": 0.3, "blur": 0.5} and part.task.sample_shape == (3, 8, 8)


def test_an_unknown_objective_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown objective 'secnd'; known: first, second\. Did you mean 'second'\?"):
        build_mixture(TaskSpec(mixture=(("secnd", 1.0),), levels=()), OBJECTIVES, (1, 8, 8))
