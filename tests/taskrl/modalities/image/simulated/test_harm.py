import pytest

from taskrl.modalities.image.simulated.harm import Verdict, judge


def verdict(levels: dict[str, int], turn: float = 0.0, family: str = "strokes", **nuisances: float) -> Verdict:
    return judge(family=family, channels=3, levels=levels, turn=turn, nuisances=nuisances)


@pytest.mark.parametrize(
    ("factor", "harmful"),
    [
        ("brightness", {"jitter"}),
        ("colour", {"jitter", "greyscale"}),
        ("scale", {"crop"}),
        ("position", {"crop"}),
        ("frequency", {"crop"}),
        ("count", {"crop", "cutout"}),
        ("orientation", {"rotation"}),
        ("mirror", {"mirror"}),
        ("pattern", set()),
    ],
)
def test_a_defining_factor_makes_its_views_harmful(factor: str, harmful: set[str]) -> None:
    assert set(verdict({"pattern": 3, factor: 2}).harmful) == harmful


def test_mirror_is_harmless_where_it_is_a_nuisance_and_unclear_where_nothing_is_mirrored() -> None:
    assert "mirror" in verdict({"pattern": 4}, mirror=1.0).harmless
    nothing = verdict({"pattern": 4})
    assert "mirror" not in (*nothing.harmless, *nothing.harmful)


def test_upside_down_is_a_mirror_and_a_half_turn() -> None:
    assert verdict({"pattern": 2, "mirror": 2}).harmful == ("mirror",)
    assert set(verdict({"pattern": 2, "mirror": 2}, rotation=1.0).harmful) == {"mirror", "upside_down"}
    assert {"mirror", "upside_down"} <= set(verdict({"pattern": 4}, mirror=1.0, rotation=1.0).harmless)
    assert "upside_down" not in verdict({"pattern": 4}, mirror=1.0).harmless
    # half a turn leaves a texture what it is
    assert set(verdict({"mirror": 2}, family="textures").harmful) == {"mirror", "upside_down"}


@pytest.mark.parametrize(
    ("num", "turn", "mirror", "upside_down"),
    [
        (2, 0.0, "harmless", "harmful"),  # up and down
        (2, 0.5, "harmful", "harmless"),  # left and right
        (4, 0.0, "harmful", "harmful"),
        (4, 0.5, "harmful", "harmful"),
        (3, 0.0, "harmful", "unclear"),  # upside down, a triangle of directions leaves the data
    ],
)
def test_flips_change_orientations(num: int, turn: float, mirror: str, upside_down: str) -> None:
    found = verdict({"orientation": num, "pattern": 2}, turn, mirror=1.0)
    for knob, expected in (("mirror", mirror), ("upside_down", upside_down)):
        state = "harmful" if knob in found.harmful else "harmless" if knob in found.harmless else "unclear"
        assert state == expected


def test_mirroring_moves_places_from_side_to_side() -> None:
    left_and_right, up_and_down = verdict({"position": 2}, 0.0, mirror=1.0), verdict({"position": 2}, 0.5, mirror=1.0)
    assert "mirror" in left_and_right.harmful
    assert "mirror" in up_and_down.harmless


def test_what_varies_strongly_anyway_does_no_harm() -> None:
    found = verdict({"pattern": 4}, brightness=0.8, colour=0.6, blur=0.7, noise=0.9, occlusion=0.6, rotation=1.0)
    assert set(found.harmless) == {"jitter", "greyscale", "blur", "noise", "cutout", "rotation"}
    assert not verdict({"pattern": 4}, brightness=0.3, rotation=0.1).harmless
    assert "crop" in verdict({"pattern": 4}, family="textures", scale=0.7).harmless
