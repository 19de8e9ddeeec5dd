"""Which invariances destroy what tells the classes of a simulated set apart, and which do no harm.

The names are the view knobs of taskrl.modalities.image.views.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from taskrl.modalities.image.simulated.traits import FAMILIES

STRONG = 0.5  # a nuisance of this strength varies about as much as a view at a middle level
FULL = 1.0
TURN = 2 * math.pi
Cell = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """View knobs whose invariance is known to be harmful, and those known to be harmless; the rest is unclear."""

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]


def period(family: str) -> float:
    """After which angle a pattern looks the same again."""
    return math.pi if FAMILIES[family].half_turn else TURN


def angle_of(level: int, num_levels: int, turn: float, around: float) -> float:
    """The angle of a level: `num_levels` equal steps around, the first one `turn` steps from 0."""
    return (level + turn) * around / num_levels


def judge(
    *, family: str, channels: int, levels: Mapping[str, int], turn: float, nuisances: Mapping[str, float]
) -> Verdict:
    """The rules of harm.

    levels: number of levels of each defining factor. turn: see `angle_of`. nuisances: strengths in [0, 1].

    A view is *harmful* if it turns images of one class into images of another one:

    - mirror, upside_down: where the class that an image lands in (`_landing`) exists and is another one.
    - rotation: orientation defines classes; or position does, and single objects lie at any angle.
    - jitter: brightness or colour defines classes. greyscale: colour does.
    - crop: position, scale, frequency or count defines classes (it moves, enlarges, cuts off).
    - cutout: count defines classes (it hides one of several).

    A view is *harmless* if images of each class stay in the law of their class:

    - mirror, upside_down: every image lands in its own class. rotation: full rotation is a nuisance, and neither
      orientation nor position defines classes.
    - jitter, greyscale, crop, blur, noise, cutout: what they change is a strong nuisance anyway (`_varies_anyway`).

    All else is left open: a view may then leave the data without merging classes. So blur is never harmful: it fades
    the finer of two textures but does not make it the coarser one.
    """
    full_turn = nuisances.get("rotation", 0.0) >= FULL
    harmful = {
        "rotation": "orientation" in levels or ("position" in levels and full_turn),
        "jitter": "brightness" in levels or "colour" in levels,
        "greyscale": "colour" in levels,
        "crop": bool({"position", "scale", "frequency", "count"} & set(levels)),
        "cutout": "count" in levels,
    }
    harmless = {"rotation": full_turn and not {"orientation", "position"} & set(levels)}
    for knob in ("mirror", "upside_down"):
        cells = [dict(zip(levels, cell, strict=True)) for cell in itertools.product(*map(range, levels.values()))]
        landings = [_landing(knob, cell, family, levels, turn, nuisances) for cell in cells]
        harmful[knob] = any(end is not None and end != cell for cell, end in zip(cells, landings, strict=True))
        harmless[knob] = all(end == cell for cell, end in zip(cells, landings, strict=True))
    harmless |= _varies_anyway(family, channels, nuisances)
    return Verdict(
        harmful=tuple(knob for knob, is_true in harmful.items() if is_true),
        harmless=tuple(knob for knob, is_true in harmless.items() if is_true and not harmful.get(knob, False)),
    )


def _varies_anyway(family: str, channels: int, nuisances: Mapping[str, float]) -> dict[str, bool]:
    """Views that only do what a strong nuisance of the set does as well."""
    strength = {name: nuisances.get(name, 0.0) for name in (*nuisances, "colour")}
    strong = {name for name, value in strength.items() if value >= STRONG}
    still = FAMILIES[family].stationary
    known = {
        "jitter": "brightness" in strong and (channels == 1 or "colour" in strong),
        "crop": "scale" in strong and (still or "shift" in strong),
        "blur": "blur" in strong,
        "noise": "noise" in strong,
        "cutout": "occlusion" in strong,
    }
    return known | ({"greyscale": "colour" in strong} if channels == 3 else {})


def _landing(
    knob: str, cell: Cell, family: str, levels: Mapping[str, int], turn: float, nuisances: Mapping[str, float]
) -> Cell | None:
    """The class whose law the mirrored (or upturned) images of class `cell` follow; None if there is none.

    An object is put into the image as R(a) F^u M^m: mirrored by chance, upside down by chance, then turned by a. The
    mirrored image shows M R(a) = R(-a) M: the angle changes its sign, the place its side, the object its hand. If
    mirror is a nuisance, the mirrored object is of the same class; if it defines classes, of that of the other hand;
    else the image has left the data. Upside down is the same with F, and where F is no nuisance, F = R(pi) M serves.
    """
    own = "mirror" if knob == "mirror" else "upside_down"
    other = "upside_down" if knob == "mirror" else "mirror"
    any_angle = nuisances.get("rotation", 0.0) >= FULL
    half_turn = FAMILIES[family].half_turn
    end = dict(cell)
    added = 0.0
    if "mirror" in levels:
        end["mirror"] = 1 - cell["mirror"]
        added = 0.0 if knob == "mirror" else math.pi
    elif nuisances.get(own, 0.0) < FULL:
        if nuisances.get(other, 0.0) < FULL:
            return None
        added = math.pi
    if added and not (any_angle or half_turn or "orientation" in levels):
        return None
    if "orientation" in levels:
        found = _level_at(levels["orientation"], turn, period(family), lambda a: added - a, cell["orientation"])
        if found is None:
            return None
        end["orientation"] = found
    if "position" in levels:
        flip = math.pi if knob == "mirror" else 0.0
        found = _level_at(levels["position"], turn, TURN, lambda a: flip - a, cell["position"])
        if found is None:
            return None
        end["position"] = found
    return end


def _level_at(num_levels: int, turn: float, around: float, change: Callable[[float], float], level: int) -> int | None:
    """The level whose angle is `change` of the angle of `level`, if there is one."""
    step = change(angle_of(level, num_levels, turn, around)) * num_levels / around - turn
    return round(step) % num_levels if abs(step - round(step)) < 1e-6 else None
