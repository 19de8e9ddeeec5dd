"""Encoders that commands are given: fitted to images, and asked for features."""

import torch
from torch import Tensor

from taskrl.errors import DataError
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.state_dicts import LoadedEncoder
from taskrl.types import Encode

PIXELS_AT_ONCE = 2**19


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
