"""The encoders one may ask for by name: the small net and a tested list of torchvision models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taskrl.errors import ConfigError
from taskrl.modalities.image.modeling import SMALL, SMALL_BLOCKS, Encoder, build_encoder
from taskrl.registry import Registry
from taskrl.seeding import isolated_global_rng

LARGEST_SMALL_STEM = 64
PIXELS_AT_ONCE = 2**19


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """min_image_size: pixels a side, the smallest tested. has_small_stem: a resnet, whose stem can be made
    smaller.

    At 32 pixels a side or less the map of a torchvision model is 1x1, but with the small stem an eighth of the image.
    """

    min_image_size: int
    has_small_stem: bool = False


ENCODERS: Registry[EncoderInfo] = Registry("encoder")

ENCODERS.register(SMALL)(EncoderInfo(min_image_size=8))
for _name in ("resnet18", "resnet34", "resnet50", "resnext50_32x4d"):
    ENCODERS.register(_name)(EncoderInfo(min_image_size=8, has_small_stem=True))
for _name in ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"):
    ENCODERS.register(_name)(EncoderInfo(min_image_size=8))
for _name in ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "regnet_y_400mf", "regnet_x_400mf"):
    ENCODERS.register(_name)(EncoderInfo(min_image_size=8))
ENCODERS.register("squeezenet1_1")(EncoderInfo(min_image_size=20))
for _name in ("densenet121", "vgg11_bn", "convnext_tiny"):
    ENCODERS.register(_name)(EncoderInfo(min_image_size=32))


def make_encoder(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> tuple[Encoder, dict[str, Any]]:
    """An untrained encoder, initialised from `seed`, and the configuration that rebuilds it.

    image_size: pixels a side. width: of the small net; torchvision models have their own. Resnets get the small stem up
    to 64 pixels. Dropout and stochastic depth are off, and no weights are downloaded. torch's global generator is left
    as it was. Raises ConfigError for an unknown name or images that do not fit.
    """
    info = ENCODERS[name]
    if image_size < info.min_image_size:
        raise ConfigError(
            f"Encoder {name!r} needs images of at least {info.min_image_size} pixels a side, not {image_size}; "
            f"choose another encoder, such as {SMALL!r}, or resize the images."
        )
    if in_channels not in (1, 3) or not len(mean) == len(std) == in_channels:
        raise ConfigError(
            f"Encoder {name!r} takes images of 1 or 3 channels with one mean and one std a channel, "
            f"not {in_channels} channels, {len(mean)} means and {len(std)} stds."
        )
    if min(std) <= 0:
        raise ConfigError(f"The std of every channel must be positive, not {list(std)}; drop the constant channel.")
    config: dict[str, Any] = {"architecture": name, "in_channels": in_channels, "image_size": image_size}
    if name == SMALL:
        if width < 1:
            raise ConfigError(f"The width of encoder {SMALL!r} must be at least 1, not {width}; 32 is the default.")
        config["width"], config["blocks"] = width, list(SMALL_BLOCKS)
    if info.has_small_stem:
        config["small_stem"] = image_size <= LARGEST_SMALL_STEM
    config["mean"], config["std"] = [float(value) for value in mean], [float(value) for value in std]
    with isolated_global_rng(seed):
        encoder = build_encoder(config)
    config["feature_dim"] = encoder.feature_dim
    return encoder, config


def images_at_once(height: int, width: int) -> int:
    """How many images of this size go through an encoder together, unless somebody says otherwise."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def with_channels(images: Tensor, encoder: Encoder) -> Tensor:
    """Images (B, C, H, W), grey ones with as many channels as the encoder takes."""
    return images.expand(-1, len(encoder.mean), -1, -1)
