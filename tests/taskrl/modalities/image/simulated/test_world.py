import json
import math
from collections import Counter
from functools import cache

import pytest

from taskrl.errors import ConfigError
from taskrl.modalities.image.simulated.harm import period
from taskrl.modalities.image.simulated.traits import FACTORS, FAMILIES
from taskrl.modalities.image.simulated.world import CAPS, World, draw_world, rotation_cap
from taskrl.modalities.image.views import view_knobs


@cache
def worlds() -> tuple[World, ...]:
    return tuple(draw_world(seed) for seed in range(300))


def test_same_seed_same_world_and_another_seed_another() -> None:
    assert draw_world(7) == draw_world(7)
    assert len({json.dumps(world.to_json() | {"seed": 0}) for world in worlds()}) == 300


def test_a_world_is_plain_data() -> None:
    world = draw_world(3)
    assert json.loads(json.dumps(world.to_json()))["family"] == world.family


def test_all_families_factors_channels_and_sizes_occur() -> None:
    assert {world.family for world in worlds()} == set(FAMILIES)
    assert {factor for world in worlds() for factor in world.defining} == set(FACTORS)
    assert {world.channels for world in worlds()} == {1, 3}
    assert {world.native_size for world in worlds()} == {16, 20, 24, 28, 32, 40, 48, 64}
    count = Counter(name for world in worlds() for name, strength in world.nuisances if strength > 0)
    assert min(count.values()) >= 10


def test_classes_are_the_product_of_the_levels() -> None:
    for world in worlds():
        assert 4 <= world.num_classes <= 16
        assert math.prod(num for _, num in world.levels) == world.num_classes
        assert tuple(name for name, _ in world.levels) == world.defining
        assert set(world.defining) <= {"pattern", *FAMILIES[world.family].factors}
        assert world.channels == 3 or "colour" not in world.defining


def test_a_defining_factor_is_no_nuisance_that_erases_it() -> None:
    for world in worlds():
        for factor in world.defining:
            for nuisance, cap in CAPS.get(factor, {}).items():
                assert world.strength(nuisance) <= cap
        levels = dict(world.levels)
        assert world.strength("rotation") <= rotation_cap(world.family, levels)
        if "orientation" in levels:
            # the widest rotation either way reaches less than half a step
            assert world.strength("rotation") * math.pi < 0.5 * period(world.family) / levels["orientation"]
        if "mirror" in levels:
            assert world.strength("mirror") == world.strength("upside_down") == 0


def test_harm_is_named_by_view_knobs_and_nothing_is_both() -> None:
    for world in worlds():
        known = {knob.name for knob in view_knobs(3, 32)}
        assert set(world.harmful) | set(world.harmless) <= known
        assert not set(world.harmful) & set(world.harmless)
    for knob in ("mirror", "upside_down", "rotation", "jitter", "greyscale", "crop"):
        assert sum(knob in world.harmful for world in worlds()) >= 5
        assert sum(knob in world.harmless for world in worlds()) >= 5


def test_a_given_family_and_number_of_channels_are_kept() -> None:
    world = draw_world(5, channels=3, family="signs")
    assert (world.family, world.channels) == ("signs", 3)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'stroke'.*blobs, defects.*Did you mean 'strokes'"):
        draw_world(0, family="stroke")
    with pytest.raises(ConfigError, match="not 2"):
        draw_world(0, channels=2)
