"""`taskrl distill`: a smaller student of an encoder, and how much of the teacher's quality it keeps."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.table import Table

from agents.encoders import encode_on, scored_part
from agents.progress import Reporter
from agents.quality import LEAST_IMAGES
from agents.transferring import Source, open_source, training_of
from taskrl.assemble import channel_statistics
from taskrl.config import ExperimentConfig
from taskrl.errors import ConfigError, DataError
from taskrl.evaluation.accuracy import measure
from taskrl.evaluation.statistics import Interval, hierarchical_ratio
from taskrl.export import export_encoder
from taskrl.folders import FORMAT_VERSION, to_json, write_text
from taskrl.measuring import full_panel
from taskrl.modalities.image.encoders import ENCODERS, make_encoder
from taskrl.modalities.image.modeling import SMALL, Encoder
from taskrl.report_figures import counted, with_prefix
from taskrl.seeding import derive_seed, torch_generator
from taskrl.transfer.distil import NUM_STATISTICS, Distilled, distil, recalibrate
from taskrl.transfer.training import encode_all

RESULT = "result.json"
MAX_WIDTH = 512
LINEAR, PANEL = "linear accuracy, %", "label-free panel"

Judge = Callable[[Encoder], float]


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """student: NAME or small:WIDTH. views: "crop=0.6", or "none"."""

    student: str
    steps: int
    seeds: int
    views: str
    learning_rate: float


@dataclass(frozen=True)
class _Student:
    name: str
    width: int


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """One seed's student; untrained, quality: what the judge says before and after."""

    distilled: Distilled
    config: Mapping[str, Any]
    untrained: float
    quality: float
    seconds: float


