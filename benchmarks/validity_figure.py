"""The figure of docs/reward.md: the panel against linear accuracy, one point an encoder, one panel a set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000", "#f0e442")


def draw(points: Mapping[str, Sequence[tuple[str, float, float]]], titles: Mapping[str, str], path: Path) -> None:
    """points: set -> (objective, panel, accuracy) of every encoder."""
    objectives = sorted({objective for rows in points.values() for objective, _, _ in rows})
    colour_of: dict[str, Any] = dict(zip(objectives, COLOURS, strict=False))
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.3 * columns, 2.8 * rows), squeeze=False)
    for axis, (name, found) in zip(axes.flat, points.items(), strict=False):
        for objective in objectives:
            some = [(x, y) for kind, x, y in found if kind == objective]
            if some:
                axis.scatter(*zip(*some, strict=True), s=11, color=colour_of[objective], label=objective)
        axis.set_title(titles[name], fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(points) :]:
        axis.axis("off")
    figure.supxlabel("label-free panel", fontsize=9)
    figure.supylabel("linear accuracy, test images, %", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=5, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0.01, 0.01, 1, 0.93))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
