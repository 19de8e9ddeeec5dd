"""From finished encoders to result.json, report.html and the table on screen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from agents.figures import write_figures
from agents.galleries import view_galleries
from agents.inspection.observed import observed_in
from agents.inspection.why_of_run import why_of_finals
from agents.keeping import kept_folders
from agents.logbook import entries, log_record, mean_shares
from agents.progress import Reporter
from agents.rollout import Trace
from agents.summary import LEARNED, comparison_table, pixel_notes, print_table, verdict, warnings_of
from agents.trust import noise_metrics, validity_metrics, validity_record
from taskrl.assemble import Assembled
from taskrl.config import ExperimentConfig
from taskrl.errors import RunFolderError
from taskrl.folders import read_json, typed, write_atomically
from taskrl.machine import machine, versions
from taskrl.report import render_report
from taskrl.report_images import Gallery
from taskrl.run_folder import RunFolder, write_result
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec
from taskrl.tracking import METRICS_NAME, Tracker

RESULT_VERSION = 1


@dataclass(frozen=True)
class StoredFinal:
    """A finished encoder as it is kept in checkpoints/finals: its row, and its episode decision by decision.

    observations: what the learned policy observed at each decision; entries: their names. Both are empty for other
    generators, and in files of earlier versions.
    """

    row: dict[str, Any]
    specs: list[str]
    qualities: list[float]
    choices: list[dict[str, list[float]]]
    observations: list[list[float]] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)

    @staticmethod
    def of(row: dict[str, Any], trace: Trace | None) -> "StoredFinal":
        if trace is None:
            return StoredFinal(row, [], [], [])
        choices = [{name: probabilities.tolist() for name, probabilities in table.items()} for table in trace.choices]
        stored = StoredFinal(row, list(trace.specs), list(trace.qualities), choices)
        if row["generator"] != LEARNED:
            return stored
        observations = [[round(float(value), 6) for value in observation] for observation in trace.observations]
        return replace(stored, observations=observations, entries=list(trace.entries))

    def write(self, path: Path) -> None:
        write_result(path, vars(self))

    @staticmethod
    def read(path: Path) -> "StoredFinal":
        """Raises RunFolderError when the file is damaged."""
        try:
            return StoredFinal(**read_json(path))
        except (RunFolderError, TypeError):
            raise RunFolderError(
                f"{str(path)!r} is damaged; remove it, and taskrl resume trains that encoder again."
            ) from None


def shown_of(finals: Sequence[StoredFinal]) -> list[StoredFinal]:
    """The final runs that choices and views are shown of: the learned policy's, or the first where there is none."""
    learned = [final for final in finals if final.row.get("generator") == LEARNED]
    return learned or [final for final in finals if final.specs][:1]


def finish(
    run: RunFolder,
    assembled: Assembled,
    finals: Sequence[StoredFinal],
    *,
    pixels: Mapping[str, float] | None,
    search: Mapping[str, Any] | None,
    noise: Mapping[str, Any] | None = None,
    reporter: Reporter,
    tracker: Tracker,
) -> None:
    """Write result.json and report.html, hand them to the tracker, print the table and the paths to open.

    noise: what is kept of the A/A test.
    """
    config = assembled.config
    rows = [final.row for final in finals]
    split = assembled.splits.scored_on(test=config.final.test)
    episodes = [] if search is None else search_curve(run)
    validity = None
    if search is not None:
        validity = validity_record(episodes, rows, group_size=config.agent.group_size, split=split)
    for kind, numbers in (("noise", noise_metrics(noise)), ("validity", validity_metrics(validity))):
        if numbers:
            tracker.log_metrics(numbers, step=0, kind=kind)
    learned = [final for final in finals if final.row["generator"] == LEARNED]
    shown = shown_of(finals)
    table = comparison_table(rows, pixels) if rows else []
    observed = observed_in([(row.row["train_seed"], row.observations, row.entries, row.specs) for row in learned])
    result = {
        "format_version": RESULT_VERSION,
        "data": assembled.data_name,
        "split": split,
        "verdict": verdict(rows, split) if rows else _policy_alone(run),
        "notes": [
            *(warnings_of(rows) if rows else []),
            *pixel_notes(table, config.data),
            *_doubts(noise, search, validity),
        ],
        "rows": rows,
        "table": table,
        "floors": {"pixels": pixels},
        "search": None if search is None else {**search, "episodes": episodes},
        "noise": noise,
        "validity": validity,
        "choices": choices(assembled.problem.task_space, shown),
        "why": why_of_finals(run, assembled, observed),
        "curves": curves(finals),
        "schedule": schedule(shown),
        "shares": mean_shares([final.specs for final in shown]),
        "log": log_of(run, config, searched=search is not None),
        "machine": machine(config.predictor.device),
        "versions": versions(),
        "config": config.model_dump(),
    }
    if observed:
        observed.write(run.observations)
    _keep(run, result, view_galleries(assembled, [final.specs for final in shown], _named(shown)), tracker)
    show(run, result, reporter)


