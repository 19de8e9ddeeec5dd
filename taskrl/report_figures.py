"""Result of a run -> what the report draws: positions in percent and short texts, no markup.

Every value may be missing, None or NaN; what cannot be drawn becomes None or is left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

CANVAS = 1000
LARGEST_NUMBER = 1e100
MAX_DOTS = 900
MAX_LINE_POINTS = 300
MAX_COLUMNS = 24
CROWDED_LABEL = 4
LABEL_GAP = 6.2
ROBUST_FROM = 20
MISSING = "\N{EN DASH}"
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: object) -> float | None:
    """A finite float, or None for anything else (bool, text, NaN, infinity, absurdly large)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) and abs(result) < LARGEST_NUMBER else None


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> Sequence[Any]:
    """`value` if it is a sequence other than text, else an empty one."""
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def records(value: object) -> list[Mapping[str, Any]]:
    """The mappings among the items of `value`."""
    return [item for item in listed(value) if isinstance(item, Mapping)]


def amount(value: float | None, digits: int, *, signed: bool = False, trim: bool = False) -> str:
    """`value` with `digits` decimals (trim: that many significant digits, no trailing zeros); a dash for None."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}g}" if trim else f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def counted(how_many: int, noun: str, plural: str | None = None) -> str:
    """E.g. "1 episode", "12 episodes"; plural: where it takes more than an s."""
    return f"{how_many:,} {noun if how_many == 1 else plural or f'{noun}s'}"


def brief(text: object, most: int = 80) -> str:
    """`text`, cut where it has more than `most` characters."""
    whole = str(text)
    return whole if len(whole) <= most else whole[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def with_prefix(value: float | None, unit: str) -> str:
    """E.g. 3.2e15 FLOP as "3.20 PFLOP"."""
    if value is None:
        return MISSING
    scale, prefix = next(((scale, prefix) for scale, prefix in PREFIXES if abs(value) >= scale), (1.0, ""))
    scaled = value / scale
    text = f"{scaled:.2e}" if abs(scaled) >= 1e4 else f"{scaled:.{0 if abs(scaled) >= 100 or scale == 1 else 1}f}"
    return f"{text} {prefix}{unit}".strip()


def duration(seconds: float | None) -> str:
    """E.g. 4210 as "1 h 10 min"."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True, kw_only=True)
