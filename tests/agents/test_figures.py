"""Promises of what MLflow holds at the end of a run: the report, and its figures as pictures."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from agents.figures import FIGURES, write_figures
from agents.sitting import Sitting, examples_file
from taskrl.run_folder import RunFolder
from tests.agents.page.made import a_result
from tests.taskrl.mlflow_runs import client_of


def test_mlflow_holds_the_report_and_its_figures(finished: RunFolder) -> None:
    client = client_of(finished.path)
    (experiment,) = (each for each in client.search_experiments() if each.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    (run,) = (each for each in runs if "mlflow.parentRunId" not in each.data.tags)
    names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "result.json", "config.yaml", "figures"} <= names
    figures = {Path(entry.path).name for entry in client.list_artifacts(run.info.run_id, "figures")}
    assert {"comparison.png", "search.png", "finals.png", "choices.png", "views-1-0.png", "views-1-1.png"} <= figures
    for path in finished.figures.iterdir():
        with Image.open(path) as picture:
            picture.verify()
            assert min(picture.size) > 20


def test_a_run_without_a_search_has_no_figure_of_one(tmp_path: Path) -> None:
    write_figures(a_result(search=None, choices={"progress": [], "parts": {}}), [], tmp_path / "figures")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"comparison", "finals"}
    odd = a_result(curves={"$learned_^": [[0.1, None], "x"], "b": [[1.0]]}, table=[{"generator": "$x^$", "quality": 3}])
    write_figures(odd, [], tmp_path / "odd")


def test_the_comparison_is_of_balanced_accuracy_where_classes_are_imbalanced(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda self, label, **_: labels.append(label))
    uneven = a_result()
    for row in uneven["table"]:
        row["balanced"] = {"mean": 60.0, "low": 58.0, "high": 62.0}
    assert FIGURES["comparison"](Figure(), uneven) and FIGURES["comparison"](Figure(), a_result())
    assert [label.split(",")[0] for label in labels] == ["balanced accuracy", "linear accuracy"]


def test_a_finished_run_tells_onlookers_how_it_ended(finished: RunFolder) -> None:
    record = Sitting.of(finished)
    assert record is not None and not record.alive()
    assert (record.status, record.num_workers, record.episodes) == ("FINISHED", 1, 4)
    assert record.finals == len(finished.result()["rows"])
    assert record.began < record.ended
    assert examples_file(finished).is_file()
