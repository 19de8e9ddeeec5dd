"""Weights that others trained: a state dict of a torchvision-style model, read without running code, as an encoder."""

import difflib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from taskrl.errors import ConfigError, DataError
from taskrl.modalities.image.modeling import TRUNKS, Encoder, build_encoder
from taskrl.seeding import isolated_global_rng

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".tar", ".bin", ".ckpt")
INNER = ("state_dict", "model_state_dict", "model", "net", "student", "teacher")
CLASSIFIERS = ("fc.", "classifier.", "head.", "aux_classifier.")
NUM_SHOWN = 3
IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
"""Channels -> mean and sd of ImageNet's images in [0, 1]; one channel: their averages."""
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(SafetensorError, pickle.UnpicklingError, OverflowError, MemoryError),
)


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with the weights of a file, the configuration that builds it, and what was assumed, in sentences."""

    encoder: Encoder
    config: Mapping[str, Any]
    notes: tuple[str, ...]


def load_weights(path: Path, architecture: str) -> LoadedEncoder:
    """The encoder of torchvision's `architecture` with the weights in `path`, in eval mode, on the CPU.

    path: .safetensors, or a file of torch.save, read with weights_only=True. The weights may lie deeper in it
    ("state_dict", "model") and their names may have a prefix ("module.", "backbone."); a classifier and heads are left
    out. Images are normalised by ImageNet's mean and sd. Raises ConfigError for an unknown architecture and DataError
    for a file that cannot be read or does not fit.
    """
    _check_architecture(architecture)
    state = _read(path)
    # the names of all weights are the same for every stem and number of channels
    names = list(_build(architecture, in_channels=3, small_stem=False)[0].backbone.state_dict())
    first = next(name for name in names if name.endswith("weight"))
    prefix, rivals = _prefix(state, names)
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    heads = _check_names(path, architecture, names, found)
    stem = found[first]
    if stem.ndim != 4 or stem.shape[1] not in IMAGENET:
        raise DataError(
            f"The first convolution of {str(path)!r} has weights of shape {tuple(stem.shape)}; expected one that takes "
            "images of 1 or 3 channels."
        )
    small_stem = architecture.startswith(("resnet", "resnext")) and stem.shape[-1] == 3
    encoder, config = _build(architecture, in_channels=stem.shape[1], small_stem=small_stem)
    _fill(encoder, path, architecture, found)
    notes = []
    if prefix:
        also = f", of {', '.join(map(repr, [prefix, *rivals]))} alike" if rivals else ""
        notes.append(f"the weights are those whose names start with {prefix!r}{also}")
    if small_stem:
        notes.append("the first convolution is 3x3: read as a stem for small images, without max-pooling")
    if heads:
        notes.append(f"left out, since they are no part of the encoder: {_some(heads)}")
    return LoadedEncoder(encoder.eval(), config, tuple(notes))


def untrained_like(config: Mapping[str, Any], seed: int) -> Encoder:
    """An encoder of the same architecture with fresh weights, drawn from `seed`."""
    with isolated_global_rng(seed):
        return build_encoder(config)


def _build(architecture: str, *, in_channels: int, small_stem: bool) -> tuple[Encoder, dict[str, Any]]:
    mean, std = IMAGENET[in_channels]
    config = {"architecture": architecture, "in_channels": in_channels, "small_stem": small_stem}
    config |= {"mean": list(mean), "std": list(std)}
    return untrained_like(config, 0), config


def torchvision_names() -> list[str]:
    """The names of torchvision's models that an encoder can be built from."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if name.startswith(tuple(TRUNKS))]


def _check_architecture(architecture: str) -> None:
    known = torchvision_names()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=1)
        raise ConfigError(
            f"Unknown architecture {architecture!r}; known: torchvision's {', '.join(TRUNKS)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in `path` by name."""
    content: Any
    try:
        if path.suffix == SAFETENSORS:
            content = load_file(path)
        elif path.suffix in PICKLED:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the file's pickle protocol; the answer is weights or an error
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise DataError(
                f"{str(path)!r} is no file of weights; give one that ends in {', '.join((SAFETENSORS, *PICKLED))}, "
                "or a folder that taskrl exported."
            )
    except UNREADABLE as error:
        unsafe = "weights_only" in str(error)
        reason = "it is damaged, or holds more than weights, which would run code" if unsafe else type(error).__name__
        raise DataError(
            f"The weights in {str(path)!r} cannot be read ({reason}); save a state dict: "
            "torch.save(model.state_dict(), FILE), or as .safetensors."
        ) from None
    while isinstance(content, Mapping):
        inner = next((content[key] for key in INNER if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DataError(
            f"{str(path)!r} holds no weights by name; save a state dict: torch.save(model.state_dict(), FILE)."
        )
    return tensors


def _prefix(state: Mapping[str, Tensor], names: Sequence[str]) -> tuple[str, list[str]]:
    """What comes before the encoder's names in `state` (the prefix under which most of them are there, the first of
    equals), and its equals.
    """
    prefixes = dict.fromkeys(["", *(key.removesuffix(names[0]) for key in state if key.endswith(f".{names[0]}"))])
    counts = {prefix: sum(prefix + name in state for name in names) for prefix in prefixes}
    best = max(counts, key=lambda prefix: counts[prefix])
    return best, [prefix for prefix, count in counts.items() if count == counts[best] > 0 and prefix != best]


def _check_names(path: Path, architecture: str, names: Sequence[str], found: Mapping[str, Tensor]) -> list[str]:
    """Names in `found` that belong to heads. Raises DataError when encoder weights are missing or too many."""
    # torch wrote no such counts before version 0.4.1, and they are not used
    missing = [name for name in names if name not in found and not name.endswith("num_batches_tracked")]
    extra = [name for name in found if name not in names and not name.startswith(CLASSIFIERS)]
    modules = {name.split(".")[0] for name in names}
    unexpected = [name for name in extra if name.split(".")[0] in modules]
    if missing or unexpected:
        parts = [
            f"{len(keys)} {what} ({_some(keys)})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise DataError(
            f"The weights in {str(path)!r} are not those of {architecture}: {' and '.join(parts)}; "
            "name the architecture that was trained."
        )
    return sorted({name.split(".")[0] for name in extra})


def _fill(encoder: Encoder, path: Path, architecture: str, found: Mapping[str, Tensor]) -> None:
    wanted = encoder.backbone.state_dict()
    for name, value in wanted.items():
        if name in found and found[name].shape != value.shape:
            raise DataError(
                f"The weights in {str(path)!r} are not those of {architecture}: {name} has shape "
                f"{tuple(found[name].shape)}, not {tuple(value.shape)}; name the architecture that was trained."
            )
    wanted.update({name: value for name, value in found.items() if name in wanted})  # keeps torch's _metadata
    encoder.backbone.load_state_dict(wanted)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_SHOWN]) + (", ..." if len(names) > NUM_SHOWN else "")
