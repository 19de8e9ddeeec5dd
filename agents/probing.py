"""`taskrl probe`: accuracy of an encoder's frozen features on any labelled data, with all labels and with few."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.encoders import encode_on, features_of, open_with_images, raw_pixels, scored_part, set_statistics
from agents.progress import Reporter
from taskrl.assemble import find_device
from taskrl.config import ExperimentConfig
from taskrl.data.splits import Splits
from taskrl.errors import ConfigError, DataError
from taskrl.evaluation.accuracy import IMBALANCED, Accuracy, is_imbalanced, measure
from taskrl.evaluation.few_shot import (
    NUM_DRAWS,
    FewShot,
    class_sizes,
    few_shot,
)
from taskrl.evaluation.statistics import Interval
from taskrl.modalities.image.state_dicts import LoadedEncoder, untrained_like
from taskrl.types import Inputs

TITLES = {"linear": "linear %", "balanced": "balanced %", "knn": "kNN %", "auroc": "AUROC %"}
FLOORS = ("untrained", "pixels")
DRAWS = (
    f"Mean of {NUM_DRAWS} draws of the labels, the same draws in every row, with a 95 % bootstrap interval over draws."
)
RULE = (
    f"Classes are imbalanced (the largest scored one has more than {IMBALANCED:g} times the images of the smallest): "
    "look at balanced accuracy and AUROC (one class against the rest, averaged) rather than at accuracy."
)


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What `taskrl probe` found. accuracy: with all labels. few: a table for each number of labels a class, by encoder:
    this one and the floors. notes: sentences.
    """

    facts: Mapping[str, Any]
    accuracy: Accuracy
    imbalanced: bool
    few: Sequence[Mapping[str, FewShot]]
    notes: Sequence[str]


def probe_encoder(
    path: Path, architecture: str | None, config: ExperimentConfig, reporter: Reporter, few: Sequence[int] = ()
) -> Probed:
    """Print and return the accuracies on validation images, or on test images with `final.test`."""
    probed = probe(path, architecture, config, reporter, few)
    for note in probed.notes:
        reporter.say(f"Note: {note}.")
    table = Table(title="{encoder} on {data}, {split} images".format(**probed.facts))
    for name in _columns(probed.imbalanced, always="balanced"):
        table.add_column(TITLES[name], justify="right")
    values = [getattr(probed.accuracy, name) for name in _columns(probed.imbalanced, always="balanced")]
    table.add_row(*("" if value is None else f"{value:.1f}" for value in values))
    reporter.console.print(table)
    if probed.few:
        reporter.console.print(_few_table(probed))
        reporter.say(DRAWS)
    else:
        reporter.say("What these are worth: --few-shot 1,5,10 sets an untrained encoder and raw pixels beside them.")
    if probed.imbalanced:
        reporter.say(RULE)
    return probed


def probe_json(path: Path, architecture: str | None, config: ExperimentConfig, few: Sequence[int] = ()) -> str:
    """The same as JSON; progress and the record of reads go to standard error."""
    probed = probe(path, architecture, config, Reporter(Console(stderr=True, highlight=False, soft_wrap=True)), few)
    tables = [
        {
            "labels_per_class": next(iter(table.values())).labels_per_class,
            "encoders": {
                name: {
                    measured: {**asdict(interval), "draws": [getattr(draw, measured) for draw in found.draws]}
                    for measured, interval in found.means.items()
                }
                for name, found in table.items()
            },
        }
        for table in probed.few
    ]
    content = {**probed.facts, **asdict(probed.accuracy), "imbalanced": probed.imbalanced}
    return json.dumps({**content, "few_shot": tables, "notes": list(probed.notes)}, indent=1, allow_nan=False)


def parse_few(text: str | None) -> tuple[int, ...]:
    """Numbers of labels a class, rising. Raises ConfigError."""
    if text is None:
        return ()
    numbers = {int(part) if part.strip().isdecimal() else 0 for part in text.split(",")}
    if min(numbers) < 1:
        raise ConfigError(f"--few-shot {text!r} is no list of numbers of labels a class; write e.g. 1,5,10.")
    return tuple(sorted(numbers))


