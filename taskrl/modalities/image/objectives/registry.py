"""The registry of image objectives. A new objective is a file beside this one, named in `catalogue`."""

from taskrl.registry import Registry
from taskrl.tasks.build import Objective

OBJECTIVES: Registry[Objective] = Registry("objective")
