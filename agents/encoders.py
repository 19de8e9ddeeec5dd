"""Encoders that commands are given: opened, fitted to images, and asked for features."""

from pathlib import Path

import torch
from torch import Tensor

from taskrl.errors import ConfigError, DataError
from taskrl.export import CONFIG, load_exported
from taskrl.folders import read_json
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.state_dicts import LoadedEncoder, load_weights
from taskrl.types import Encode

PIXELS_AT_ONCE = 2**19


def open_encoder(path: Path, architecture: str | None) -> LoadedEncoder:
    """The encoder in a folder that taskrl wrote, in a run that has one, or in a file of weights (with `architecture`, a
    torchvision model's name). Raises ConfigError, DataError or RunFolderError.
    """
    if path.is_file():
        if architecture is None:
            raise ConfigError(
                f"{str(path)!r} is a file of weights; name the torchvision model that they belong to, e.g. "
                "--arch resnet18."
            )
        return load_weights(path, architecture)
    folder = path / "encoder" if (path / "encoder").is_dir() else path
    encoder = load_exported(folder)
    if architecture is not None:
        raise ConfigError(f"{str(path)!r} says itself what its encoder is; leave --arch {architecture} out.")
    return LoadedEncoder(encoder, read_json(folder / CONFIG), ())


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


def encode_on(encoder: Encoder, device: torch.device) -> Encode:
    """Images (B, C, H, W) to features (B, D) on `device`, a part at a time; `encoder` is there and in eval mode."""

    def encode(images: Tensor) -> Tensor:
        at_once = max(1, PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
        with torch.inference_mode():
            parts = [encoder(with_channels(part.to(device), encoder)).float() for part in images.split(at_once)]
        return torch.cat(parts).clone()

    return encode


def with_channels(images: Tensor, encoder: Encoder) -> Tensor:
    """Images (B, C, H, W), grey ones with as many channels as the encoder takes."""
    return images.expand(-1, len(encoder.mean), -1, -1)
