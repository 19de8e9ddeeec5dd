"""Rows -> table, paired differences and a verdict in one sentence."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.table import Table

from agents.final import SUPERVISED, UNTRAINED
from taskrl.config import DataConfig
from taskrl.evaluation.accuracy import IMBALANCED
from taskrl.evaluation.statistics import Interval, bootstrap, paired_difference
from taskrl.modalities.image.datasets import known_names

REFERENCE = "reference"
LEARNED = "learned"
PIXELS = "pixels"
FLOORS = (SUPERVISED, UNTRAINED)
ACCURACY, BALANCED, QUALITY = "linear_accuracy", "balanced_accuracy", "quality"
BROKEN_MARGIN = 2.0
ABOUT_EQUAL = 0.05
FEWEST_PAIRS, FEWEST_FOR_LITTLE = 5, 10  # of two equal methods, one is ahead in all 5 pairs once in 16 times
Row = Mapping[str, Any]


def comparison_table(rows: Sequence[Row], pixels: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """One entry a generator: means with intervals, paired difference to `reference`, compute; floors last."""
    names = list(dict.fromkeys(row["generator"] for row in rows))
    names.sort(key=lambda name: (name in FLOORS, not name.startswith(LEARNED)))
    entries = [_entry(rows, name, pixels) for name in names]
    if pixels is not None:
        entries.append(
            {
                "generator": PIXELS,
                "num_seeds": 1,
                "linear": {"mean": pixels["best"], "low": None, "high": None},
                "balanced": None,
                "knn": None,
                "quality": None,
                "difference": None,
                "train_flops": 0,
                "search_flops": 0,
                "wall_seconds": 0.0,
                "mark": "",
            }
        )
    return entries


def difference(rows: Sequence[Row], ours: str, theirs: str) -> Interval | None:
    """Paired difference, by `measured_by`, over the seeds that both have."""
    found = _pairs(rows, ours, theirs)
    if not found or ours == theirs or any(value is None for pair in found for value in pair):
        return None
    return paired_difference([first for first, _ in found], [second for _, second in found])


def too_few(num: int, points: float | None) -> str:
    """Why so many paired seeds decide nothing, empty where they do. points: of accuracy between the two; None for
    quality.
    """
    if num < FEWEST_PAIRS:
        return f"{num} paired {'seed decides' if num == 1 else 'seeds decide'} nothing"
    if points is not None and abs(points) < 1 and num < FEWEST_FOR_LITTLE:
        return f"{num} paired seeds decide nothing this small"
    return ""


def _pairs(rows: Sequence[Row], ours: str, theirs: str) -> list[tuple[Any, Any]]:
    key = measured_by(rows)
    first, second = (
        {row["train_seed"]: row[key] for row in rows if row["generator"] == name} for name in (ours, theirs)
    )
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def measured_by(rows: Sequence[Row]) -> str:
    """The column that decides: linear accuracy, balanced where classes are imbalanced; quality without labels."""
    if any(row[ACCURACY] is None for row in rows):
        return QUALITY
    return BALANCED if any(row.get("imbalanced") for row in rows) else ACCURACY


def verdict(rows: Sequence[Row], split: str) -> str:
    """What the learning bought, said no louder than the interval allows."""
    key = measured_by(rows)
    what = "of probe quality (no labels)"
    if key != QUALITY:
        what = f"points of {'balanced' if key == BALANCED else 'linear'} accuracy on {split} images"
    if len(rows) == 1:
        return f"One encoder, trained by {_called(rows[0])}: {_score(rows[0], split)}; nothing was compared with it."
    if not any(row["generator"] == LEARNED for row in rows):
        return "No learned policy in this run."
    gap = difference(rows, LEARNED, REFERENCE)
    if gap is None:
        return "The learned policy was not compared with the reference recipe."
    digits = 3 if key == QUALITY else 1
    if sum(row["generator"] == LEARNED for row in rows) == 1:
        return (
            f"One seed decides nothing: the learned policy is {gap.mean:+.{digits}f} {what} from the reference recipe."
        )
    text = f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}] {what}"
    at = _compute_of(rows)
    few = _why_unjudged(rows, REFERENCE, gap)
    if few and (gap.low > 0 or gap.high < 0):
        sentence = f"The learned policy is not judged against the reference recipe, since {few}: {text}"
    elif gap.low > 0:
        sentence = f"The learned policy beats the reference recipe {at}: {text}"
    elif gap.high < 0:
        sentence = f"The learned policy is worse than the reference recipe {at}: {text}"
    elif _same_scores(rows):
        sentence = f"The learned policy trained the reference recipe's encoders again, seed by seed: {text}"
    else:
        sentence = f"No clear difference between the learned policy and the reference recipe: {text}"
    hand = next((row["generator"] for row in rows if row["generator"].startswith("fixed:")), None)
    turned = difference(rows, LEARNED, hand) if hand else None
    if hand and turned:
        relation = "above" if turned.low > 0 else "below" if turned.high < 0 else "level with"
        if relation != "level with" and _why_unjudged(rows, hand, turned):
            relation = "not judged against"
        sentence += f"; {relation} the one hand-turned knob {hand} ({turned.mean:+.{digits}f})"
    searched = any(row.get("search_flops") for row in rows)
    return sentence + "." + (" The search is not in this comparison; its compute is in the table." if searched else "")


def _why_unjudged(rows: Sequence[Row], theirs: str, gap: Interval) -> str:
    points = None if measured_by(rows) == QUALITY else gap.mean
    return too_few(len(_pairs(rows, LEARNED, theirs)), points)


def _called(row: Row) -> str:
    names = {LEARNED: "the learned policy", REFERENCE: "the reference recipe", "schedule": "a schedule"}
    name = str(row["generator"])
    return names.get(name, name)


def _score(row: Row, split: str) -> str:
    key = measured_by([row])
    if key == QUALITY:
        return f"probe quality {row[key]:.3f} (no labels)"
    return f"{key.replace('_', ' ')} {row[key]:.1f} % on {split} images"


def _same_scores(rows: Sequence[Row]) -> bool:
    """Whether the learned policy's encoders are, to the last digit, those of the reference recipe."""
    ours, theirs = (
        {row["train_seed"]: (row["linear_accuracy"], row.get("quality")) for row in rows if row["generator"] == name}
        for name in (LEARNED, REFERENCE)
    )
    return ours == theirs