def distill(
    path: Path,
    architecture: str | None,
    config: ExperimentConfig,
    options: DistillOptions,
    out: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Distil, measure, print the table and write the student to the folder `out`; returns what result.json holds."""
    student = parse_student(options.student, config.predictor.width)
    if not 0 < options.learning_rate <= 1:
        raise ConfigError(f"--learning-rate {options.learning_rate:g} is outside (0, 1]; 0.01 is the default.")
    source = open_source(path, architecture, config, out, options.seeds, reporter)
    training = training_of(source, config, options.steps, options.views)
    untrained = [_untrained(source, student, config.seed + index) for index in range(options.seeds)]
    if _size(untrained[0][0]) >= source.num_parameters:
        reporter.say("Note: the student is no smaller than the teacher.")
    reads: list[str] = []
    judged_by, judge = _judge(source, config, reads)
    for read in reads:
        reporter.say(read)
    if judged_by == PANEL and config.final.test:
        reporter.say(
            "Note: --final reads no test image where there are no labels; students are judged on probe images."
        )
    teacher_quality = judge(source.loaded.encoder)
    found: list[_Trained] = []
    with reporter.task("Distilling", options.seeds * options.steps, "step") as progress:
        for index, (fresh, student_config) in enumerate(untrained):
            started = time.monotonic()
            distilled = distil(
                source.loaded.encoder,
                fresh,
                source.splits.pretraining.inputs,
                training,
                seed=config.seed + index,
                learning_rate=options.learning_rate,
                after_step=lambda: progress.advance(f"seed {config.seed + index}"),  # noqa: B023 - called in this turn
            )
            seconds = time.monotonic() - started
            floor, quality = judge(_calibrated(fresh, source)), judge(distilled.encoder)
            found.append(
                _Trained(distilled=distilled, config=student_config, untrained=floor, quality=quality, seconds=seconds)
            )
    result = _result(source, options, judged_by, teacher_quality, found, reads) | {
        "batch_size": training.batch_size,
        "precision": training.precision,
        "seed": config.seed,
    }
    _print(result, reporter)
    _write(out, source, found, result)
    reporter.say(f"Student: {out}\nHow to load it without taskrl: {out / 'README.md'}")
    return result


def parse_student(text: str, default_width: int) -> _Student:
    """NAME or small:WIDTH. Raises ConfigError for an unknown encoder or a width where there is none to choose."""
    name, colon, width = text.partition(":")
    ENCODERS[name]
    if not colon:
        return _Student(name, default_width)
    if name != SMALL or not width.isdecimal() or not 1 <= int(width) <= MAX_WIDTH:
        raise ConfigError(
            f"The student {text!r} is not known; give {SMALL}:WIDTH with a width from 1 to {MAX_WIDTH}, e.g. "
            f"{SMALL}:16, or the name of an encoder alone, which has its own width."
        )
    return _Student(name, int(width))


def kept_share(students: Sequence[float], untrained: Sequence[float], teacher: float) -> Interval | None:
    """(student - untrained) / (teacher - untrained), a ratio of means over paired seeds with its bootstrap interval.

    None where the teacher is not clearly above the untrained students: then nothing is there to be kept.
    """
    gains = [student - floor for student, floor in zip(students, untrained, strict=True)]
    return hierarchical_ratio([gains], [[teacher - floor for floor in untrained]])


def _untrained(source: Source, student: _Student, seed: int) -> tuple[Encoder, dict[str, Any]]:
    """A student as it is initialised, for images as they are (grey ones need no repeated channels)."""
    mean, std = channel_statistics(source.splits.pretraining.inputs)
    return make_encoder(
        student.name,
        in_channels=source.shape[0],
        image_size=source.shape[1],
        width=student.width,
        mean=mean,
        std=std,
        seed=derive_seed(seed, "student"),
    )


def _calibrated(encoder: Encoder, source: Source) -> Encoder:
    """A copy with batch-norm statistics of clean images: the floor is as well off as the students."""
    inputs = source.splits.pretraining.inputs
    rows = torch.randperm(len(inputs), generator=torch_generator(0, "calibration"))[:NUM_STATISTICS]
    encoder = copy.deepcopy(encoder)
    recalibrate(encoder, inputs.take(rows), source.device)
    return encoder


def _judge(source: Source, config: ExperimentConfig, reads: list[str]) -> tuple[str, Judge]:
    """What quality is here and how it is measured: linear accuracy where there are labels, else the panel's total."""
    splits, device = source.splits, source.device
    if splits.fitting is not None:
        fitting = splits.fitting
        remedy = "leave all labels out: --no-labels"
        if len(fitting.labels.unique()) < 2:
            raise DataError(
                f"The images of {splits.name} that classifiers are fitted to are all of one class; give more images "
                f"(or groups) of each, or {remedy}."
            )
        _, scored, labels = scored_part(
            splits, "taskrl distill --final", reads.append, test=config.final.test, remedy=remedy
        )

        def linear(encoder: Encoder) -> float:
            encoder = encoder.to(device)
            pair = [encode_all(encoder, inputs, device) for inputs in (fitting.inputs, scored)]
            return measure(pair[0], fitting.labels, [(pair[1], labels)])[0].linear

        return LINEAR, linear
    if min(len(splits.probe.inputs), config.reward.panel_images) < LEAST_IMAGES:
        raise DataError(
            f"{splits.name} has no labels and {len(splits.probe.inputs)} images to measure on, and the label-free "
            f"panel needs {LEAST_IMAGES}; give more images."
        )
    panel, data = full_panel(config, splits.probe, splits.pretraining.inputs, set(), device)
    return PANEL, lambda encoder: panel(encode_on(encoder.to(device).eval(), device), data).value


def _result(
    source: Source,
    options: DistillOptions,
    judged_by: str,
    teacher: float,
    found: Sequence[_Trained],
    reads: list[str],
) -> dict[str, Any]:
    kept = kept_share([one.quality for one in found], [one.untrained for one in found], teacher)
    return {
        "format_version": FORMAT_VERSION,
        "teacher": source.name,
        "teacher_architecture": source.config["architecture"],
        "teacher_parameters": source.num_parameters,
        "student_parameters": _size(found[0].distilled.encoder),
        "data": source.splits.name,
        **asdict(options),
        "quality": judged_by,
        "scored_on": ("test" if reads else "validation") if judged_by == LINEAR else "probe",
        "test_reads": reads,
        "teacher_quality": teacher,
        "kept": None if kept is None else asdict(kept),
        "rows": [
            {
                "seed_offset": offset,
                "quality": one.quality,
                "untrained_quality": one.untrained,
                "loss": one.distilled.loss,
                "flops": one.distilled.compute.flops,
                "images": one.distilled.compute.images,
                "wall_seconds": round(one.seconds, 3),
            }
            for offset, one in enumerate(found)
        ],
        "notes": list(source.notes),
    }


def _size(encoder: Encoder) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


def kept_text(result: Mapping[str, Any]) -> str:
    """The share that was kept in percent, with its interval where there is more than one seed."""
    kept = result["kept"]
    if kept is None:
        return "not defined: the teacher is not above the untrained student"
    text = f"{100 * kept['mean']:.0f} %"
    return text if result["seeds"] == 1 else f"{text} [{100 * kept['low']:.0f}, {100 * kept['high']:.0f}]"


def _print(result: Mapping[str, Any], reporter: Reporter) -> None:
    rows, digits = result["rows"], 1 if result["quality"] == LINEAR else 3

    def mean(key: str) -> float:
        return fmean(row[key] for row in rows)

    seeds = counted(len(rows), "seed")
    table = Table(title=f"{result['teacher']} on {result['data']}, {result['scored_on']} images, {seeds}")
    table.add_column("")
    for title in ("parameters", result["quality"], "compute", "s"):
        table.add_column(title, justify="right")
    size = f"{result['student_parameters']:,}"
    table.add_row("teacher", f"{result['teacher_parameters']:,}", f"{result['teacher_quality']:.{digits}f}", "", "")
    compute = with_prefix(mean("flops"), "FLOP"), f"{mean('wall_seconds'):.1f}"
    table.add_row(f"student {result['student']}", size, f"{mean('quality'):.{digits}f}", *compute)
    table.add_row("untrained student", size, f"{mean('untrained_quality'):.{digits}f}", "", "")
    reporter.console.print(table)
    share = result["student_parameters"] / result["teacher_parameters"]
    reporter.say(f"Kept at {100 * share:.0f} % of the parameters: {kept_text(result)}.")


def _write(out: Path, source: Source, found: Sequence[_Trained], result: Mapping[str, Any]) -> None:
    """The student whose loss was lowest: no label chooses it."""
    best = min(found, key=lambda one: one.distilled.loss)
    card = {
        "training": "distilled without labels from another encoder by taskrl",
        "data": source.splits.name,
        "generator": "distilled",
        "teacher": source.name,
        "teacher_architecture": source.config["architecture"],
        "teacher_parameters": source.num_parameters,
        "teacher_card": to_card(source.config.get("card")),
        "kept": kept_text(result),
        "kept_of": f"{result['quality']}, {result['scored_on']} images",
        "quality": best.quality,
        "steps": result["steps"],
        "seeds": result["seeds"],
        "train_flops": best.distilled.compute.flops,
        "train_images": best.distilled.compute.images,
        "wall_seconds": round(best.seconds, 3),
    }
    example = source.example[:, : source.shape[0]]

    def also(draft: Path) -> None:
        write_text(draft / RESULT, to_json(result))

    export_encoder(best.distilled.encoder, best.config, out, example=example, card=card, also=also)


def to_card(card: object) -> str:
    """What the teacher's own card says, on one line."""
    return ", ".join(f"{key} {value}" for key, value in card.items()) if isinstance(card, Mapping) else "none"
