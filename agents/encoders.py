"""Encoders that commands are given: opened with images, fitted to them, and asked for features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.assemble import load_data
from taskrl.config import ExperimentConfig
from taskrl.data.splits import Splits, make_splits
from taskrl.errors import DataError
from taskrl.evaluation.accuracy import MAX_PIXEL_SIDE
from taskrl.initial import open_encoder
from taskrl.modalities.image.encoders import images_at_once, with_channels
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.state_dicts import LoadedEncoder
from taskrl.predictor.predictor import fresh_statistics
from taskrl.types import Encode, Inputs

NUM_STATISTICS = 128
NUM_TAKEN = 512
LARGE_STEM_SIZE = 224  # what torchvision's own weights were trained on


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An encoder and the images that it meets. config: with the size at which they are read. notes: what was assumed,
    in sentences.
    """

    loaded: LoadedEncoder
    config: ExperimentConfig
    splits: Splits
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return self.splits.pretraining.inputs.sample_shape


def open_with_images(path: Path, architecture: str | None, config: ExperimentConfig) -> Opened:
    """The encoder in `path` and the images of `config`. Raises TaskrlError where one of them cannot be opened, or they
    do not fit.
    """
    loaded = open_encoder(path, architecture)
    config, sized = at_own_size(loaded, config)
    splits = make_splits(load_data(config), seed=config.data.split_seed)
    fitted = fit_to_images(loaded, splits.pretraining.inputs.sample_shape)
    return Opened(loaded=loaded, config=config, splits=splits, notes=(*splits.notes, *loaded.notes, *sized, *fitted))


def scored_part(
    splits: Splits, command: str, log: Callable[[str], None], *, test: bool, remedy: str = "name data with labels"
) -> tuple[str, Inputs, Tensor]:
    """Its name, and images and labels that accuracy is reported on: test images, whose read `log` is told of, or
    validation images. Raises DataError, which ends in `remedy`, before any are read where they have no labels.
    """
    name = "test" if test else "validation"
    if splits.scored_on(test=test) != name:
        raise DataError(f"The {name} images of {splits.name} have no labels, and accuracy needs them; {remedy}.")
    part = splits.open_test(log, command) if test else splits.validation
    assert part.labels is not None  # scored_on has seen to it
    return name, part.inputs, part.labels


def fit_to_images(loaded: LoadedEncoder, shape: tuple[int, ...]) -> list[str]:
    """What is done to images of `shape` (C, H, W) for the encoder, in sentences. Raises DataError when colour meets an
    encoder of grey images.
    """
    channels, notes = int(loaded.config["in_channels"]), []
    if channels < shape[0]:
        raise DataError(f"The encoder takes grey images and these have {shape[0]} channels; give grey images.")
    if channels > shape[0]:
        notes.append(f"grey images: their channel is repeated {channels} times for the encoder")
    size = loaded.config.get("image_size", shape[1])
    if size != shape[1]:
        notes.append(f"the encoder was trained on images of {size} pixels a side, these have {shape[1]}")
    return notes


def at_own_size(loaded: LoadedEncoder, config: ExperimentConfig) -> tuple[ExperimentConfig, tuple[str, ...]]:
    """`config`, and sentences: where it was given no image size, that which the encoder was trained on, or that which
    its stem is made for.
    """
    if "image_size" in config.data.model_fields_set:
        return config, ()
    small = loaded.config.get("small_stem", False)
    size = int(loaded.config.get("image_size", config.data.image_size if small else LARGE_STEM_SIZE))
    why = "as the encoder was trained" if "image_size" in loaded.config else "since the file does not say its size"
    which = "the folder's images" if Path(config.data.source).is_dir() else "images of no fixed size"
    note = f"{which} are read at {size} pixels a side, {why}; --image-size names another"
    return config.model_copy(update={"data": config.data.model_copy(update={"image_size": size})}), (note,)


def encode_on(encoder: Encoder, device: torch.device, batch_size: int | None = None) -> Encode:
    """Images (B, C, H, W) to features (B, D) on `device`, a part at a time; `encoder` is there and in eval mode."""

    def encode(images: Tensor) -> Tensor:
        at_once = batch_size or images_at_once(*images.shape[2:])
        with torch.inference_mode():
            parts = [encoder(with_channels(part.to(device), encoder)).float() for part in images.split(at_once)]
        return torch.cat(parts).clone()

    return encode


@contextmanager
def readable(shape: tuple[int, ...]) -> Iterator[None]:
    """Raises DataError where the encoder cannot read images of `shape` (C, H, W)."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"The encoder cannot read images of {shape} ({reason}); use images like those it was trained on, or "
            "another --image-size."
        ) from error


def check_finite(features: Tensor) -> None:
    """Raises DataError for features that are not numbers."""
    if not bool(torch.isfinite(features).all()):
        raise DataError("The encoder's features of these images are not all finite numbers; its weights are of no use.")


def features_of(inputs: Inputs, encode: Encode) -> Tensor:
    """Features (N, D) of all `inputs`, on the CPU. Raises DataError as `readable` and `check_finite` do."""
    with readable(inputs.sample_shape):
        parts = [encode(inputs.take(rows)).cpu() for rows in torch.arange(len(inputs)).split(NUM_TAKEN)]
    features = torch.cat(parts)
    check_finite(features)
    return features


def raw_pixels(inputs: Inputs) -> Tensor:
    """Pixels from 0 to 255, (N, P); images above 32 pixels a side are averaged down, a part at a time."""
    parts = []
    for rows in torch.arange(len(inputs)).split(NUM_TAKEN):
        images = inputs.take(rows)
        if max(images.shape[2:]) > MAX_PIXEL_SIDE:
            images = F.adaptive_avg_pool2d(images.float(), MAX_PIXEL_SIDE)
        parts.append(images.flatten(1))
    return torch.cat(parts)


def set_statistics(encoder: Encoder, inputs: Inputs) -> bool:
    """Set batch-norm statistics to those of clean images; whether the encoder, on the CPU, has any."""
    images = inputs.take(torch.arange(len(inputs))[:: max(1, len(inputs) // NUM_STATISTICS)][:NUM_STATISTICS])
    with fresh_statistics(encoder) as has_any, torch.no_grad():
        encoder.train()(with_channels(images, encoder))
    encoder.eval()
    return has_any