def _compute_of(rows: Sequence[Row]) -> str:
    """With how much training the two were compared."""
    pair = [[row for row in rows if row["generator"] == name] for name in (LEARNED, REFERENCE)]
    ours, theirs = ([row["num_decisions"] for row in found] for found in pair)
    whole = all(row.get("planned_decisions") == row["num_decisions"] for row in rows)
    if ours == theirs or whole:
        return training_compute(*pair)
    return f"(each stopped by its own quality, after {fmean(ours):.1f} and {fmean(theirs):.1f} decisions on average)"


def training_compute(ours: Sequence[Row], theirs: Sequence[Row]) -> str:
    """With how much training compute the first were compared with the second."""
    times = fmean([row["train_flops"] for row in ours]) / fmean([row["train_flops"] for row in theirs])
    equal = abs(times - 1) <= ABOUT_EQUAL
    return "at equal training compute" if equal else f"with {times:.2f} times its training compute"


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """Set-ups that the protocol calls broken."""
    return [*broken_notes(rows, difference(rows, REFERENCE, UNTRAINED)), *balance_notes(rows)]


def balance_notes(rows: Sequence[Row]) -> list[str]:
    """What differences, or the score of one encoder, mean where classes are imbalanced."""
    if measured_by(rows) != BALANCED:
        return []
    what = "the score is" if len(rows) == 1 else "differences are in"
    return [
        f"Classes are imbalanced by more than {IMBALANCED:g} to 1: {what} balanced accuracy, the mean over classes."
    ]


def pixel_notes(entries: Sequence[Mapping[str, Any]], data: DataConfig) -> list[str]:
    """What to say where no encoder of a table, a run's or a comparison's, reaches raw pixels."""
    found = [(str(entry.get("generator") or entry.get("method")), entry["linear"]) for entry in entries]
    pixels = next((linear for name, linear in found if name == PIXELS), None)
    # a comparison has an entry for each length of a method
    trained = [linear["mean"] for name, linear in found if linear is not None and name not in (PIXELS, *FLOORS)]
    if pixels is None or not trained or max(trained) >= pixels["mean"]:
        return []
    told = (
        f"Raw pixels reach {pixels['mean']:.1f} %, the best encoders {max(trained):.1f} %: train longer or wider "
        "(final.steps_per_decision, predictor.width)"
    )
    if data.groups is not None or data.source in known_names():
        return [f"{told}."]
    return [
        f"{told}; where several files show the same thing (frames of one track, crops of one picture), keep them "
        "together with --groups, or every score here measures memory."
    ]


