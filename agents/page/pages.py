"""A look at a run -> what the templates of the page read, beside what those of the report read."""

import base64
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.compare.outcome import sentences_of
from agents.page.charts import Plot, plot, search_plots, tried
from agents.page.examples import example_views, final_views
from agents.page.look import DONE, EMPTY, FINALS, PRETRAINING, SEARCHING, STOPPED, TRAINING, Look, Stage
from agents.page.partial import spec_of
from agents.results import shown_of
from agents.summary import flops_text, interval_text
from taskrl.mlflow_store import DATABASE_NAME
from taskrl.report import context
from taskrl.report_choices import Step, task_steps
from taskrl.report_figures import amount, counted, duration, mapping, number, records
from taskrl.report_images import Gallery
from taskrl.report_tables import measured_by, text_of
from taskrl.tasks.space import TaskSpace
from taskrl.tasks.spec import TaskSpec

LONGEST_HEADLINE = 600
VERBS = {SEARCHING: "Searching", FINALS: "Training final encoders"}
FIGURE = "compare.png"
MOST_ROWS = 200
NUM_LAST = 64


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run in the list."""

    number: int
    name: str
    compares: bool
    state: str
    data: str
    agent: str
    progress: str
    percent: float | None
    headline: str
    when: str


def line_of(look: Look) -> Line:
    """What the list says of a run."""
    stage = stage_of(look)
    agent = look.config.agent.name if look.config and not look.compares else ""
    return Line(
        number=look.found.number,
        name=look.found.name,
        compares=look.compares,
        state=look.state,
        data=look.data,
        agent="" if any(each.title == PRETRAINING for each in look.stages) else agent,
        progress=_amount_done(stage) if stage and look.state != DONE else "",
        percent=stage.percent if stage and look.state != DONE else None,
        headline=look.verdict[:LONGEST_HEADLINE] if look.state == DONE else headline(look),
        when=moment(look.last_time),
    )


def run_view(look: Look) -> dict[str, Any]:
    """Everything that run.html.j2 reads."""
    done = look.state == DONE
    choices = look.result.get("choices")
    parts = mapping(mapping(choices).get("parts")) or _parts(look.space)
    return {
        **context(look.result, _views(look) if done else [], name=look.found.name, test_reads=_reads(look)),
        **_of_any(look),
        "percent": _percent(look),
        "now_steps": _steps(look.now, parts),
        "now_views": _now_views(look),
        "plots": search_plots(look.metrics),
        "tried": tried(look.metrics, look.space),
        "quality": None if any(stage.title == SEARCHING for stage in look.stages) else _quality(look),
    }


def comparison_view(look: Look) -> dict[str, Any]:
    """Everything that comparison.html.j2 reads of the folder of `taskrl compare`."""
    sentences: list[str] = []
    rows: list[list[str]] = []
    problems = list(look.problems)
    entries = records(look.result.get("table"))[:MOST_ROWS]
    accuracies = ["linear", "balanced"] if measured_by(entries) == "balanced" else ["linear"]
    if look.state == DONE:
        try:
            sentences = [text_of(sentence) for sentence in sentences_of(look.result)[:-1]]
            rows = [_comparison_row(entry, accuracies) for entry in entries]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problems.append(f"result.json is not as taskrl compare writes it ({type(error).__name__}: {error}).")
    return {
        **context(look.result if look.state == DONE else {}, [], name=look.found.name),
        **_of_any(look),
        "problems": problems,
        "sentences": sentences,
        "accuracies": [f"{key}, %" for key in accuracies],
        "rows": rows,
        "has_figure": look.found.file(FIGURE) is not None,
    }


def _of_any(look: Look) -> dict[str, Any]:
    """What runs and comparisons have in common."""
    return {
        "look": look,
        "path": str(look.found.path),
        "data": look.data,
        "title": headline(look),
        "say": _said(look),
        "facts_now": _facts(look),
        "has_report": look.found.file(look.found.folder.report.name) is not None,
        "commands": commands(look),
        "mlflow_link": _mlflow_link(look),
    }


def stage_of(look: Look) -> Stage | None:
    """The stage at work, or the last one."""
    return next((stage for stage in look.stages if not stage.finished), look.stages[-1] if look.stages else None)


def headline(look: Look) -> str:
    """The state of a run in a few words; the verdict of a finished one."""
    stage = stage_of(look)
    if look.state == DONE:
        text = look.verdict or "Finished; no verdict was recorded."
        return text if len(text) <= LONGEST_HEADLINE else text[:LONGEST_HEADLINE] + "…"
    if look.state == EMPTY:
        return "Nothing has been recorded yet."
    if stage is None:
        return "Preparing" if look.state == TRAINING else "Stopped before anything was finished."
    if look.state == STOPPED:
        return f"Stopped: {_amount_done(stage)}"
    return f"{VERBS.get(stage.title, stage.title)}: {_amount_done(stage)}"


def moment(seconds: float) -> str:
    """A Unix time as local date and time; empty for 0."""
    try:
        return time.strftime("%d %b %Y, %H:%M:%S", time.localtime(seconds)) if seconds > 0 else ""
    except (OverflowError, ValueError, OSError):
        return ""


def commands(look: Look) -> list[tuple[str, str]]:
    """What to type next: what for, and the command."""
    path = shlex.quote(str(look.found.path))
    found = []
    if look.state == STOPPED and not look.compares and all(stage.title != PRETRAINING for stage in look.stages):
        found.append(("go on", f"taskrl resume {path}"))
    if (look.found.path / DATABASE_NAME).is_file():
        found.append(("MLflow's page", f"taskrl mlflow {path}"))
    if look.state == DONE:
        found.append(("on the terminal", f"taskrl inspect {path}"))
        found.append(("the encoder, to carry away", f"taskrl export {path} --out my-encoder"))
    return found


def _amount_done(stage: Stage) -> str:
    if stage.total is None:
        return counted(stage.done, stage.unit)
    return f"{stage.done:,} of {counted(stage.total, stage.unit)}"


def _percent(look: Look) -> int | None:
    """For the title of a tab."""
    stage = stage_of(look)
    return int(stage.percent) if look.state == TRAINING and stage and stage.percent is not None else None


def _said(look: Look) -> str:
    """For screen readers: says something new every tenth of a stage, not every second."""
    stage = stage_of(look)
    if look.state != TRAINING or stage is None or stage.percent is None:
        return f"{look.found.name[:LONGEST_HEADLINE]}: {look.state}"
    return f"{stage.title}: {10 * int(stage.percent // 10)} percent done"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else amount(value, 2, trim=True)


def _facts(look: Look) -> list[tuple[str, str]]:
    facts, metrics = [], look.metrics
    if look.num_workers and look.state == TRAINING:
        facts.append(("workers", str(look.num_workers)))
    if look.rate:
        each = f", {_rate(look.rate / look.num_workers)} a worker" if look.num_workers else ""
        facts.append(("decisions a second", f"{_rate(look.rate)}{each}"))
    last = [metrics.sample[step] for step in sorted(metrics.sample)[-NUM_LAST:]]
    for name, title in (
        ("steps_per_second", "training steps a second, each worker"),
        ("time/overhead_share", "time that is not training"),
    ):
        values = [value for found in last if (value := number(found.get(name))) is not None]
        if values:
            mean = sum(values) / len(values)
            facts.append((title, f"{mean:.0%}" if name.endswith("share") else _rate(mean)))
    if metrics.num_decisions:
        facts.append(("decisions recorded", f"{metrics.num_decisions:,}"))
    if look.left_s is not None:
        facts.append(("time left in this stage", f"about {duration(look.left_s)}"))
    if look.last_time:
        facts.append(("last record", moment(look.last_time)))
    return facts


def _quality(look: Look) -> Plot | None:
    found = {step: number(metrics.get("quality")) for step, metrics in look.metrics.sample.items()}
    points = [(float(step), value) for step, value in found.items() if value is not None]
    return plot("Quality after each decision", {"quality": points}, x_label="decision")


def _parts(space: TaskSpace | None) -> dict[str, Any]:
    """As in the choices of a result, as far as the reference's levels are concerned."""
    return (
        {part.name: {"levels": list(part.levels), "reference": part.reference} for part in space.parts} if space else {}
    )


