"""Result of a run -> the rows of the report's tables: texts and positions in percent, no markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskrl.report_figures import Axis, Tick, amount, brief, mapping, number

FLOORS = ("pixels", "untrained", "supervised")
REFERENCE = "reference"
LEARNED = "learned"
MAX_LISTED_RUNS = 300
NUM_COLOURS = 6
MAX_TEXT_CHARACTERS = 600
MEASURES = {"balanced": "balanced accuracy", "linear": "linear accuracy", "quality": "probe quality"}
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
    """One generator. role: "learned", "reference", "floor" or "". kind: the CSS class of its colour."""

    name: str
    role: str
    kind: str
    mark: str
    seeds: str
    score: Estimate | None
    difference: Estimate | None
    knn: str
    quality: str


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """rows in the order given. measure: of which scores and differences are, one of the values of MEASURES."""

    labelled: bool
    measure: str
    rows: tuple[ResultRow, ...]
    ticks: tuple[Tick, ...]
    difference_ticks: tuple[Tick, ...]
    zero_at: float
    reference_at: float | None
    pixels_at: float | None
    has_difference: bool
    has_knn: bool
    has_quality: bool


def text_of(value: object) -> str:
    """`value` as text of at most 600 characters, nothing for None."""
    return "" if value is None else brief(value, MAX_TEXT_CHARACTERS)


def role_of(name: str) -> str:
    """ "learned", "reference", "floor" or nothing, of a generator."""
    if name in FLOORS:
        return "floor"
    return LEARNED if name.startswith(LEARNED) else REFERENCE if name == REFERENCE else ""


def kinds(order: Sequence[str]) -> dict[str, str]:
    """The CSS class of each generator: its colour in every figure."""
    found, others = {}, 0
    for name in order:
        if name in (LEARNED, REFERENCE):
            found[name] = name
        elif name in FLOORS:
            found[name] = "floor"
        else:
            found[name] = f"s{others % NUM_COLOURS + 1}"
            others += 1
    return found


def measured_by(table: Sequence[Mapping[str, Any]]) -> str:
    """Of what the differences of a table are, the key of MEASURES: balanced accuracy where that is given, which is
    where classes are imbalanced; quality when nobody has labels.
    """
    return next((key for key in MEASURES if any(_mean(row, key) is not None for row in table)), "quality")


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
    key = measured_by(table)
    labelled, digits = (False, 3) if key == "quality" else (True, 1)
    # the floor is plain accuracy
    pixels = number(mapping(floors.get("pixels")).get("best")) if key == "linear" else None
    rivals = [row for row in table if str(row["generator"]) not in FLOORS]
    axis, colours = _score_axis(table, rivals, key), kinds([str(row["generator"]) for row in table])
    differences = Axis.around([value for row in rivals for value in _ends(row, "difference")] + [0.0])
    reference = next((_mean(row, key) for row in table if row["generator"] == REFERENCE), None)
    rows = tuple(
        ResultRow(
            name=brief(row["generator"]),
            role=role_of(str(row["generator"])),
            kind=colours[str(row["generator"])],
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
        measure=MEASURES[key],
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


def run_rows(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Name, seeds and measures of each run, as text."""
    rows = []
    for run in runs[:MAX_LISTED_RUNS]:
        seeds = [amount(number(run.get(key)), 0) for key in ("search_seed", "train_seed", "split_seed")]
        measures = [amount(number(run.get(key)), 3 if key == "quality" else 1) for key, _ in RUN_COLUMNS]
        rows.append([brief(text_of(run.get("generator"))), " / ".join(seeds), *measures])
    return rows
