"""What `taskrl finetune` and `taskrl distill` do first: open the encoder and the images, and see that they fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.encoders import check_finite, encode_on, open_with_images, readable
from agents.progress import Reporter
from taskrl.assemble import find_device
from taskrl.config import ExperimentConfig
from taskrl.data.splits import Splits
from taskrl.errors import ConfigError
from taskrl.modalities.image.encoders import with_channels
from taskrl.modalities.image.state_dicts import LoadedEncoder
from taskrl.run_folder import check_place, refuse_existing
from taskrl.transfer.training import Training, view_levels
from taskrl.tuning import has_bf16

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
    opened = open_with_images(path, architecture, config)
    loaded, inputs = opened.loaded, opened.splits.pretraining.inputs
    device = find_device(config.predictor.device)
    example = with_channels(inputs.take(torch.arange(min(NUM_EXAMPLES, len(inputs)))), loaded.encoder)
    with readable(opened.shape):
        check_finite(encode_on(loaded.encoder.to(device).eval(), device)(example))
    for note in opened.notes:
        reporter.say(f"Note: {note}.")
    return Source(
        name=str(path),
        loaded=loaded,
        splits=opened.splits,
        shape=opened.shape,
        notes=opened.notes,
        device=device,
        example=example,
    )


def training_of(source: Source, config: ExperimentConfig, steps: int, views: str) -> Training:
    """Batch size, weight decay and precision from the configuration; precision auto is bf16 on a GPU that has it."""
    precision = config.predictor.precision
    if precision == "auto":
        precision = "bf16" if source.device.type == "cuda" and has_bf16(source.device) else "fp32"
    return Training(
        steps=steps,
        batch_size=config.predictor.batch_size,
        weight_decay=config.predictor.weight_decay,
        levels=view_levels(views, source.shape),
        device=source.device,
        precision=precision,
    )
