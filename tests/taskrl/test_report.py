"""The report is one valid, inert, small file, whatever a run left behind."""

import re
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from taskrl.report import context, environment, render_report
from taskrl.report_curves import finals_view
from taskrl.report_images import Strip
from tests.taskrl.reports import HOSTILE, NAMES, Page, gallery, hostile, odd_results, result

NETWORK_ATTRIBUTES = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "formaction"}
SECTIONS = ("comparison", "search", "finals", "choices", "views", "trust", "compute", "repeat")


@pytest.mark.parametrize("odd", [pytest.param(odd, id=name) for name, odd in odd_results()])
def test_odd_results_give_a_valid_page(odd: dict[str, Any]) -> None:
    page = Page(render_report(odd, []))
    assert "h1" in page.tags
    shown = page.text.split("How it was run")[0].split()
    assert "nan" not in shown and "None" not in shown
    assert not any("nan" in value or "inf%" in value for name, value in page.attributes if name in ("style", "d"))


def test_page_runs_nothing_and_requests_nothing() -> None:
    page = Page(render_report(result(), [gallery()], name="run", test_reads=["test images read: learned"]))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    links = [value for name, value in page.attributes if name in NETWORK_ATTRIBUTES]
    assert [link for link in links if not link.startswith(("data:image/png;base64,", "#"))] == []
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert not any("url(" in value or "http" in value.replace("http-equiv", "") for _, value in page.attributes)


def test_stylesheet_requests_nothing() -> None:
    html = render_report(result(), [])
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style and "://" not in html


def test_hostile_names_are_only_text() -> None:
    html = render_report(hostile(result()), [gallery(HOSTILE, HOSTILE)], name=HOSTILE, test_reads=[HOSTILE])
    page = Page(html)
    assert "script" not in page.tags and not any(name.startswith("on") for name, _ in page.attributes)
    assert page.tags.count("style") == 1 and "<script" not in html
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in html and "\\u202e" in html  # it would turn what follows it around
    html.encode("utf-8")


def test_endless_names_are_cut() -> None:
    name = "n\u00e4me_" * 2000
    html = render_report(hostile(result(), name), [gallery(name, name)], name=name, test_reads=[name])
    pieces = Page(html).text.split("Configuration")[0].split()
    assert len(html) < 300_000 and max(len(piece) for piece in pieces) <= 700


def test_every_section_is_listed_and_there() -> None:
    page = Page(render_report(result(), [gallery()]))
    assert [value for value in page.values("id") if value in SECTIONS] == list(SECTIONS)
    assert page.values("href") == [f"#{name}" for name in SECTIONS]


def test_sections_without_data_are_not_listed() -> None:
    page = Page(render_report({}, []))
    assert page.values("href") == ["#search", "#repeat"] and "No verdict was recorded" in page.text