def _steps(spec: TaskSpec | None, parts: Mapping[str, Any]) -> list[Step]:
    return task_steps([{"task": spec.describe()}], parts) if spec else []


def _views(look: Look) -> Sequence[Gallery]:
    if look.space is None:
        return ()
    shown = shown_of(look.finals)
    played = [final.specs for final in shown]
    rows = [final.row for final in shown] or records(look.result.get("rows"))
    if not shown and any(stage.title == PRETRAINING for stage in look.stages):  # keeps its tasks in its log alone
        found = (spec_of(look.metrics.sample[step]) for step in sorted(look.metrics.sample))
        played = [[spec.to_json() for spec in found if spec]]
    who = text_of(rows[0].get("generator")) if rows else ""
    return final_views(look.found.folder, look.space, played, who)


def _now_views(look: Look) -> list[tuple[str, str, str]]:
    """Of the task at work: label, media type and content (base64) of each picture."""
    found = example_views(look.found.folder, look.space, look.now) if look.space and look.now else None
    strips = found.strips if found else ()
    return [(strip.label, strip.media_type, base64.b64encode(strip.image).decode("ascii")) for strip in strips]


def _reads(look: Look) -> list[str]:
    folder = look.found.folder
    if look.found.file(folder.test_reads.name) is None:  # a link that leads out of the run is not read either
        return []
    try:
        return folder.test_reads_made()
    except (OSError, UnicodeDecodeError):
        return []


def _comparison_row(entry: Mapping[str, Any], accuracies: Sequence[str]) -> list[str]:
    digits = 1 if entry["linear"] else 3
    length = f"{entry['length']}×" if entry["length"] and entry["train_flops"] else ""
    return [
        f"{entry['method']} {entry['mark']}".strip(),
        length,
        str(entry["num"]),
        *(interval_text(entry[key], 1) for key in accuracies),
        interval_text(entry["knn"], 1),
        interval_text(entry["quality"], 3),
        interval_text(entry["difference"], digits, "+"),
        flops_text(entry["train_flops"]),
        flops_text(entry["search_flops"]),
    ]


def _mlflow_link(look: Look) -> str:
    """Where a server keeps the run; empty for a run that keeps its own."""
    uri = look.config.tracking.uri if look.config else ""
    return uri if uri.lower().startswith(("http://", "https://")) else ""
