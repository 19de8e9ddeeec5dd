"""Settings and tiny fixtures of all tests: one thread, no network, seconds."""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TASKRL_CACHE"] = tempfile.mkdtemp(prefix="taskrl-test-cache-")

import pytest
import torch

from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import ExperimentConfig, load_config
from taskrl.data.dataset import RawDataset
from taskrl.meta import MetaProblem
from tests.builders import blob_dataset

torch.set_num_threads(1)

TINY = {
    "data.source": "digits",
    "data.image_size": 16,
    "predictor.batch_size": 32,
    "predictor.width": 8,
    "predictor.device": "cpu",
    "predictor.precision": "fp32",
    "episode.decisions": 2,
    "episode.steps_per_decision": 2,
    "workers": 1,
    "envs": "processes",
    "predictor.compile": "never",
    "tracking.uri": "none",
}


@pytest.fixture(scope="session")
def tiny_images() -> RawDataset:
    """200 grey images, 16x16, of four classes that the place of a blob decides."""
    return blob_dataset()


@pytest.fixture(scope="session")
def tiny_config() -> ExperimentConfig:
    """Digits, batches of 32, width 8, episodes of 2 decisions of 2 steps."""
    return load_config(given=TINY)


@pytest.fixture(scope="session")
def tiny_assembled(tiny_config: ExperimentConfig) -> Assembled:
    """What `assemble` makes of `tiny_config`; its parts are frozen, predictors are made fresh."""
    return assemble(tiny_config, load_data(tiny_config))


@pytest.fixture(scope="session")
def tiny_problem(tiny_assembled: Assembled) -> MetaProblem:
    return tiny_assembled.problem