def probe(
    path: Path, architecture: str | None, config: ExperimentConfig, reporter: Reporter, few: Sequence[int] = ()
) -> Probed:
    """Measure the encoder in `path`. few: numbers of labels a class to measure it at beside all of them, next to the
    floors. Raises ConfigError, DataError or RunFolderError.
    """
    device = find_device(config.predictor.device)
    opened = open_with_images(path, architecture, config)
    loaded, config, splits = opened.loaded, opened.config, opened.splits
    if splits.fitting is None:
        raise DataError(f"{splits.unlabelled}, and accuracy needs them; name data with labels.")
    if len(class_sizes(splits.fitting.labels)) < 2:
        raise DataError(f"{splits.name} has one class, and accuracy needs two; name data with more classes.")
    split, inputs, labels = scored_part(splits, "taskrl probe --final", reporter.say, test=config.final.test)
    encode = encode_on(loaded.encoder.to(device), device)
    pair = features_of(splits.fitting.inputs, encode), features_of(inputs, encode)
    truth = splits.fitting.labels, labels
    kept, skipped = _possible(few, splits)
    tables: list[dict[str, FewShot]] = []
    if kept:
        features = {"encoder": pair, **_floors(loaded, splits, inputs, device)}
        with reporter.task("few labels", len(kept) * NUM_DRAWS * len(features), "fit") as progress:
            for count in kept:
                tables.append(few_shot(features, *truth, count, seed=splits.split_seed, advance=progress.advance))
    facts = {
        "encoder": str(path),
        "architecture": loaded.config["architecture"],
        "data": splits.name,
        "split": split,
        "sample_shape": list(opened.shape),
        "num_fitted": len(truth[0]),
        "num_scored": len(truth[1]),
    }
    accuracy = measure(pair[0], truth[0], [(pair[1], truth[1])])[0]
    return Probed(
        facts=facts,
        accuracy=accuracy,
        imbalanced=is_imbalanced(truth[1], truth[0]),
        few=tables,
        notes=(*opened.notes, *skipped),
    )


def _possible(few: Sequence[int], splits: Splits) -> tuple[list[int], list[str]]:
    """The numbers of labels that every class has, and sentences about the others."""
    assert splits.fitting is not None
    sizes = class_sizes(splits.fitting.labels)
    smallest = min(sizes, key=lambda kind: sizes[kind])
    name = splits.class_names[smallest] if smallest < len(splits.class_names) else smallest
    skipped = [
        f"{count} labels a class are skipped: class {str(name)!r} has {sizes[smallest]} images to fit on"
        for count in few
        if count > sizes[smallest]
    ]
    return [count for count in few if count <= sizes[smallest]], skipped


def _floors(
    loaded: LoadedEncoder, splits: Splits, scored: Inputs, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of the fitted and the scored images: of an untrained encoder of the same architecture, whose batch-norm
    statistics are of clean pretraining images, and the pixels themselves.
    """
    assert splits.fitting is not None
    fresh = untrained_like(loaded.config, 0)
    set_statistics(fresh, splits.pretraining.inputs)
    encode = encode_on(fresh.to(device), device)
    parts = splits.fitting.inputs, scored
    untrained = (features_of(parts[0], encode), features_of(parts[1], encode))
    pixels = raw_pixels(parts[0]).float() / 255, raw_pixels(parts[1]).float() / 255
    return dict(zip(FLOORS, (untrained, pixels), strict=True))


def _columns(imbalanced: bool, *, always: str = "") -> list[str]:
    return [name for name in TITLES if imbalanced or name in ("linear", "knn", always)]


def _few_table(probed: Probed) -> Table:
    columns = _columns(probed.imbalanced)
    table = Table(title="with few labels")
    table.add_column("labels a class", justify="right")
    table.add_column("features")
    for name in columns:
        table.add_column(TITLES[name], justify="right")
    for block in probed.few:
        for name, found in block.items():
            cells = [_cell(found.means.get(column)) for column in columns]
            table.add_row(str(found.labels_per_class), name, *cells)
        table.add_section()
    return table


def _cell(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
