"""The table, the verdict and its warnings on rows made by hand, whose differences are known."""

from typing import Any

import pytest

from agents.progress import Reporter
from agents.summary import comparison_table, interval_text, pixel_notes, print_table, verdict, warnings_of
from taskrl.config import DataConfig


def row(generator: str, accuracy: float | None, seed: int = 0, quality: float = 0.3) -> dict[str, Any]:
    return {
        **{"generator": generator, "train_seed": seed, "linear_accuracy": accuracy, "knn_accuracy": accuracy},
        **{"quality": quality, "num_decisions": 3, "planned_decisions": 3},
        **{"train_flops": 1e9, "search_flops": 0, "wall_seconds": 1.0},
    }


def run_of(**accuracies: float) -> list[dict[str, Any]]:
    """Five seeds a generator, one point apart."""
    return [row(name, value + seed, seed, value + seed) for name, value in accuracies.items() for seed in range(5)]


@pytest.mark.parametrize(
    ("generator", "accuracy", "said"),
    [
        ("profile", 69.35, "One encoder, trained by profile: linear accuracy 69.3 % on test images; nothing was"),
        ("learned", 70.0, "One encoder, trained by the learned policy: linear accuracy 70.0 %"),
        ("schedule", None, "One encoder, trained by a schedule: probe quality 0.300 (no labels); nothing was"),
    ],
)
def test_the_verdict_of_one_encoder_is_its_score(generator: str, accuracy: float | None, said: str) -> None:
    assert verdict([row(generator, accuracy)], "test").startswith(said)


def test_a_policy_that_plays_the_reference_is_not_called_unclear() -> None:
    again = verdict(run_of(learned=80.0, reference=80.0), "validation")
    assert again.startswith("The learned policy trained the reference recipe's encoders again, seed by seed: +0.0")
    rows = run_of(learned=80.0, reference=80.0)
    rows[0]["quality"] += 1e-6  # equal accuracies alone may be chance: few images are scored
    assert verdict(rows, "validation").startswith("No clear difference")


def test_few_seeds_and_small_differences_are_not_judged() -> None:
    """As in `taskrl compare`: five pairs, and ten for less than a point; quality has no points."""

    def said(num: int, gap: float, **more: Any) -> str:
        rows = [
            row(name, 80.0 + gap * (name == "learned"), seed)
            for name in ("learned", "reference")
            for seed in range(num)
        ]
        return verdict([{**one, **more} for one in rows], "test")

    not_judged = "The learned policy is not judged against the reference recipe, since"
    assert said(4, 6.0).startswith(f"{not_judged} 4 paired seeds decide nothing: +6.0 [+6.0, +6.0] points")
    assert said(5, 6.0).startswith("The learned policy beats the reference recipe")
    assert said(9, -0.9).startswith(f"{not_judged} 9 paired seeds decide nothing this small: -0.9")
    assert said(10, -0.9).startswith("The learned policy is worse than the reference recipe")
    assert said(5, 0.0).startswith("The learned policy trained the reference recipe's encoders again")
    rows = [
        row(name, None, seed, 0.2 + 0.1 * (name == "learned")) for name in ("learned", "reference") for seed in range(5)
    ]
    assert verdict(rows, "test").startswith("The learned policy beats the reference recipe")
    hand = [row("fixed:no-mirror", 79.5, seed) for seed in range(5)]
    pair = [row(name, value, seed) for name, value in (("learned", 80.0), ("reference", 70.0)) for seed in range(5)]
    assert "; not judged against the one hand-turned knob fixed:no-mirror (+0.5)." in verdict([*pair, *hand], "test")


def test_a_run_that_trained_longer_is_not_called_equal() -> None:
    rows = [
        {**one, "train_flops": 8 if one["generator"] == "learned" else 10}
        for one in run_of(learned=80.0, reference=70.0)
    ]
    assert "beats the reference recipe with 0.80 times its training compute: +10.0" in verdict(rows, "test")


def test_a_supervised_floor_that_nothing_scores_is_no_trouble() -> None:
    """Labelled probe images and unlabelled test images: only quality is left, which that floor has none of."""
    rows = [row(name, None, seed) for name in ("learned", "reference") for seed in range(2)]
    rows += [{**row("supervised", None, seed), "quality": None} for seed in range(2)]
    table = {entry["generator"]: entry for entry in comparison_table(rows, None)}
    assert table["supervised"]["quality"] is None and table["supervised"]["difference"] is None
    assert table["learned"]["quality"]["mean"] == pytest.approx(0.3)


