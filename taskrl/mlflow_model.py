"""Encoders as MLflow models: a pyfunc folder that loads without taskrl, and its registration."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from taskrl.errors import RunFolderError, in_short
from taskrl.export import WEIGHTS, check_images, check_parity
from taskrl.export_graphs import quiet
from taskrl.folders import new_folder
from taskrl.mlflow_store import connect, dispose, find_or_create_experiment, prepare_process
from taskrl.modalities.image.modeling import SMALL, Encoder

ARTIFACT = "encoder"
CODE = "mlflow_pyfunc.py"
REQUIREMENTS = ("mlflow>=3.5,<4", "numpy>=1.26,<3", "safetensors>=0.5,<1", "torch>=2.10,<3")
VISION = "torchvision>=0.25,<1"


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Where and under which name a model is registered. run_id: the MLflow run that it comes from, if it is there.

    artifact_root: where a new experiment keeps artifacts; None: the server decides.
    """

    uri: str
    name: str
    alias: str | None
    experiment: str
    run_id: str | None
    artifact_root: Path | None


def write_model(
    encoder: Encoder, config: Mapping[str, Any], exported: Path, folder: Path, where: Registration | None
) -> tuple[float, str | None]:
    """Write the new `folder`, an MLflow pyfunc of the exported encoder folder `exported`, load it, compare, register;
    the largest difference of a feature and the registered version.

    The model is code and safetensors, no pickle. Signature: float32 (-1, C, H, W) to float32 (-1, D). Raises
    RunFolderError where the features differ by more than 1e-5, or where it cannot be written or registered; nothing is
    kept then.
    """
    _prepare()
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = check_images(config)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *images.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, int(config["feature_dim"])))]),
    )
    with new_folder(folder) as draft, quiet():
        mlflow.pyfunc.save_model(
            draft,
            python_model=str(Path(__file__).with_name(CODE)),
            artifacts={ARTIFACT: str(exported)},
            signature=signature,
            input_example=images[:2].numpy(),
            pip_requirements=[*REQUIREMENTS, *([] if config["architecture"] == SMALL else [VISION])],
        )
        _forget_this_machine(draft / "MLmodel")
        (draft / "artifacts" / ARTIFACT / WEIGHTS).chmod(0o644)
        try:
            model = mlflow.pyfunc.load_model(str(draft))
        except MlflowException as error:  # it reads some names as another address
            raise RunFolderError(
                f"MLflow cannot read a model from {str(folder)!r} ({in_short(error)}); name another --out."
            ) from error

        def predict(batch: Tensor) -> Tensor:
            return torch.from_numpy(model.predict(batch.numpy()))

        difference = check_parity(encoder, predict, images)
        return difference, None if where is None else register(draft, config, where)


def register(folder: Path, config: Mapping[str, Any], where: Registration) -> str:
    """Upload the model in `folder` and register it; the new version's number. Raises RunFolderError, one sentence."""
    _prepare(where.uri)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with quiet(), _tracking_uri(where.uri):
            client = connect(where.uri)
            try:
                experiment = find_or_create_experiment(client, where.experiment, where.artifact_root)
                logged = client.create_logged_model(
                    experiment, name="encoder", source_run_id=where.run_id, model_type=str(config["architecture"])
                )
                client.log_model_artifacts(logged.model_id, str(folder))
                client.finalize_logged_model(logged.model_id, "READY")
                if not client.search_registered_models(f"name = '{where.name}'"):
                    client.create_registered_model(where.name)
                found = client.create_model_version(
                    where.name,
                    source=f"models:/{logged.model_id}",
                    model_id=logged.model_id,
                    run_id=where.run_id,
                )
                if where.alias is not None:
                    client.set_registered_model_alias(where.name, where.alias, found.version)
                return str(found.version)
            finally:
                dispose(client)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:  # import: of a driver
        raise RunFolderError(
            f"The model could not be registered as {where.name!r} at {where.uri} ({str(error).splitlines()[0]}); "
            "nothing was kept: mend that, or leave --register out."
        ) from error


def model_snippet(config: Mapping[str, Any], uri: str, tracking_uri: str | None = None) -> str:
    """Python that loads the model without taskrl. uri: its folder, or models:/... at `tracking_uri`."""
    size = int(config["image_size"])
    at = "" if tracking_uri is None else f"mlflow.set_tracking_uri({tracking_uri!r})\n"
    return f"""import mlflow
import numpy as np

{at}model = mlflow.pyfunc.load_model({uri!r})
images = np.random.default_rng(0).random({(2, int(config["in_channels"]), size, size)}, dtype=np.float32)  # in [0, 1]
features = model.predict(images)  # (2, {config["feature_dim"]})
"""


def _prepare(uri: str = "") -> None:
    prepare_process(uri)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """Some of the client's methods ask the process where the store is, not the client."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _forget_this_machine(file: Path) -> None:
    """MLflow notes where the parts were copied from, which says nothing to others."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    flavour = content["flavors"]["python_function"]
    flavour["model_code_path"] = CODE
    flavour["artifacts"][ARTIFACT]["uri"] = f"artifacts/{ARTIFACT}"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
