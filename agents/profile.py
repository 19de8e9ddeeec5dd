"""`profile`: a recipe read off the data set's description, without labels, training or search."""

from taskrl.meta import MetaProblem
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

SYMMETRIES = ("mirror", "upside_down", "rotation")
INVISIBLE = 0.57


def profile_spec(problem: MetaProblem, space: TaskSpace) -> TaskSpec:
    """The reference recipe, with each knob that is a symmetry or is none set by how well it is told.

    Mirrors and turns lose nothing: where they cannot be told from untouched images (accuracy below 0.57), they are
    symmetries of the data and are played at full strength; elsewhere they make images that the data do not have, and
    are off. All other views lose something, and so can be told from any data: they stay as in the reference. The
    levels are open ones. docs/observation.md says what the threshold rests on.
    """
    detectability = problem.describe().detectability
    changes = []
    for knob in space.knobs:
        if knob.name in SYMMETRIES and knob.name in detectability:
            open_levels = [level for level, open_ in zip(knob.levels, knob.allowed, strict=True) if open_]
            strongest = detectability[knob.name] < INVISIBLE
            changes.append(f"{knob.name}={open_levels[-1 if strongest else 0]}")
    return space.recipe(",".join(changes))
