"""Rows of final encoders -> paired differences with intervals, and the table.

A row belongs to a method and a length; `number` tells its search from others of the method, None where there is no
search, and `train_seed` pairs it with the rows of other methods.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from agents.final import UNTRAINED
from agents.summary import (
    ACCURACY,
    BALANCED,
    FLOORS,
    LEARNED,
    PIXELS,
    QUALITY,
    REFERENCE,
    balance_notes,
    broken_notes,
    ends_of,
    flops_text,
    interval_text,
    measured_by,
)
from taskrl.evaluation.statistics import Interval, bootstrap, hierarchical_bootstrap
from taskrl.report_figures import duration

Row = Mapping[str, Any]
VALIDATION, VALIDATION_BALANCED = "validation_accuracy", "validation_balanced_accuracy"


def validated_by(rows: Sequence[Row]) -> str:
    """The column that chooses an encoder: as `measured_by`, on validation images."""
    column = measured_by(rows)
    if column == BALANCED and all(VALIDATION_BALANCED in row for row in rows):  # rows of earlier versions lack it
        return VALIDATION_BALANCED
    return QUALITY if column == QUALITY else VALIDATION


def rows_of(rows: Sequence[Row], method: str, length: int) -> list[Row]:
    """Untrained encoders have no length: they stand beside every one."""
    return [row for row in rows if row["method"] == method and (row["length"] == length or method == UNTRAINED)]


def pairs(rows: Sequence[Row], ours: str, theirs: str, length: int) -> list[list[tuple[Row, Row]]]:
    """Rows of two methods at one length paired by train seed: a list for every search, or one alone where neither
    method searches; empty where nothing can be paired.
    """
    first = {row["train_seed"]: row for row in rows_of(rows, ours, length)}
    second = {row["train_seed"]: row for row in rows_of(rows, theirs, length)}
    if ours == theirs:
        return []
    groups: dict[Any, list[tuple[Row, Row]]] = {}
    for seed in sorted(first.keys() & second.keys()):
        number = first[seed]["number"] if first[seed]["number"] is not None else second[seed]["number"]
        groups.setdefault(number, []).append((first[seed], second[seed]))
    return list(groups.values())


def difference(rows: Sequence[Row], ours: str, theirs: str, length: int, *, by: str | None = None) -> Interval | None:
    """Interval of the mean paired difference, over searches and seeds where one of the methods searches; None where
    nothing can be paired or a value is missing. by: the column; default `measured_by`.
    """
    column = by or measured_by(rows)
    found = pairs(rows, ours, theirs, length)
    if not found or any(row[column] is None for group in found for pair in group for row in pair):
        return None
    return interval([[a[column] - b[column] for a, b in group] for group in found])


def interval(groups: Sequence[Sequence[float]]) -> Interval:
    """Over searches and their seeds; one group alone is resampled as its values."""
    return bootstrap(groups[0]) if len(groups) == 1 else hierarchical_bootstrap(groups)


def table_of(rows: Sequence[Row], pixels: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """An entry for every method and length, in the order of the rows, and the floor of raw pixels."""
    entries = [
        _entry(rows, method, length, pixels)
        for method, length in dict.fromkeys((row["method"], row["length"]) for row in rows)
    ]
    if pixels is not None:
        nothing = dict.fromkeys(("train_flops", "search_flops", "total_flops", "train_seconds", "search_seconds"), 0)
        empty = {"balanced": None, "knn": None, "quality": None, "difference": None, "mark": ""}
        linear = {"mean": pixels["best"], "low": None, "high": None}
        entries.append({"method": PIXELS, "length": None, "num": 1, "linear": linear, **empty, **nothing})
    return entries


def notes_of(rows: Sequence[Row], *lengths: int) -> list[str]:
    """What makes a comparison worth less than it looks, at the lengths at which it is judged."""
    notes = []
    for length in lengths:
        at = f"At {length}x: " if len(lengths) > 1 else ""
        notes += [f"{at}{note}" for note in broken_notes(rows, difference(rows, REFERENCE, UNTRAINED, length))]
    notes += balance_notes(rows)
    if {row["number"] for row in rows if row["method"] == LEARNED} == {0}:
        notes.append("One search says nothing about others: its intervals are over train seeds alone.")
    return notes


def print_table(entries: Sequence[Mapping[str, Any]], split: str) -> Table:
    """The table for a terminal."""
    table = Table(title=f"Final encoders, scored on {split} images (mean [95 % interval])")
    balanced = any(entry.get("balanced") for entry in entries)
    accuracies = ("linear %", *(["balanced %"] if balanced else []), "kNN %")
    titles = ("method", "length", "n", *accuracies, "quality", "minus reference")
    for title in (*titles, "training", "search", "training time", "search time"):
        table.add_column(title, justify="left" if title == "method" else "right", no_wrap="time" not in title)
    digits = 1 if any(entry["linear"] for entry in entries) else 3
    for entry in entries:
        gap = entry["difference"]
        table.add_row(
            f"{entry['method']} {entry['mark']}".strip(),
            f"{entry['length']}x" if entry["length"] and entry["train_flops"] else "",
            str(entry["num"]),
            interval_text(entry["linear"], 1),
            *([interval_text(entry.get("balanced"), 1)] if balanced else []),
            *(
                f"{entry[name]['mean']:.{places}f}" if entry[name] else ""
                for name, places in (("knn", 1), ("quality", 3))
            ),
            interval_text(gap, digits, "+"),
            *(flops_text(entry[name]) for name in ("train_flops", "search_flops")),
            *(duration(entry[name]) if entry[name] else "" for name in ("train_seconds", "search_seconds")),
        )
    return table


def _entry(rows: Sequence[Row], method: str, length: int, pixels: Mapping[str, float] | None) -> dict[str, Any]:
    mine = [row for row in rows if row["method"] == method and row["length"] == length]
    linear = _interval_of(mine, ACCURACY)
    mean = None if linear is None else linear["mean"]
    below = pixels is not None and mean is not None and mean < pixels["best"] and method not in FLOORS
    gap = None if method in FLOORS else difference(rows, method, REFERENCE, length)
    means = {name: _mean(mine, column) for name, column in COSTS.items()}
    return {
        "method": method,
        "length": length,
        "num": len(mine),
        "linear": linear,
        "balanced": _interval_of(mine, BALANCED) if measured_by(rows) == BALANCED else None,
        "knn": _interval_of(mine, "knn_accuracy"),
        "quality": _interval_of(mine, QUALITY),
        "difference": None if gap is None else ends_of(gap, len(mine)),
        **means,
        "total_flops": means["train_flops"] + means["search_flops"],
        "mark": "(below pixels)" if below else "",
    }


COSTS = {
    "train_flops": "train_flops",
    "search_flops": "search_flops",
    "train_seconds": "wall_seconds",
    "search_seconds": "search_seconds",
}


def _interval_of(rows: Sequence[Row], column: str) -> dict[str, float | None] | None:
    if any(row[column] is None for row in rows):
        return None
    groups: dict[Any, list[float]] = {}
    for row in rows:
        groups.setdefault(row["number"], []).append(row[column])
    return ends_of(interval(list(groups.values())), len(rows))


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(sum(row[column] for row in rows) / len(rows))
