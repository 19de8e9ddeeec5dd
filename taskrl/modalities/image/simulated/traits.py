"""What each family of simulated images can vary: the factors that may tell its classes apart, and its symmetries."""

from dataclasses import dataclass
from types import MappingProxyType

# How much more often a factor is drawn than the others.
WEIGHTS = MappingProxyType({"mirror": 2.5, "orientation": 2.0})
FACTORS = ("pattern", "mirror", "orientation", "scale", "brightness", "colour", "position", "frequency", "count")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """factors: those that may define classes beside the pattern.

    half_turn: turning an image by 180 degrees leaves the law of every class as it is. upright: the axes have a meaning,
    so nothing is ever turned or put upside down. roaming: its objects lie anywhere. stationary: every part of an image
    is like every other. copy_size: the factor of an object's size where there may be several of them. no_side: the
    chances that mirror, upside down and a full turn are nuisances.
    """

    factors: tuple[str, ...]
    half_turn: bool = False
    upright: bool = False
    roaming: bool = False
    stationary: bool = False
    copy_size: float = 0.5
    no_side: tuple[float, float, float] = (0.5, 0.05, 0.15)


FAMILIES = MappingProxyType(
    {
        "strokes": Traits(factors=("mirror", "orientation", "scale", "brightness", "colour", "position", "count")),
        "textures": Traits(
            factors=("mirror", "orientation", "brightness", "colour", "frequency"),
            half_turn=True,
            stationary=True,
            no_side=(0.5, 0.0, 0.4),
        ),
        "blobs": Traits(
            factors=("mirror", "orientation", "scale", "brightness", "colour", "position", "count"),
            no_side=(0.6, 0.4, 0.5),
            copy_size=0.6,
        ),
        "signs": Traits(
            factors=("mirror", "orientation", "scale", "brightness", "colour", "position", "count"),
            no_side=(0.4, 0.05, 0.1),
        ),
        "spectrograms": Traits(
            factors=("mirror", "scale", "brightness", "position", "frequency", "count"),
            upright=True,
            no_side=(0.2, 0.0, 0.0),
            copy_size=0.6,
        ),
        "scenes": Traits(
            factors=("mirror", "orientation", "scale", "brightness", "colour", "position", "count"),
            no_side=(0.6, 0.1, 0.1),
        ),
        "defects": Traits(
            factors=("mirror", "orientation", "scale", "brightness", "position", "count"),
            roaming=True,
            no_side=(0.6, 0.4, 0.4),
            copy_size=0.8,
        ),
    }
)