def test_of_one_encoder_with_imbalanced_classes_the_score_is_balanced_accuracy() -> None:
    one = {**row("learned", 90.0), "balanced_accuracy": 60.0, "imbalanced": True}
    assert "balanced accuracy 60.0 % on test images" in verdict([one], "test")
    (note,) = warnings_of([one])
    assert "the score is balanced accuracy" in note and "difference" not in note
    assert "differences are in balanced accuracy" in warnings_of([one, {**one, "generator": "reference"}])[0]


def test_where_classes_are_imbalanced_everything_is_about_balanced_accuracy() -> None:
    plain = run_of(learned=90.0, reference=90.0)
    rows = [
        {**row, "balanced_accuracy": row["linear_accuracy"] - (10 if row["generator"] == "learned" else 30)}
        for row in plain
    ]
    imbalanced = [{**row, "imbalanced": True} for row in rows]
    said = verdict(imbalanced, "test")
    assert said.startswith("The learned policy beats the reference recipe at equal training compute: +20.0")
    assert "points of balanced accuracy on test images" in said
    assert "balanced" not in verdict(rows, "test")
    assert warnings_of(rows) == [] and "imbalanced by more than 3 to 1" in warnings_of(imbalanced)[0]
    reporter = Reporter()
    for told, has_column in ((rows, False), (imbalanced, True)):
        with reporter.console.capture() as shown:
            reporter.console.print(print_table(comparison_table(told, None), "test"))
        assert ("balanced %" in shown.get()) == has_column
    learned = comparison_table(imbalanced, None)[0]
    assert learned["linear"]["mean"] == 92.0 and learned["balanced"]["mean"] == 82.0
    assert learned["difference"]["mean"] == pytest.approx(20.0)


def test_one_seed_has_no_interval() -> None:
    (one,) = comparison_table([row("profile", 69.35)], None)
    assert one["linear"] == {"mean": 69.35, "low": None, "high": None}
    assert interval_text(one["linear"], 1) == "69.3"
    learned = comparison_table([row("learned", 71.0), row("reference", 70.0)], None)[0]
    assert interval_text(learned["difference"], 1, "+") == "+1.0"
    several = comparison_table(run_of(profile=69.0), None)[0]
    assert interval_text(several["linear"], 1) == "71.0 [69.8, 72.2]"
    reporter = Reporter()
    with reporter.console.capture() as shown:
        reporter.console.print(print_table([one], "validation"))
    text = shown.get()
    assert "[" not in text.splitlines()[-2]
    assert "minus reference" not in text and "search" not in text  # nothing stands in these columns


def test_encoders_below_raw_pixels_are_warned_of_and_groups_are_named_where_none_are_kept() -> None:
    rows = run_of(learned=74.0, reference=70.0, untrained=60.0, supervised=99.0)
    table = comparison_table(rows, {"best": 100.0})
    (told,) = pixel_notes(table, DataConfig(source="./photos"))
    assert told.startswith("Raw pixels reach 100.0 %, the best encoders 76.0 %") and "--groups" in told
    for known in (DataConfig(source="./photos", groups="a(.)"), DataConfig(source="digits")):
        (told,) = pixel_notes(table, known)
        assert "--groups" not in told
    assert pixel_notes(comparison_table(rows, {"best": 76.0}), DataConfig(source="./photos")) == []
    methods = [{**entry, "method": entry["generator"], "generator": None} for entry in table]
    assert len(pixel_notes(methods, DataConfig(source="./photos"))) == 1
    assert pixel_notes([], DataConfig()) == []


def test_the_best_encoders_are_the_best_of_all_lengths() -> None:
    levels = {"pixels": [80.0], "learned": [90.0, 60.0], "reference": [70.0, 55.0]}
    entries = [{"method": name, "linear": {"mean": mean}} for name, means in levels.items() for mean in means]
    assert pixel_notes(entries, DataConfig(source="digits")) == []


@pytest.mark.parametrize(("reference", "said"), [(61.0, "only 1.0 points above"), (55.0, "is 5.0 points below")])
def test_a_reference_that_learns_nothing_is_said_in_words(reference: float, said: str) -> None:
    (told,) = warnings_of(run_of(reference=reference, untrained=60.0))
    assert said in told


def test_a_reference_that_only_loses_quality_is_said_without_labels_too() -> None:
    levels = {"reference": -0.3, "untrained": 0.2}
    (told,) = warnings_of([row(name, None, quality=quality) for name, quality in levels.items()])
    assert "is 0.500 of quality below `untrained`" in told
    levels = {"reference": 0.3, "untrained": 0.2}
    assert not warnings_of([row(name, None, quality=quality) for name, quality in levels.items()])
