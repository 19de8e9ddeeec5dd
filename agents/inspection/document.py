"""Everything that is known of a run or a comparison as one JSON document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.compare import outcome
from agents.compare.folder import ComparisonFolder, is_comparison
from agents.inspection.learned import learned_schedule
from agents.inspection.why_of_run import why_of
from agents.keeping import kept_folders
from agents.results import sentences_of
from taskrl.errors import RunFolderError
from taskrl.run_folder import RunFolder

DOCUMENT_VERSION = 1


def document_of(path: Path, num_rows: int | None = None) -> dict[str, Any]:
    """kind: "run" or "comparison". sentences: what is said of the result. schedule: as in a schedule's file; null where
    there is none, and schedule_missing says why; why and why_missing in the same way. files: those that exist. result:
    result.json.

    Raises RunFolderError when the run or the comparison is not finished.
    """
    comparison = is_comparison(path)
    run = RunFolder.open(path)
    result = outcome.comparison_result(path) if comparison else run.result()
    schedule, schedule_missing = _or_sentence(lambda: learned_schedule(path, num_rows).to_json())
    why, why_missing = _or_sentence(lambda: why_of(path))
    return {
        "format_version": DOCUMENT_VERSION,
        "kind": "comparison" if comparison else "run",
        "path": str(run.path),
        "sentences": outcome.sentences_of(result) if comparison else sentences_of(result),
        "schedule": schedule,
        "schedule_missing": schedule_missing,
        "why": why,
        "why_missing": why_missing,
        "files": _files(run, comparison),
        "result": result,
    }


def _or_sentence(make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any] | None, str | None]:
    """What `make` gives, or why there is none."""
    try:
        return make(), None
    except RunFolderError as error:
        return None, str(error)


def _files(run: RunFolder, comparison: bool) -> dict[str, str]:
    best, last, ema, encoder = kept_folders(run.encoder)
    paths = {"config": run.config_file, "encoder": encoder, "encoder_best": best, "encoder_last": last}
    paths["encoder_ema"] = ema
    paths |= {"report": run.report, "policy": run.policy, "observations": run.observations}
    if comparison:
        paths["figure"] = ComparisonFolder(run).figure
    return {name: str(path) for name, path in paths.items() if path.exists()}
