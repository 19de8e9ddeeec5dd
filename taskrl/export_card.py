"""What stands beside exported weights: config.json in the layout of timm and Hugging Face, model card, snippets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import taskrl
from taskrl.folders import FORMAT_VERSION
from taskrl.modalities.image.modeling import SMALL

UNKNOWN_LICENSE = "unknown"
TRAINING = "trained without labels by taskrl"
TASK = "image-feature-extraction"
# Pooled features of these are not what torchvision's own forward gives without a classifier.
OWN_POOLING = ("squeezenet", "vgg", "convnext")
FC_HEADS = ("resnet", "resnext", "regnet", "shufflenet")
# Equal names and equal features in timm, compared with timm 1.0.31.
TIMM_FAMILIES = ("resnet", "resnext", "densenet")
SECTIONS = {
    "Data": ("data", "scored_on", "split"),
    "Tasks": (
        "generator",
        "train_seed",
        "search_seed",
        "checkpoint",
        "ema_decay",
        "decision",
        "num_decisions",
        "tasks",
    ),
    "Quality": ("quality", "linear_accuracy", "knn_accuracy", "validation_accuracy"),
    "Compute": ("train_flops", "search_flops"),
}


def describe(
    config: Mapping[str, Any], card: Mapping[str, object], license_name: str = UNKNOWN_LICENSE
) -> dict[str, Any]:
    """What config.json says: the encoder's configuration, timm's keys for it (as its save_for_hf writes them), how its
    weights relate to torchvision's, and the card.
    """
    # after config, which may be of a folder that another version wrote
    described = {**config, "format_version": FORMAT_VERSION, "taskrl_version": taskrl.__version__}
    size = int(config["image_size"])
    described |= {"num_classes": 0, "num_features": int(config["feature_dim"])}
    if config["architecture"] != SMALL:
        described["global_pool"] = "avg"
        changes = stem_changes(config)
        described["weights"] = "torchvision's names, without the classifier" + "".join(f"; {text}" for text in changes)
    described["pretrained_cfg"] = {
        "custom_load": False,
        "input_size": [int(config["in_channels"]), size, size],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "num_classes": 0,
        "license": license_name,
    }
    return described | {"card": dict(card)}


def stem_changes(config: Mapping[str, Any]) -> list[str]:
    """In what the first layers differ from torchvision's."""
    changes = []
    if config.get("small_stem"):
        changes.append("the first convolution is 3x3 with stride 1 and there is no max-pooling")
    if config["in_channels"] != 3:
        changes.append(f"the first convolution takes {config['in_channels']} channel")
    return changes


def fits_torchvision(config: Mapping[str, Any]) -> bool:
    """Whether torchvision's own model, without its classifier, gives the same features from the same weights."""
    name = str(config["architecture"])
    return name != SMALL and not name.startswith(OWN_POOLING) and not stem_changes(config)


def fits_timm(config: Mapping[str, Any]) -> bool:
    """Whether timm.create_model("local-dir:FOLDER", pretrained=True) gives the same features."""
    return fits_torchvision(config) and str(config["architecture"]).startswith(TIMM_FAMILIES)


def folder_snippet(config: Mapping[str, Any], folder: str | Path) -> str:
    """Python that loads the folder without taskrl: by torchvision alone where that can be, else by its modeling.py."""
    return torchvision_snippet(config, folder) if fits_torchvision(config) else modeling_snippet(config, folder)


def torchvision_snippet(config: Mapping[str, Any], folder: str | Path) -> str:
    """Python that needs torch, torchvision and safetensors only."""
    name, size = str(config["architecture"]), config["image_size"]
    head = "fc" if name.startswith(FC_HEADS) else "classifier"
    return f"""import torch
from safetensors.torch import load_file
from torchvision import models

FOLDER = {str(folder)!r}
encoder = models.{name}()
encoder.{head} = torch.nn.Identity()  # features instead of classes
encoder.load_state_dict(load_file(f"{{FOLDER}}/model.safetensors"))
encoder.eval()
mean = torch.tensor({list(config["mean"])}).view(3, 1, 1)
std = torch.tensor({list(config["std"])}).view(3, 1, 1)
images = torch.rand(2, 3, {size}, {size})  # float in [0, 1]
with torch.no_grad():
    features = encoder((images - mean) / std)  # (2, {config["feature_dim"]})
"""


def modeling_snippet(config: Mapping[str, Any], folder: str | Path) -> str:
    """Python that loads the folder by the modeling.py in it."""
    channels, size, dim = config["in_channels"], config["image_size"], config["feature_dim"]
    where = '"."  # this folder' if str(folder) == "." else repr(str(folder))
    return f"""import sys

import torch

FOLDER = {where}
sys.path.insert(0, FOLDER)
from modeling import load_encoder

encoder = load_encoder(FOLDER)  # on the CPU, in eval mode
images = torch.rand(2, {channels}, {size}, {size})  # float in [0, 1], or uint8; normalised inside
with torch.no_grad():
    features = encoder(images)  # (2, {dim})
    feature_map = encoder.feature_map(images)  # (2, {dim}, h, w)
"""


def readme(described: Mapping[str, Any]) -> str:
    """README.md: Hugging Face's front matter, how to load the encoder, and where it comes from."""
    architecture, card = str(described["architecture"]), described["card"]
    front = {
        "license": described["pretrained_cfg"]["license"],
        "library_name": "timm" if fits_timm(described) else "pytorch",
        "pipeline_tag": TASK,
        "tags": [TASK, "self-supervised-learning", "taskrl", architecture],
    }
    torchvision = "" if architecture == SMALL else "torchvision, "
    facts = {key: value for key, value in described.items() if key not in ("card", "mean", "std", "pretrained_cfg")}
    known = {key for keys in SECTIONS.values() for key in keys}
    sections = {"Encoder": facts} | {
        title: {key: card[key] for key in keys if key in card} for title, keys in SECTIONS.items()
    }
    sections["More"] = {key: value for key, value in card.items() if key not in known}
    tables = "\n".join(_table(title, rows) for title, rows in sections.items() if rows)
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# Encoder

Images to feature vectors and feature maps, {card.get("training", TRAINING)}.
Loading needs torch, {torchvision}safetensors and the `modeling.py` in this folder.

```python
{modeling_snippet(described, ".").strip()}
```
{_elsewhere(described)}
`manifest.json` holds the size and SHA-256 of every file.

{tables}"""


def _elsewhere(described: Mapping[str, Any]) -> str:
    """How torchvision and timm load the weights, or why they cannot."""
    architecture, changes = described["architecture"], stem_changes(described)
    if architecture == SMALL:
        return ""
    if not fits_torchvision(described):
        why = "; ".join(changes) if changes else "the features are the mean of the map"
        return f"\ntorchvision's own `{architecture}` does not give these features ({why}): use `modeling.py`.\n"
    text = f"\nWithout `modeling.py`:\n\n```python\n{torchvision_snippet(described, '.').strip()}\n```\n"
    if fits_timm(described):
        text += (
            '\n```python\nimport timm\n\nencoder = timm.create_model("local-dir:.", pretrained=True)'
            "  # normalise images as in pretrained_cfg\n```\n"
        )
    return text


def _table(title: str, rows: Mapping[str, object]) -> str:
    lines = "\n".join(f"| {key} | {_cell(value)} |" for key, value in rows.items())
    return f"## {title}\n\n| | |\n|---|---|\n{lines}\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "<br>".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
