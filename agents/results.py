"""From finished encoders to result.json, report.html and the table on screen."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.galleries import view_galleries
from agents.progress import Reporter
from agents.rollout import Trace
from agents.summary import LEARNED, comparison_table, print_table, verdict, warnings_of
from taskrl.assemble import Assembled
from taskrl.folders import read_json, write_atomically
from taskrl.machine import machine, versions
from taskrl.report import render_report
from taskrl.run_folder import RunFolder, write_result
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import Tracker

RESULT_VERSION = 1


@dataclass(frozen=True)
class StoredFinal:
    """A finished encoder as it is kept in checkpoints/finals: its row, and its episode decision by decision."""

    row: dict[str, Any]
    specs: list[str]
    qualities: list[float]
    choices: list[dict[str, list[float]]]

    @staticmethod
    def of(row: dict[str, Any], trace: Trace | None) -> "StoredFinal":
        if trace is None:
            return StoredFinal(row, [], [], [])
        choices = [{name: probabilities.tolist() for name, probabilities in table.items()} for table in trace.choices]
        return StoredFinal(row, list(trace.specs), list(trace.qualities), choices)

    def write(self, path: Path) -> None:
        write_result(path, vars(self))

    @staticmethod
    def read(path: Path) -> "StoredFinal":
        return StoredFinal(**read_json(path))


def finish(
    run: RunFolder,
    assembled: Assembled,
    finals: Sequence[StoredFinal],
    *,
    pixels: Mapping[str, float] | None,
    search: Mapping[str, float] | None,
    reporter: Reporter,
    tracker: Tracker,
) -> None:
    """Write result.json and report.html, hand them to the tracker, print the table and the paths to open."""
    config = assembled.config
    rows = [final.row for final in finals]
    split = "test" if config.final.test else "validation"
    learned = [final for final in finals if final.row["generator"] == LEARNED]
    shown = learned or [final for final in finals if final.specs][:1]
    result = {
        "format_version": RESULT_VERSION,
        "data": assembled.splits.name,
        "split": split,
        "verdict": verdict(rows, split),
        "notes": warnings_of(rows) if rows else [],
        "rows": rows,
        "table": comparison_table(rows, pixels) if rows else [],
        "floors": {"pixels": pixels},
        "search": None if search is None else {**search, "episodes": _search_curve(run)},
        "choices": _choices(assembled, shown),
        "curves": _curves(finals),
        "schedule": _schedule(shown),
        "machine": machine(config.predictor.device),
        "versions": versions(),
        "config": config.model_dump(),
    }
    galleries = view_galleries(assembled, _usual_specs(shown))
    write_atomically(run.report, render_report(result, galleries))
    write_result(run.result_file, result)
    for path in (run.result_file, run.report):
        tracker.log_artifact(path)
    show(run, result, reporter)


def show(run: RunFolder, result: Mapping[str, Any], reporter: Reporter) -> None:
    """The table, the verdict, and what to open."""
    if result["table"]:
        reporter.console.print(print_table(result["table"], result["split"]))
    for note in result["notes"]:
        reporter.say(f"Warning: {note}")
    reporter.say(str(result["verdict"]))
    for title, path in (("Report", run.report), ("Encoder", run.encoder), ("Policy", run.policy)):
        if path.exists():
            reporter.say(f"{title}: {path}")
    if result["config"]["tracking"]["uri"] == "":
        reporter.say(f"MLflow: taskrl mlflow {run.path}")


def _search_curve(run: RunFolder) -> list[dict[str, Any]]:
    """Final quality and return of every search episode, from metrics.jsonl (the last line of an episode counts)."""
    episodes: dict[int, dict[str, Any]] = {}
    with (run.path / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if entry["kind"] == "episode":
                episodes[entry["step"]] = {"episode": entry["step"], **entry["metrics"]}
    return [episodes[index] for index in sorted(episodes)]


def _choices(assembled: Assembled, finals: Sequence[StoredFinal]) -> dict[str, Any]:
    """Mean probabilities over the finals, for each part of the action and each decision."""
    if not finals or not finals[0].choices:
        return {"progress": [], "parts": {}}
    num = len(finals[0].choices)
    parts = {}
    for part in assembled.problem.task_space.parts:
        table = np.mean([[row[part.name] for row in final.choices] for final in finals], axis=0)
        parts[part.name] = {
            "levels": list(part.levels),
            "reference": part.reference,
            "probabilities": np.round(table, 4).tolist(),
        }
    return {"progress": [round(index / num, 4) for index in range(num)], "parts": parts}


def _curves(finals: Sequence[StoredFinal]) -> dict[str, list[list[float]]]:
    curves: dict[str, list[list[float]]] = {}
    for final in finals:
        if final.qualities and final.row["quality"] is not None:
            curves.setdefault(str(final.row["generator"]), []).append(final.qualities)
    return curves


def _usual_specs(finals: Sequence[StoredFinal]) -> list[str]:
    """The task that was trained most often at each decision (the first seed's on a tie)."""
    if not finals:
        return []
    columns = zip(*(final.specs for final in finals), strict=True)
    return [Counter(column).most_common(1)[0][0] for column in columns]


def _schedule(finals: Sequence[StoredFinal]) -> list[dict[str, Any]]:
    specs = _usual_specs(finals)
    return [
        {"progress": round(index / len(specs), 4), "task": TaskSpec.from_json(spec).describe()}
        for index, spec in enumerate(specs)
    ]
