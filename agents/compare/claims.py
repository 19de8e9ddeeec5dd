"""What a comparison is asked: the claims with their bars, the break-even length, and which encoder to carry away."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from agents.compare.methods import REFERENCE_TOTAL
from agents.compare.table import VALIDATION_BALANCED, Row, difference, pairs, rows_of, validated_by
from agents.final import SUPERVISED, UNTRAINED
from agents.summary import (
    ABOUT_EQUAL,
    LEARNED,
    QUALITY,
    REFERENCE,
    ends_of,
    interval_text,
    measured_by,
    too_few,
    training_compute,
)
from taskrl.evaluation.statistics import Interval, hierarchical_ratio
from taskrl.report_figures import counted

BENCH = "cluttered-digits"
FEWEST_SEARCHES = 3
SEARCHES_ON_BENCH, ENCODERS_ON_BENCH = 5, 30  # docs/protocol.md
PASSED, FAILED, OPEN, REPORTED = "passed", "failed", "not measured", "reported"
ABOVE, NOT_WORSE, NO_GAIN, CUT, REPORT = "above", "not worse", "no gain", "error cut", "report"


@dataclass(frozen=True)
class Bar:
    """kind above: the interval lies above 0 and the mean reaches `points`. not worse: the interval reaches up to
    -points. no gain: the interval does not lie above 0. error cut: as above, in percent of the other's error.
    """

    kind: str
    points: float = 0.0

    def text(self) -> str:
        if self.kind == ABOVE:
            return f"> 0 and >= {self.points:+.1f}" if self.points else "> 0"
        if self.kind == NOT_WORSE:
            return f"not worse by {self.points:.1f}" if self.points else "not worse"
        return {NO_GAIN: "no gain", CUT: f"error cut by >= {self.points:.0f} %", REPORT: "reported"}[self.kind]

    def holds(self, gap: Interval) -> bool:
        if self.kind == NOT_WORSE:
            return gap.high >= -self.points
        if self.kind == NO_GAIN:
            return not gap.above_zero
        return gap.above_zero and gap.mean >= self.points


@dataclass(frozen=True, kw_only=True)
class Claim:
    """ours against each of theirs, at equal `compute` ("training" or "total"). bench: the bar on cluttered digits;
    elsewhere: on other data. goal: a higher one, only reported.
    """

    name: str
    ours: str
    theirs: tuple[str, ...]
    compute: str
    bench: Bar
    elsewhere: Bar
    goal: Bar | None = None


CLAIMS = (
    Claim(
        name="pays",
        ours=LEARNED,
        theirs=(REFERENCE_TOTAL,),
        compute="total",
        bench=Bar(NOT_WORSE),
        elsewhere=Bar(NOT_WORSE),
        goal=Bar(ABOVE),
    ),
    Claim(
        name="beats one fixed recipe",
        ours=LEARNED,
        theirs=("constant", "one-knob"),
        compute="training",
        bench=Bar(NOT_WORSE, 0.5),
        elsewhere=Bar(ABOVE),
        goal=Bar(ABOVE, 0.5),
    ),
    Claim(
        name="beats the reference",
        ours=LEARNED,
        theirs=(REFERENCE,),
        compute="training",
        bench=Bar(CUT, 30.0),
        elsewhere=Bar(ABOVE, 2.0),
    ),
    Claim(
        name="beats the untrained policy",
        ours=LEARNED,
        theirs=("prior", "prior-argmax"),
        compute="training",
        bench=Bar(ABOVE, 1.0),
        elsewhere=Bar(ABOVE),
    ),
    Claim(
        name="beats a plain search",
        ours=LEARNED,
        theirs=("static", "random-search", "bandit"),
        compute="total",
        bench=Bar(ABOVE, 0.3),
        elsewhere=Bar(NOT_WORSE),
    ),
    Claim(
        name="learns within one run",
        ours="online",
        theirs=(REFERENCE,),
        compute="training",
        bench=Bar(ABOVE),
        elsewhere=Bar(NOT_WORSE),
    ),
    Claim(
        name="rewards mean something",
        ours=LEARNED,
        theirs=("shuffled",),
        compute="total",
        bench=Bar(ABOVE),
        elsewhere=Bar(ABOVE),
    ),
    Claim(
        name="shuffled rewards teach nothing",  # what is unsure falls back on the reference, shuffled or not
        ours="shuffled",
        theirs=(REFERENCE, "prior-argmax"),
        compute="training",
        bench=Bar(NO_GAIN),
        elsewhere=Bar(NO_GAIN),
    ),
    Claim(
        name="what the state is worth",
        ours=LEARNED,
        theirs=("no-state",),
        compute="total",
        bench=Bar(REPORT),
        elsewhere=Bar(REPORT),
    ),
    Claim(
        name="what a schedule is worth",
        ours="schedule",
        theirs=(LEARNED,),
        compute="total",
        bench=Bar(REPORT),
        elsewhere=Bar(REPORT),
    ),
)


def judge(rows: Sequence[Row], length: int, data: str) -> list[dict[str, Any]]:
    """Every claim at one length: numbers against each opponent, the strictest one's name, and passed, failed, not
    measured or reported. The bar has to be held against each opponent. Without labels the unit is quality, and bars in
    points are bars at 0.
    """
    return [_judged(claim, rows, length, bench=data == BENCH) for claim in CLAIMS]


def break_even(rows: Sequence[Row], lengths: Sequence[int]) -> dict[str, Any]:
    """The length of the final run from which on the learned policy, its search paid, reaches the reference that trains
    for the whole sum: by linear interpolation over the logarithm of the measured lengths. The sentence says how sure
    the leads are that it rests on.
    """
    found = {length: _whole(rows, length) for length in sorted(set(lengths))}
    known = [(length, gap.mean) for length, gap in found.items() if gap is not None]
    leads = {length: _lead(rows, gap, length) for length, gap in found.items() if gap is not None}
    if not known:
        return {"length": None, "sentence": f"Break-even: not measured (it needs {LEARNED} and {REFERENCE_TOTAL})."}
    gaps = {"gaps": {str(length): gap for length, gap in known}}
    behind = [index for index, (_, gap) in enumerate(known) if gap < 0]
    if not behind:
        first = known[0][0]
        sentence = (
            f"Break-even: at the shortest final run measured ({first}x) or before; the lead there is {leads[first]}."
        )
        return {**gaps, "length": known[0][0], "sentence": sentence}
    if behind[-1] == len(known) - 1:
        last = known[-1][0]
        sentence = f"Break-even: not up to final runs of {last}x; the lead there is {leads[last]}."
        return {**gaps, "length": None, "sentence": sentence}
    (below, low), (above, high) = known[behind[-1]], known[behind[-1] + 1]
    length = math.exp(math.log(below) + (math.log(above) - math.log(below)) * -low / (high - low))
    between = f"between {below}x, where the lead is {leads[below]}, and {above}x, where it is {leads[above]}"
    sentence = f"Break-even: at final runs of about {length:.1f}x ({between})."
    return {**gaps, "length": round(length, 3), "sentence": sentence}


def choose(rows: Sequence[Row], length: int) -> tuple[str | None, str]:
    """The method whose encoder is carried away, decided on validation images (quality without labels), and why."""
    if not rows_of(rows, LEARNED, length):
        return None, "No learned policy was compared: no verdict, and no encoder is exported."
    column = validated_by(rows)
    labelled = column != QUALITY
    kind = "balanced" if column == VALIDATION_BALANCED else "linear"
    digits, unit = (1, f"points of {kind} accuracy on validation images") if labelled else (3, "of quality (no labels)")
    gap = difference(rows, LEARNED, REFERENCE, length, by=column)
    if gap is None:
        return REFERENCE, "The learned policy has no measured quality; the reference's encoder is exported."
    num = _num_pairs(rows, LEARNED, REFERENCE, length)
    text = f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}] {unit}, {num} paired encoders"
    if num == 1:
        return REFERENCE, f"One pair of encoders decides nothing ({gap.mean:+.{digits}f}). The reference's is exported."
    few = too_few(num, gap.mean if labelled else None)
    if few and (gap.low > 0 or gap.high < 0):
        return REFERENCE, f"The learned policy is not judged, since {few}: {text}. The reference's encoder is exported."
    if gap.low > 0:
        compute = training_compute(rows_of(rows, LEARNED, length), rows_of(rows, REFERENCE, length))
        said = f"The learned policy beats the reference recipe {compute}"
        return LEARNED, f"{said}: {text}. Its encoder is exported.{_better(rows, length, column, digits)}"
    relation = "is worse than" if gap.high < 0 else "is not shown to differ from"
    said = f"The learned policy {relation} the reference recipe"
    return REFERENCE, f"{said}: {text}. The reference's encoder is exported."


def _better(rows: Sequence[Row], length: int, column: str, digits: int) -> str:
    """What beats the learned policy on the same images, as a sentence; empty where nothing does."""
    others = {row["method"] for row in rows} - {LEARNED, REFERENCE, REFERENCE_TOTAL, SUPERVISED, UNTRAINED}
    found = {}
    for name in others:
        gap = difference(rows, name, LEARNED, length, by=column)
        points = gap.mean if gap and column != QUALITY else None
        if gap and gap.low > 0 and not too_few(_num_pairs(rows, name, LEARNED, length), points):
            found[name] = gap
    if not found:
        return ""
    named = [
        f"{name} by {gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
        for name, gap in sorted(found.items(), key=lambda item: -item[1].mean)
    ]
    return f" But there others beat it: {', '.join(named)}."


def _judged(claim: Claim, rows: Sequence[Row], length: int, *, bench: bool) -> dict[str, Any]:
    labelled = measured_by(rows) != QUALITY
    bar, goal = claim.bench if bench else claim.elsewhere, claim.goal
    if not labelled:  # points of accuracy say nothing about quality
        bar, goal = _without_points(bar), _without_points(goal) if goal else None
    gaps = {name: _gap(bar, rows, claim.ours, name, length) for name in claim.theirs}
    known = {name: gap for name, gap in gaps.items() if gap is not None}
    entry: dict[str, Any] = {
        "claim": claim.name,
        "ours": claim.ours,
        "length": length,
        "compute": claim.compute,
        "bar": bar.text(),
        "unit": ("% of the error" if bar.kind == CUT else "points") if labelled else "quality",
        "against": {
            name: {
                **ends_of(gap, _num_pairs(rows, claim.ours, name, length)),
                "compute": _compute(rows, claim, name, length),
            }
            for name, gap in known.items()
        },
        "without": [name for name in (claim.ours, *claim.theirs) if not rows_of(rows, name, length)],
    }
    if not known:
        return {**entry, "strictest": None, "status": OPEN, "why": _why_nothing(bar), "goal": None}
    status, why = PASSED if all(bar.holds(gap) for gap in known.values()) else FAILED, ""
    few_against = {name: _undecided(claim, rows, name, length, bar, status, bench) for name in known}
    if status == FAILED:  # one opponent that is told to win settles it, whatever is open against others
        lost = {name: gap for name, gap in known.items() if not bar.holds(gap)}
        settled = {name: gap for name, gap in lost.items() if not few_against[name]}
        strictest = _strictest(bar, settled or lost)
        few = few_against[strictest]
    else:
        strictest = _strictest(bar, known)
        few = next(filter(None, few_against.values()), "")
    num = _num_pairs(rows, claim.ours, strictest, length)
    if bar.kind == REPORT:
        status = REPORTED
    elif few:
        status, why = OPEN, few
    elif status == PASSED and bench and num < ENCODERS_ON_BENCH:
        why = f"on {num} of the {ENCODERS_ON_BENCH} encoders that the protocol asks for"
    reached = None if goal is None or status == OPEN else all(goal.holds(gap) for gap in known.values())
    return {**entry, "strictest": strictest, "status": status, "why": why, "goal": reached}


def _undecided(claim: Claim, rows: Sequence[Row], theirs: str, length: int, bar: Bar, status: str, bench: bool) -> str:
    """Why so many pairs, or so many searches, decide nothing against `theirs`; empty where they do."""
    found = pairs(rows, claim.ours, theirs, length)
    gap = difference(rows, claim.ours, theirs, length)  # in points also where the bar is in percent
    points = gap.mean if gap and measured_by(rows) != QUALITY else None
    if status == PASSED and bar.kind in (NOT_WORSE, NO_GAIN) and gap and gap.low <= 0 <= gap.high:
        points = 0.0  # that there is no difference is a claim about little, however far off the mean
    few = too_few(sum(len(group) for group in found), points)
    searched = any(row["number"] is not None for group in found for pair in group for row in pair)
    if few or not searched or len(found) >= (SEARCHES_ON_BENCH if bench else FEWEST_SEARCHES):
        return few
    return f"{counted(len(found), 'search', 'searches')} cannot tell"


def _strictest(bar: Bar, known: Mapping[str, Interval]) -> str:
    """Of these opponents the one ahead by most."""
    worst = max if bar.kind == NO_GAIN else min
    return worst(known, key=lambda name: known[name].mean)


def _why_nothing(bar: Bar) -> str:
    """Why there is no number, for a claim whose methods are all there."""
    return "the opponent makes no errors to cut" if bar.kind == CUT else "a value is missing"


def _gap(bar: Bar, rows: Sequence[Row], ours: str, theirs: str, length: int) -> Interval | None:
    if bar.kind != CUT:
        return difference(rows, ours, theirs, length)
    found = pairs(rows, ours, theirs, length)
    if not found:
        return None
    column = measured_by(rows)
    gained = [[100 * (a[column] - b[column]) for a, b in group] for group in found]
    return hierarchical_ratio(gained, [[100 - b[column] for _, b in group] for group in found])


def _compute(rows: Sequence[Row], claim: Claim, theirs: str, length: int) -> float:
    """How many times theirs our compute is, a row: of training, or in total."""
    columns = ("train_flops", "search_flops") if claim.compute == "total" else ("train_flops",)
    ours, others = (
        fmean([sum(row[column] for column in columns) for row in rows_of(rows, name, length)])
        for name in (claim.ours, theirs)
    )
    return round(ours / others, 3)


def _num_pairs(rows: Sequence[Row], ours: str, theirs: str, length: int) -> int:
    return sum(len(group) for group in pairs(rows, ours, theirs, length))


def _lead(rows: Sequence[Row], gap: Interval, length: int) -> str:
    """The learned policy's, its search paid, with its interval and unit."""
    labelled = measured_by(rows) != QUALITY
    ends = ends_of(gap, _num_pairs(rows, LEARNED, REFERENCE_TOTAL, length))
    return f"{interval_text(ends, 1 if labelled else 3, '+')} {'points' if labelled else 'of quality'}"


def _without_points(bar: Bar) -> Bar:
    return Bar(ABOVE if bar.kind == CUT else bar.kind)


def _whole(rows: Sequence[Row], length: int) -> Interval | None:
    return difference(rows, LEARNED, REFERENCE_TOTAL, length)


def claim_sentence(entry: Mapping[str, Any]) -> str:
    """One line for the terminal, for a claim that was measured."""
    head = f"{entry['claim']} ({entry['ours']}, {entry['length']}x, equal {entry['compute']} compute; {entry['bar']})"
    digits = 3 if entry["unit"] == "quality" else 1
    gaps = ", ".join(
        f"{interval_text(gap, digits, '+')} {entry['unit']} vs {name}"
        + ("" if abs(gap["compute"] - 1) <= ABOUT_EQUAL else f" (at {gap['compute']:.2f}x its compute)")
        for name, gap in entry["against"].items()
    )
    why = f" ({entry['why']})" if entry["why"] else ""
    goal = "" if entry["goal"] is None else f"; goal {'reached' if entry['goal'] else 'not reached'}"
    missing = f"; without {', '.join(entry['without'])}" if entry["without"] else ""
    return f"{head}: {gaps}: {entry['status']}{why}{goal}{missing}."
