"""The judgement of a comparison on rows made by hand, whose differences are known."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agents.compare.claims import break_even, choose, claim_sentence, judge
from agents.compare.figure import draw
from agents.compare.outcome import sentences_of
from agents.compare.table import difference, notes_of, print_table, table_of
from agents.compare.table import pairs as pairs_of
from agents.progress import Reporter
from taskrl.evaluation.statistics import bootstrap, hierarchical_bootstrap

SEARCHES, FINALS = 5, 4
ONE_RECIPE = "beats one fixed recipe"
NOISE = (0.3, -0.4, 0.1, 0.2, -0.2)


def rows(
    method: str, mean: float, *, searching: bool = False, length: int = 1, search_flops: int = 0, labels: bool = True
) -> list[dict[str, Any]]:
    """Encoders whose accuracies lie around `mean`: seeds differ alike for every method, searches by NOISE."""
    found = []
    for seed in range(SEARCHES * FINALS):
        number = seed // FINALS
        value = mean + (seed % 7) - 3 + (NOISE[number] if searching else 0.0)
        found.append(
            {
                "method": method,
                "length": length,
                "number": number if searching else None,
                "train_seed": seed,
                "linear_accuracy": value if labels else None,
                "knn_accuracy": value - 1 if labels else None,
                "validation_accuracy": value if labels else None,
                "quality": value / 100,
                "train_flops": 1000 * length,
                "search_flops": search_flops,
                "wall_seconds": 1.0 * length,
                "search_seconds": search_flops / 100,
            }
        )
    return found


def status(entries: Sequence[dict[str, Any]], name: str) -> str:
    return next(str(entry["status"]) for entry in entries if entry["claim"] == name)


def entry_of(entries: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["claim"] == name)


ALL = [
    *rows("learned", 86.0, searching=True, search_flops=4000),
    *rows("reference", 80.0),
    *rows("reference-total", 84.0),
    *rows("constant", 85.0),
    *rows("one-knob", 85.8, searching=True, search_flops=4000),
    *rows("prior", 70.0),
    *rows("prior-argmax", 80.0),
    *rows("static", 85.0, searching=True, search_flops=4000),
    *rows("shuffled", 69.0, searching=True, search_flops=4000),
    *rows("no-state", 85.9, searching=True, search_flops=4000),
    *rows("online", 80.5),
    *rows("untrained", 50.0),
]


def test_differences_over_searches_are_resampled_in_two_stages() -> None:
    gap = difference(ALL, "learned", "reference", 1)
    expected = hierarchical_bootstrap([[6 + noise] * FINALS for noise in NOISE])
    assert gap is not None and vars(gap) == pytest.approx(vars(expected)) and gap.mean == pytest.approx(6.0)


def test_differences_without_a_search_are_over_seeds() -> None:
    theirs = [{**row, "linear_accuracy": row["linear_accuracy"] + row["train_seed"] % 3} for row in rows("a", 70.0)]
    gap = difference([*theirs, *rows("b", 70.0)], "a", "b", 1)
    assert gap == bootstrap([float(seed % 3) for seed in range(SEARCHES * FINALS)])


def test_rows_are_paired_by_train_seed_at_their_length() -> None:
    both = [*rows("a", 70.0, searching=True), *rows("b", 60.0)[3:], *rows("b", 90.0, length=5)]
    found = pairs_of(both, "a", "b", 1)
    assert [len(group) for group in found] == [1, 4, 4, 4, 4]
    assert all(a["train_seed"] == b["train_seed"] and b["length"] == 1 for group in found for a, b in group)
    assert pairs_of(both, "a", "a", 1) == [] and pairs_of(both, "a", "c", 1) == []


def test_claims_on_the_bench_are_held_to_its_bars() -> None:
    ours = [*rows("learned", 86.3, searching=True, search_flops=4000), *ALL[SEARCHES * FINALS :]]
    entries = judge(ours, 1, "cluttered-digits")
    assert status(entries, "pays") == "passed" and entry_of(entries, "pays")["goal"] is True
    assert status(entries, "beats the reference") == "passed"
    cut = entry_of(entries, "beats the reference")["against"]["reference"]
    assert cut["mean"] == pytest.approx(100 * 6.3 / 20.15) and cut["low"] < cut["mean"] < cut["high"]
    assert entry_of(entries, "beats the untrained policy")["strictest"] == "prior-argmax"
    assert status(entries, "beats the untrained policy") == "passed"
    assert status(entries, "beats a plain search") == "passed"
    assert status(entries, "learns within one run") == "passed"
    assert status(entries, "rewards mean something") == "passed"
    assert status(entries, "shuffled rewards teach nothing") == "passed"
    assert status(entries, "what the state is worth") == "reported"


def test_the_better_opponent_is_the_one_that_counts() -> None:
    entry = entry_of(judge(ALL, 1, "cluttered-digits"), "beats one fixed recipe")
    assert entry["strictest"] == "one-knob" and entry["status"] == "passed" and entry["goal"] is False
    assert entry["against"]["one-knob"]["mean"] == pytest.approx(0.2)
    missing = entry_of(judge(ALL, 1, "cluttered-digits"), "beats a plain search")
    assert missing["without"] == ["random-search", "bandit"]


def test_claims_fail_where_they_do_not_hold() -> None:
    weak = [*rows("learned", 79.0, searching=True), *rows("reference", 80.0), *rows("reference-total", 84.0)]
    weak += [
        *rows("prior-argmax", 79.0),
        *rows("shuffled", 82.0, searching=True),
        *rows("static", 83.0, searching=True),
    ]
    entries = judge(weak, 1, "cluttered-digits")
    failed = ("pays", "beats the reference", "beats the untrained policy", "beats a plain search")
    for name in (*failed, "rewards mean something", "shuffled rewards teach nothing"):
        assert status(entries, name) == "failed", name
    assert status(entries, "beats one fixed recipe") == "not measured"
    assert status(entries, "what the state is worth") == "not measured"


def paired(method: str, accuracies: Sequence[float], **columns: Any) -> list[dict[str, Any]]:
    """Encoders of these accuracies, on validation images too, that no search found."""
    first = rows(method, 0.0)[0]
    return [
        {**first, "train_seed": seed, "linear_accuracy": value, "validation_accuracy": value, **columns}
        for seed, value in enumerate(accuracies)
    ]


def test_a_bar_has_to_be_held_against_every_opponent() -> None:
    close, noisy = [89.4, 89.5] * 5, [92.4, 86.4] * 5  # 0.5 behind for certain, and 0.6 behind on average
    both = [*paired("learned", [90.0] * 10), *paired("bandit", close), *paired("static", noisy)]
    alone = entry_of(judge(both[:20], 1, "cluttered-digits"), "beats a plain search")
    assert (alone["strictest"], alone["status"]) == ("bandit", "passed")
    entry = entry_of(judge(both, 1, "cluttered-digits"), "beats a plain search")
    assert (entry["strictest"], entry["status"]) == ("static", "failed")


def test_a_goal_is_reached_against_every_opponent() -> None:
    ahead = [*paired("learned", [90.0] * 10), *paired("constant", [89.0] * 10)]
    entry = entry_of(judge([*ahead, *paired("one-knob", [93.0, 84.0] * 5)], 1, "cluttered-digits"), ONE_RECIPE)
    assert entry["status"] == "passed" and entry["goal"] is False
    assert entry_of(judge(ahead, 1, "cluttered-digits"), ONE_RECIPE)["goal"] is True


def test_an_error_cut_of_less_than_a_point_is_not_claimed_on_few_seeds() -> None:
    ours, theirs = [98.6, 98.7, 98.6, 98.5, 98.6], [97.9, 98.0, 97.9, 97.8, 97.9]
    few = judge([*paired("learned", ours), *paired("reference", theirs)], 1, "cluttered-digits")
    assert entry_of(few, "beats the reference")["why"] == "5 paired seeds decide nothing this small"
    many = judge([*paired("learned", 2 * ours), *paired("reference", 2 * theirs)], 1, "cluttered-digits")
    assert status(many, "beats the reference") == "passed"


def test_a_claim_that_has_no_number_does_not_ask_for_what_is_there() -> None:
    perfect = [*paired("learned", [100.0] * 6), *paired("reference", [100.0] * 6)]
    claims = judge(perfect, 1, "cluttered-digits")
    told = {"claims": claims, "break_even": {"sentence": "No."}, "notes": [], "verdict": "None."}
    assert "Cannot be measured: beats the reference (the opponent makes no errors to cut)." in sentences_of(told)
    assert not any("(needs )" in sentence for sentence in sentences_of(told))


def test_little_is_not_claimed_on_few_seeds() -> None:
    few = [row for row in ALL if row["train_seed"] % FINALS == 0]
    entry = entry_of(judge(few, 1, "cluttered-digits"), "beats one fixed recipe")
    assert entry["status"] == "not measured" and entry["why"].startswith("5 paired seeds") and entry["goal"] is None
    pays = entry_of(judge(few, 1, "cluttered-digits"), "pays")
    assert (pays["status"], pays["why"]) == ("passed", "on 5 of the 30 encoders that the protocol asks for")


def test_no_difference_is_a_claim_about_little() -> None:
    worse = [*paired("learned", [87.0, 91.6, 86.0, 90.2, 89.2]), *paired("reference-total", [90.0] * 5)]
    entry = entry_of(judge(worse, 1, "./photos"), "pays")
    assert entry["against"]["reference-total"]["mean"] < -1 and entry["against"]["reference-total"]["high"] > 0
    assert (entry["status"], entry["why"]) == ("not measured", "5 paired seeds decide nothing this small")
    certain = [*paired("learned", [86.0] * 5), *paired("reference-total", [90.0] * 5)]
    assert status(judge(certain, 1, "./photos"), "pays") == "failed", "four points behind need no more seeds"


def test_a_claim_takes_enough_pairs_with_every_opponent() -> None:
    most = [*paired("learned", [90.0] * 10), *paired("bandit", [89.5] * 10)]
    few = judge([*most, *paired("static", [89.4] * 5)], 1, "cluttered-digits")
    assert entry_of(few, "beats a plain search")["why"] == "5 paired seeds decide nothing this small"
    many = judge([*most, *paired("static", [89.4] * 10)], 1, "cluttered-digits")
    assert status(many, "beats a plain search") == "passed"


@pytest.mark.parametrize(("data", "enough"), [("cluttered-digits", 5), ("./photos", 3)])
def test_a_claim_about_a_search_takes_several(data: str, enough: int) -> None:
    for num in range(2, SEARCHES + 1):
        some = [row for row in ALL if row["train_seed"] < num * FINALS]
        entry = entry_of(judge(some, 1, data), "beats the untrained policy")
        assert (entry["status"] == "passed") is (num >= enough)
        assert num >= enough or entry["why"] == f"{num} searches cannot tell"


def test_the_verdict_reads_what_the_claims_read_where_classes_are_imbalanced() -> None:
    columns = ("balanced_accuracy", "validation_balanced_accuracy")
    ours = paired("learned", [91.2] * 10, imbalanced=True, **dict.fromkeys(columns, 85.0))
    theirs = paired("reference", [90.0] * 10, imbalanced=True, **dict.fromkeys(columns, 90.0))
    method, sentence = choose([*ours, *theirs], 1)
    assert method == "reference" and "-5.0" in sentence and "points of balanced accuracy" in sentence


@pytest.mark.parametrize(("num", "told"), [(1, "1 paired seed decides nothing"), (4, "4 paired seeds decide nothing")])
def test_nothing_is_judged_on_a_handful_of_pairs_however_far_apart(num: int, told: str) -> None:
    few = [row for row in ALL if row["train_seed"] < num]
    for entry in judge(few, 1, "cluttered-digits"):
        assert entry["status"] in ("not measured", "reported")
    assert entry_of(judge(few, 1, "cluttered-digits"), "beats the reference")["why"] == told
    enough = [row for row in ALL if row["train_seed"] % FINALS == 0]
    assert status(judge(enough, 1, "cluttered-digits"), "beats the untrained policy") == "passed"


def test_one_encoder_has_no_interval(tmp_path: Path) -> None:
    table = table_of([row for row in ALL if row["train_seed"] == 0], None)
    assert {entry[name]["low"] for entry in table for name in ("linear", "knn", "quality")} == {None}
    assert table[0]["difference"] == {"mean": pytest.approx(6.3), "low": None, "high": None}
    draw(table, "validation", tmp_path / "one.png")
    assert (tmp_path / "one.png").is_file()
    entry = entry_of(judge([row for row in ALL if row["train_seed"] == 0], 1, "cluttered-digits"), "pays")
    assert "+2.3 points vs reference-total" in claim_sentence(entry)


def test_bars_elsewhere_are_others() -> None:
    entries = judge(ALL, 1, "./photos")
    assert entry_of(entries, "beats the reference")["bar"] == "> 0 and >= +2.0"
    assert entry_of(entries, "beats a plain search")["bar"] == "not worse"


def test_without_labels_claims_are_about_quality() -> None:
    unlabelled = [{**row, **dict.fromkeys(("linear_accuracy", "validation_accuracy"))} for row in ALL]
    entries = judge(unlabelled, 1, "cluttered-digits")
    assert {entry["unit"] for entry in entries} == {"quality"}
    assert entry_of(entries, "beats the reference")["against"]["reference"]["mean"] == pytest.approx(0.06)
    assert status(entries, "beats the reference") == "passed"
    method, sentence = choose(unlabelled, 1)
    assert method == "learned" and "+0.060" in sentence and "no labels" in sentence


def test_compute_of_opponents_is_told() -> None:
    entries = judge(ALL, 1, "cluttered-digits")
    assert entry_of(entries, "beats a plain search")["against"]["static"]["compute"] == 1.0
    assert entry_of(entries, "pays")["against"]["reference-total"]["compute"] == 5.0
    assert entry_of(entries, "beats the reference")["against"]["reference"]["compute"] == 1.0


def grown(*gaps: float) -> list[dict[str, Any]]:
    """learned minus reference-total at 1x, 5x and 25x."""
    found = []
    for length, gap in zip((1, 5, 25), gaps, strict=True):
        found += rows("learned", 80.0 + gap, length=length) + rows("reference-total", 80.0, length=length)
    return found


def test_break_even_lies_between_the_lengths_where_the_sign_changes() -> None:
    assert break_even(grown(-2.0, -1.0, 1.0), (1, 5, 25))["length"] == pytest.approx(5 * 5**0.5, abs=1e-3)
    assert break_even(grown(-3.0, 1.0, 2.0), (25, 5, 1))["length"] == pytest.approx(5**0.75, abs=1e-3)
    assert "11.2x" in break_even(grown(-2.0, -1.0, 1.0), (1, 5, 25))["sentence"]


def test_break_even_says_plainly_when_there_is_none() -> None:
    assert "not up to final runs of 25x" in break_even(grown(1.0, 1.0, -1.0), (1, 5, 25))["sentence"]
    assert "1x) or before" in break_even(grown(0.0, 1.0, 2.0), (1, 5, 25))["sentence"]
    assert "not measured" in break_even(rows("learned", 80.0), (1,))["sentence"]


def test_break_even_says_how_sure_the_leads_are() -> None:
    noisy = [*paired("learned", [93.0, 87.2] * 5), *paired("reference-total", [90.0] * 10)]
    assert re.search(r"the lead there is \+0\.1 \[-\d\.\d, \+\d\.\d\] points", break_even(noisy, (1,))["sentence"])
    unlabelled = [{**row, "linear_accuracy": None} for row in grown(-2.0, 1.0, 2.0)]
    sentence = break_even(unlabelled, (1, 5, 25))["sentence"]
    assert "between 1x, where the lead is -0.020 [" in sentence and "5x, where it is +0.010 [" in sentence


def test_the_learned_encoder_is_carried_away_only_when_its_interval_is_above_zero() -> None:
    assert choose(ALL, 1)[0] == "learned"
    level = [*rows("learned", 80.1, searching=True), *rows("reference", 80.0)]
    method, sentence = choose(level, 1)
    assert method == "reference" and "not shown to differ" in sentence and "The reference's encoder" in sentence
    method, sentence = choose([*rows("learned", 79.0, searching=True), *rows("reference", 80.0)], 1)
    assert method == "reference" and "worse" in sentence
    assert choose(rows("reference", 80.0), 1)[0] is None
    assert "One pair of encoders decides nothing" in choose([row for row in ALL if row["train_seed"] == 0], 1)[1]


@pytest.mark.parametrize(("num", "lead"), [(2, 3.0), (4, 3.0), (4, -3.0), (8, 0.5)])
def test_the_verdict_judges_as_little_on_a_handful_of_pairs_as_the_claims(num: int, lead: float) -> None:
    few = [*paired("learned", [80.0 + lead] * num), *paired("reference", [80.0] * num)]
    method, sentence = choose(few, 1)
    assert method == "reference" and f"not judged, since {num} paired seeds decide nothing" in sentence
    assert f"{lead:+.1f} [" in sentence and "The reference's encoder" in sentence
    enough = [*paired("learned", [80.0 + lead] * 10), *paired("reference", [80.0] * 10)]
    assert "not judged" not in choose(enough, 1)[1]


def test_what_beats_the_learned_policy_is_not_named_for_little_on_few_seeds() -> None:
    ours = [*paired("learned", [85.0] * 6), *paired("reference", [80.0] * 6)]
    assert "others" not in choose([*ours, *paired("static", [85.4] * 6)], 1)[1]
    assert "static by +2.0" in choose([*ours, *paired("static", [87.0] * 6)], 1)[1]


def test_the_verdict_tells_of_training_that_was_not_equal() -> None:
    assert "at equal training compute" in choose(ALL, 1)[1]
    stopped = [row | ({"train_flops": 500} if row["method"] == "learned" else {}) for row in ALL]
    sentence = choose(stopped, 1)[1]
    assert "with 0.50 times its training compute" in sentence and "equal" not in sentence


def test_where_classes_are_imbalanced_claims_are_about_balanced_accuracy() -> None:
    rows_ = [
        {**row, "imbalanced": True, "balanced_accuracy": row["linear_accuracy"] - 5 * (row["method"] == "learned")}
        for row in ALL
    ]
    entry = entry_of(judge(rows_, 1, "./photos"), "beats the reference")
    assert entry["against"]["reference"]["mean"] == pytest.approx(1.0) and entry["status"] == "failed"
    assert "balanced accuracy" in notes_of(rows_, 1)[0]
    assert any(entry["balanced"] for entry in table_of(rows_, None))
    assert not any(entry["balanced"] for entry in table_of(ALL, {"best": 1.0}))


def test_the_verdict_names_what_beats_the_learned_policy() -> None:
    better = [*rows("static", 90.0, searching=True), *rows("one-knob", 88.0, searching=True)]
    floors = [*rows("supervised", 99.0), *rows("reference-total", 99.0), *rows("random", 60.0)]
    ours = [*rows("learned", 85.0, searching=True), *rows("reference", 80.0)]
    method, sentence = choose([*ours, *better, *floors], 1)
    assert method == "learned" and "But there others beat it: static by +5.0" in sentence
    assert sentence.index("static") < sentence.index("one-knob by +3.0")
    assert not any(name in sentence for name in ("supervised", "reference-total", "random"))
    assert "others" not in choose([*ours, *floors], 1)[1]


def test_validation_images_choose_whatever_the_scored_ones_say() -> None:
    lucky = [{**row, "validation_accuracy": 80.0 + row["train_seed"] % 2} for row in rows("learned", 99.0)]
    unlucky = [{**row, "validation_accuracy": 80.5} for row in rows("reference", 50.0)]
    assert choose([*lucky, *unlucky], 1)[0] == "reference"


def test_the_table_has_a_row_for_each_method_and_length_and_marks_what_is_below_pixels() -> None:
    pixels = {"best": 79.5, "ridge": 20.0, "nearest": 79.5}
    table = table_of([*ALL, *rows("learned", 90.0, length=5, searching=True, search_flops=4000)], pixels)
    names = [(entry["method"], entry["length"]) for entry in table]
    assert names.count(("learned", 1)) == names.count(("learned", 5)) == 1 and names[-1] == ("pixels", None)
    by_name = {(entry["method"], entry["length"]): entry for entry in table}
    assert by_name["prior", 1]["mark"] and not by_name["learned", 1]["mark"] and not by_name["untrained", 1]["mark"]
    assert by_name["learned", 5]["total_flops"] == 5000 + 4000
    assert by_name["learned", 1]["difference"]["mean"] == pytest.approx(6.0)
    assert by_name["reference", 1]["difference"] is None and by_name["untrained", 1]["difference"] is None
    console = Reporter().console
    with console.capture() as capture:
        console.print(print_table(table, "validation"))
    assert "+6.0 [" in capture.get() and "reference-total" in capture.get()


def test_a_reference_that_learns_nothing_and_a_single_search_are_warned_of() -> None:
    broken = [*rows("reference", 51.0), *rows("untrained", 50.0)]
    assert "only 1.0 points" in notes_of(broken, 1)[0]
    assert notes_of(ALL, 1) == []
    (short,) = notes_of([*broken, *rows("reference", 90.0, length=5)], 1, 5)
    assert short.startswith("At 1x: The reference recipe is only 1.0 points")
    single = [row for row in ALL if row["train_seed"] < FINALS]
    assert "One search" in notes_of(single, 1)[0]


def test_every_measured_claim_is_one_line() -> None:
    for entry in judge(ALL, 1, "cluttered-digits"):
        if entry["strictest"] is None:
            continue
        sentence = claim_sentence(entry)
        assert "\n" not in sentence and entry["claim"] in sentence and sentence.endswith(".")
    (entry,) = [entry for entry in judge(ALL, 1, "cluttered-digits") if entry["claim"] == "pays"]
    assert "] points vs reference-total" in claim_sentence(entry)


def test_claims_that_nothing_bears_on_are_one_line_together() -> None:
    claims = judge([*rows("learned", 91.0), *rows("reference", 90.0)], 1, "elsewhere")
    told = {"claims": claims, "break_even": {"sentence": "No."}, "notes": [], "verdict": "None."}
    (line,) = [sentence for sentence in sentences_of(told) if "Not measured" in sentence]
    assert "pays (needs reference-total)" in line and "learns within one run (needs online)" in line
    assert len(sentences_of(told)) == 4  # the one claim that was measured, that line, break-even, verdict


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    for number, found in enumerate((ALL, [{**row, "linear_accuracy": None} for row in ALL])):
        path = tmp_path / f"{number}.png"
        draw(table_of(found, {"best": 60.0} if number == 0 else None), "validation", path)
        with Image.open(path) as image:
            assert image.width > 500 and len(set(image.convert("L").get_flattened_data())) > 10
