"""`taskrl inspect RUN --report FILE.html`: the report of a finished run, drawn again from what its folder holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.compare.folder import is_comparison
from agents.galleries import view_galleries
from agents.logbook import logged_specs, mean_shares
from agents.preparation import prepare
from agents.progress import Reporter
from agents.results import log_of
from agents.summary import LEARNED
from taskrl.config import ExperimentConfig
from taskrl.errors import RunFolderError, TaskrlError
from taskrl.folders import read_json, typed, write_atomically
from taskrl.report import render_report
from taskrl.report_images import Gallery
from taskrl.run_folder import RunFolder, check_new_file
from taskrl.tracking import METRICS_NAME


def rebuild_report(path: Path, out: Path, reporter: Reporter) -> None:
    """Write the report of the run at `path` to the new file `out`; nothing is trained and the run is left as it is.

    Raises RunFolderError where the run is not finished or a comparison, or `out` exists.
    """
    check_new_file(out, "--report")
    if is_comparison(path):
        raise RunFolderError(
            f"{str(path)!r} is a comparison, which has no report; taskrl inspect {typed(path)} prints its table and "
            "claims, and names its figure."
        )
    run = RunFolder.open(path)
    result, config = run.result(), run.config()
    who, played = _played(run, result)
    log = log_of(run, config, searched=result.get("search") is not None)
    whole = {**result, "log": log, "shares": mean_shares(played)}
    galleries = _galleries(config, played, who, reporter)
    page = render_report(whole, galleries, name=run.path.name, test_reads=run.test_reads_made())
    write_atomically(out, page)
    reporter.say(f"Report: {out}")


def _played(run: RunFolder, result: Mapping[str, Any]) -> tuple[str, list[list[str]]]:
    """Which generator the report is about, and the tasks of its final runs."""
    stored = [read_json(file) for file in sorted((run.checkpoints / "finals").glob("*.json"))]
    finals = [(str(final["row"]["generator"]), final["specs"]) for final in stored if final.get("specs")]
    learned = [final for final in finals if final[0] == LEARNED] or finals[:1]
    if learned:
        return learned[0][0], [specs for _, specs in learned]
    names = [str(row["generator"]) for row in result["rows"]]
    specs = [] if result.get("search") else logged_specs(run.path / METRICS_NAME)
    return (names[0] if names else ""), [specs] if specs else []


def _galleries(config: ExperimentConfig, played: list[list[str]], who: str, reporter: Reporter) -> list[Gallery]:
    """None where the run's images are no longer to be had."""
    try:
        _, assembled = prepare(config)
    except TaskrlError as error:
        reporter.say(f"Without real views: {error}")
        return []
    return view_galleries(assembled, played, who)
