"""Result of a run -> the rows of the report's tables: texts and positions in percent, no markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskrl.report_figures import Axis, Tick, amount, duration, listed, mapping, number, records, with_prefix

FLOORS = ("pixels", "untrained", "supervised")
REFERENCE = "reference"
LEARNED = "learned"
MAX_LISTED_RUNS = 300
MAX_DECISIONS = 100
RUN_COLUMNS = (
    ("linear_accuracy", "linear"),
    ("balanced_accuracy", "balanced"),
    ("knn_accuracy", "kNN"),
    ("validation_accuracy", "validation"),
    ("quality", "quality"),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval: texts, and places in percent of the axis.

    clear: the interval leaves out 0. below: the mean is too low for the axis.
    """

    text: str
    interval: str
    at: float
    left: float
    width: float
    clear: bool
    below: bool


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One generator. role: "learned", "reference", "floor" or ""."""

    name: str
    role: str
    mark: str
    seeds: str
    score: Estimate | None
    difference: Estimate | None
    knn: str
    quality: str


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """rows in the order given; score is linear accuracy, or quality when nobody has labels."""

    labelled: bool
    rows: tuple[ResultRow, ...]
    ticks: tuple[Tick, ...]
    difference_ticks: tuple[Tick, ...]
    zero_at: float
    reference_at: float | None
    pixels_at: float | None
    has_difference: bool
    has_knn: bool
    has_quality: bool


@dataclass(frozen=True, kw_only=True)
class ComputeRow:
    """Widths are percent of the largest total."""

    name: str
    role: str
    train_width: float
    search_width: float
    train: str
    search: str
    images: str
    seconds: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """The most likely task of some consecutive decisions; pieces are (text, leaves the reference)."""

    when: str
    pieces: tuple[tuple[str, bool], ...]


def text_of(value: object) -> str:
    """`value` as text, nothing for None."""
    return "" if value is None else str(value)


def _role(name: str) -> str:
    if name in FLOORS:
        return "floor"
    return LEARNED if name.startswith(LEARNED) else REFERENCE if name == REFERENCE else ""


def _mean(row: Mapping[str, Any], key: str) -> float | None:
    return number(mapping(row.get(key)).get("mean"))


def _ends(row: Mapping[str, Any], key: str) -> list[float]:
    """The finite ones among mean, low and high."""
    values = (number(mapping(row.get(key)).get(name)) for name in ("mean", "low", "high"))
    return [value for value in values if value is not None]


def _estimate(row: Mapping[str, Any], key: str, axis: Axis, *, digits: int, signed: bool = False) -> Estimate | None:
    data = mapping(row.get(key))
    mean, low, high = number(data.get("mean")), number(data.get("low")), number(data.get("high"))
    if mean is None:
        return None
    known = low is not None and high is not None and high > low
    low, high = (low, high) if known and low is not None and high is not None else (mean, mean)
    ends = f"[{amount(low, digits, signed=signed)}, {amount(high, digits, signed=signed)}]" if known else ""
    return Estimate(
        text=amount(mean, digits, signed=signed),
        interval=ends,
        at=axis.at(mean),
        left=axis.at(low),
        width=round(axis.at(high) - axis.at(low), 2),
        clear=known and (low > 0 or high < 0),
        below=mean < axis.low,
    )


def result_table(table: Sequence[Mapping[str, Any]], floors: Mapping[str, Any]) -> ResultTable | None:
    """The comparison; None without a row."""
    if not table:
        return None
    labelled = any(_mean(row, "linear") is not None for row in table)
    key, digits = ("linear", 1) if labelled else ("quality", 3)
    pixels = number(mapping(floors.get("pixels")).get("best")) if labelled else None
    rivals = [row for row in table if str(row["generator"]) not in FLOORS]
    axis = _score_axis(table, rivals, key)
    differences = Axis.around([value for row in rivals for value in _ends(row, "difference")] + [0.0])
    reference = next((_mean(row, key) for row in table if row["generator"] == REFERENCE), None)
    rows = tuple(
        ResultRow(
            name=str(row["generator"]),
            role=_role(str(row["generator"])),
            mark=text_of(row.get("mark")),
            seeds=amount(number(row.get("num_seeds")), 0),
            score=_estimate(row, key, axis, digits=digits),
            difference=_estimate(row, "difference", differences, digits=digits, signed=True),
            knn=amount(_mean(row, "knn"), 1),
            quality=amount(_mean(row, "quality"), 3),
        )
        for row in table
    )
    return ResultTable(
        labelled=labelled,
        rows=rows,
        ticks=axis.ticks(6),
        difference_ticks=differences.ticks(5, signed=True),
        zero_at=differences.at(0.0),
        reference_at=None if reference is None else axis.at(reference),
        pixels_at=None if pixels is None or not axis.holds(pixels) else axis.at(pixels),
        has_difference=any(row.difference is not None for row in rows if row.role != "floor"),
        has_knn=any(_mean(row, "knn") is not None for row in table),
        has_quality=labelled and any(_mean(row, "quality") is not None for row in table),
    )


def _score_axis(table: Sequence[Mapping[str, Any]], rivals: Sequence[Mapping[str, Any]], key: str) -> Axis:
    """Holds every generator; floors far below them would squeeze what is compared, so these fall off its end."""
    values = [value for row in rivals for value in _ends(row, key)]
    everything = [value for row in table for value in _ends(row, key)]
    if len({str(row["generator"]) for row in rivals}) < 2 or not values:
        return Axis.around(everything)
    lowest = min(values) - (max(values) - min(values))
    return Axis.around([value for value in everything if value >= lowest])


def pixel_floor(floors: Mapping[str, Any]) -> str:
    """E.g. "24.5 % (ridge), 68.6 % (nearest neighbour)"; empty without labels."""
    pixels = mapping(floors.get("pixels"))
    named = ((number(pixels.get("ridge")), "ridge"), (number(pixels.get("one_nn")), "nearest neighbour"))
    return ", ".join(f"{amount(value, 1)} % ({name})" for value, name in named if value is not None)


def search_cost(search: Mapping[str, Any]) -> str:
    """E.g. "160 episodes, 3.2 PFLOP, 1.2 M images, 1 h 10 min"; empty without a search."""
    images = number(search.get("images"))
    known = (
        (len(records(search.get("episodes"))) or None, f"{len(records(search.get('episodes')))} episodes"),
        (number(search.get("flops")), with_prefix(number(search.get("flops")), "FLOP")),
        (images, f"{with_prefix(images, '')} images"),
        (number(search.get("wall_seconds")), duration(number(search.get("wall_seconds")))),
    )
    return ", ".join(text for value, text in known if value is not None)


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


def _ranged(interval: object, digits: int = 2) -> str:
    """E.g. "0.62 [0.31, 0.80]"; empty without all three numbers."""
    mean, low, high = (number(mapping(interval).get(name)) for name in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return ""
    return f"{amount(mean, digits)} [{amount(low, digits)}, {amount(high, digits)}]"


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
        if str(name).startswith("weight/"):
            weights[str(name).removeprefix("weight/")] = level
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


def compute_rows(table: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[ComputeRow]:
    """What each generator cost; images are the mean over its runs, search and training together."""
    costs = []
    for row in table:
        train, search = number(row.get("train_flops")), number(row.get("search_flops"))
        images = [
            sum(number(run.get(key)) or 0.0 for key in ("train_images", "search_images"))
            for run in runs
            if run.get("generator") == row["generator"]
        ]
        mean_images = sum(images) / len(images) if images and sum(images) > 0 else None
        costs.append((str(row["generator"]), train, search, mean_images, number(row.get("wall_seconds"))))
    largest = max(((train or 0.0) + (search or 0.0) for _, train, search, _, _ in costs), default=0.0)
    if largest <= 0:
        return []
    return [
        ComputeRow(
            name=name,
            role=_role(name),
            train_width=round(100 * (train or 0.0) / largest, 2),
            search_width=round(100 * (search or 0.0) / largest, 2),
            train=with_prefix(train or None, "FLOP"),
            search=with_prefix(search or None, "FLOP"),
            images=with_prefix(images, ""),
            seconds=duration(seconds or None),
        )
        for name, train, search, images, seconds in costs
        if train or search or seconds
    ]


def run_rows(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Name, seeds and measures of each run, as text."""
    rows = []
    for run in runs[:MAX_LISTED_RUNS]:
        seeds = [amount(number(run.get(key)), 0) for key in ("search_seed", "train_seed", "split_seed")]
        measures = [amount(number(run.get(key)), 3 if key == "quality" else 1) for key, _ in RUN_COLUMNS]
        rows.append([text_of(run.get("generator")), " / ".join(seeds), *measures])
    return rows
