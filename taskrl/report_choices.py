"""Choices of a policy -> what the report draws of them: shares of objectives, heat strips, what never moves, tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskrl.report_figures import CANVAS, Strip, amount, brief, listed, mapping, number, records, strips, thin
from taskrl.report_tables import NUM_COLOURS, text_of

MAX_DECISIONS = 100
MAX_COLUMNS = 100
STAYS_FROM = 0.95
WEIGHT = "weight/"


@dataclass(frozen=True, kw_only=True)
class Share:
    """An objective's share of the compute over the decisions. path: its area, stacked, on a canvas of 1000 units."""

    name: str
    kind: str
    path: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """The most likely task of some consecutive decisions; pieces are (text, leaves the reference)."""

    when: str
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, kw_only=True)
class ChoicesView:
    """objectives and knobs: those that leave the reference recipe. kept: (name, level) of those that stay at it."""

    shares: tuple[Share, ...]
    objectives: tuple[Strip, ...]
    knobs: tuple[Strip, ...]
    kept: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]


def choices_view(result: Mapping[str, Any]) -> ChoicesView | None:
    """None where nothing was recorded of what a policy chose."""
    choices = mapping(result.get("choices"))
    found = strips(choices)
    moving = [strip for strip in found if not _stays(strip)]
    moving.sort(key=lambda strip: -(strip.deviation or 0.0))
    steps = task_steps(records(result.get("schedule")), mapping(choices.get("parts")))
    shares = share_areas(result.get("shares"))
    if not (found or steps or shares):
        return None
    return ChoicesView(
        shares=tuple(shares),
        objectives=tuple(strip for strip in moving if strip.name.startswith(WEIGHT)),
        knobs=tuple(strip for strip in moving if not strip.name.startswith(WEIGHT)),
        kept=tuple((strip.name.removeprefix(WEIGHT), _usual(strip)) for strip in found if _stays(strip)),
        steps=tuple(steps),
    )


def departures(result: Mapping[str, Any]) -> str:
    """What the policy does otherwise than the reference recipe, in a sentence; empty where nothing was recorded."""
    found = strips(result.get("choices"))
    told = [text for strip in found if (text := _departure(strip))]
    if not found:
        return ""
    if not told:
        return "It stays at the reference recipe: at the start and at the end its levels are the likeliest."
    rest = len(found) - len(told)
    kept = f" The other {rest} choices stay there." if rest > 1 else ""
    return f"By its likeliest levels it leaves the reference recipe: {', '.join(told)}.{kept}"


def _departure(strip: Strip) -> str:
    """E.g. "weaker crop (0.6 rather than 0.3)", by the likeliest levels at the start and at the end; empty where both
    are the reference's.
    """
    order = [level.label for level in reversed(strip.levels)]  # weakest first
    first, last, usual = _likeliest(strip, 0), _likeliest(strip, -1), _usual(strip)
    if first is None or last is None or not usual or first == last == usual:
        return ""
    name = strip.name.removeprefix(WEIGHT)
    if first != last:
        return f"{name} {first} at the start and {last} at the end (reference {usual})"
    how = "no" if first == "0" else "weaker" if order.index(first) < order.index(usual) else "stronger"
    return f"{how} {name} ({first} rather than {usual})"


def _stays(strip: Strip) -> bool:
    usual = [level for level in strip.levels if level.is_reference]
    return bool(usual) and all(
        cell.probability is not None and cell.probability >= STAYS_FROM for level in usual for cell in level.cells
    )


def _usual(strip: Strip) -> str:
    return next((level.label for level in strip.levels if level.is_reference), "")


def _likeliest(strip: Strip, column: int) -> str | None:
    """The likeliest level of a column; None where no probability is known."""
    known = [(level.cells[column].probability, level.label) for level in strip.levels if level.cells]
    found = [(probability, label) for probability, label in known if probability is not None]
    return max(found, key=lambda item: item[0])[1] if found else None


def share_areas(shares: object) -> list[Share]:
    """Stacked from the bottom in the order given, one step a decision; empty where one objective is trained alone."""
    lines = {str(name): [number(value) or 0.0 for value in listed(line)] for name, line in mapping(shares).items()}
    lines = {name: line for name, line in lines.items() if any(0 < value <= 1 for value in line)}
    num = max((len(line) for line in lines.values()), default=0)
    if len(lines) < 2:
        return []
    columns = thin(num, MAX_COLUMNS)
    below, areas = [0.0] * len(columns), []
    for index, (name, line) in enumerate(lines.items()):
        above = [
            min(low + (max(line[column], 0.0) if column < len(line) else 0.0), 1.0)
            for low, column in zip(below, columns, strict=True)
        ]
        width = CANVAS / len(columns)
        top = [f"{x:.0f} {CANVAS * (1 - y):.0f}" for i, y in enumerate(above) for x in (i * width, (i + 1) * width)]
        bottom = [f"{x:.0f} {CANVAS * (1 - y):.0f}" for i, y in enumerate(below) for x in (i * width, (i + 1) * width)]
        first, last = line[0], line[-1]
        mean = sum(line) / len(line)
        text = " ".join(
            f"{amount(100 * x, 0)} % {what}"
            for x, what in ((mean, "in all,"), (first, "at the start,"), (last, "at the end"))
        )
        path = f"M{'L'.join([*top, *reversed(bottom)])}Z"
        areas.append(Share(name=brief(name), kind=f"s{index % NUM_COLOURS + 1}", path=path, text=text))
        below = above
    return areas


def task_steps(schedule: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> list[Step]:
    """The schedule with equal neighbours merged."""
    usual = _reference_pieces(parts)
    groups: list[tuple[int, int, float | None, str]] = []
    for index, entry in enumerate(schedule[:MAX_DECISIONS], start=1):
        task = text_of(entry.get("task"))
        if groups and groups[-1][3] == task:
            groups[-1] = (groups[-1][0], index, *groups[-1][2:])
        else:
            groups.append((index, index, number(entry.get("progress")), task))
    steps = []
    for first, last, progress, task in groups:
        mixture, _, levels = task.partition("; ")
        pieces = [("", mixture), *(("knob", piece) for piece in levels.split(", ") if piece)]
        marked = tuple((text, _leaves(usual, kind, text)) for kind, text in pieces)
        when = f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
        steps.append(Step(when=when + ("" if progress is None else f" · from {100 * progress:.0f} %"), pieces=marked))
    return steps


def _reference_pieces(parts: Mapping[str, Any]) -> dict[str, str]:
    """The reference's level of each knob, and its mixture under ""; as `TaskSpec.describe` writes them."""
    pieces, weights = {}, {}
    for name, part in parts.items():
        levels, index = listed(mapping(part).get("levels")), number(mapping(part).get("reference"))
        level = number(levels[int(index)]) if index is not None and 0 <= index < len(levels) else None
        if level is None:
            continue
        if str(name).startswith(WEIGHT):
            weights[str(name).removeprefix(WEIGHT)] = level
        else:
            pieces[str(name)] = f"{name} {level:g}"
    total = sum(weights.values())
    if total > 0:
        shares = {name: weight / total for name, weight in weights.items() if weight > 0}
        pieces[""] = " + ".join(name if share == 1 else f"{name} {share:.0%}" for name, share in shares.items())
    return pieces


def _leaves(usual: Mapping[str, str], kind: str, text: str) -> bool:
    known = usual.get(text.rpartition(" ")[0] if kind else "")
    return known is not None and known != text
