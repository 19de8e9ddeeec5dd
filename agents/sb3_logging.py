"""Stable-Baselines3's log output, sent to a tracker."""

from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, filter_excluded_keys

from taskrl.tracking import Tracker


class TrackerWriter(KVWriter):
    """One batch of numbers a dump, of kind "agent" and with the agent's time steps as step.

    Left out: keys excluded for "mlflow" (`logger.record(..., exclude="mlflow")`), texts, figures, images and videos.
    The tracker makes names fit its backend. The tracker stays open: whoever opened it closes it.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        kept = filter_excluded_keys(key_values, key_excluded, "mlflow")
        numbers = {name: number for name, value in kept.items() if (number := _number(value)) is not None}
        if numbers:
            self._tracker.log_metrics(numbers, step=step, kind="agent")

    def close(self) -> None:
        return


def make_logger(tracker: Tracker) -> Logger:
    """A logger for `model.set_logger` that writes to `tracker` and nowhere else."""
    return Logger(folder=None, output_formats=[TrackerWriter(tracker)])


def _number(value: object) -> float | None:
    """A number or an array of one element as a float (NaN included); None for anything else."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
