"""What the pages show of comparisons, of runs beside each other, and of pretrainings."""

from pathlib import Path

from agents.session import pretraining_file
from taskrl.run_folder import write_result
from taskrl.tracking import METRICS_NAME, JsonlTracker
from tests.agents.page.made import (
    DECISIONS,
    a_result,
    ask,
    decision,
    finish_run,
    make_run,
    served,
    training,
)


def test_a_comparison_is_listed_with_its_table_claims_and_figure(tmp_path: Path) -> None:
    run = make_run(tmp_path / "question")
    (run.path / "comparison.json").write_text("{}")
    with served(tmp_path) as address:
        assert "Nothing has been recorded yet." in ask(address, "/run/1")[2]
        (run.path / "cells").mkdir()
        (run.path / "cells" / "final-0a.json").write_text("{}")
        status, _, text = ask(address, "/run/1")
        assert status == 200 and "1 cell" in text
        mean = {"mean": 81.0, "low": 80.0, "high": 82.0}
        costs = {"train_flops": 2e12, "search_flops": 3e12, "total_flops": 5e12}
        entry = {"method": "learned", "length": 1, "num": 4, "mark": "", "linear": mean, "knn": None, "quality": None}
        entries = [{**entry, "difference": {"mean": 1.5, "low": 1.0, "high": 2.0}, **costs}]
        result = {"verdict": "Use the learned policy.", "table": entries, "claims": [], "notes": ["a doubt"]}
        finish_run(
            run, {**result, "kind": "comparison", "break_even": {"sentence": "It pays from 3x."}, "split": "test"}
        )
        (run.path / "compare.png").write_bytes(b"\x89PNG\r\n")
        status, _, text = ask(address, "/run/1")
        assert status == 200
        for part in (
            "Use the learned policy.",
            "It pays from 3x.",
            "a doubt",
            "81.0 [80.0, 82.0]",
            "+1.5 [+1.0, +2.0]",
        ):
            assert part in text
        assert ask(address, "/run/1/figure.png")[1]["content-type"] == "image/png"
        assert 'name="runs"' not in ask(address, "/")[2]
        finish_run(run, {"verdict": 3, "table": [{"method": "x"}], "claims": "x"})
        status, _, text = ask(address, "/run/1")
        assert status == 200 and "not as taskrl compare writes it" in text


def test_balanced_accuracy_stands_beside_the_differences_that_are_of_it(tmp_path: Path) -> None:
    uneven, costs = a_result(), {"train_flops": 0, "search_flops": 0}
    for entry in uneven["table"]:
        entry["balanced"] = {"mean": 61.0, "low": 60.0, "high": 62.0}
    finish_run(make_run(tmp_path / "a"), a_result())
    finish_run(make_run(tmp_path / "b"), uneven)
    compared = make_run(tmp_path / "c")
    (compared.path / "comparison.json").write_text("{}")
    table = [{"method": "learned", "length": 1, "num": 2, "mark": "", **uneven["table"][0], **costs}]
    finish_run(compared, {"verdict": "", "table": table, "claims": [], "notes": [], "break_even": {"sentence": ""}})
    with served(tmp_path) as address:
        both = ask(address, "/compare?runs=1,2")[2]
        assert "Balanced accuracy, %" in both and "of balanced accuracy, where that is given" in both
        page = ask(address, "/run/3")[2]
        assert "balanced, %" in page and "61.0 [60.0, 62.0]" in page


def test_qualities_of_unlike_data_are_not_put_on_one_axis_without_a_word(tmp_path: Path) -> None:
    finish_run(make_run(tmp_path / "a"), a_result())
    finish_run(make_run(tmp_path / "b"), a_result())
    finish_run(make_run(tmp_path / "c", name="cluttered-digits"), a_result())
    with served(tmp_path) as address:
        assert "Do not compare these heights" not in ask(address, "/compare?runs=1,2")[2]
        text = ask(address, "/compare?runs=1,3")[2]
        assert "Do not compare these heights" in text and "which differ in data.source" in text


def test_one_run_has_nothing_to_tick(tmp_path: Path) -> None:
    finish_run(make_run(tmp_path / "a"), a_result())
    with served(tmp_path) as address:
        assert 'type="checkbox"' not in ask(address, "/")[2]
    finish_run(make_run(tmp_path / "b"), a_result())
    with served(tmp_path) as address:
        assert ask(address, "/")[2].count('type="checkbox"') == 2


def test_a_pretraining_that_learns_as_it_goes_is_counted_by_what_it_plays(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_result(pretraining_file(run), {"policy": "online", "decisions": 2 * DECISIONS})
    with training(run), served(tmp_path) as address:
        tracker = JsonlTracker(run.path / METRICS_NAME)
        for step in range(DECISIONS):
            tracker.log_metrics(decision(step, mirror=0.0), step=step)
        assert f"{DECISIONS} of {2 * DECISIONS}" in ask(address, "/run/1")[2]


def test_a_pretraining_shows_what_its_encoder_saw(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_result(pretraining_file(run), {"policy": "profile"})
    with training(run), served(tmp_path) as address:
        tracker = JsonlTracker(run.path / METRICS_NAME)
        for step in range(DECISIONS):
            tracker.log_metrics(decision(step, mirror=0.0), step=step)
        finish_run(run, a_result(table=[], rows=[{"generator": "profile"}], search=None))
        text = ask(address, "/run/1")[2]
        assert "profile: decisions 1 to 2 of 2" in text and "Differs in mirror 0 (reference 0.5)." in text
