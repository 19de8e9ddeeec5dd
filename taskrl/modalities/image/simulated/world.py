"""A world: all that defines one simulated data set, as plain data, and the law from which worlds are drawn."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from taskrl.errors import ConfigError, unknown_name
from taskrl.modalities.image.simulated.harm import judge, period
from taskrl.modalities.image.simulated.traits import FAMILIES, WEIGHTS, Traits
from taskrl.seeding import numpy_generator

NATIVE_SIZES = (16, 20, 24, 28, 32, 40, 48, 64)
NUM_CLASSES = (4, 16)
LEVELS = {"mirror": (2, 2), "orientation": (2, 4), "scale": (2, 3), "brightness": (2, 3), "colour": (2, 4),
          "position": (2, 4), "frequency": (2, 3), "count": (2, 4)}  # fmt: skip
# Nuisances that any family has: the chance to occur, and the range of the strength.
COMMON = {"scale": (0.8, 0.1, 1.0), "shift": (0.8, 0.1, 0.8), "brightness": (0.75, 0.1, 1.0),
          "illumination": (0.5, 0.1, 1.0), "noise": (0.7, 0.1, 1.0), "blur": (0.3, 0.2, 1.0), "warp": (0.6, 0.1, 1.0),
          "clutter": (0.7, 0.1, 1.0), "occlusion": (0.3, 0.2, 1.0)}  # fmt: skip
COLOUR = (0.7, 0.2, 1.0)
# The strongest nuisance beside a defining factor; above it, neighbouring classes would overlap.
CAPS = {
    "mirror": {"mirror": 0.0, "upside_down": 0.0},
    "orientation": {"upside_down": 0.0},  # rotation: see _rotation_cap
    "scale": {"scale": 0.15},
    "brightness": {"brightness": 0.15, "illumination": 0.2},
    "colour": {"colour": 0.15},
    "position": {"shift": 0.2},
    "frequency": {"scale": 0.15, "blur": 0.3},
    "count": {"clutter": 0.3, "occlusion": 0.0, "count": 0.0, "shift": 0.2, "scale": 0.4},
}


@dataclass(frozen=True, kw_only=True)
class World:
    """One simulated data set, as data.

    defining: the factors that tell classes apart; levels: how many levels each has (their product is num_classes).
    turn: where the first orientation or place lies, in steps. num_patterns: prototypes, which are a nuisance where
    pattern defines nothing. kinship: how much prototypes share, in [0, 1]; spread: how much instances of one prototype
    differ, in [0, 1]. nuisances: (factor, strength in [0, 1]). harmful, harmless: see harm.judge.
    """

    seed: int
    family: str
    channels: int
    native_size: int
    num_classes: int
    defining: tuple[str, ...]
    levels: tuple[tuple[str, int], ...]
    turn: float
    num_patterns: int
    kinship: float
    spread: float
    nuisances: tuple[tuple[str, float], ...]
    harmful: tuple[str, ...]
    harmless: tuple[str, ...]

    def strength(self, nuisance: str) -> float:
        """Strength of a nuisance; 0 for one that the world lacks."""
        return dict(self.nuisances).get(nuisance, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)


def draw_world(seed: int, *, channels: int | None = None, family: str | None = None) -> World:
    """The world of `seed`; a given number of channels or family is kept. Raises ConfigError for an unknown one."""
    if family is not None and family not in FAMILIES:
        raise ConfigError(unknown_name("family of simulated images", family, FAMILIES))
    if channels not in (None, 1, 3):
        raise ConfigError(f"Simulated images have 1 channel or 3, not {channels}.")
    rng = numpy_generator(seed, "simulated", "world")
    drawn_family, drawn_channels = str(rng.choice(list(FAMILIES))), int(rng.choice((1, 3)))
    family = drawn_family if family is None else family
    channels = drawn_channels if channels is None else channels
    traits = FAMILIES[family]
    native_size = int(rng.choice(NATIVE_SIZES))
    levels = _draw_levels(traits, channels, rng)
    turn = float(rng.choice((0.0, 0.5)))
    nuisances = _draw_nuisances(family, channels, levels, rng)
    verdict = judge(family=family, channels=channels, levels=levels, turn=turn, nuisances=nuisances)
    return World(
        seed=seed,
        family=family,
        channels=channels,
        native_size=native_size,
        num_classes=math.prod(levels.values()),
        defining=tuple(levels),
        levels=tuple(levels.items()),
        turn=turn,
        num_patterns=levels.get("pattern", int(rng.integers(1, 5))),
        kinship=float(rng.uniform(0.0, 0.5)),
        spread=float(rng.uniform(0.2, 1.0)),
        nuisances=tuple(nuisances.items()),
        harmful=verdict.harmful,
        harmless=verdict.harmless,
    )


def _draw_levels(traits: Traits, channels: int, rng: np.random.Generator) -> dict[str, int]:
    """Defining factors with their numbers of levels: usually patterns times 0 to 2 others."""
    free = [name for name in traits.factors if channels == 3 or name != "colour"]
    weights = np.array([WEIGHTS.get(name, 1.0) for name in free])
    has_pattern = bool(rng.random() < 0.9)
    low, high = NUM_CLASSES
    while True:
        num_others = int(rng.choice(3, p=(0.3, 0.5, 0.2))) if has_pattern else 2
        others = rng.choice(free, size=num_others, replace=False, p=weights / weights.sum())
        levels = {str(name): int(rng.integers(*LEVELS[name], endpoint=True)) for name in others}
        if traits.half_turn and {"mirror", "orientation"} <= set(levels):
            continue  # a turned texture looks like a mirrored one
        if {"position", "frequency"} <= set(levels):
            continue  # a place in a spectrogram is a time and a pitch
        product = math.prod(levels.values())
        if has_pattern:
            wanted = rng.integers(low, high, endpoint=True)
            levels = {"pattern": max(2, round(wanted / product)), **levels}
        if low <= math.prod(levels.values()) <= high:
            return levels


def _draw_nuisances(family: str, channels: int, levels: dict[str, int], rng: np.random.Generator) -> dict[str, float]:
    """Strengths of all nuisances; those that would erase a defining factor are cut down to their cap."""
    traits = FAMILIES[family]
    by_chance = rng.random(3) < traits.no_side
    strengths = {"mirror": float(by_chance[0]), "upside_down": float(by_chance[1])}
    tilt = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.02, 0.15))
    strengths["rotation"] = 0.0 if traits.upright else 1.0 if by_chance[2] else tilt
    severity = 1.0 if rng.random() < 0.4 else float(rng.uniform(0.2, 1.0))
    chances = COMMON | ({"colour": COLOUR} if channels == 3 else {})
    for name, (chance, low, high) in chances.items():
        occurs, strength = rng.random() < chance, float(rng.uniform(low, high))
        strengths[name] = severity * strength if occurs else 0.0
    strengths["count"] = float(rng.choice((0.0, 0.5, 1.0))) if family in ("blobs", "defects", "spectrograms") else 0.0
    if traits.roaming:
        strengths["shift"] = float(rng.uniform(0.6, 1.0))
    for factor in levels:
        caps = CAPS.get(factor, {})
        strengths |= {name: min(strengths[name], cap) for name, cap in caps.items() if name in strengths}
    strengths["rotation"] = min(strengths["rotation"], rotation_cap(family, levels))
    return {name: round(strength, 3) for name, strength in strengths.items()}


def rotation_cap(family: str, levels: Mapping[str, int]) -> float:
    """The strongest rotation beside `levels`, as a share of a half turn either way: 0.3 of a step of the orientation.

    A texture tells its handedness only by its direction, so it is hardly turned where mirror defines classes.
    """
    if "orientation" in levels:
        return 0.3 * period(family) / levels["orientation"] / math.pi
    return 0.06 if FAMILIES[family].half_turn and "mirror" in levels else 1.0
