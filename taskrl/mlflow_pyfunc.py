"""The code of an exported MLflow model. MLflow copies this file into the model and runs it there, without taskrl."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

# recorded, not ignored: MLflow sets a filter of its own to ask for type hints, where the model has a signature
with warnings.catch_warnings(record=True):

    class EncoderModel(PythonModel):
        """Images (B, C, H, W), float32 in [0, 1], to features (B, D), float32."""

        def load_context(self, context: Any) -> None:
            """Load the encoder with its folder's own modeling.py, under a name that no other module has."""
            folder = Path(context.artifacts["encoder"])
            spec = importlib.util.spec_from_file_location("taskrl_exported_modeling", folder / "modeling.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self.encoder = module.load_encoder(folder)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            """Features of a batch. Untyped: MLflow would read type hints as the signature, and refuse these."""
            images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
            with torch.no_grad():
                return self.encoder(images).numpy()


set_model(EncoderModel())
