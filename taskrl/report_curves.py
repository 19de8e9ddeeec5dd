"""Final runs -> figures: quality over training, scores against everything that was spent, opponents of the search."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskrl.evaluation.statistics import bootstrap, bootstrap_each
from taskrl.report_figures import (
    LABEL_GAP,
    MAX_LINE_POINTS,
    PREFIXES,
    Axis,
    Chart,
    Curve,
    Label,
    Opponent,
    Tick,
    amount,
    brief,
    counted,
    line_path,
    listed,
    mapping,
    number,
    records,
    spread,
    thin,
    with_prefix,
)
from taskrl.report_tables import FLOORS, LEARNED, MEASURES, REFERENCE, kinds, measured_by

MAX_SEED_LINES = 30
MAX_FRAMES = 60
MAX_BANDS = 9
MAX_BAND_POINTS = 40
LABEL_CHARACTERS = 26

Series = list[float | None]
Named = dict[str, list[Series]]


@dataclass(frozen=True, kw_only=True)
class FinalsView:
    """overview: quality over training, a band a generator; x_label says in which unit. frames: each with its seeds.
    left_out: generators beyond those that the overview draws. alike: those that another hides. uneven: some runs
    stopped early. spending: the score against everything that was spent, or None.
    """

    overview: Chart
    x_label: str
    num_seeds: int
    left_out: int
    alike: str
    uneven: bool
    frames: tuple[Chart, ...]
    spending: Chart | None
    spending_y: str


def series_of(curves: object) -> Named:
    """`curves` of result.json without what is no number."""
    series: Named = {}
    for name, seeds in mapping(curves).items():
        lines = [[number(value) for value in listed(seed)] for seed in listed(seeds)]
        lines = [line for line in lines if any(value is not None for value in line)]
        if lines:
            series[str(name)] = lines
    return series


def opponents(result: Mapping[str, Any], order: Sequence[str]) -> tuple[list[Opponent], str]:
    """What others reach with as much training as a search episode has, and a sentence on where that comes from.

    The reference recipe: its own episodes of that length, with their range, where these were kept. Everything else: the
    final runs when they had trained that long, with 95 % intervals; quality is measured after every decision and
    interpolated between two, so final runs of longer decisions than a search episode say nothing here.
    """
    config, search = mapping(result.get("config")), mapping(result.get("search"))
    steps, total = _steps(mapping(config.get("episode"))), _steps(mapping(config.get("final")))
    own = [value for value in map(number, listed(search.get("reference_qualities"))) if value is not None]
    found, told = list[Opponent](), list[str]()
    if own:
        mean = sum(own) / len(own)
        found.append(Opponent(name=REFERENCE, kind=REFERENCE, mean=mean, low=min(own), high=max(own)))
        told.append(f"Band of {REFERENCE}: mean and range of its {counted(len(own), 'episode')} of the same length.")
    series, colours = series_of(result.get("curves")), kinds(order)
    for name in order if steps and total else ():
        lines = series.get(name, [])
        if name.startswith(LEARNED) or (own and name == REFERENCE) or not lines or len(found) == MAX_BANDS:
            continue
        at = steps / total * (_planned(result, name) or max(len(line) for line in lines) - 1)
        values = [value for line in lines if (value := _between(line, at)) is not None]
        if at >= 1 and values:
            ends = bootstrap(values) if len(values) > 1 else None
            low, high = (ends.low, ends.high) if ends else (None, None)
            mean = sum(values) / len(values)
            found.append(Opponent(name=short(name), kind=colours[name], mean=mean, low=low, high=high))
    if len(found) > bool(own):
        told.append(
            f"{'Other bands' if own else 'Bands'}: the final runs, with 95 % intervals over seeds, when they had "
            f"trained for the {steps:.0f} steps of a search episode (of {total:.0f}; interpolated between decisions)."
        )
    return found, " ".join(told)


def _steps(episode: Mapping[str, Any]) -> float:
    decisions, steps = number(episode.get("decisions")), number(episode.get("steps_per_decision"))
    return decisions * steps if decisions and steps and decisions > 0 and steps > 0 else 0.0


def _planned(result: Mapping[str, Any], name: str) -> float | None:
    rows = [row for row in records(result.get("rows")) if row.get("generator") == name]
    return next((value for row in rows if (value := number(row.get("planned_decisions")))), None)


def _between(line: Series, at: float) -> float | None:
    below = math.floor(at)
    if below >= len(line):
        return None
    low, rest = line[below], at - below
    if low is None or rest < 1e-9:
        return low
    high = line[below + 1] if below + 1 < len(line) else None
    return None if high is None else low + rest * (high - low)


def finals_view(result: Mapping[str, Any], order: Sequence[str], *, first: int) -> FinalsView | None:
    """None where no final run recorded its quality. first: what the first value of a line is called, 0 (before the
    first decision) or 1.
    """
    series = series_of(result.get("curves"))
    if not series:
        return None
    names = [*(name for name in order if name in series), *(name for name in series if name not in order)]
    colours = kinds(list(dict.fromkeys([*order, *names])))
    flops = {name: _flops_per_decision(result, name) for name in names}
    by_flops = all(flops.values()) and first == 0
    largest = max((flops[name] or 0.0) * max(len(line) - 1 for line in series[name]) for name in names)
    scale, prefix = next(((scale, prefix) for scale, prefix in PREFIXES if largest >= scale), (1.0, ""))
    shown = names[:MAX_BANDS]
    doubles = _doubles({name: series[name] for name in shown})

    def place(name: str, index: int) -> float:
        return index * (flops[name] or 0.0) / scale if by_flops else float(index + first)

    table = [row for row in records(result.get("table")) if row.get("generator") is not None]
    spending, spending_y = _spending(table, colours)
    return FinalsView(
        overview=_overview({name: series[name] for name in shown}, colours, place),
        x_label=f"training compute of one encoder, {prefix}FLOP" if by_flops else "decision",
        num_seeds=max(len(lines) for lines in series.values()),
        left_out=len(names) - len(shown),
        alike=", ".join(f"{short(name)} ({short(twin)})" for name, twin in doubles.items()),
        uneven=any(len({len(line) for line in lines}) > 1 for lines in series.values()),
        frames=tuple(run_charts(series, names, first=first)),
        spending=spending,
        spending_y=spending_y,
    )


def _flops_per_decision(result: Mapping[str, Any], name: str) -> float | None:
    """Every decision of a run has the same budget."""
    pairs = [
        (number(row.get("train_flops")), number(row.get("num_decisions")))
        for row in records(result.get("rows"))
        if row.get("generator") == name
    ]
    found = [flops / num for flops, num in pairs if flops and num and flops > 0 and num > 0]
    return sum(found) / len(found) if found else None


def _overview(series: Named, colours: Mapping[str, str], place: Callable[[str, int], float]) -> Chart:
    """Mean over seeds with its 95 % interval, generator by generator; the learned one is drawn last, on top."""
    tables: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, lines in series.items():
        columns = {
            index: [value for line in lines if index < len(line) and (value := line[index]) is not None]
            for index in thin(max(len(line) for line in lines), MAX_BAND_POINTS)
        }
        known = {index: values for index, values in columns.items() if values}
        intervals = bootstrap_each(list(known.values()))
        tables[name] = [
            (place(name, index), ends.mean, ends.low, ends.high) for index, ends in zip(known, intervals, strict=True)
        ]
    doubles = _doubles(tables)
    names = [name for name in tables if name not in doubles]
    everything = [point for points in tables.values() for point in points]
    x_axis = Axis.around([point[0] for point in everything], margin=0.02)
    y_axis = Axis.robust([value for point in everything for value in point[1:]])
    curves = []
    for name in sorted(names, key=lambda name: name == LEARNED):
        points, kind = tables[name], colours[name]
        lower, upper = [(x, low) for x, _, low, _ in points], [(x, high) for x, _, _, high in reversed(points)]
        if any(low < high for *_, low, high in points):
            outline = line_path([*lower, *upper], x_axis, y_axis)
            curves.append(Curve(kind=f"band {kind}", path=outline.replace("h.01", "") + "Z"))
        curves.append(Curve(kind=f"mean {kind}", path=line_path([(x, mean) for x, mean, *_ in points], x_axis, y_axis)))
    ends_at = {name: tables[name][-1][1] for name in names if tables[name]}
    return Chart(
        title="",
        note="",
        curves=tuple(curves),
        x_ticks=x_axis.ticks(6),
        y_ticks=y_axis.ticks(5),
        labels=spread(
            (Label(kind=colours[name], at=y_axis.at(end), text=short(name)) for name, end in ends_at.items()),
            LABEL_GAP,
        ),
        said="At the end: " + ", ".join(f"{short(name)} {amount(end, 3)}" for name, end in ends_at.items()) + ".",
    )


def _doubles(places: Mapping[str, object]) -> dict[str, str]:
    """By name the generator at the very same place, which is drawn for both: the learned one and the reference before
    others.
    """
    drawn: list[str] = []
    doubles = {}
    for name in sorted(places, key=lambda name: (name != LEARNED, name != REFERENCE)):
        twin = next((other for other in drawn if places[other] == places[name]), None)
        if twin is None:
            drawn.append(name)
        else:
            doubles[name] = twin
    return doubles


def _spending(table: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> tuple[Chart | None, str]:
    """Score against search and training together, on a logarithmic axis, and what the score is. A generator that
    searched stands at its training alone too, hollow, joined to its place with the search.
    """
    key = measured_by(table)
    points = {}
    for row in table[: MAX_BANDS + len(FLOORS)]:
        mean, low, high = (number(mapping(row.get(key)).get(end)) for end in ("mean", "low", "high"))
        train, search = number(row.get("train_flops")) or 0.0, number(row.get("search_flops")) or 0.0
        if mean is not None and train > 0 and search >= 0:
            ends = (mean, mean) if low is None or high is None else (low, high)
            points[str(row["generator"])] = (train, train + search, mean, *ends)
    if not any(total > train for train, total, *_ in points.values()):
        return None, ""
    doubles = _doubles(points)
    names = [name for name in points if name not in doubles]
    x_axis = Axis.around([math.log10(value) for point in points.values() for value in point[:2]], margin=0.08)
    y_axis = Axis.around([value for point in points.values() for value in point[2:]])
    curves = []
    for name in sorted(names, key=lambda name: name == LEARNED):
        train, total, mean, low, high = points[name]
        kind, x, alone = colours.get(name, "floor"), math.log10(total), [(math.log10(train), mean)]
        drawn = [(f"whisker {kind}", [(x, low), (x, high)]), (f"ring {kind}", [(x, mean)])]
        if total > train:
            drawn = [(f"joint {kind}", [*alone, (x, mean)]), (f"ring {kind}", alone), ("ring hole", alone), *drawn]
        curves += [Curve(kind=kind, path=line_path(line, x_axis, y_axis)) for kind, line in drawn]
    unit, digits = ("", 3) if key == "quality" else (", %", 1)
    chart = Chart(
        title="",
        note="",
        curves=tuple(curves),
        x_ticks=log_ticks(x_axis),
        y_ticks=y_axis.ticks(5),
        labels=spread(
            (Label(kind=colours.get(name, "floor"), at=y_axis.at(points[name][2]), text=short(name)) for name in names),
            LABEL_GAP,
        ),
        said=" ".join(
            f"{short(name)}: {amount(points[name][2], digits)} after {with_prefix(points[name][1], 'FLOP')}."
            for name in names
        ),
    )
    return chart, MEASURES[key] + unit


def log_ticks(axis: Axis) -> tuple[Tick, ...]:
    """Powers of ten on an axis of logarithms, with 2 and 5 between where they are few."""
    powers = range(math.ceil(axis.low), math.floor(axis.high) + 1)
    step = max(1, -(-len(powers) // 6))
    places = [float(power) for power in powers[::step]]
    if len(places) < 3:
        finer = [
            power + math.log10(digit)
            for power in range(math.floor(axis.low), math.ceil(axis.high))
            for digit in (1, 2, 5)
        ]
        places = [place for place in finer if axis.holds(place)] or places
    return tuple(
        Tick(at=axis.at(place), label=with_prefix(10**place * (1 + 1e-12), "").replace(".0", "")) for place in places
    )


def short(name: str) -> str:
    """A name that fits beside a plot."""
    return brief(name, LABEL_CHARACTERS)


def mean_series(seeds: Sequence[Series]) -> Series:
    """Mean over the seeds that have a value, place by place."""
    means: Series = []
    for place in range(max((len(seed) for seed in seeds), default=0)):
        present = [seed[place] for seed in seeds if place < len(seed)]
        values = [value for value in present if value is not None]
        means.append(sum(values) / len(values) if values else None)
    return means


def _thinned(series: Series, first: int) -> list[tuple[float, float | None]]:
    return [(float(i + first), series[i]) for i in thin(len(series), MAX_LINE_POINTS)]


def run_charts(series: Named, names: Sequence[str], *, first: int, reference: str = REFERENCE) -> list[Chart]:
    """One small frame a generator, axes shared: thin seed lines, their mean, and the reference's mean behind it.

    first: what the first value of a line is called on the axis, 0 (before the first decision) or 1.
    """
    values = [value for seeds in series.values() for seed in seeds for value in seed if value is not None]
    longest = max((len(seed) for seeds in series.values() for seed in seeds), default=0)
    if not values:
        return []
    x_axis, y_axis = Axis.around([first, first + max(longest - 1, 1)], margin=0.03), Axis.robust(values)
    ghost = mean_series(series.get(reference, []))
    charts = []
    for name in names[:MAX_FRAMES]:
        mean = mean_series(series[name])
        last = next((value for value in reversed(mean) if value is not None), None)
        drawn = [("seed", seed) for seed in series[name][:MAX_SEED_LINES]]
        drawn += [] if name == reference else [("ghost", ghost)]
        drawn += [("mean", mean)]
        charts.append(
            Chart(
                title=brief(name),
                note=f"ends at {amount(last, 3)}",
                curves=tuple(
                    Curve(kind=kind, path=line_path(_thinned(line, first), x_axis, y_axis)) for kind, line in drawn
                ),
                x_ticks=x_axis.ticks(6, whole=True),
                y_ticks=y_axis.ticks(4),
            )
        )
    return charts
