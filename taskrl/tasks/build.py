"""TaskSpec -> Mixture of PretextTasks, through a registry of objectives."""

from collections.abc import Callable, Mapping

from taskrl.registry import Registry
from taskrl.tasks.spec import TaskSpec
from taskrl.tasks.task import Mixture, MixturePart, PretextTask

Levels = Mapping[str, float]
Objective = Callable[[Levels, tuple[int, ...]], PretextTask]
"""Builds a task from the strengths of the knobs and the shape of one input, e.g. (C, H, W)."""


def build_mixture(spec: TaskSpec, objectives: Registry[Objective], sample_shape: tuple[int, ...]) -> Mixture:
    """The trainable mixture that `spec` describes. Raises ConfigError on an unknown objective."""
    levels = dict(spec.levels)
    parts = (
        MixturePart(name=name, share=share, task=objectives[name](levels, sample_shape)) for name, share in spec.mixture
    )
    return Mixture(tuple(parts))
