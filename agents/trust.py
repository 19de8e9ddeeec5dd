"""Whether a finished run's reward can be trusted: from its episodes and rows to numbers, sentences and metrics."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agents.final import SUPERVISED, UNTRAINED
from agents.summary import Row
from taskrl.evaluation.statistics import Interval
from taskrl.evaluation.validity import Measured, Validity, agreement, validity_of

INTERVALS = ("before", "after", "change", "quality_change", "hidden_change")


def validity_record(
    episodes: Sequence[Mapping[str, Any]], rows: Sequence[Row], *, group_size: int, split: str
) -> dict[str, Any]:
    """For result.json: rank correlations of quality with the hidden measure (by thirds of the search) and with linear
    accuracy (final encoders, floors left out); sentences; a warning or None.
    """
    measured = [
        Measured(
            block=int(entry["episode"]) // group_size, quality=entry["final_quality"], other=entry["hidden_quality"]
        )
        for entry in episodes
        if entry.get("hidden_quality") is not None and entry.get("final_quality") is not None
    ]
    scored = [
        Measured(block=row["train_seed"], quality=row["quality"], other=row["linear_accuracy"])
        for row in rows
        if row["quality"] is not None
        and row["linear_accuracy"] is not None
        and row["generator"] not in (SUPERVISED, UNTRAINED)
    ]
    found = validity_of(measured) if measured else None
    with_accuracy = agreement(scored)
    sentences = ["Validity: this reward has no hidden measure." if found is None else found.sentence]
    if with_accuracy:
        sentences.append(
            f"Over {len(scored)} final encoders, quality and linear accuracy on {split} images rank those of one seed "
            f"alike by {with_accuracy.mean:.2f} [{with_accuracy.low:.2f}, {with_accuracy.high:.2f}]."
        )
    return {
        "hidden": None if found is None else _as_json(found),
        "accuracy": None if with_accuracy is None else {**vars(with_accuracy), "num": len(scored), "split": split},
        "sentences": sentences,
        "warning": None if found is None else found.goodhart,
    }


def validity_metrics(record: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers of `validity_record`, for the tracker."""
    if record is None:
        return {}
    named = {f"hidden_{name}": (record["hidden"] or {}).get(name) for name in INTERVALS} | {
        "accuracy": record["accuracy"]
    }
    return {
        f"{name}/{end}": float(interval[end])
        for name, interval in named.items()
        if interval is not None
        for end in ("mean", "low", "high")
    }


def noise_metrics(noise: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers of the A/A test, for the tracker."""
    if noise is None:
        return {}
    names = ("aa_sd", "paired_sd", "signal_sd", "signal_to_noise", "steps_per_decision")
    return {name: float(noise[name]) for name in names if noise[name] is not None}


def _as_json(found: Validity) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return dict(vars(value)) if isinstance(value, Interval) else value

    return {field.name: plain(getattr(found, field.name)) for field in dataclasses.fields(found)}
