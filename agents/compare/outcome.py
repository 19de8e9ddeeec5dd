"""How a comparison ends: table, claims, break-even, verdict, encoder, figure, result.json and MLflow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.compare.claims import break_even, choose, claim_sentence, judge
from agents.compare.figure import draw
from agents.compare.folder import ComparisonFolder
from agents.compare.plan import FinalPlan, Plan
from agents.compare.table import Row, notes_of, print_table, rows_of, table_of, validated_by
from agents.keeping import discard_kept
from agents.progress import Reporter
from agents.summary import pixel_notes
from taskrl.config import flatten
from taskrl.errors import RunFolderError
from taskrl.folders import read_json, typed
from taskrl.machine import machine, versions
from taskrl.run_folder import write_result
from taskrl.tracking import Tracker, open_tracker

RESULT_VERSION = 1
NUMBERS = ("train_flops", "search_flops", "total_flops", "train_seconds", "search_seconds")


def finish(
    plan: Plan,
    folder: ComparisonFolder,
    rows: Sequence[Row],
    pixels: Mapping[str, float] | None,
    reporter: Reporter,
    *,
    doubts: Sequence[str],
    train: Callable[[FinalPlan], None],
) -> dict[str, Any]:
    """Judge the rows, export the encoder that they choose (`train` writes it), write everything, and show it. doubts:
    what speaks against the reward that was searched with.
    """
    config = plan.config
    lengths = sorted(set(config.compare.lengths))
    method, sentence = choose(rows, lengths[-1])
    encoder = None if method is None else _best(rows, method, lengths[-1])
    if encoder is None or _exported(folder) != encoder:
        folder.run.result_file.unlink(missing_ok=True)
        discard_kept(folder.run.encoder)  # an earlier verdict chose it
        if encoder is not None:
            train(_plan_of(plan, encoder))
    result: dict[str, Any] = {
        "format_version": RESULT_VERSION,
        "kind": "comparison",
        "data": plan.assembled.data_name,
        "split": plan.assembled.splits.scored_on(test=config.final.test),
        "verdict": sentence,
        "encoder": encoder,
        "claims": [entry for length in lengths for entry in judge(rows, length, config.data.source)],
        "break_even": break_even(rows, lengths),
        "notes": [
            *notes_of(rows, *lengths),
            *pixel_notes(table := table_of(rows, pixels), config.data),
            *doubts,
        ],
        "table": table,
        "rows": list(rows),
        "floors": {"pixels": pixels},
        "machine": machine(config.predictor.device),
        "versions": versions(),
        "config": config.model_dump(),
    }
    draw(result["table"], result["split"], folder.figure)
    write_result(folder.run.result_file, result)
    _record(result, folder, reporter)
    show(folder, result, reporter)
    return result


def show(folder: ComparisonFolder, result: Mapping[str, Any], reporter: Reporter) -> None:
    """The table, the claims, the verdict, and what to open."""
    reporter.console.print(print_table(result["table"], result["split"]))
    for sentence in sentences_of(result):
        reporter.say(sentence)
    for title, path in {"Figure": folder.figure, "Data": folder.run.result_file, "Encoder": folder.run.encoder}.items():
        if path.exists():
            reporter.say(f"{title}: {path}")
    if result["config"]["tracking"]["uri"] == "":
        reporter.say(f"MLflow: taskrl mlflow {typed(folder.run.path)}")


def sentences_of(result: Mapping[str, Any]) -> list[str]:
    """What a comparison says beside its table; the verdict comes last."""
    unlabelled = any(entry["unit"] == "quality" for entry in result["claims"])
    return [
        *(["There are no labels: all claims are about quality, not about accuracy."] if unlabelled else []),
        *(claim_sentence(entry) for entry in result["claims"] if entry["strictest"] is not None),
        *unmeasured(result["claims"]),
        result["break_even"]["sentence"],
        *(f"Warning: {note}" for note in result["notes"]),
        result["verdict"],
    ]


def unmeasured(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for all claims that no method of the comparison bears on, and one for those that have no number."""
    claims = [entry for entry in claims if entry["strictest"] is None]
    told = "; ".join(f"{entry['claim']} (needs {', '.join(entry['without'])})" for entry in claims if entry["without"])
    blank = "; ".join(f"{entry['claim']} ({entry['why']})" for entry in claims if not entry["without"])
    return [
        *([f"Not measured, add to --methods what they need: {told}."] if told else []),
        *([f"Cannot be measured: {blank}."] if blank else []),
    ]


