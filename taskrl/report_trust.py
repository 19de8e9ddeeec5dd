"""Reward, its noise and its validity -> sentences with numbers, and the figures behind them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskrl.report_figures import (
    Axis,
    Chart,
    Curve,
    Label,
    SearchView,
    Tick,
    amount,
    brief,
    line_path,
    listed,
    mapping,
    number,
    search_view,
    spread,
)
from taskrl.report_tables import text_of

MAX_PARTS = 8
MAX_TASKS = 30
LABEL_GAP = 11.0
REWARD, GAIN = "reward", "gain"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """title: what it is about. bad: a warning."""

    title: str
    text: str
    bad: bool = False


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Gains of one task in the A/A test, in percent of the axis; mean_at: of their mean."""

    label: str
    at: tuple[float, ...]
    mean_at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class TrustView:
    """findings: in words. parts: (name, first third, last third) of the reward. by_decision: the same for decisions.
    curve: the parts over the search. dots: of the A/A test, with the axis. hidden: the hidden measure over the search.
    rows: what was measured, and the number.
    """

    findings: tuple[Finding, ...]
    third: str
    parts: tuple[tuple[str, str, str], ...]
    by_decision: tuple[tuple[str, str, str], ...]
    curve: Chart | None
    dots: tuple[Dots, ...]
    dot_ticks: tuple[Tick, ...]
    zero_at: float
    hidden: SearchView | None
    rows: tuple[tuple[str, str], ...]


def trust_view(result: Mapping[str, Any]) -> TrustView | None:
    """None where nothing of it was measured."""
    noise, validity = mapping(result.get("noise")), mapping(result.get("validity"))
    search = mapping(mapping(result.get("log")).get("search"))
    found = [*_reward_findings(search), *_noise_findings(noise), *goodhart_findings(validity)]
    dots, ticks, zero_at = _dots(noise)
    rows = trust_rows(noise, validity)
    hidden = search_view(result.get("search"), value="hidden_quality")
    if not (found or dots or rows or hidden):
        return None
    return TrustView(
        findings=tuple(found),
        third=amount(number(search.get("third")), 0),
        parts=tuple(_part_rows(mapping(search.get("parts")))),
        by_decision=tuple(_decision_rows(mapping(search.get("by_decision")))),
        curve=_parts_curve(search),
        dots=dots,
        dot_ticks=ticks,
        zero_at=zero_at,
        hidden=hidden,
        rows=tuple(rows),
    )


def _reward_findings(search: Mapping[str, Any]) -> list[Finding]:
    parts = mapping(search.get("parts"))
    part = mapping(parts.get(GAIN) or parts.get(REWARD))
    first, last = _mean(part.get("first")), _mean(part.get("last"))
    if not first or not last:
        return []
    text = f"An episode of the search gained {first} of quality in the first third of the search, {last} in the last."
    gains = [number(value) for value in listed(mapping(search.get("by_decision")).get("last"))]
    known = [gain for gain in gains if gain is not None]
    total = sum(known)
    if len(known) > 1 and total > 0 and known[0] > 0:
        text += f" In the last third, the first of {len(known)} decisions brought {100 * known[0] / total:.0f} % of it."
    diverged = number(search.get("num_diverged"))
    if diverged:
        text += f" Training diverged in {diverged:.0f} decisions, which were put back."
    return [Finding(title="Reward", text=text, bad=bool(diverged))]


def _noise_findings(noise: Mapping[str, Any]) -> list[Finding]:
    sentence = text_of(noise.get("sentence")).removeprefix("A/A test: ")
    if not sentence:
        return []
    return [Finding(title="Chance (A/A test)", text=_capital(sentence), bad=bool(noise.get("warning")))]


