"""Figures of the report: what is drawn is what was measured, at its place."""

import io
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image

from taskrl.report_choices import choices_view, share_areas
from taskrl.report_curves import finals_view, log_ticks, opponents
from taskrl.report_figures import (
    Axis,
    Label,
    duration,
    running_mean,
    search_view,
    spread,
    strips,
    thin,
    with_prefix,
)
from taskrl.report_images import LARGE_PNG_BYTES, Strip, image_grid, with_mask
from taskrl.report_tables import kinds
from tests.taskrl.reports import NAMES, result


def test_image_grid_keeps_pixels_and_gaps() -> None:
    images = [torch.full((3, 2, 2), 0.2 * i) for i in range(4)] + [torch.full((1, 2, 2), math.nan)]
    grid = Image.open(io.BytesIO(image_grid(images, columns=3, scale=4)))
    assert grid.format == "PNG" and grid.size == (3 * 8 + 2 * 2, 2 * 8 + 2)
    assert grid.getpixel((10, 0)) == (51, 51, 51, 255)
    assert grid.getpixel((8, 0)) == (0, 0, 0, 0)
    assert grid.getpixel((10, 10)) == (0, 0, 0, 255)


def test_large_photographs_become_a_small_jpeg() -> None:
    noise = [torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    grid = image_grid(noise, columns=10, scale=1)
    assert Strip(label="", image=grid).media_type == "image/jpeg" and len(grid) < 2 * LARGE_PNG_BYTES
    assert Image.open(io.BytesIO(grid)).size == (10 * 98 - 2, 2 * 98 - 2)


def test_mask_is_laid_over_the_image_alone_where_it_is() -> None:
    image, mask = torch.full((1, 2, 2), 0.5), torch.tensor([[[True, False], [False, False]]])
    shown = with_mask(image, mask)
    assert shown.shape == (3, 2, 2) and torch.equal(shown[:, 0, 1], torch.full((3,), 0.5))
    assert shown[0, 0, 0] > shown[2, 0, 0]


@pytest.mark.parametrize("images", [[], [torch.zeros(2, 4, 4)], [torch.zeros(4, 4)]])
def test_image_grid_refuses_what_is_no_image(images: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"got 0 images|is not"):
        image_grid(images, columns=2, scale=1)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-4.9, 4.2), (83.1, 91.9), (0.0, 1e-9), (-1e50, 1e50), (5.0, 5.1)]
)
def test_axes_have_a_few_round_ticks_inside(low: float, high: float) -> None:
    ticks = Axis(low=low, high=high).ticks(5)
    assert 2 <= len(ticks) <= 6
    assert all(0 <= tick.at <= 100 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(11.5, 13.4), (0.0, 0.4), (3.0, 21.0)])
def test_logarithmic_axes_have_a_few_ticks_inside(low: float, high: float) -> None:
    ticks = log_ticks(Axis(low=low, high=high))
    assert 2 <= len(ticks) <= 8
    assert all(0 <= tick.at <= 100 for tick in ticks)


def test_logarithmic_ticks_read_well() -> None:
    assert [tick.label for tick in log_ticks(Axis(low=11.6, high=13.4))] == [
        "500 G",
        "1 T",
        "2 T",
        "5 T",
        "10 T",
        "20 T",
    ]


def test_diverged_episodes_do_not_squeeze_the_curve() -> None:
    episodes = [{"episode": i, "final_quality": -500.0 if i == 50 else 0.6 + i / 1000} for i in range(100)]
    view = search_view({"episodes": [*episodes, {"episode": 100, "final_quality": None}]})
    assert view is not None and view.num_outside == 1 and view.num_without_value == 1
    assert all(float(tick.label) >= 0 for tick in view.chart.y_ticks)


def test_signed_axis_names_zero() -> None:
    assert [tick.label for tick in Axis(low=-0.05, high=0.045).ticks(5, signed=True)] == ["−0.04", "0", "+0.04"]


def test_strip_counts_how_often_the_reference_is_left() -> None:
    part = {"levels": [0.0, 0.5], "reference": 1, "probabilities": [[0.25, 0.75], [0.75, 0.25]]}
    (strip,) = strips({"progress": [0.0, 0.5], "parts": {"mirror": part}})
    assert strip.deviation == pytest.approx(0.5)
    assert [level.label for level in strip.levels] == ["0.5", "0"] and strip.levels[0].is_reference


def test_labels_keep_their_order_and_distance() -> None:
    labels = spread([Label(kind="", at=at, text=str(at)) for at in (50.0, 99.0, 51.0, 98.0)], 6.0)
    assert [label.text for label in labels] == ["50.0", "51.0", "98.0", "99.0"]
    places = [label.at for label in labels]
    assert all(after - before >= 6 - 1e-9 for before, after in pairwise(places))
    assert places[0] == 50.0 and places[-1] <= 100
    assert len(spread([Label(kind="", at=1.0, text="")] * 500, 6.0)) == 17


def test_opponents_stand_where_they_were_after_as_much_training() -> None:
    found, told = opponents(result(), NAMES)
    by_name = {opponent.name: opponent for opponent in found}
    assert set(by_name) == {"reference", "prior", "fixed:no-mirror"}
    own = by_name["reference"]  # its own episodes of that length, with their range
    assert (own.mean, own.low, own.high) == (pytest.approx(0.648), 0.640, 0.656)
    assert by_name["prior"].mean == pytest.approx((0.65 + 0.66) / 2)  # the third value: after 30 of 60 steps
    assert "30 steps" in told and "of 60" in told and "2 episodes" in told


