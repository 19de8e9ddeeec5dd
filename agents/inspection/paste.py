"""Python code that plays a schedule's views without taskrl: by torchvision, or as a transform for LightlySSL."""

import inspect
from collections.abc import Callable, Mapping

from agents.inspection import pasted_views
from agents.inspection.learned import Learned
from taskrl.errors import ConfigError, unknown_name
from taskrl.modalities.image.views import GREYSCALE_KNOB, VIEW_KNOBS_GREY
from taskrl.tasks.spec import TaskSpec

VIEW_KNOBS = {knob.name for knob in (*VIEW_KNOBS_GREY, GREYSCALE_KNOB)}

HEADER = '''"""Views and objectives by progress of training, as a task policy of taskrl played them.

Learned on {data}; printed by: taskrl inspect {run} --as {library}
Needs {needs}.

progress is the share of training that is done, in [0, 1); a row of SCHEDULE holds from
its "from" until the next one begins.
"""

import math
from collections.abc import Mapping

import torch
{imports}from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

SIZE = {size}  # pixels a side; other images are scaled and cropped at their centre
CHANNELS = {channels}
# "objectives": share of training of each objective. "views": strengths, for views_of.
{others}SCHEDULE: list[dict] = [
{rows}
]


def row_at(progress: float) -> dict:
    """The row of SCHEDULE that is played at progress."""
    return SCHEDULE[min(int(progress * len(SCHEDULE) + 1e-4), len(SCHEDULE) - 1)]


def objectives(progress: float) -> dict[str, float]:
    """Objective -> share of training, which sum to 1."""
    return row_at(progress)["objectives"]


'''
OTHERS = '# "others": strengths that are no views; nothing below reads them.\n'

TORCHVISION = '''

def augmentation(progress: float) -> v2.Compose:
    """The transform at progress; call it twice for the two views of an image."""
    return views_of(row_at(progress)["views"], SIZE, CHANNELS)
'''

LIGHTLY = '''

class LearnedTransform(MultiViewTransform):
    """Two views of each image, e.g. as transform=... of a LightlyDataset.

    Call set_progress before each epoch. Workers of a DataLoader copy the transform when
    an epoch begins; with persistent_workers=True they would keep the first one.
    """

    def __init__(self, progress: float = 0.0) -> None:
        super().__init__(transforms=[])
        self.set_progress(progress)

    def set_progress(self, progress: float) -> None:
        """progress: share of training that is done, in [0, 1)."""
        views = row_at(progress)["views"]
        self.transforms = [views_of(views, SIZE, CHANNELS) for _ in range(2)]


def augmentation(progress: float) -> LearnedTransform:
    """The transform at progress."""
    return LearnedTransform(progress)
'''


def torchvision_code(learned: Learned) -> str:
    """A module with `augmentation(progress)`, a torchvision.transforms.v2.Compose that makes one view."""
    return _header(learned, "torchvision", "torch and torchvision", "") + _shared() + TORCHVISION


def lightly_code(learned: Learned) -> str:
    """A module with `LearnedTransform`, a MultiViewTransform of two views."""
    imports = "from lightly.transforms.multi_view_transform import MultiViewTransform\n"
    return _header(learned, "lightly", "torch, torchvision and lightly", imports) + _shared() + LIGHTLY


LIBRARIES: Mapping[str, Callable[[Learned], str]] = {"torchvision": torchvision_code, "lightly": lightly_code}


def check_library(library: str) -> None:
    """Raises ConfigError for a library that no code is written for."""
    if library not in LIBRARIES:
        raise ConfigError(unknown_name("library of --as", library, LIBRARIES))


def code_for(library: str, learned: Learned) -> str:
    """The code for one of LIBRARIES."""
    return LIBRARIES[library](learned)


def _header(learned: Learned, library: str, needs: str, imports: str) -> str:
    channels, size, _ = learned.image_shape
    rows = [_row(index / len(learned.specs), spec) for index, spec in enumerate(learned.specs)]
    return HEADER.format(
        data=_plain(learned.card["data"]),
        run=_plain(learned.card["run"]),
        library=library,
        needs=needs,
        imports=imports,
        size=size,
        channels=channels,
        others=OTHERS if any(set(dict(spec.levels)) - VIEW_KNOBS for spec in learned.specs) else "",
        rows="\n".join(rows),
    )


def _row(start: float, spec: TaskSpec) -> str:
    groups = {
        "objectives": dict(spec.mixture),
        "views": {name: value for name, value in spec.levels if name in VIEW_KNOBS},
        "others": {name: value for name, value in spec.levels if name not in VIEW_KNOBS},
    }
    lines = [f'        "from": {round(start, 6)},']
    for title, entries in groups.items():
        if entries or title != "others":
            inner = [f'            "{name}": {value!r},' for name, value in entries.items()]
            lines += [f'        "{title}": {{', *inner, "        },"]
    return "\n".join(["    {", *lines, "    },"])


def _shared() -> str:
    """The classes and functions of pasted_views, without its docstring and imports."""
    source = inspect.getsource(pasted_views)
    return source[source.index("class Resample") :]


def _plain(text: object) -> str:
    """A name as part of a docstring."""
    kept = "".join(letter if letter.isprintable() and letter not in '"\\' else "_" for letter in str(text))
    return kept if len(kept) <= 24 else f"{kept[:21]}..."
