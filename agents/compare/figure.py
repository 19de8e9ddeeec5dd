"""The figure of a comparison: accuracy against everything that was spent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MARKERS = "osD^v<>Pph*Xd"
SPREAD = 1.5  # of the first and the last method at equal compute


def draw(entries: Sequence[Mapping[str, Any]], split: str, path: Path) -> None:
    """entries: of `table_of`. A line joins the lengths of a method; what trains nothing is a level.

    Methods of equal compute would hide each other; they are drawn side by side.
    """
    labelled = any(entry["linear"] for entry in entries)
    column = "linear" if labelled else "quality"
    figure = Figure(figsize=(9, 5.2))
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    names = list(dict.fromkeys(str(entry["method"]) for entry in entries))
    for number, name in enumerate(names):
        points = [entry for entry in entries if entry["method"] == name and entry[column]]
        style: dict[str, Any] = {"color": colours[number % len(colours)], "label": name}
        trained = sorted((entry for entry in points if entry["total_flops"]), key=lambda entry: entry["total_flops"])
        if trained:
            means = [entry[column]["mean"] for entry in trained]
            errors = list(zip(*(_errors(entry[column]) for entry in trained), strict=True))
            aside = SPREAD ** (number / len(names) - 0.5)
            spent = [aside * entry["total_flops"] for entry in trained]
            marker = MARKERS[number % len(MARKERS)]
            axis.errorbar(spent, means, yerr=errors, marker=marker, markersize=5, capsize=2, linewidth=1, **style)
        elif points:
            axis.axhline(points[0][column]["mean"], linestyle="--", linewidth=1, **style)
    axis.set_xscale("log")
    axis.set_xlabel("search and final training, FLOPs (equal compute is drawn side by side)")
    axis.set_ylabel(f"linear accuracy, {split} images, %" if labelled else "quality (no labels)")
    axis.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=120)


def _errors(interval: Mapping[str, float | None]) -> tuple[float, float]:
    """How far an interval reaches below and above its mean; one encoder has none."""
    mean, low, high = (interval[name] for name in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, mean - low), max(0.0, high - mean)
