"""What `taskrl finetune` and `taskrl distill` do first: open the encoder and the images, and see that they fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.encoders import at_own_size, check_finite, encode_on, fit_to_images, readable
from agents.progress import Reporter
from taskrl.assemble import find_device, load_data
from taskrl.config import ExperimentConfig
from taskrl.data.splits import Splits, make_splits
from taskrl.errors import ConfigError, DataError
from taskrl.initial import open_encoder
from taskrl.modalities.image.encoders import with_channels
from taskrl.modalities.image.state_dicts import LoadedEncoder
from taskrl.run_folder import check_place, refuse_existing
from taskrl.transfer.training import Training, view_levels
from taskrl.types import Inputs

NUM_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """An encoder and the images that it meets. notes: what was assumed, in sentences. example: a few of the images."""

    name: str
    loaded: LoadedEncoder
    splits: Splits
    shape: tuple[int, ...]
    notes: tuple[str, ...]
    device: torch.device
    example: Tensor

    @property
    def config(self) -> dict[str, Any]:
        """Of the encoder, with the size of these images."""
        return {**self.loaded.config, "image_size": self.shape[1], "feature_dim": self.loaded.encoder.feature_dim}

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.loaded.encoder.parameters())


def open_source(
    path: Path, architecture: str | None, config: ExperimentConfig, out: Path, seeds: int, reporter: Reporter
) -> Source:
    """Raises TaskrlError, before anything is trained, when `out` exists, the encoder cannot be opened or does not fit
    the images, or there is no seed.
    """
    refuse_existing(out)
    check_place(out)
    if seeds < 1:
        raise ConfigError(f"{seeds} seeds train nothing; give --seeds at least 1.")
    loaded = open_encoder(path, architecture)
    config, sized = at_own_size(loaded, config)
    splits = make_splits(load_data(config), seed=config.data.split_seed)
    inputs = splits.pretraining.inputs
    shape, device = inputs.sample_shape, find_device(config.predictor.device)
    notes = (*splits.notes, *loaded.notes, *sized, *fit_to_images(loaded, shape))
    example = with_channels(inputs.take(torch.arange(min(NUM_EXAMPLES, len(inputs)))), loaded.encoder)
    with readable(shape):
        check_finite(encode_on(loaded.encoder.to(device).eval(), device)(example))
    for note in notes:
        reporter.say(f"Note: {note}.")
    return Source(
        name=str(path),
        loaded=loaded,
        splits=splits,
        shape=shape,
        notes=notes,
        device=device,
        example=example,
    )


def training_of(source: Source, config: ExperimentConfig, steps: int, views: str) -> Training:
    """Batch size, weight decay and precision from the configuration; precision auto is bf16 on a GPU."""
    precision = config.predictor.precision
    if precision == "auto":
        precision = "bf16" if source.device.type == "cuda" else "fp32"
    return Training(
        steps=steps,
        batch_size=config.predictor.batch_size,
        weight_decay=config.predictor.weight_decay,
        levels=view_levels(views, source.shape),
        device=source.device,
        precision=precision,
    )


def scored_part(
    source: Source, config: ExperimentConfig, command: str, reads: list[str], remedy: str
) -> tuple[str, Inputs, Tensor]:
    """Its name, and images and labels that accuracy is reported on: test images with `final.test`, whose read goes to
    `reads`, else validation images. Raises DataError, which ends in `remedy`, before any are read where they have no
    labels.
    """
    splits = source.splits
    name = "test" if config.final.test else "validation"
    if splits.scored_on(test=config.final.test) != name:
        raise DataError(f"The {name} images of {splits.name} have no labels; {remedy}.")
    part = splits.open_test(reads.append, command) if config.final.test else splits.validation
    assert part.labels is not None  # scored_on has seen to it
    return name, part.inputs, part.labels