def test_opponents_between_two_decisions_are_interpolated() -> None:
    longer = result()
    longer["config"]["final"] = {"decisions": 4, "steps_per_decision": 20}
    prior = next(opponent for opponent in opponents(longer, NAMES)[0] if opponent.name == "prior")
    halves = [(0.4 + 2 / 9 + 0.65) / 2, (0.5 + 0.66) / 2]
    assert prior.mean == pytest.approx(sum(halves) / 2)


def test_final_runs_of_longer_decisions_are_no_opponents() -> None:
    longer = result()
    longer["config"]["final"] = {"decisions": 4, "steps_per_decision": 40}
    longer["search"]["reference_qualities"] = []
    assert opponents(longer, NAMES) == ([], "")


def _moves(path: str) -> list[tuple[float, float]]:
    pieces = path.replace("M", " ").replace("L", " ").replace("h.01", "").replace("Z", "").split()
    return list(zip(map(float, pieces[::2]), map(float, pieces[1::2]), strict=True))


def test_overview_has_a_band_and_a_line_for_each_generator_on_a_common_axis_of_compute() -> None:
    view = finals_view(result(), NAMES, first=0)
    assert view is not None and view.x_label == "training compute of one encoder, TFLOP"
    kinds_drawn = [curve.kind for curve in view.overview.curves]
    assert kinds_drawn[-2:] == ["band learned", "mean learned"] and len(kinds_drawn) == 2 * len(NAMES)
    line, band = (_moves(view.overview.curves[-1].path), _moves(view.overview.curves[-2].path))
    assert len(line) == 5 and len(band) == 10
    lower, upper = band[:5], band[5:][::-1]
    assert all(
        low[1] >= mean[1] >= high[1] for low, mean, high in zip(lower, line, upper, strict=True)
    )  # y points down


def test_equal_generators_are_drawn_once_and_named() -> None:
    twice = result()
    twice["curves"]["learned-argmax"] = twice["curves"]["learned"]
    view = finals_view(twice, (*NAMES, "learned-argmax"), first=0)
    assert view is not None and view.alike == "learned-argmax (learned)"
    assert [curve.kind for curve in view.overview.curves].count("mean s3") == 0
    twice["curves"] = {"first": twice["curves"]["reference"], "reference": twice["curves"]["reference"]}
    view = finals_view(twice, ("first", "reference"), first=0)
    assert view is not None and view.alike == "first (reference)"


def test_runs_that_stopped_early_are_told() -> None:
    stopped = result()
    stopped["curves"]["prior"] = [[0.2, 0.3, 0.4], [0.2, 0.4, 0.5, 0.6, 0.7]]
    even, uneven = (finals_view(each, NAMES, first=0) for each in (result(), stopped))
    assert even is not None and not even.uneven and uneven is not None and uneven.uneven


def test_search_is_charged_in_the_figure_of_spending() -> None:
    view = finals_view(result(), NAMES, first=0)
    assert view is not None and view.spending is not None and view.spending_y == "linear accuracy, %"
    (joint,) = [curve for curve in view.spending.curves if curve.kind == "joint learned"]
    (alone, _), (charged, _) = _moves(joint.path)
    assert charged - alone > 500  # 16 times as much, on a logarithmic axis of little more
    free = result()
    for row in free["table"]:
        row["search_flops"] = 0
    plain = finals_view(free, NAMES, first=0)
    assert plain is not None and plain.spending is None


def test_colours_are_the_same_in_every_figure() -> None:
    assert kinds(["learned", "a", "reference", "untrained", "b"]) == {
        "learned": "learned",
        "a": "s1",
        "reference": "reference",
        "untrained": "floor",
        "b": "s2",
    }


def test_shares_fill_the_whole_height() -> None:
    areas = share_areas({"contrastive": [1.0, 0.75], "rotation": [0.0, 0.25]})
    assert [area.name for area in areas] == ["contrastive", "rotation"]
    assert areas[1].path == "M0 0L500 0L500 0L1000 0L1000 250L500 250L500 0L0 0Z"
    assert areas[0].text == "88 % in all, 100 % at the start, 75 % at the end"
    assert share_areas({"contrastive": [1.0, 1.0]}) == []


def test_only_what_leaves_the_reference_is_drawn() -> None:
    view = choices_view(result())
    assert view is not None
    assert [strip.name for strip in view.knobs] == ["crop"] and [s.name for s in view.objectives] == [
        "weight/contrastive"
    ]
    assert view.kept == (("mirror", "0.5"),)


@pytest.mark.parametrize("choices", [{}, {"parts": {}}, {"progress": [0.0], "parts": {"crop": {"levels": [1.0]}}}])
def test_no_choices_are_no_section(choices: dict[str, Any]) -> None:
    assert choices_view({"choices": choices}) is None


def test_helpers_read_well() -> None:
    assert thin(10, 20) == list(range(10)) and thin(10_000, 3) == [0, 5000, 9999]
    assert running_mean([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]
    assert (
        with_prefix(3.24e15, "FLOP") == "3.2 PFLOP" and with_prefix(12.0, "") == "12" and with_prefix(None, "") == "–"
    )
    assert duration(4210) == "1 h 10 min" and duration(8.24) == "8.2 s"