def test_headings_go_down_one_step_at_a_time() -> None:
    levels = [int(tag[1]) for tag in Page(render_report(result(), [gallery()])).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_pictures_and_tables_are_told_to_those_who_cannot_see_them() -> None:
    page = Page(render_report(result(), [gallery()]))
    assert page.tags.count("img") == len([alt for alt in page.values("alt") if alt]) == 1
    plots = [value for name, value in page.attributes if name == "aria-label"]
    assert any("At the end: learned 0.720, reference" in plot for plot in plots)
    assert page.tags.count("caption") == page.tags.count("table")
    assert set(page.values("scope")) == {"row", "col"}


def test_result_is_told_in_the_page() -> None:
    text = Page(render_report(result(), [], name="my-run")).text
    for expected in ("beats the reference recipe", "90.6", "+2.9", "below pixels", "68.6 %", "650 TFLOP", "36 min"):
        assert expected in text
    assert "validation images" in text and "Only 5 seeds." in text and '"decisions": 2' in text
    assert "my-run" in text and "2026-11-22" in text


def test_first_sentence_is_the_difference_with_its_interval() -> None:
    page = environment().get_template("_verdict.html.j2").render(context(result()))
    assert "<h1>The learned policy beats the reference recipe: +2.9 [+1.9, +3.9] points.</h1>" in page
    assert '<p class="further">Above no-mirror (+1.6). In brackets: 95 % interval over 5 paired seeds.</p>' in page


def test_what_is_chosen_and_what_it_cost_are_told_in_short() -> None:
    text = Page(render_report(result(), [])).text
    assert "weaker crop (0.6 rather than 0.3), contrastive 1 at the start and 0.5 at the end (reference 1)" in text
    assert "16 times the training of one final encoder" in text


def test_noise_and_validity_are_told_in_the_page() -> None:
    text = Page(render_report(result(), [])).text
    for expected in ("0.01", "0.026", "signal-to-noise at 15 steps 2.6", "first 32 episodes 0.61 [0.41, 0.81]"):
        assert expected in text
    assert "−0.30 [−0.50, −0.10]" in text and "30 final encoders 0.70" in text
    assert "Ranked alike." in text and "Can the reward be trusted?" in text
    assert "No warning: from the first to the last third of the search quality moved by +0.090" in text
    gone = ("noise", "validity", "log", "search")
    older = {key: value for key, value in result().items() if key not in gone}
    assert "Can the reward be trusted?" not in Page(render_report(older, [])).text


def test_a_warning_of_goodhart_comes_instead_of_its_absence() -> None:
    warned = {**result(), "validity": {**result()["validity"], "warning": "Goodhart: do not trust this."}}
    text = Page(render_report(warned, [])).text
    assert "Do not trust this." in text and "No warning" not in text


def test_reward_is_told_by_part_and_decision() -> None:
    text = Page(render_report(result(), [])).text
    assert "gained 0.130 [0.100, 0.160] of quality in the first third of the search, 0.200 [0.180, 0.220]" in text
    assert "the first of 2 decisions brought 75 % of it" in text and "diverged in 3 decisions" in text
    assert "gain/pixels" in text and "gain/instances" not in text  # which is the gain itself


def test_compute_adds_up() -> None:
    text = Page(render_report(result(), [])).text
    assert "The whole run: 978 TFLOP" in text  # the search's 650 and eight final runs of 41
    assert "A/A test 10.0 TFLOP 1 %" in text and "Search: training 500 TFLOP 51 %" in text
    assert "Search: the reference's episodes and the rest 20.0 TFLOP" in text
    assert "Final runs: learned, 2 encoders 82.0 TFLOP 8 %" in text


def test_a_log_that_does_not_fit_its_run_is_not_believed() -> None:
    odd = result()
    odd["log"]["search"]["spent"]["train_flops"] = 7e15
    assert "Search: training" not in render_report(odd, [])


def test_choices_off_the_reference_are_marked_and_others_folded() -> None:
    html = render_report(result(), [])
    assert '<span class="piece off">crop 0.6</span>' in html and '<span class="piece">crop 0.3</span>' in html
    assert "90 % off" in html
    assert html.count('<div class="strip">') == 2 and "These stay at the reference recipe" in html


def test_unlabelled_run_shows_quality() -> None:
    unlabelled = result()
    for row in unlabelled["table"]:
        row.update(linear=None, knn=None)
    unlabelled["validity"]["accuracy"] = None
    text = Page(render_report({**unlabelled, "floors": {"pixels": None}}, [])).text
    assert "There are no labels" in text and "linear accuracy" not in text.split("Every run")[0]


def test_where_classes_are_imbalanced_scores_and_differences_are_of_balanced_accuracy() -> None:
    uneven = result()
    for row in uneven["table"]:
        row["balanced"] = {name: value - 20 for name, value in row["linear"].items()}
    text = Page(render_report(uneven, [])).text.split("Every run")[0]
    assert "Balanced accuracy (the mean over classes" in text and "linear accuracy" not in text.split("rank corr")[0]
    assert "70.6" in text and "90.6" not in text and "(nearest neighbour) of plain accuracy" in text
    view = finals_view(uneven, NAMES, first=0)
    assert view is not None and view.spending_y == "balanced accuracy, %"


def test_run_without_search_says_so() -> None:
    assert "This run had no search" in render_report({**result(), "search": None}, [])


def test_reads_of_test_images_are_counted_and_listed() -> None:
    assert "not read" in Page(render_report(result(), [])).text
    lines = [*(f"read {i}" for i in range(400)), "stopped: test images may have been read"]
    text = Page(render_report(result(), [], test_reads=lines)).text
    assert "read 400 times" in text and "read 299" in text and "read 300" not in text


def test_ten_thousand_episodes_stay_small_and_quick() -> None:
    large = result(10_000)
    large["curves"] = {f"generator {i}": [[0.1 * j for j in range(1000)]] * 30 for i in range(5)}
    large["shares"] = {f"objective {i}": [0.2] * 10_000 for i in range(5)}
    start = time.perf_counter()
    html = render_report(large, [])
    assert time.perf_counter() - start < 5
    assert len(html.encode()) < 2_000_000
    assert "900 of 10000 drawn" in html


def test_too_many_gallery_bytes_are_left_out() -> None:
    small = gallery("small")
    strips = (Strip(label="", image=small.strips[0].image + bytes(20_000_000)),)
    large = replace(small, title="large", strips=strips)
    html = render_report(result(), [small, large])
    assert len(html) < 10_000_000 and "1 more left out" in html and "large" not in Page(html).texts


def test_same_result_gives_the_same_page() -> None:
    assert render_report(result(), [gallery()]) == render_report(result(), [gallery()])


@pytest.mark.parametrize("name", ["verdict", "contents", "table", "search", "finals", "choices", "trust", "repeat"])
def test_a_section_can_be_rendered_alone(name: str) -> None:
    assert Page(environment().get_template(f"_{name}.html.j2").render(context(result()))).text
