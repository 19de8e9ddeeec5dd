"""Task spaces that the tests of the codecs share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taskrl.tasks.space import Codec, Knob, TaskSpace, restrict

OBJECTIVES = ("contrastive", "rotation", "masked")
KNOBS = (
    Knob(name="crop", levels=(1.0, 0.6, 0.3, 0.15), reference=2, logit=1.5),
    Knob(name="mirror", levels=(0.0, 0.5), reference=1, logit=1.0),
    Knob(name="rotation", levels=(0.0, 0.3, 0.8, 3.141593), reference=0, logit=1.5),
    Knob(name="jitter", levels=(0.0, 0.4, 0.8), reference=1, logit=1.5),
    Knob(name="mask_ratio", levels=(0.3, 0.6, 0.75), reference=1, logit=0.0, used_by=("masked",)),
)
CODECS: tuple[Codec, ...] = ("multidiscrete", "discrete", "box")


def space(
    codec: Codec = "multidiscrete",
    objectives: Sequence[str] = OBJECTIVES,
    forbid: Sequence[str] = (),
    limit: Sequence[str] = (),
) -> TaskSpace:
    return TaskSpace(objectives=objectives, knobs=restrict(KNOBS, forbid=forbid, limit=limit), codec=codec)


def some_actions(task_space: TaskSpace, num: int = 400, seed: int = 0) -> list[NDArray[np.generic]]:
    """Every action of the discrete codec; random ones and corners of the others."""
    rng = np.random.default_rng(seed)
    if task_space.codec == "discrete":
        return [np.array(index, dtype=np.int64) for index in range(int(task_space.action_space.n))]
    sizes = [len(part.levels) for part in task_space.parts]
    if task_space.codec == "multidiscrete":
        return [rng.integers(sizes) for _ in range(num)]
    interior = [rng.uniform(-1, 1, len(sizes)).astype(np.float32) for _ in range(num)]
    return interior + [rng.choice([-1.0, 0.0, 1.0], len(sizes)).astype(np.float32) for _ in range(num)]