def broken_notes(rows: Sequence[Row], gap: Interval | None) -> list[str]:
    """What to say of `gap`, the reference minus an untrained encoder, where it is too small."""
    unlabelled = measured_by(rows) == QUALITY
    if gap is None or gap.mean >= (0 if unlabelled else BROKEN_MARGIN):
        return []
    where = f"only {gap.mean:.1f} points above" if gap.mean >= 0 else f"{-gap.mean:.1f} points below"
    if unlabelled:
        where = f"{-gap.mean:.3f} of quality below"
    return [
        f"The reference recipe is {where} `untrained`, the encoder before training: this "
        "set-up is too short or too small to judge anything; raise final.steps_per_decision or the encoder's width."
    ]


def print_table(entries: Sequence[Mapping[str, Any]], split: str) -> Table:
    """The table for a terminal; columns that no generator fills are left out. At least one entry."""
    titles = (
        "generator",
        "seeds",
        "linear %",
        "balanced %",
        "kNN %",
        "probe quality",
        "minus reference",
        "training",
        "search",
        "s",
    )
    rows = []
    labelled = any(entry["linear"] for entry in entries)
    for entry in entries:
        gap = entry["difference"]
        digits = 1 if labelled else 3
        row = (
            f"{entry['generator']} {entry['mark']}".strip(),
            str(entry["num_seeds"]),
            interval_text(entry["linear"], 1),
            interval_text(entry.get("balanced"), 1),
            interval_text(entry["knn"], 1),
            interval_text(entry["quality"], 3),
            interval_text(gap, digits, "+"),
            flops_text(entry["train_flops"]),
            flops_text(entry["search_flops"]),
            f"{entry['wall_seconds']:.0f}" if entry["wall_seconds"] else "",
        )
        rows.append(row)
    table = Table(title=f"Final encoders, scored on {split} images (mean [95 % interval])")
    columns = [(title, texts) for title, texts in zip(titles, zip(*rows, strict=True), strict=True) if any(texts)]
    for title, _ in columns:
        name = title == "generator"
        table.add_column(title, justify="left" if name else "right", no_wrap=name)
    for texts in zip(*(texts for _, texts in columns), strict=True):
        table.add_row(*texts)
    return table


def _entry(rows: Sequence[Row], name: str, pixels: Mapping[str, float] | None) -> dict[str, Any]:
    mine = [row for row in rows if row["generator"] == name]
    linear = _interval([row["linear_accuracy"] for row in mine])
    mean = None if linear is None else linear["mean"]
    below = pixels is not None and mean is not None and mean < pixels["best"] and name not in FLOORS
    gap = None if name in FLOORS else difference(rows, name, REFERENCE)
    return {
        "generator": name,
        "num_seeds": len(mine),
        "linear": linear,
        "balanced": _interval([row[BALANCED] for row in mine]) if measured_by(rows) == BALANCED else None,
        "knn": _interval([row["knn_accuracy"] for row in mine]),
        "quality": _interval([row["quality"] for row in mine]),
        "difference": None if gap is None else ends_of(gap, len(mine)),
        "train_flops": fmean([row["train_flops"] for row in mine]),
        "search_flops": fmean([row["search_flops"] for row in mine]),
        "wall_seconds": round(fmean([row["wall_seconds"] for row in mine]), 2),
        "mark": "(below pixels)" if below else "",
    }


def _interval(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    return ends_of(bootstrap(known), len(known)) if known and len(known) == len(values) else None


def ends_of(interval: Interval, num_seeds: int) -> dict[str, float | None]:
    """One seed has no interval, and not one of no width (docs/protocol.md)."""
    return vars(interval) | ({"low": None, "high": None} if num_seeds == 1 else {})


def interval_text(interval: Mapping[str, Any] | None, digits: int, sign: str = "") -> str:
    """E.g. "82.4 [81.3, 83.9]"; empty for none, the mean alone without bounds. sign: "+" for differences."""
    if interval is None:
        return ""
    form = f"{sign}.{digits}f"
    if interval["low"] is None:
        return f"{interval['mean']:{form}}"
    return f"{interval['mean']:{form}} [{interval['low']:{form}}, {interval['high']:{form}}]"


def flops_text(value: float) -> str:
    """E.g. "0.42 TF"; empty for nothing."""
    if not value:
        return ""
    return f"{value / 1e12:.2f} TF" if value >= 1e11 else f"{value / 1e9:.1f} GF"
