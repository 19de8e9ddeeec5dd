"""Carries an encoder away: a folder that loads without taskrl, checked before it gets its name."""

import copy
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from taskrl.errors import RunFolderError
from taskrl.export_card import UNKNOWN_LICENSE, describe, readme
from taskrl.folders import new_folder, read_json, to_json, verify, write_manifest, write_text
from taskrl.modalities.image import modeling
from taskrl.modalities.image.modeling import Encoder
from taskrl.modalities.image.state_dicts import torchvision_names
from taskrl.seeding import torch_generator

TOLERANCE = 1e-5
Features = Callable[[Tensor], Tensor]
WEIGHTS, CONFIG, MODELING, README = "model.safetensors", "config.json", "modeling.py", "README.md"
LISTED = (WEIGHTS, CONFIG, MODELING, README)


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """What was exported.

    max_difference: largest difference of a feature, reloaded to original. sha256: of model.safetensors.
    """

    folder: Path
    architecture: str
    feature_dim: int
    num_parameters: int
    max_difference: float
    sha256: str


def export_encoder(
    encoder: Encoder,
    config: Mapping[str, Any],
    folder: Path,
    *,
    example: Tensor,
    card: Mapping[str, object],
    also: Callable[[Path], None] = lambda draft: None,
    license_name: str = UNKNOWN_LICENSE,
) -> EncoderCard:
    """Write `encoder` to the new `folder`, reload it through the exported modeling.py, and compare the features.

    config: from make_encoder. example: images (B, C, H, W), B >= 1, float in [0, 1] or uint8. card: JSON values that
    say where the encoder comes from (data, generator, seeds, accuracy, training: how, in words). also: writes further
    files into the draft, or others in place of them. license_name: as Hugging Face names it. `encoder` itself is left
    as it is. Raises RunFolderError when the folder exists, cannot be written, or does not give the same features to
    1e-5.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise RunFolderError(f"The encoder folder {str(folder)!r} exists already; name another or remove it first.")
    original = copy.deepcopy(encoder).cpu().float().to(memory_format=torch.contiguous_format).eval()
    weights = {key: value.contiguous() for key, value in original.backbone.state_dict().items()}
    num_parameters = sum(p.numel() for p in original.parameters())
    counted = {"feature_dim": original.feature_dim, "num_parameters": num_parameters}
    described = describe({**config, **counted}, card, license_name)
    with new_folder(folder) as draft:
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        # safetensors writes a temporary file of mode 0600 and renames it.
        (draft / WEIGHTS).chmod(0o644)
        write_text(draft / CONFIG, to_json(described))
        write_text(draft / MODELING, Path(modeling.__file__).read_text(encoding="utf-8"))
        write_text(draft / README, readme(described))
        also(draft)
        manifest = write_manifest(draft)
        difference = check_parity(original, run_module(draft / MODELING).load_encoder(draft), example)
    return EncoderCard(
        folder=folder,
        architecture=str(described["architecture"]),
        feature_dim=original.feature_dim,
        num_parameters=num_parameters,
        max_difference=difference,
        sha256=str(manifest[WEIGHTS]["sha256"]),
    )


def load_exported(folder: Path) -> Encoder:
    """The encoder in `folder`, on the CPU, in eval mode, built by taskrl's own code: the folder's is not run.

    Raises RunFolderError naming the file that is missing, differs from the manifest or does not fit.
    """
    folder = Path(folder)
    verify(folder, LISTED)
    config = read_json(folder / CONFIG)
    architecture = str(config.get("architecture"))
    if architecture != modeling.SMALL and architecture not in torchvision_names():
        raise RunFolderError(
            f"{str(folder / CONFIG)!r} names the encoder {architecture!r}, which this taskrl does not know; "
            f"it was written by taskrl {config.get('taskrl_version')}: load it with the folder's own {MODELING}."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            encoder = modeling.build_encoder(config)
        encoder.backbone.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunFolderError(
            f"{str(folder / WEIGHTS)!r} does not fit {CONFIG} ({str(error).splitlines()[0]}); export the encoder again."
        ) from error
    return encoder.eval()


def max_difference(original: Features, reloaded: Features, example: Tensor) -> float:
    """Largest absolute difference of the features of two encoders on the CPU, at batches of 1, 2 and 7 (NaN counts)."""
    if len(example) == 0:
        raise RunFolderError("The encoder cannot be checked on an empty batch of images; give at least one.")
    differences = []
    with torch.no_grad():
        for num_images in (1, 2, 7):
            images = example.cpu()[torch.arange(num_images) % len(example)]
            differences.append((original(images) - reloaded(images)).abs().max())
    return float(torch.stack(differences).max())


def check_parity(original: Features, reloaded: Features, example: Tensor, tolerance: float = TOLERANCE) -> float:
    """`max_difference`. Raises RunFolderError where it is above `tolerance` or no number."""
    difference = max_difference(original, reloaded, example)
    if not difference <= tolerance:
        raise RunFolderError(
            f"The exported encoder's features differ from the original's by {difference:.3g}, above {tolerance:g}; "
            "nothing was kept: export an encoder whose weights are finite."
        )
    return difference


def check_images(config: Mapping[str, Any]) -> Tensor:
    """Seven images of noise (7, C, H, W), float in [0, 1], of the size that the encoder was trained on."""
    shape = (7, int(config["in_channels"]), int(config["image_size"]), int(config["image_size"]))
    return torch.rand(shape, generator=torch_generator(0, "export check"))


def run_module(path: Path) -> ModuleType:
    """The Python file at `path`, run as a fresh module that leaves no bytecode behind and enters no import table."""
    loader = SourceFileLoader("exported_modeling", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # exec_module would leave bytecode in the folder.
    exec(loader.source_to_code(loader.get_data(str(path)), str(path)), module.__dict__)
    return module