class Tick:
    """at: percent of the axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear axis; positions are percent of its length."""

    low: float
    high: float

    @staticmethod
    def around(values: Iterable[float], *, margin: float = 0.06) -> "Axis":
        """An axis that holds all `values` with a margin; [0, 1] when there are none."""
        given = list(values)
        if not given:
            return Axis(low=0.0, high=1.0)
        low, high = min(given), max(given)
        pad = (high - low) * margin or abs(high) * 0.05 or 1.0
        return Axis(low=low - pad, high=high + pad)

    @staticmethod
    def robust(values: Sequence[float], keep: Iterable[float] = ()) -> "Axis":
        """As `around`, but a few diverged values don't squeeze the rest; `keep` always stays inside."""
        if len(values) < ROBUST_FROM:
            return Axis.around([*values, *keep])
        low, high = (float(q) for q in np.quantile(values, (0.02, 0.98)))
        reach = (high - low) or abs(high) or 1.0
        inside = [value for value in values if low - reach <= value <= high + reach]
        return Axis.around([*inside, *keep])

    def at(self, value: float) -> float:
        """Percent along the axis, clipped to its ends."""
        return round(min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0), 2)

    def holds(self, value: float) -> bool:
        """Whether `value` lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, about: int = 5, *, whole: bool = False, signed: bool = False) -> tuple[Tick, ...]:
        """Round numbers on the axis, near `about` of them (signed: half of these when the labels are long)."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / about))
        while (self.high - self.low) / step > about:
            step *= 2.5 if f"{step:e}".startswith("2") else 2
        step = max(step, 1.0) if whole else step
        decimals = min(max(0, -math.floor(math.log10(step) + 1e-9)), 9)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        sign = "+" if signed else ""
        ticks = []
        for index in range(first, last + 1):
            label = f"{index * step:{sign if index else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")
            ticks.append((index, Tick(at=self.at(index * step), label=label if index or not signed else "0")))
        crowded = signed and any(len(tick.label) > CROWDED_LABEL for _, tick in ticks)
        return tuple(tick for index, tick in ticks if index % 2 == 0 or not crowded)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An SVG path on a square canvas of 1000 units; kind is its CSS class."""

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Band:
    """A horizontal band of a plot, in percent from the bottom; line_at: of its mean. kind is its CSS class."""

    kind: str
    bottom: float
    height: float
    line_at: float


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name beside the right edge; at: percent from the bottom. kind is its CSS class."""

    kind: str
    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A framed plot. level_at: percent from the bottom of a horizontal line, or None. said: the plot in words, for
    those who cannot see it.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    level_at: float | None = None
    bands: tuple[Band, ...] = ()
    labels: tuple[Label, ...] = ()
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """What another generator reaches where a learning curve is drawn; low and high are its interval, or None."""

    name: str
    kind: str
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """The learning curve and what its caption must say."""

    chart: Chart
    num_episodes: int
    num_shown: int
    num_outside: int
    num_without_value: int
    window: int
    reference: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """probability in [0, 1]; None when unknown."""

    probability: float | None
    hint: str


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of a part over the episode."""

    label: str
    is_reference: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One part of the action: levels (strongest first) x progress.

    deviation: mean probability of another level than the reference's, or None.
    """

    name: str
    levels: tuple[Level, ...]
    deviation: float | None


def thin(length: int, most: int) -> list[int]:
    """At most `most` evenly spread indices below `length`, first and last among them."""
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place (fewer at the start)."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return [float(value) for value in (sums[ends] - sums[starts]) / (ends - starts)]


def line_path(points: Sequence[tuple[float, float | None]], x_axis: Axis, y_axis: Axis) -> str:
    """A path through `points`; a missing value breaks it, a lone point is a dot."""
    pieces, pen_down = [], False
    for x, y in points:
        if y is None:
            pen_down = False
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{_place(x, y, x_axis, y_axis)}{'' if pen_down else 'h.01'}")
        pen_down = True
    return "".join(pieces)


