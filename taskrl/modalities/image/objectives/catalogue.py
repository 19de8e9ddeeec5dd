"""Imports every objective, so that the registry is full. Add the module of a new objective here."""

from taskrl.modalities.image.objectives import contrastive, jigsaw, reconstruction, relation, rotation
from taskrl.modalities.image.objectives.registry import OBJECTIVES
from taskrl.registry import Registry
from taskrl.tasks.build import Objective

MODULES = (contrastive, rotation, reconstruction, jigsaw, relation)
MASKED_OBJECTIVES = ("masked", "block_masked")


def image_objectives() -> Registry[Objective]:
    """All image objectives by name."""
    return OBJECTIVES