def goodhart_findings(validity: Mapping[str, Any]) -> list[Finding]:
    """Whether quality, which is paid, still stands for what is not paid."""
    sentences = [text_of(text).removeprefix("Validity: ") for text in listed(validity.get("sentences"))]
    warning = text_of(validity.get("warning")).removeprefix("Goodhart: ")
    hidden = mapping(validity.get("hidden"))
    paid, other = _ranged(hidden.get("quality_change"), 3, "+"), _ranged(hidden.get("hidden_change"), 2, "+")
    found = []
    if warning:
        found.append(Finding(title="Goodhart", text=_capital(warning), bad=True))
    elif paid and other:
        text = (
            f"No warning: from the first to the last third of the search quality moved by {paid}, and the hidden "
            f"measure, which is never paid, by {other}."
        )
        found.append(Finding(title="Goodhart", text=text))
    found += [
        Finding(title="Validity" if index == 0 else "Accuracy", text=_capital(text))
        for index, text in enumerate(sentences[:4])
        if text
    ]
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _distinct(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts in the order logged, without those that equal an earlier one (a gain that has one part alone)."""
    kept: dict[str, Any] = {}
    for name, part in parts.items():
        if part not in kept.values():
            kept[str(name)] = part
    return dict(list(kept.items())[:MAX_PARTS])


def _part_rows(parts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        (
            "paid to the agent" if name == REWARD else brief(name),
            _ranged(part.get("first"), 3),
            _ranged(part.get("last"), 3),
        )
        for name, part in ((name, mapping(part)) for name, part in _distinct(parts).items())
    ]
    return [row for row in rows if row[1] and row[2]]


def _decision_rows(gains: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    ends = [[number(value) for value in listed(gains.get(end))] for end in ("first", "last")]
    pairs = list(zip(*ends, strict=False))
    if not 1 < len(pairs) <= 24:
        return []
    return [(f"decision {i}", amount(first, 3), amount(last, 3)) for i, (first, last) in enumerate(pairs, start=1)]


def _parts_curve(search: Mapping[str, Any]) -> Chart | None:
    """Parts of an episode's reward over the search; None for one part alone, which is the learning curve again."""
    curve = mapping(search.get("curve"))
    places = [number(value) for value in listed(curve.get("episode"))]
    names = [name for name in _distinct(mapping(curve.get("parts"))) if name != REWARD]
    lines = (
        {name: [number(value) for value in listed(mapping(curve["parts"]).get(name))] for name in names}
        if names
        else {}
    )
    points = {
        name: [(x, y) for x, y in zip(places, line, strict=False) if x is not None and y is not None]
        for name, line in lines.items()
    }
    points = {name: line for name, line in points.items() if len(line) > 1}
    if len(points) < 2:
        return None
    x_axis = Axis.around([x for line in points.values() for x, _ in line], margin=0.02)
    y_axis = Axis.robust([y for line in points.values() for _, y in line], [0.0])
    kinds = {name: "learned" if name == GAIN else f"s{index % 6 + 1}" for index, name in enumerate(points)}
    return Chart(
        title="",
        note="",
        curves=tuple(
            Curve(kind=f"mean {kinds[name]}", path=line_path(line, x_axis, y_axis)) for name, line in points.items()
        ),
        x_ticks=x_axis.ticks(6, whole=True),
        y_ticks=y_axis.ticks(4),
        labels=spread(
            (
                Label(kind=kinds[name], at=y_axis.at(line[-1][1]), text=brief(name.removeprefix("gain/"), 26))
                for name, line in points.items()
            ),
            LABEL_GAP,
        ),
        said="At the end: "
        + ", ".join(f"{brief(name)} {amount(line[-1][1], 3)}" for name, line in points.items())
        + ".",
    )


def _dots(noise: Mapping[str, Any]) -> tuple[tuple[Dots, ...], tuple[Tick, ...], float]:
    """Each task of the A/A test by what it does otherwise than the first, which is the reference recipe."""
    gains = {
        str(task): [gain for gain in map(number, listed(row)) if gain is not None]
        for task, row in list(mapping(noise.get("gains")).items())[:MAX_TASKS]
    }
    gains = {task: row for task, row in gains.items() if row}
    if not gains:
        return (), (), 0.0
    axis = Axis.around([gain for row in gains.values() for gain in row] + [0.0])
    usual = _pieces(next(iter(gains)))
    dots = []
    for index, (task, row) in enumerate(gains.items()):
        differs = ", ".join(piece for piece in _pieces(task) if piece not in usual)
        mean = sum(row) / len(row)
        dots.append(
            Dots(
                label="reference recipe" if index == 0 else brief(differs or task, 120),
                at=tuple(axis.at(gain) for gain in row),
                mean_at=axis.at(mean),
                text=amount(mean, 3, signed=True),
            )
        )
    return tuple(dots), axis.ticks(3), axis.at(0.0)


def _pieces(task: str) -> list[str]:
    mixture, _, levels = task.partition("; ")
    return [mixture, *levels.split(", ")]


def trust_rows(noise: Mapping[str, Any], validity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured of chance and validity: what, and the number as text; without what was not measured."""
    hidden, accuracy = mapping(validity.get("hidden")), mapping(validity.get("accuracy"))
    steps, num = number(noise.get("steps_per_decision")), number(accuracy.get("num"))
    first, last = number(hidden.get("num_before")), number(hidden.get("num_after"))
    rows = (
        ("gain of one decision: standard deviation by chance (A/A test)", _significant(noise.get("aa_sd"))),
        ("the same between tasks", _significant(noise.get("signal_sd"))),
        (f"signal-to-noise at {amount(steps, 0)} steps", _significant(noise.get("signal_to_noise"))),
        (f"rank correlation with the hidden measure, first {amount(first, 0)} episodes", _ranged(hidden.get("before"))),
        (f"the same, last {amount(last, 0)} episodes", _ranged(hidden.get("after"))),
        ("change beyond what a narrower spread explains", _ranged(hidden.get("change"))),
        ("quality, last third minus first", _ranged(hidden.get("quality_change"), 3)),
        ("hidden measure, last third minus first", _ranged(hidden.get("hidden_change"), 3)),
        (
            f"rank correlation with linear accuracy on {text_of(accuracy.get('split'))} images, "
            f"{amount(num, 0)} final encoders",
            _ranged(accuracy),
        ),
    )
    return [(what, text) for what, text in rows if text]


def _significant(value: object) -> str:
    found = number(value)
    return "" if found is None else amount(found, 2, trim=True)


def _mean(interval: object) -> str:
    """As `_ranged`, but the mean alone where it has no interval."""
    mean = number(mapping(interval).get("mean"))
    return "" if mean is None else _ranged(interval, 3) or amount(mean, 3)


def _ranged(interval: object, digits: int = 2, sign: str = "") -> str:
    """E.g. "0.62 [0.31, 0.80]"; empty without all three numbers."""
    mean, low, high = (number(mapping(interval).get(name)) for name in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return ""
    mean_text, low_text, high_text = (amount(value, digits, signed=bool(sign)) for value in (mean, low, high))
    return f"{mean_text} [{low_text}, {high_text}]"
