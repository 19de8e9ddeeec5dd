"""`inspect --report` draws the report again, of any run, and leaves the run as it is."""

import json
import shutil
from pathlib import Path

import pytest

from taskrl.run_folder import RunFolder
from tests.agents.runs import snapshot, taskrl, tiny_options
from tests.taskrl.reports import Page


def _copy(run: RunFolder, here: Path) -> Path:
    return Path(shutil.copytree(run.path, here / "copy", ignore=shutil.ignore_patterns("mlflow.db", "artifacts")))


def test_the_report_drawn_again_is_the_report(finished: RunFolder, here: Path) -> None:
    before = snapshot(finished.path)
    shown = taskrl("inspect", finished.path, "--report", "again.html")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.strip() == "Report: again.html"
    old, new = (Page(path.read_text(encoding="utf-8")) for path in (finished.report, here / "again.html"))
    assert new.values("src") == old.values("src") and new.values("d") == old.values("d")
    assert snapshot(finished.path) == before


def test_a_finished_run_says_what_its_report_needs(finished: RunFolder) -> None:
    result, page = finished.result(), Page(finished.report.read_text(encoding="utf-8"))
    assert set(result["shares"]) and result["log"]["search"]["third"] > 0
    assert len(result["search"]["reference_qualities"]) == 2
    assert sum(result["search"]["reference_qualities"]) / 2 == pytest.approx(result["search"]["reference_quality"])
    spent = result["log"]["search"]["spent"]
    assert result["noise"]["flops"] + spent["train_flops"] + spent["measure_flops"] < result["search"]["flops"]
    assert result["log"]["finals"]["train_flops"] > 0
    for text in ("Search: training", "Search: the reference's episodes", "Final runs: learned", finished.path.name):
        assert text in page.text
    assert any(title.startswith("learned: decision") for title in page.texts)


def test_an_old_run_gets_what_its_folder_still_tells(finished: RunFolder, here: Path) -> None:
    folder = _copy(finished, here)
    result = json.loads((folder / "result.json").read_text())
    for key in ("shares", "log", "noise", "validity"):
        del result[key]
    del result["search"]["reference_qualities"]
    (folder / "result.json").write_text(json.dumps(result))
    assert taskrl("inspect", folder, "--report", "again.html").exit_code == 0
    text = Page((here / "again.html").read_text(encoding="utf-8")).text
    assert "Search: training" in text and "An episode of the search gained" in text


def test_a_run_whose_images_and_log_are_gone_gets_a_report_without_them(finished: RunFolder, here: Path) -> None:
    folder = _copy(finished, here)
    (folder / "metrics.jsonl").unlink()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("source: digits", "source: ./gone"))
    shown = taskrl("inspect", folder, "--report", "again.html")
    assert shown.exit_code == 0, shown.output
    assert "Without real views: " in shown.stdout and "gone" in shown.stdout
    page = Page((here / "again.html").read_text(encoding="utf-8"))
    assert "img" not in page.tags and "Comparison of generators" in page.text


def test_a_pretraining_has_a_report_of_its_own_tasks(here: Path) -> None:
    options = tiny_options(final__decisions=3)
    assert taskrl("pretrain", "--policy", "fixed:no-mirror", "--out", "encoder", *options).exit_code == 0
    assert taskrl("inspect", "encoder", "--report", "again.html").exit_code == 0
    old, new = (Page((here / path).read_text(encoding="utf-8")) for path in ("encoder/report.html", "again.html"))
    assert new.values("src") == old.values("src")
    assert "fixed:no-mirror: decisions 1 to 3 of 3" in new.texts and "This run had no search" in new.text
    assert "Differs in mirror 0 (reference 0.5)." in new.text


def test_what_has_no_report_says_so(finished: RunFolder, here: Path) -> None:
    folder = _copy(finished, here)
    (folder / "result.json").unlink()
    unfinished = taskrl("inspect", folder, "--report", "again.html")
    assert unfinished.exit_code == 2 and "no result.json yet" in unfinished.output
    (folder / "comparison.json").write_text("{}")
    comparison = taskrl("inspect", folder, "--report", "again.html")
    assert comparison.exit_code == 2 and "is a comparison, which has no report" in comparison.output
    assert not (here / "again.html").exists()
