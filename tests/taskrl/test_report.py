"""The report is one valid, inert, small file, whatever a run left behind."""

import io
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from PIL import Image

from taskrl.report import render_report
from taskrl.report_images import Gallery, Strip, image_grid, with_mask
from taskrl.report_figures import Axis, duration, running_mean, search_view, strips, thin, with_prefix

HOSTILE = "<script>alert('x')</script>\"' onload=\"alert(1)\" </style> & {{ 7 * 7 }} \ud800"
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}
NETWORK_ATTRIBUTES = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "formaction"}


class Page(HTMLParser):
    """Collects tags and attributes; fails on tags that don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def _interval(mean: float, half: float = 1.0) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _row(generator: str, linear: float, difference: float | None, mark: str = "") -> dict[str, Any]:
    return {
        "generator": generator,
        "num_seeds": 5,
        "linear": _interval(linear),
        "knn": _interval(linear - 4),
        "quality": _interval(linear / 130, 0.01),
        "difference": None if difference is None else _interval(difference),
        "train_flops": 41 * 10**12,
        "search_flops": 650 * 10**12 if generator == "learned" else 0,
        "wall_seconds": 61.0,
        "mark": mark,
    }


def _result(num_episodes: int = 40) -> dict[str, Any]:
    """A made-up run with everything in it."""
    crop = {"levels": [1.0, 0.6, 0.3], "reference": 2, "probabilities": [[0.1, 0.2, 0.7], [0.1, 0.8, 0.1]]}
    weight = {"levels": [0.0, 0.5, 1.0], "reference": 2, "probabilities": [[0.0, 0.0, 1.0], [0.1, 0.1, 0.8]]}
    episodes = [
        {"episode": i, "final_quality": 0.6 + 0.1 * math.tanh(i / 20), "return": 0.4} for i in range(num_episodes)
    ]
    table = [_row("learned", 90.6, 2.9), _row("reference", 87.7, None), _row("untrained", 43.9, -43.8, "below pixels")]
    run = {"generator": "learned", "search_seed": 0, "train_seed": 1, "split_seed": 0, "linear_accuracy": 90.6}
    return {
        "format_version": 1,
        "data": "cluttered-digits",
        "split": "validation",
        "verdict": "The learned policy beats the reference recipe.",
        "notes": ["Only 5 seeds."],
        "rows": [{**run, "search_images": 12_300_000, "train_images": 768_000, "quality": None}],
        "table": table,
        "floors": {"pixels": {"ridge": 24.5, "one_nn": 68.6, "best": 68.6}},
        "search": {
            "episodes": episodes,
            "reference_quality": 0.648,
            "flops": 65 * 10**13,
            "images": 10**7,
            "wall_seconds": 2140.0,
        },
        "choices": {"progress": [0.0, 0.5], "parts": {"crop": crop, "weight/contrastive": weight}},
        "curves": {"learned": [[0.2, 0.5, 0.7], [0.2, 0.6, 0.7]], "reference": [[0.2, 0.4, 0.65]]},
        "schedule": [
            {"progress": 0.0, "task": "contrastive; crop 0.3"},
            {"progress": 0.5, "task": "contrastive; crop 0.6"},
        ],
        "noise": {"aa_sd": 0.0102, "signal_sd": 0.0264, "signal_to_noise": 2.6, "steps_per_decision": 15},
        "validity": {
            "hidden": {
                "num_before": 32,
                "num_after": 32,
                "before": _interval(0.61, 0.2),
                "after": _interval(-0.3, 0.2),
            },
            "accuracy": {**_interval(0.7, 0.1), "num": 30, "split": "validation"},
            "sentences": ["Validity: ranked alike."],
            "warning": "Goodhart: do not trust this.",
        },
        "machine": {"cpu": "a cpu", "cores": 2},
        "versions": {"torch": "2.9.0"},
        "config": {"seed": 0, "episode": {"decisions": 2}},
    }


def _without_numbers(value: Any, instead: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_numbers(item, instead) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_numbers(item, instead) for item in value]
    return instead if isinstance(value, int | float) else value


def _hostile(value: Any) -> Any:
    """Every text, keys of names among them, replaced by `HOSTILE`."""
    if isinstance(value, dict):
        named = "cpu" in value or "crop" in value or "learned" in value or "torch" in value
        return {(HOSTILE + key if named else key): _hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def _odd_results() -> Iterator[tuple[str, Any]]:
    full = _result()
    yield "empty", {}
    yield "all None", dict.fromkeys(full)
    yield "all wrong types", dict.fromkeys(full, 3)
    yield "all texts", dict.fromkeys(full, "text")
    yield "empty lists and mappings", {key: type(value)() for key, value in full.items()}
    for bad in (None, math.nan, math.inf, -math.inf, 1e308, True, "x", 10**400):
        yield f"numbers are {str(bad)[:5]}", _without_numbers(full, bad)
    for key in full:
        yield f"no {key}", {other: value for other, value in full.items() if other != key}
    yield "one generator", {**full, "table": full["table"][:1], "search": None, "choices": None, "curves": None}
    yield "one episode", {**full, "search": {"episodes": [{"episode": 0, "final_quality": 0.5}]}}
    constant = [{"episode": 7, "final_quality": 0.5}] * 30
    yield "constant quality", {**full, "search": {"episodes": constant, "reference_quality": 0.5}}


@pytest.mark.parametrize("result", [pytest.param(result, id=name) for name, result in _odd_results()])
def test_odd_results_give_a_valid_page(result: dict[str, Any]) -> None:
    page = Page(render_report(result, []))
    assert "h1" in page.tags
    shown = page.text.split("How to repeat it")[0].split()
    assert "nan" not in shown and "None" not in shown
    assert not any("nan" in value or "inf%" in value for name, value in page.attributes if name in ("style", "d"))


def test_page_runs_nothing_and_requests_nothing() -> None:
    galleries = [Gallery("views", "two of each", image_grid([torch.rand(1, 8, 8)], columns=1, scale=2))]
    page = Page(render_report(_result(), galleries))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    links = [value for name, value in page.attributes if name in NETWORK_ATTRIBUTES]
    assert len(links) == 1 and links[0].startswith("data:image/png;base64,")
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert not any("url(" in value or "http" in value.replace("http-equiv", "") for _, value in page.attributes)


def test_stylesheet_requests_nothing() -> None:
    html = render_report(_result(), [])
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style and "://" not in html


def test_hostile_names_are_only_text() -> None:
    gallery = Gallery(HOSTILE, HOSTILE, image_grid([torch.zeros(3, 4, 4)], columns=1, scale=1))
    html = render_report(_hostile(_result()), [gallery])
    page = Page(html)
    assert "script" not in page.tags and not any(name.startswith("on") for name, _ in page.attributes)
    assert page.tags.count("style") == 1 and "<script" not in html
    assert "{{ 7 * 7 }}" in page.text
    html.encode("utf-8")


def test_result_is_told_in_the_page() -> None:
    text = Page(render_report(_result(), [])).text
    for expected in ("beats the reference recipe", "90.6", "+2.9", "below pixels", "68.6 %", "650 TFLOP", "36 min"):
        assert expected in text
    assert "validation split" in text and "Only 5 seeds." in text and '"decisions": 2' in text


def test_noise_and_validity_are_told_in_the_page() -> None:
    text = Page(render_report(_result(), [])).text
    for expected in ("0.01", "0.026", "signal-to-noise at 15 steps 2.6", "first 32 episodes 0.61 [0.41, 0.81]"):
        assert expected in text
    assert "−0.30 [−0.50, −0.10]" in text and "30 final encoders 0.70" in text
    assert "Validity: ranked alike." in text and "Can the reward be trusted?" in text
    older = {key: value for key, value in _result().items() if key not in ("noise", "validity")}
    assert "Can the reward be trusted?" not in Page(render_report(older, [])).text


def test_choices_off_the_reference_are_marked() -> None:
    html = render_report(_result(), [])
    assert '<span class="piece off">crop 0.6</span>' in html
    assert '<span class="piece">crop 0.3</span>' in html
    assert "60 % off" in html


def test_unlabelled_run_shows_quality() -> None:
    result = _result()
    for row in result["table"]:
        row.update(linear=None, knn=None)
    result["validity"]["accuracy"] = None
    text = Page(render_report({**result, "floors": {"pixels": None}}, [])).text
    assert "There are no labels" in text and "linear" not in text.split("Every run")[0]


def test_run_without_search_says_so() -> None:
    assert "This run had no search" in render_report({**_result(), "search": None}, [])


def test_ten_thousand_episodes_stay_small_and_quick() -> None:
    result = _result(10_000)
    result["curves"] = {f"generator {i}": [[0.1 * j for j in range(1000)]] * 30 for i in range(5)}
    start = time.perf_counter()
    html = render_report(result, [])
    assert time.perf_counter() - start < 5
    assert len(html.encode()) < 2_000_000
    assert "900 of 10000 drawn" in html


def test_too_many_gallery_bytes_are_left_out() -> None:
    small = Gallery("small", "fits", image_grid([torch.rand(1, 4, 4)], columns=1, scale=1))
    large = replace(small, title="large", png=small.png + bytes(20_000_000))
    html = render_report(_result(), [small, large])
    assert len(html) < 10_000_000 and "1 more left out" in html and "large" not in Page(html).texts


def test_same_result_gives_the_same_page() -> None:
    assert render_report(_result(), []) == render_report(_result(), [])


def test_image_grid_keeps_pixels_and_gaps() -> None:
    images = [torch.full((3, 2, 2), 0.2 * i) for i in range(4)] + [torch.full((1, 2, 2), math.nan)]
    grid = Image.open(io.BytesIO(image_grid(images, columns=3, scale=4)))
    assert grid.format == "PNG" and grid.size == (3 * 8 + 2 * 2, 2 * 8 + 2)
    assert grid.getpixel((10, 0)) == (51, 51, 51, 255)
    assert grid.getpixel((8, 0)) == (0, 0, 0, 0)
    assert grid.getpixel((10, 10)) == (0, 0, 0, 255)


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


def test_helpers_read_well() -> None:
    assert thin(10, 20) == list(range(10)) and thin(10_000, 3) == [0, 5000, 9999]
    assert running_mean([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]
    assert (
        with_prefix(3.24e15, "FLOP") == "3.2 PFLOP" and with_prefix(12.0, "") == "12" and with_prefix(None, "") == "–"
    )
    assert duration(4210) == "1 h 10 min" and duration(8.24) == "8.2 s"