def inspect_comparison(path: Path, reporter: Reporter) -> None:
    """`show` for a finished comparison. Raises RunFolderError for one that is not finished."""
    show(ComparisonFolder.at(path), comparison_result(path), reporter)


def comparison_result(path: Path) -> dict[str, Any]:
    """result.json of a comparison. Raises RunFolderError for one that is not finished."""
    folder = ComparisonFolder.at(path)
    if not folder.run.result_file.is_file():
        raise RunFolderError(f"{str(path)!r} is not finished; give the same taskrl compare command again.")
    return _result_of(folder)


def _best(rows: Sequence[Row], method: str, length: int) -> dict[str, Any]:
    """The encoder of a method that is best on validation images."""
    column = validated_by(rows)
    known = [row for row in rows_of(rows, method, length) if row[column] is not None]
    best = max(known or rows_of(rows, method, length), key=lambda row: row[column] or 0.0)
    return {name: best[name] for name in ("method", "length", "number", "train_seed", "validation_accuracy", "cell")}


def _plan_of(plan: Plan, encoder: Mapping[str, Any]) -> FinalPlan:
    wanted = tuple(encoder[name] for name in ("method", "length", "train_seed"))
    return next(final for final in plan.finals if (final.method.name, final.length, final.train_seed) == wanted)


def _exported(folder: ComparisonFolder) -> dict[str, Any] | None:
    """What an earlier sitting exported, if it is still there."""
    if not (folder.run.result_file.is_file() and folder.run.encoder.is_dir()):
        return None
    try:
        found = _result_of(folder).get("encoder")
    except RunFolderError:  # it is written anew in a moment
        return None
    return found if isinstance(found, dict) else None


def _result_of(folder: ComparisonFolder) -> dict[str, Any]:
    """result.json. Raises RunFolderError when it is damaged or of another version."""
    file = folder.run.result_file
    try:
        result = read_json(file)
    except RunFolderError:
        result = {}
    if (result.get("format_version"), result.get("kind")) != (RESULT_VERSION, "comparison"):
        raise RunFolderError(
            f"{str(file)!r} is damaged or of another version; give the same taskrl compare command again, which writes "
            "it anew."
        )
    return result


def _record(result: Mapping[str, Any], folder: ComparisonFolder, reporter: Reporter) -> None:
    """To the tracker: a run for the comparison, and one nested in it for every method; steps are lengths and seeds."""
    run, tracking = folder.run, result["config"]["tracking"]
    note = folder.tracking_file
    tracker = open_tracker(
        run.path,
        uri=tracking["uri"] or None,
        experiment=tracking["experiment"],
        run_name=run.path.name,
        run_id=_run_id(note),
        warn=lambda sentence: reporter.say(f"Warning: {sentence}"),
        opened=lambda run_id: write_result(note, {"run_id": run_id}),
    )
    status = "FAILED"
    try:
        tracker.log_params(flatten(dict(result["config"])) | {"verdict": result["verdict"]})
        for name in dict.fromkeys(entry["method"] for entry in result["table"]):
            _record_method(tracker.child(name), name, result)
        for path in (run.config_file, run.result_file, folder.figure):
            tracker.log_artifact(path)
        status = "FINISHED"
    finally:
        tracker.close(status)


def _run_id(note: Path) -> str | None:
    """Of the run that an earlier sitting recorded; None where there is none, or where its note is damaged."""
    try:
        found = read_json(note).get("run_id")
    except RunFolderError:
        return None
    return found if isinstance(found, str) else None


def _record_method(tracker: Tracker, name: str, result: Mapping[str, Any]) -> None:
    tracker.log_params({"method": name})
    for entry in result["table"]:
        if entry["method"] != name:
            continue
        numbers = {column: float(entry[column]) for column in NUMBERS}
        for column in ("linear", "knn", "quality", "difference"):
            parts = entry[column] or {}
            numbers |= {f"{column}/{part}": float(value) for part, value in parts.items() if value is not None}
        tracker.log_metrics(numbers, step=entry["length"] or 0, kind="method")
    for row in result["rows"]:
        if row["method"] == name:
            values = {f"final/{key}": float(value) for key, value in row.items() if isinstance(value, int | float)}
            tracker.log_metrics(values, step=row["train_seed"], kind=f"final {row['length']}x")
    tracker.close()
