"""`taskrl quality`: the label-free panel for any encoder, beside an untrained one of the same architecture."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from agents.encoders import check_finite, encode_on, open_with_images, readable, set_statistics
from agents.progress import Reporter
from taskrl.config import ExperimentConfig
from taskrl.errors import DataError
from taskrl.evaluation.collapse import effective_rank, feature_std, uniformity
from taskrl.evaluation.panel import Panel, Part
from taskrl.measuring import full_panel
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.state_dicts import untrained_like
from taskrl.types import ProbeData, pick_device

LEAST_IMAGES = 32
MEANING = (
    "The total is a weighted sum of these measurements; no label was read. Larger is better, but only beside totals "
    "on the same data, image size and goal: the untrained encoder's shows what the architecture has before training."
)
CUT = "* outside the range that the panel was calibrated in: counted at its end."


@dataclass(frozen=True, kw_only=True)
class PanelReading:
    """What the panel says of one encoder. values, points: of its parts. signals: of collapse, 0 when collapsed."""

    total: float
    values: Mapping[str, float]
    points: Mapping[str, float]
    collapse_penalty: float
    copy_penalty: float
    signals: Mapping[str, float]


def print_quality(path: Path, architecture: str | None, config: ExperimentConfig, reporter: Reporter) -> PanelReading:
    """Print the panel of the encoder in `path` as a table."""
    judged = judge(path, architecture, config)
    for note in judged.notes:
        reporter.say(f"Note: {note}.")
    reporter.console.print(_table(judged))
    if any(_is_cut(judged.parts[name], value) for name, value in judged.encoder.values.items()):
        reporter.say(CUT)
    reporter.say(MEANING)
    return judged.encoder


def quality_json(path: Path, architecture: str | None, config: ExperimentConfig) -> str:
    """The same as JSON."""
    judged = judge(path, architecture, config)
    return json.dumps({**judged.facts, **_numbers(judged), "notes": list(judged.notes)}, indent=1, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An encoder and an untrained one of its architecture under the same panel. facts: what was measured on what."""

    facts: Mapping[str, object]
    notes: tuple[str, ...]
    parts: Mapping[str, Part]
    encoder: PanelReading
    untrained: PanelReading


def judge(path: Path, architecture: str | None, config: ExperimentConfig) -> Judged:
    """Measure the encoder in `path` on the probe images of the data.

    The encoder's batch-norm statistics are kept as they are. The untrained one's are as initialised or of clean
    pretraining images, whichever gives the larger total: a floor that leaves no doubt. Raises ConfigError or DataError.
    """
    opened = open_with_images(path, architecture, config)
    loaded, config, splits, shape = opened.loaded, opened.config, opened.splits, opened.shape
    num_images = min(len(splits.probe.inputs), config.reward.panel_images)
    if num_images < LEAST_IMAGES:
        raise DataError(
            f"{splits.name} has {num_images} images to measure on (a part that no encoder of a run trains on), and "
            f"the panel needs {LEAST_IMAGES}; give about {math.ceil(LEAST_IMAGES / num_images)} times as many."
        )
    device = pick_device(config.predictor.device)
    panel, data = full_panel(config, splits.probe, splits.pretraining.inputs, set(), device)
    with readable(shape):
        reading = _read(panel, data, loaded.encoder, device)
        fresh = untrained_like(loaded.config, 0)
        floors = [_read(panel, data, fresh, device)]
        if set_statistics(fresh.cpu(), splits.pretraining.inputs):
            floors.append(_read(panel, data, fresh, device))
    facts = {
        "encoder": str(path),
        "architecture": loaded.config["architecture"],
        "data": splits.name,
        "num_images": num_images,
        "sample_shape": list(shape),
        "goal": config.reward.goal,
    }
    untrained = max(floors, key=lambda floor: floor.total)
    return Judged(facts=facts, notes=opened.notes, parts=panel.parts, encoder=reading, untrained=untrained)


def _read(panel: Panel, data: ProbeData, encoder: Encoder, device: torch.device) -> PanelReading:
    encode = encode_on(encoder.to(device).eval(), device)
    clean = encode(data.inputs)
    check_finite(clean)
    quality = panel(encode, data)
    return PanelReading(
        total=quality.value,
        values={name: quality.parts[name] for name in panel.parts},
        points={name: part.points(quality.parts[name]) for name, part in panel.parts.items()},
        collapse_penalty=quality.parts["collapse_penalty"],
        copy_penalty=quality.parts["copy_penalty"],
        signals={
            "feature_std": feature_std(clean),
            "effective_rank": effective_rank(clean),
            "uniformity": uniformity(clean),
        },
    )


def _numbers(judged: Judged) -> dict[str, object]:
    return {"panel": asdict(judged.encoder), "untrained": asdict(judged.untrained)}


def _is_cut(part: Part, value: float) -> bool:
    return not part.low <= value <= part.high


def _table(judged: Judged) -> Table:
    facts, ours, theirs = judged.facts, judged.encoder, judged.untrained
    size = "x".join(str(size) for size in facts["sample_shape"])  # type: ignore[attr-defined]
    table = Table(
        title=f"{facts['encoder']} ({facts['architecture']}) on {facts['num_images']} images of {facts['data']} "
        f"({size}), goal {facts['goal']}"
    )
    table.add_column("part")
    for title in ("value", "points", "untrained", "points"):
        table.add_column(title, justify="right")
    for name, part in judged.parts.items():
        cells: list[str] = []
        for reading in (ours, theirs):
            mark = "*" if _is_cut(part, reading.values[name]) else ""
            cells += [f"{reading.values[name]:.3f}{mark}", f"{reading.points[name]:+.3f}"]
        table.add_row(name, *cells)
    table.add_section()
    for name in ours.signals:
        table.add_row(f"collapse: {name}", f"{ours.signals[name]:.3f}", "", f"{theirs.signals[name]:.3f}", "")
    for guard in ("collapse_penalty", "copy_penalty"):
        penalties = [f"{-getattr(reading, guard) or 0.0:+.3f}" for reading in (ours, theirs)]
        table.add_row(guard.replace("_", " "), "", penalties[0], "", penalties[1])
    table.add_section()
    table.add_row("total", "", f"{ours.total:+.3f}", "", f"{theirs.total:+.3f}", style="bold")
    return table