def dot_path(points: Iterable[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    """Strokes of no length: with round caps and a non-scaling stroke they are dots in any frame."""
    return "".join(f"M{_place(x, y, x_axis, y_axis)}h.01" for x, y in points)


def _place(x: float, y: float, x_axis: Axis, y_axis: Axis) -> str:
    return f"{x_axis.at(x) * CANVAS / 100:.0f} {CANVAS - y_axis.at(y) * CANVAS / 100:.0f}"


def spread(labels: Iterable[Label], gap: float) -> tuple[Label, ...]:
    """The same labels at least `gap` percent apart, as near their places as that allows; none beyond what fits."""
    ordered = sorted(labels, key=lambda label: label.at)[: int(100 / gap) + 1]
    places = [label.at for label in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    ceiling = 100.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return tuple(replace(label, at=round(at, 2)) for label, at in zip(ordered, places, strict=True))


def search_view(
    search: object, *, value: str = "final_quality", opponents: Sequence[Opponent] = ()
) -> SearchView | None:
    """A measure of each search episode and its running mean, over what `opponents` reach; None without two finite
    episodes. value: its key.

    An episode outside the axis (it diverged) is drawn, and counted in the mean, at the end of the axis.
    """
    data = mapping(search)
    points, num_episodes = [], len(records(data.get("episodes")))
    for index, episode in enumerate(records(data.get("episodes"))):
        place, quality = number(episode.get("episode")), number(episode.get(value))
        if quality is not None:
            points.append((float(index) if place is None else place, quality))
    if len(points) < 2:
        return None
    points.sort(key=lambda point: point[0])
    alone = value == "final_quality" and not data.get("reference_qualities")  # else it is one of the opponents
    reference = number(data.get("reference_quality")) if alone else None
    values = [quality for _, quality in points]
    x_axis = Axis.around([place for place, _ in points], margin=0.015)
    levels = [end for each in opponents for end in (each.mean, each.low, each.high)] + [reference]
    y_axis = Axis.robust(values, [level for level in levels if level is not None])
    window = min(max(10, len(points) // 10), len(points))
    means = running_mean(np.clip(values, y_axis.low, y_axis.high).tolist(), window)
    dots = [points[i] for i in thin(len(points), MAX_DOTS)]
    line = [(points[i][0], means[i]) for i in thin(len(points), MAX_LINE_POINTS)]
    chart = Chart(
        title="",
        note="",
        curves=(
            Curve(kind="dots", path=dot_path(dots, x_axis, y_axis)),
            Curve(kind="mean", path=line_path(line, x_axis, y_axis)),
        ),
        x_ticks=x_axis.ticks(7, whole=True),
        y_ticks=y_axis.ticks(5),
        level_at=None if reference is None else y_axis.at(reference),
        bands=tuple(_band(each, y_axis) for each in opponents),
        labels=spread(
            (Label(kind=each.kind, at=y_axis.at(each.mean), text=each.name) for each in opponents), LABEL_GAP
        ),
        said=f"The mean of the last {window} goes from {amount(means[window - 1], 3)} to {amount(means[-1], 3)}.",
    )
    return SearchView(
        chart=chart,
        num_episodes=len(points),
        num_shown=len(dots),
        num_outside=sum(not y_axis.holds(value) for value in values),
        num_without_value=num_episodes - len(points),
        window=window,
        reference=amount(reference, 3),
    )


def _band(opponent: Opponent, axis: Axis) -> Band:
    low = axis.at(opponent.mean if opponent.low is None else opponent.low)
    high = axis.at(opponent.mean if opponent.high is None else opponent.high)
    return Band(kind=opponent.kind, bottom=low, height=round(high - low, 2), line_at=axis.at(opponent.mean))


def strips(choices: object) -> list[Strip]:
    """One heat strip a part, in the order given."""
    data = mapping(choices)
    progress = [number(value) for value in listed(data.get("progress"))]
    found = []
    for name, part in mapping(data.get("parts")).items():
        strip = _strip(str(name), mapping(part), progress)
        if strip is not None:
            found.append(strip)
    return found


def _strip(name: str, part: Mapping[str, Any], progress: Sequence[float | None]) -> Strip | None:
    labels = [amount(number(level), 3, trim=True) for level in listed(part.get("levels"))]
    rows = [[number(value) for value in listed(row)] for row in listed(part.get("probabilities"))]
    if not labels or not rows:
        return None
    reference = number(part.get("reference"))
    columns = thin(len(rows), MAX_COLUMNS)
    levels = []
    for index, label in reversed(list(enumerate(labels))):
        cells = []
        for column in columns:
            probability = rows[column][index] if index < len(rows[column]) else None
            probability = None if probability is None else min(max(probability, 0.0), 1.0)
            when = progress[column] if column < len(progress) else None
            share = "unknown" if probability is None else f"{probability:.0%}"
            hint = f"level {label}: {share}" + ("" if when is None else f" at {when:.0%} of the episode")
            cells.append(Cell(probability=probability, hint=hint))
        levels.append(Level(label=label, is_reference=index == reference, cells=tuple(cells)))
    kept = [cell.probability for level in levels if level.is_reference for cell in level.cells]
    known = [probability for probability in kept if probability is not None]
    deviation = 1 - sum(known) / len(known) if known else None
    return Strip(name=brief(name), levels=tuple(levels), deviation=deviation)


def most_changed_first(found: Sequence[Strip]) -> list[Strip]:
    """Ordered by how often the policy leaves the reference."""
    return sorted(found, key=lambda strip: -(strip.deviation or 0.0))
