"""Several runs side by side: curves over one another; tables, choices and configurations beside one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.page.charts import MOST_LINES, Plot, Points, plot
from agents.page.look import Look
from agents.page.pages import headline
from agents.summary import LEARNED, interval_text
from taskrl.config import flatten
from taskrl.report_curves import mean_series, series_of
from taskrl.report_figures import Strip, amount, mapping, number, records, strips
from taskrl.report_tables import measured_by

MOST_COMPARED = MOST_LINES
MOST_ROWS = 60
LONGEST_VALUE = 200
LEAST_CHANGE = 0.05
# what quality is measured on and by; where one differs, qualities are numbers of different things
OF_QUALITY = (
    *("data.source", "data.image_size", "data.split_seed", "data.groups", "data.use_labels"),
    *("reward.probe", "reward.goal", "reward.labels_per_class"),
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One run. css: the class of its lines. strips: by the part's name."""

    css: str
    look: Look
    headline: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a text for every run, empty where it has none."""

    name: str
    texts: tuple[str, ...]


def beside_view(looks: Sequence[Look]) -> dict[str, Any]:
    """Everything that compare.html.j2 reads."""
    names = _names(looks)
    results = [look.result for look in looks]
    changed, unchanged = _choices(results)
    return {
        "columns": [Column(css=f"c{index}", look=look, headline=headline(look)) for index, look in enumerate(looks)],
        "names": names,
        "plots": _plots(names, results),
        "scores": _scores(results),
        "choices": changed,
        "unchanged": unchanged,
        "differences": (differences := _differences(looks)),
        "unlike": [row.name for row in differences if row.name in OF_QUALITY],
    }


def _names(looks: Sequence[Look]) -> list[str]:
    """Unlike one another, also where two folders have the same name."""
    plain = [look.found.name for look in looks]
    return [
        name if plain.count(name) == 1 else f"{look.found.number}: {name}"
        for name, look in zip(plain, looks, strict=True)
    ]


def _plots(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> list[Plot]:
    search = {name: _search_points(result) for name, result in zip(names, results, strict=True)}
    finals = {name: _mean_curve(result) for name, result in zip(names, results, strict=True)}
    window = max(10, max((len(points) for points in search.values()), default=0) // 10)
    found = [
        plot("Quality at the end of each search episode", search, x_label="episode", window=window, own_colours=True),
        plot("Quality over the final runs", finals, x_label="decision", own_colours=True),
    ]
    return [each for each in found if each is not None]


def _search_points(result: Mapping[str, Any]) -> Points:
    episodes = records(mapping(result.get("search")).get("episodes"))
    found = ((number(each.get("episode")), number(each.get("final_quality"))) for each in episodes)
    return [(place, quality) for place, quality in found if place is not None and quality is not None]


def _mean_curve(result: Mapping[str, Any]) -> Points:
    """Of the learned policy, or of whatever the run trained alone: the mean over seeds that got so far."""
    series = series_of(result.get("curves"))
    chosen = series.get(LEARNED) or next(iter(series.values()), [])
    return [(float(place), mean) for place, mean in enumerate(mean_series(chosen)) if mean is not None]


def _scores(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Tables by title: a row for every generator of any run."""
    tables = []
    for result in results:
        entries = records(result.get("table"))[:MOST_ROWS]
        tables.append({str(entry.get("generator") or entry.get("method")): entry for entry in entries})
    names = list(dict.fromkeys(name for table in tables for name in table))[:MOST_ROWS]
    balanced = any(measured_by(list(table.values())) == "balanced" for table in tables)
    of = " (of balanced accuracy, where that is given)" if balanced else ""
    titles = {
        "linear": ("Linear accuracy, %", 1, ""),
        "balanced": ("Balanced accuracy, %", 1, ""),
        "difference": (f"Difference to the reference recipe{of}", 1, "+"),
        "quality": ("Probe quality", 3, ""),
    }
    found = {}
    for key, (title, digits, sign) in titles.items():
        rows = [
            Row(name=name, texts=tuple(_cell(table.get(name), key, digits, sign) for table in tables)) for name in names
        ]
        kept = [row for row in rows if any(row.texts)]
        if kept:
            found[title] = kept
    return found


def _cell(row: object, key: str, digits: int, sign: str) -> str:
    entry = mapping(row)
    interval = mapping(entry.get(key))
    ends = {name: number(interval.get(name)) for name in ("mean", "low", "high")}
    if ends["mean"] is None:
        return ""
    if ends["high"] is None:
        ends["low"] = None
    if key == "difference" and not mapping(entry.get("linear")):
        digits = 3
    return interval_text(ends, digits, sign)


def _choices(results: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, list[Strip | None]]], list[str]]:
    """A row for every part of an action that some run changes, a strip for every run, the most changed first; and the
    names of the parts that all runs leave alone.
    """
    found = [{strip.name: strip for strip in strips(result.get("choices"))} for result in results]
    names = dict.fromkeys(name for each in found for name in each)
    rows = [(name, [each.get(name) for each in found]) for name in names]

    def changed(row: tuple[str, list[Strip | None]]) -> float:
        return -max(strip.deviation or 0.0 for strip in row[1] if strip is not None)

    rows = sorted(rows, key=changed)[:MOST_ROWS]
    return [row for row in rows if changed(row) <= -LEAST_CHANGE], [
        row[0] for row in rows if changed(row) > -LEAST_CHANGE
    ]


def _differences(looks: Sequence[Look]) -> list[Row]:
    """The keys of the configurations whose values differ."""
    flat = [flatten(look.config.model_dump(mode="json")) if look.config else {} for look in looks]
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [Row(name=key, texts=tuple(_text(each.get(key)) for each in flat)) for key in keys]
    return [row for row in rows if len(set(row.texts)) > 1]


def _text(value: object) -> str:
    text = "" if value is None else amount(value, 6, trim=True) if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"
