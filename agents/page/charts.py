"""Charts that the report has not: what a search tries as it goes on, and several runs over one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agents.page.metrics import Metrics
from taskrl.report_figures import (
    MAX_COLUMNS,
    MAX_LINE_POINTS,
    Axis,
    Curve,
    Strip,
    Tick,
    line_path,
    most_changed_first,
    number,
    running_mean,
    strips,
    thin,
)
from taskrl.tasks.space import TaskSpace

MOST_LINES = 8
WEIGHT, SHARE = "weight/", "share/"
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Lines in a frame, and a legend: (CSS class of the line, what it is)."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...]
    x_label: str
    num_left_out: int


def plot(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str,
    window: int = 1,
    own_colours: bool = False,
    y_axis: Axis | None = None,
) -> Plot | None:
    """Lines over one another, the first `MOST_LINES`; None without two points in any.

    window: of the running mean. own_colours: a line's colour tells its place in `series`, also where others are empty.
    y_axis: one that holds all lines, when left out.
    """
    given = {name: sorted(points) for name, points in series.items() if len(points) > 1}
    drawn = dict(list(given.items())[:MOST_LINES])
    if not drawn:
        return None
    smoothed = {}
    for name, points in drawn.items():
        means = running_mean([value for _, value in points], window)
        # a mean's last digits are noise, which an axis of equal values would show
        smoothed[name] = [(points[i][0], float(f"{means[i]:.6g}")) for i in thin(len(points), MAX_LINE_POINTS)]
    places = list(series if own_colours else smoothed)
    colours = {name: f"c{places.index(name) % MOST_LINES}" for name in smoothed}
    everything = [point for points in smoothed.values() for point in points]
    x_axis = Axis.around([x for x, _ in everything], margin=0.02)
    y_axis = y_axis or Axis.robust([y for _, y in everything])
    lines = tuple(
        Curve(kind=f"line {colours[name]}", path=line_path(list(points), x_axis, y_axis))
        for name, points in smoothed.items()
    )
    return Plot(
        title=title,
        curves=lines,
        x_ticks=x_axis.ticks(5, whole=True),
        y_ticks=y_axis.ticks(4),
        legend=tuple((colours[name], name) for name in smoothed),
        x_label=x_label,
        num_left_out=len(given) - len(drawn),
    )


def search_plots(metrics: Metrics) -> list[Plot]:
    """Where the reward comes from, how compute is shared, and the losses, over the decisions of a search."""
    titles = {
        "reward_part/": "Parts of the reward",
        "quality/": "Parts of quality",
        SHARE: "Share of compute",
        "loss/": "Losses",
    }
    found = [_of_prefix(metrics, prefix, title) for prefix, title in titles.items()]
    return [each for each in found if each is not None]


def tried(metrics: Metrics, space: TaskSpace | None) -> list[Strip]:
    """How often each level of a knob was played, over the course of the search; the most changed first."""
    steps = sorted(metrics.sample)
    if space is None or len(steps) < 2:
        return []
    num_columns = min(MAX_COLUMNS, len(steps))
    bounds = [len(steps) * index // num_columns for index in range(num_columns + 1)]
    parts = {}
    for part in space.parts:
        if part.name.startswith(WEIGHT):
            continue
        rows = []
        for first, last in pairwise(bounds):
            values = [number(metrics.sample[step].get(f"level/{part.name}")) for step in steps[first:last]]
            known = [value for value in values if value is not None]
            shares = [sum(abs(value - level) < 1e-6 for value in known) / max(len(known), 1) for level in part.levels]
            rows.append(shares if known else [None for _ in part.levels])
        if any(share is not None for row in rows for share in row):
            parts[part.name] = {"levels": list(part.levels), "reference": part.reference, "probabilities": rows}
    return most_changed_first(strips({"progress": [], "parts": parts}))


def _of_prefix(metrics: Metrics, prefix: str, title: str) -> Plot | None:
    names = dict.fromkeys(name for found in metrics.sample.values() for name in found if name.startswith(prefix))
    absent = 0.0 if prefix == SHARE else None  # an objective that is not in a mixture has no share of it
    series = {name.removeprefix(prefix): _points(metrics, name, absent) for name in list(names)[: 4 * MOST_LINES]}
    y_axis = Axis(low=0.0, high=1.0) if prefix == SHARE else None
    return plot(title, series, x_label="decision", window=max(1, len(metrics.sample) // 20), y_axis=y_axis)


def _points(metrics: Metrics, name: str, absent: float | None = None) -> list[tuple[float, float]]:
    values = ((step, number(found.get(name, absent))) for step, found in metrics.sample.items())
    return [(float(step), value) for step, value in values if value is not None]
