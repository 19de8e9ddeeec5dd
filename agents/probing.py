"""`taskrl probe`: accuracy of an exported encoder on any labelled data."""

from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from agents.progress import Reporter
from taskrl.assemble import load_data
from taskrl.config import ExperimentConfig
from taskrl.data.splits import Splits, make_splits
from taskrl.errors import DataError
from taskrl.evaluation.accuracy import Accuracy, measure
from taskrl.export import load_exported
from taskrl.modalities.image.modeling import Encoder
from taskrl.types import Inputs, pick_device

BATCH = 512


def probe_encoder(folder: Path, config: ExperimentConfig, reporter: Reporter) -> Accuracy:
    """Print and return the accuracies on validation images, or on test images with `final.test`."""
    encoder = load_exported(folder / "encoder" if (folder / "encoder").is_dir() else folder)
    splits = make_splits(load_data(config), seed=config.data.split_seed)
    split = "test" if config.final.test else "validation"
    accuracy = _measure(encoder, splits, config, reporter)
    table = Table(title=f"{folder} on {splits.name}, {split} images")
    for title in ("linear %", "balanced %", "kNN %"):
        table.add_column(title, justify="right")
    table.add_row(*(f"{value:.1f}" for value in (accuracy.linear, accuracy.balanced, accuracy.knn)))
    reporter.console.print(table)
    return accuracy


def _measure(encoder: Encoder, splits: Splits, config: ExperimentConfig, reporter: Reporter) -> Accuracy:
    scored = splits.open_test(reporter.say, "taskrl probe --final") if config.final.test else splits.validation
    if splits.fitting is None or scored.labels is None:
        raise DataError(f"{splits.name} has no labels, and accuracy needs them; name data with labels.")
    device = pick_device(config.predictor.device)
    encoder = encoder.to(device).eval()

    def features(inputs: Inputs) -> Tensor:
        with torch.inference_mode():
            parts = [
                encoder(inputs.take(rows).to(device)).float().cpu() for rows in torch.arange(len(inputs)).split(BATCH)
            ]
        return torch.cat(parts).clone()

    try:
        pair = features(splits.fitting.inputs), features(scored.inputs)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"The encoder cannot read images of {splits.pretraining.inputs.sample_shape} "
            f"({str(error).splitlines()[0]}); use data like those it was trained on."
        ) from error
    return measure(pair[0], splits.fitting.labels, [(pair[1], scored.labels)])[0]
