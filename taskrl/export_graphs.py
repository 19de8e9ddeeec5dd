"""Encoders as graphs: ONNX and torch.export files of one encoder, normalisation inside, batches of any size."""

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import taskrl
from taskrl.errors import ConfigError
from taskrl.export import check_images, check_parity
from taskrl.folders import new_file
from taskrl.modalities.image.modeling import Encoder

INPUT, OUTPUT = "images", "features"
OPSET = 18
ONNX_TOLERANCE = 1e-4
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def write_onnx(encoder: Encoder, config: Mapping[str, Any], file: Path, *, sha256: str) -> float:
    """Write `file` (ONNX) and compare it in onnxruntime; the largest difference of a feature.

    Input "images" (B, C, H, W), float32 in [0, 1], B free, C, H, W from `config`; output "features" (B, D). sha256: of
    the weights, kept in the file's metadata. Raises ConfigError where a package is missing, RunFolderError where the
    features differ by more than 1e-4 or the file cannot be written.
    """
    require_onnx()
    import onnxruntime

    traced = _frozen(encoder)
    with new_file(file) as draft, quiet():
        program = torch.onnx.export(
            traced,
            (check_images(config)[:2],),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_free_batch(),
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph:
            node.metadata_props.clear()  # stack traces, with paths of this machine
        facts = {"taskrl_version": taskrl.__version__, "architecture": str(config["architecture"])}
        program.model.metadata_props.update(facts, weights_sha256=sha256)
        program.save(draft, external_data=False)
        session = onnxruntime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

        return check_parity(traced, run, check_images(config), ONNX_TOLERANCE)


def write_pt2(encoder: Encoder, config: Mapping[str, Any], file: Path) -> float:
    """Write `file` (torch.export) and compare it; the largest difference of a feature.

    Shapes as in `write_onnx`. Reading a .pt2 can run code: taskrl reads none but the one that it has just written.
    """
    traced = _frozen(encoder)
    with new_file(file) as draft, quiet():
        program = torch.export.export(traced, (check_images(config)[:2],), dynamic_shapes=_free_batch())
        torch.export.save(program, draft)
        return check_parity(traced, torch.export.load(draft).module(), check_images(config))


def onnx_snippet(config: Mapping[str, Any], file: Path) -> str:
    """Python that reads the ONNX file without taskrl and without torch."""
    return f"""import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({str(file)!r}, providers=["CPUExecutionProvider"])
images = np.random.default_rng(0).random({_shape(config)}, dtype=np.float32)  # in [0, 1]
features = session.run(["features"], {{"images": images}})[0]  # (2, {config["feature_dim"]})
"""


def pt2_snippet(config: Mapping[str, Any], file: Path) -> str:
    """Python that reads the torch.export file without taskrl."""
    return f"""import torch

encoder = torch.export.load({str(file)!r}).module()
images = torch.rand{_shape(config)}  # float32 in [0, 1]
with torch.no_grad():
    features = encoder(images)  # (2, {config["feature_dim"]})
"""


def require_onnx() -> None:
    """Raises ConfigError where a package that ONNX export needs is missing."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {', '.join(missing)}; install them with: pip install 'taskrl[onnx]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' notes and deprecations, which nobody here can act on, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True):  # MLflow sets filters of its own, but records go nowhere
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _frozen(encoder: Encoder) -> Encoder:
    """A copy on the CPU that needs no gradients: the graph then holds no training-only operation."""
    return copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False)


def _free_batch() -> dict[str, dict[int, Any]]:
    return {INPUT: {0: torch.export.Dim("batch")}}


def _shape(config: Mapping[str, Any]) -> tuple[int, ...]:
    return 2, int(config["in_channels"]), int(config["image_size"]), int(config["image_size"])
