"""Promises of the SB3 logger: one batch a dump, of kind "agent", without what was excluded or is no number."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Figure, HParam

from agents.sb3_logging import TrackerWriter, make_logger
from taskrl.tracking import NullTracker


class RecordingTracker(NullTracker):
    """Keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, dict[str, float]]] = []
        self.closed = False

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, kind: str = "decision") -> None:
        self.batches.append((kind, step, dict(metrics)))

    def close(self, status: str = "FINISHED") -> None:
        self.closed = True


def test_a_dump_is_one_batch_of_numbers() -> None:
    tracker = RecordingTracker()
    logger = make_logger(tracker)
    logger.record("train/loss", np.float32(0.5))
    logger.record("train/n_updates", 3, exclude="tensorboard")
    logger.record("train/kl", torch.tensor(0.25))
    logger.record("train/std", np.array([2.0])[0])
    logger.record("train/text", "1.5")
    logger.record("train/nan", math.nan)
    logger.record("train/none", None)
    logger.record("train/many", np.ones(3))
    logger.record("secret", 1.0, exclude=("mlflow", "stdout"))
    logger.record("figure", Figure(None, close=True), exclude="stdout")  # type: ignore[arg-type]
    logger.record("hparam", HParam({"lr": 1.0}, {"loss": 0.0}))
    logger.record_mean("rollout/ep_rew_mean", 1.0)
    logger.record_mean("rollout/ep_rew_mean", 2.0)
    logger.dump(step=64)
    ((kind, step, numbers),) = tracker.batches
    assert (kind, step) == ("agent", 64)
    assert math.isnan(numbers.pop("train/nan"))
    assert numbers == {
        "train/loss": 0.5,
        "train/n_updates": 3.0,
        "train/kl": 0.25,
        "train/std": 2.0,
        "rollout/ep_rew_mean": 1.5,
    }


def test_a_dump_without_numbers_writes_nothing() -> None:
    tracker = RecordingTracker()
    TrackerWriter(tracker).write({"a": 1.0, "b": "text"}, {"a": ("mlflow",), "b": ()}, step=1)
    assert tracker.batches == []


def test_closing_the_logger_leaves_the_tracker_open() -> None:
    tracker = RecordingTracker()
    make_logger(tracker).close()
    assert not tracker.closed


def test_an_agent_writes_its_training_there() -> None:
    tracker = RecordingTracker()
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    agent.set_logger(make_logger(tracker))
    agent.learn(96, log_interval=1)
    assert [step for _, step, _ in tracker.batches] == [32, 64, 96]
    assert {kind for kind, _, _ in tracker.batches} == {"agent"}
    assert "train/loss" in tracker.batches[-1][2]