def _keep(run: RunFolder, result: Mapping[str, Any], galleries: Sequence[Gallery], tracker: Tracker) -> None:
    """The report, where MLflow takes part the figures, and last, since it says that the run is finished, the result."""
    write_atomically(run.report, render_report(result, galleries, name=run.path.name, test_reads=run.test_reads_made()))
    paths = [run.report, run.result_file]
    if result["config"]["tracking"]["uri"].lower() != "none":
        write_figures(result, galleries, run.figures)
        paths.append(run.figures)
    write_result(run.result_file, result)
    for path in paths:
        tracker.log_artifact(path)


def show(run: RunFolder, result: Mapping[str, Any], reporter: Reporter) -> None:
    """The table, the verdict, and what to open."""
    if result["table"]:
        reporter.console.print(print_table(result["table"], result["split"]))
    for sentence in sentences_of(result):
        reporter.say(sentence)
    best, last, ema, encoder = kept_folders(run.encoder)
    paths = {"Report": run.report, "Encoder": encoder, "Best encoder": best, "Last encoder": last}
    paths |= {"Averaged encoder (EMA)": ema, "Policy": run.policy}
    for title, path in paths.items():
        if path.exists():
            reporter.say(f"{title}: {path}")
    if result["config"]["tracking"]["uri"] == "":
        reporter.say(f"MLflow: taskrl mlflow {typed(run.path)}")


def sentences_of(result: Mapping[str, Any]) -> list[str]:
    """What a run says beside its table; the verdict comes last."""
    return [*trust_sentences(result), *(f"Warning: {note}" for note in result["notes"]), str(result["verdict"])]


def trust_sentences(result: Mapping[str, Any]) -> list[str]:
    """What was found out about noise and validity; nothing for a run of an earlier version."""
    noise, validity = result.get("noise"), result.get("validity")
    return [*([noise["sentence"]] if noise else []), *(validity["sentences"] if validity else [])]


def _doubts(*records: Mapping[str, Any] | None) -> list[str]:
    return [record["warning"] for record in records if record and record.get("warning")]


def _policy_alone(run: RunFolder) -> str:
    """The verdict of a run without final encoders."""
    policy = (
        "; the task policy is in policy/: taskrl pretrain --policy RUN trains with it" if run.policy.is_dir() else ""
    )
    return f"No final encoder was trained{policy}."


def search_curve(run: RunFolder) -> list[dict[str, Any]]:
    """Final quality and return of every search episode, from metrics.jsonl (the last line of an episode counts)."""
    episodes: dict[int, dict[str, Any]] = {}
    for entry in entries(run.path / METRICS_NAME):
        if entry["kind"] == "episode":
            episodes[entry["step"]] = {"episode": entry["step"], **entry["metrics"]}
    return [episodes[index] for index in sorted(episodes)]


def choices(space: TaskSpace, finals: Sequence[StoredFinal]) -> dict[str, Any]:
    """Mean probabilities over the finals that came so far, for each part of the action and each decision."""
    num = max((len(final.choices) for final in finals), default=0)
    if not num:
        return {"progress": [], "parts": {}}
    columns = [[final.choices[index] for final in finals if index < len(final.choices)] for index in range(num)]
    parts = {}
    for part in space.parts:
        table = np.array([np.mean([row[part.name] for row in column], axis=0) for column in columns])
        parts[part.name] = {
            "levels": list(part.levels),
            "reference": part.reference,
            "probabilities": np.round(table, 4).tolist(),
        }
    planned = _planned(finals)
    return {"progress": [round(index / planned, 4) for index in range(num)], "parts": parts}


def curves(finals: Sequence[StoredFinal]) -> dict[str, list[list[float]]]:
    """Quality after every decision: a line for every seed of a generator."""
    found: dict[str, list[list[float]]] = {}
    for final in finals:
        if final.qualities and final.row["quality"] is not None:
            found.setdefault(str(final.row["generator"]), []).append(final.qualities)
    return found


def log_of(run: RunFolder, config: ExperimentConfig, *, searched: bool) -> dict[str, Any] | None:
    """`log_record` of a run."""
    decisions, group_size = config.episode.decisions, config.agent.group_size
    return log_record(run.path / METRICS_NAME, decisions=decisions, group_size=group_size, searched=searched)


def _named(finals: Sequence[StoredFinal]) -> str:
    """How the report calls the generator of `finals`."""
    return str(finals[0].row["generator"]) if finals else ""


def _usual_specs(finals: Sequence[StoredFinal]) -> list[str]:
    """The task that was trained most often at each decision (the first seed's on a tie), of those that came so far."""
    columns = zip_longest(*(final.specs for final in finals))
    return [Counter(spec for spec in column if spec is not None).most_common(1)[0][0] for column in columns]


def _planned(finals: Sequence[StoredFinal]) -> int:
    """Decisions of a whole final run."""
    return max((int(final.row.get("planned_decisions", final.row["num_decisions"])) for final in finals), default=0)


def schedule(finals: Sequence[StoredFinal]) -> list[dict[str, Any]]:
    """The task that was trained most often at each decision, in words."""
    planned = _planned(finals)
    specs = _usual_specs(finals)
    return [
        {"progress": round(index / planned, 4), "task": TaskSpec.from_json(spec).describe()}
        for index, spec in enumerate(specs)
    ]
