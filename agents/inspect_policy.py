"""`taskrl inspect`: what a run found, on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from agents.progress import Reporter
from agents.results import show
from taskrl.run_folder import RunFolder


def inspect_run(path: Path, reporter: Reporter) -> None:
    """Print the choices over an episode, the schedule, and the comparison of a finished run."""
    run = RunFolder.open(path)
    result = run.result()
    parts: Mapping[str, Any] = result["choices"]["parts"]
    if parts:
        reporter.console.print(choices_table(parts))
    for row in result["schedule"]:
        reporter.say(f"{row['progress']:4.0%}  {row['task']}")
    show(run, result, reporter)


def choices_table(parts: Mapping[str, Any]) -> Table:
    """For each part of the action: the reference's level, and the likeliest level first and last in an episode."""
    table = Table(title="What the policy chooses")
    for title in ("choice", "reference", "first decision", "last decision"):
        table.add_column(title)
    for name, part in parts.items():
        levels, rows = part["levels"], part["probabilities"]
        cells = []
        for row in (rows[0], rows[-1]):
            best = max(range(len(row)), key=row.__getitem__)
            cells.append(f"{levels[best]:g} ({row[best]:.0%})")
        table.add_row(name, f"{levels[part['reference']]:g}", *cells)
    return table
