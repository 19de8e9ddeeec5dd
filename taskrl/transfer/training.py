"""What fine-tuning and distillation share: one optimiser, one schedule, one way of drawing views."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taskrl.data.stream import BatchStream
from taskrl.errors import ConfigError, unknown_name
from taskrl.modalities.image.encoders import images_at_once, with_channels
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.views import make_view, view_knobs
from taskrl.seeding import torch_generator
from taskrl.types import Inputs

WARMUP_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Training:
    """How nets are trained. levels: strengths of the views, those that are left out are off. precision: "fp32" or
    "bf16" (autocast). batch_size is cut to the number of images.
    """

    steps: int
    batch_size: int
    weight_decay: float
    levels: Mapping[str, float]
    device: torch.device
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"{self.steps} steps train nothing; give --steps at least 1.")

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that training runs in."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def view(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """One view of images (B, C, H, W), uint8, on the device: float32 in [0, 1]. rng: of the device."""
        with torch.autocast(self.device.type, enabled=False):  # a blur in bf16 does not fit its images
            return make_view(images.to(self.device), rng, self.levels)

    def views_rng(self, seed: int) -> torch.Generator:
        """The generator that views are drawn from."""
        return torch_generator(seed, "transfer views", device=self.device)


def view_levels(text: str, shape: tuple[int, ...]) -> dict[str, float]:
    """Strengths from "crop=0.6,jitter=0.4" for images of `shape` (C, H, W); "none" is no views. Raises ConfigError."""
    knobs = {knob.name: knob for knob in view_knobs(shape[0], shape[1])}
    levels = {}
    for part in [] if text.strip() == "none" else text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in knobs:
            raise ConfigError(unknown_name("view", name, [*knobs, "none"]))
        low, high = min(knobs[name].levels), max(knobs[name].levels)
        try:
            levels[name] = float(value)
        except ValueError:
            levels[name] = math.nan
        if not low <= levels[name] <= high:
            raise ConfigError(
                f"The view {part.strip()!r} needs a number from {low:g} to {high:g}, e.g. {name}={high:g}."
            )
    return levels


def warmup_cosine(step: int, steps: int) -> float:
    """The share of the learning rate at `step` of `steps`, from 0: a linear warm-up over the first tenth, then half a
    cosine to 0 (Loshchilov & Hutter 2017).
    """
    warm = max(1, round(WARMUP_SHARE * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def optimise(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    training: Training,
    learning_rate: float,
    after_step: Callable[[int, float], None] = lambda step, loss: None,
) -> bool:
    """AdamW over `training.steps` steps; whether every loss was finite: the first one that is not ends training.

    `loss` draws its batch itself. after_step: gets the number of steps done and the loss. Biases and the scales of
    norms do not decay (as in timm and DINO).
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * warmup_cosine(step, training.steps)
        with training.autocast():
            value = loss()
        if not math.isfinite(value.item()):
            return False
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        after_step(step + 1, value.item())
    return True


def batches(inputs: Inputs, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches (B, C, H, W), uint8, in an order that `seed` alone decides."""
    return BatchStream(inputs, min(batch_size, len(inputs))).batches(torch_generator(seed, "transfer order"))


def features_of(encoder: Encoder, images: Tensor) -> Tensor:
    """Features (B, D), float32, of images (B, C, H, W); grey ones get as many channels as the encoder takes."""
    features: Tensor = encoder(with_channels(images, encoder))
    return features.float()


def encode_all(encoder: Encoder, inputs: Inputs, device: torch.device) -> Tensor:
    """Features (N, D), float32, on the CPU, of all `inputs` without views: eval mode, no gradient."""
    shape = inputs.sample_shape
    at_once = images_at_once(*shape[1:])
    was_training = {module: module.training for module in encoder.modules()}
    encoder.eval()
    with torch.no_grad():
        parts = [
            features_of(encoder, inputs.take(rows).to(device)).cpu()
            for rows in torch.arange(len(inputs)).split(at_once)
        ]
    for module, training in was_training.items():
        module.training = training
    return torch.cat(parts)
