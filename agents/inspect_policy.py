"""`taskrl inspect`: what a run found, on the terminal, as a schedule, as code or as data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from agents.compare.folder import is_comparison
from agents.compare.outcome import inspect_comparison
from agents.inspection.choices import TITLES, choice_rows
from agents.inspection.counterfactual_page import CounterfactualRequest, counterfactuals
from agents.inspection.document import document_of
from agents.inspection.learned import learned_schedule, write_schedule
from agents.inspection.paste import check_library, code_for
from agents.inspection.why_of_run import plain_answer, why_of
from agents.inspection.why_page import show_why
from agents.progress import Reporter
from agents.rebuilding import rebuild_report
from agents.results import show
from taskrl.errors import ConfigError
from taskrl.folders import as_written, typed
from taskrl.run_folder import RunFolder


def inspect_as(
    path: Path,
    *,
    schedule: Path | None,
    rows: int | None,
    library: str | None,
    as_json: bool,
    report: Path | None = None,
    why: bool = False,
    what_if: CounterfactualRequest | None = None,
) -> None:
    """One of: the usual page, a new schedule file, code, one JSON document, a new report, why it chooses, or what other
    tasks would have gained; code and JSON stand alone on standard output. Raises ConfigError where two are asked for,
    RunFolderError for a folder that this version of taskrl cannot read.
    """
    asked = {"--schedule": schedule is not None, "--as": library is not None, "--json": as_json}
    asked |= {"--report": report is not None, "--why": why, "--counterfactuals": what_if is not None}
    given = [name for name, is_given in asked.items() if is_given]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} were given together; ask for one at a time.")
    if rows is not None and not {*given} & {"--schedule", "--as", "--json"}:
        raise ConfigError(f"--rows {rows} is for --schedule, --as and --json; give one of them.")
    reporter = Reporter()
    if what_if is not None:
        counterfactuals(path, what_if, reporter)
        return
    with as_written(path):
        if schedule is not None:
            inspect_schedule(path, rows, schedule, reporter)
        elif report is not None:
            rebuild_report(path, report, reporter)
        elif library is not None:
            check_library(library)
            typer.echo(code_for(library, learned_schedule(path, rows)), nl=False)
        elif as_json:
            typer.echo(json.dumps(document_of(path, rows), indent=1, allow_nan=False))
        elif why:
            inspect_why(path, reporter)
        elif is_comparison(path):
            inspect_comparison(path, reporter)
        else:
            inspect_run(path, reporter)


def inspect_schedule(path: Path, rows: int | None, out: Path, reporter: Reporter) -> None:
    """Write what was learned to the new file `out`, and print it."""
    learned = learned_schedule(path, rows)
    write_schedule(learned, out)
    for index, spec in enumerate(learned.specs):
        reporter.say(f"{index / len(learned.specs):4.0%}  {spec.describe()}")
    reporter.say(f"Schedule: {out}")
    config = typed(path / "config.yaml")
    reporter.say(f"Play it: taskrl pretrain --policy {typed(out)} --config {config} --out NEW-FOLDER")


def inspect_run(path: Path, reporter: Reporter) -> None:
    """Print the choices over an episode, the schedule, and the comparison of a finished run."""
    run = RunFolder.open(path)
    result = run.result()
    parts: Mapping[str, Any] = result["choices"]["parts"]
    if parts:
        reporter.console.print(choices_table(parts))
    if result["schedule"]:
        reporter.say("What its final runs trained on most, from which share of training on:")
    for first, row in zip([None, *result["schedule"]], result["schedule"], strict=False):
        if first is None or first["task"] != row["task"]:
            reporter.say(f"{row['progress']:4.0%}  {row['task']}")
    show(run, result, reporter)


def inspect_why(path: Path, reporter: Reporter) -> None:
    """Print what the choices of a run's policy hang on; one sentence where there is no policy to ask."""
    plain = None if is_comparison(path) else plain_answer(RunFolder.open(path))
    if plain:
        reporter.say(plain)
        return
    why = why_of(path)
    show_why(why, RunFolder.open(path).result()["choices"]["parts"], reporter)


def choices_table(parts: Mapping[str, Any]) -> Table:
    """`choice_rows` for a terminal."""
    table = Table(title="What the policy chooses")
    for title in TITLES:
        table.add_column(title)
    for row in choice_rows(parts):
        table.add_row(*row)
    return table
