"""The report's figures as files, for MLflow's page and for papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from taskrl.report_figures import listed, mapping, number, records, running_mean, thin
from taskrl.report_images import Gallery
from taskrl.report_tables import MEASURES, measured_by
from taskrl.report_why import why_figure

MOST_POINTS = 1000
MOST_ROWS = 60
STRIPS_A_ROW = 4
DPI = 120


def write_figures(result: Mapping[str, Any], galleries: Sequence[Gallery], folder: Path) -> None:
    """Into `folder`, which is made: comparison, search, finals, choices, why; those that `result` has. And
    the pictures of the galleries.
    """
    folder.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        figure = Figure(figsize=(9, 5), layout="constrained")
        FigureCanvasAgg(figure)
        if draw(figure, result):
            figure.savefig(folder / f"{name}.png", dpi=DPI)
    why = why_figure(result.get("why"))
    if why is not None:
        why.savefig(folder / "why.png", dpi=DPI)
    for index, gallery in enumerate(galleries, start=1):
        for row, strip in enumerate(gallery.strips):
            (folder / f"views-{index}-{row}.{strip.media_type.partition('/')[2]}").write_bytes(strip.image)


def _comparison(figure: Figure, result: Mapping[str, Any]) -> bool:
    table = records(result.get("table"))[:MOST_ROWS]
    column = measured_by(table)
    rows = [(str(row.get("generator")), mapping(row.get(column))) for row in table]
    rows = [(name, found) for name, found in rows if number(found.get("mean")) is not None]
    if not rows:
        return False
    axis = figure.add_subplot()
    for place, (_, found) in enumerate(reversed(rows)):
        low, high = number(found.get("low")), number(found.get("high"))
        if low is not None and high is not None:
            axis.plot([low, high], [place, place], color="tab:gray", linewidth=2)
        axis.plot([found["mean"]], [place], "o", color="tab:blue")
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], parse_math=False)
    images = f", {result.get('split')} images, % (mean, 95 % interval)"
    axis.set_xlabel("quality" if column == "quality" else MEASURES[column] + images)
    axis.grid(axis="x", alpha=0.25)
    return True


def _search(figure: Figure, result: Mapping[str, Any]) -> bool:
    search = mapping(result.get("search"))
    found = [(number(row.get("episode")), number(row.get("final_quality"))) for row in records(search.get("episodes"))]
    points = [(place, quality) for place, quality in found if place is not None and quality is not None]
    if len(points) < 2:
        return False
    window = min(max(10, len(points) // 10), len(points))
    means = running_mean([quality for _, quality in points], window)
    shown = thin(len(points), MOST_POINTS)
    places = [points[index][0] for index in shown]
    axis = figure.add_subplot()
    axis.plot(places, [points[index][1] for index in shown], ".", alpha=0.4, label="one episode")
    axis.plot(places, [means[index] for index in shown], label=f"mean of the last {window}")
    reference = number(search.get("reference_quality"))
    if reference is not None:
        axis.axhline(reference, color="black", linestyle="--", linewidth=1, label="the reference recipe")
    _name(axis, "episode of the search", "quality at its end")
    return True


def _finals(figure: Figure, result: Mapping[str, Any]) -> bool:
    axis = figure.add_subplot()
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for index, (name, seeds) in enumerate(mapping(result.get("curves")).items()):
        lines = [[number(value) for value in listed(line)] for line in listed(seeds)]
        lines = [line for line in lines if line and None not in line]
        longest = max((len(line) for line in lines), default=0)
        if not longest:
            continue
        columns = [[line[place] for line in lines if place < len(line)] for place in range(longest)]
        means = [float(np.mean(np.array(column, dtype=float))) for column in columns]
        axis.plot(range(longest), means, marker=".", color=colours[index % len(colours)], label=str(name))
    _name(axis, "decision", "quality, mean over seeds")
    return bool(axis.lines)


def _choices(figure: Figure, result: Mapping[str, Any]) -> bool:
    parts = {
        str(name): mapping(part)
        for name, part in mapping(mapping(result.get("choices")).get("parts")).items()
        if listed(mapping(part).get("probabilities"))
    }
    if not parts:
        return False
    num_rows = -(-len(parts) // STRIPS_A_ROW)
    figure.set_size_inches(11, 1 + 1.5 * num_rows)
    axes = figure.subplots(num_rows, STRIPS_A_ROW, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, part) in zip(axes.flat, parts.items(), strict=False):
        axis.set_axis_on()
        table = np.array(part["probabilities"], dtype=float).T
        axis.imshow(table, aspect="auto", origin="lower", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        levels: Sequence[Any] = listed(part.get("levels"))
        reference = number(part.get("reference"))
        marks = [f"{level:g}{' (reference)' if index == reference else ''}" for index, level in enumerate(levels)]
        axis.set_yticks(range(len(levels)), marks, fontsize=7)
        axis.set_xticks([])
        axis.set_title(name, fontsize=9, parse_math=False)
    figure.supxlabel("progress of the episode; the darker, the more probable", fontsize=9)
    return True


def _name(axis: Any, x_label: str, y_label: str) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)


FIGURES = {"comparison": _comparison, "search": _search, "finals": _finals, "choices": _choices}
