"""docs/results-transfer.md: tables and claims out of the cells of benchmarks/transfer.py."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from agents.summary import flops_text, interval_text
from taskrl.evaluation.statistics import Interval, bootstrap, hierarchical_bootstrap, hierarchical_ratio
from taskrl.evaluation.statistics import paired_difference as difference

# the arms of distill, the student first
KEPT = (
    "student, distilled",
    "student, pretrained with the FLOPs of the distillation",
    "student, pretrained with those of the teacher, too",
    "student, untrained",
    "teacher",
    "pixels",
)
THEIRS = "reference, fine-tuned"
STUDENT, SAME, TOTAL, UNTRAINED, TEACHER, PIXELS = KEPT
KEEP_AT_LEAST = 0.8
TITLES = {
    "finetune": "Fine-tuning on {labels} labels a class",
    "distill": "Distillation to a quarter of the parameters",
    "init": "Going on from an encoder",
}
MEASURED = {"finetune": "test accuracy, %", "distill": "linear accuracy, %", "init": "linear accuracy, %"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table. arms: cells by name, one a seed, paired; the first arm is what the claims are about."""

    part: str
    name: str
    arms: dict[str, list[dict[str, Any]]]
    imbalanced: bool

    @property
    def first(self) -> str:
        return next(iter(self.arms))

    def values(self, arm: str, key: str = "accuracy") -> list[float]:
        return [float(content[key]) for content in self.arms[arm]]

    def minus(self, arm: str, key: str = "accuracy") -> Interval:
        """The first arm minus another, over paired seeds."""
        return difference(self.values(self.first, key), self.values(arm, key))

    def kept(self) -> Interval | None:
        """(student - untrained) / (teacher - untrained): a ratio of means over paired seeds."""
        gains = [
            [value - floor for value, floor in zip(self.values(arm), self.values(UNTRAINED), strict=True)]
            for arm in (STUDENT, TEACHER)
        ]
        return hierarchical_ratio([gains[0]], [gains[1]])

    def to_json(self) -> dict[str, Any]:
        kept = self.kept() if self.part == "distill" else None
        return {
            "part": self.part,
            "set": self.name,
            "imbalanced": self.imbalanced,
            "accuracy": {arm: self.values(arm) for arm in self.arms},
            "minus": {arm: asdict(self.minus(arm)) for arm in self.arms if arm != self.first},
            "kept": asdict(kept) if kept else None,
        }


def headline(sections: Sequence[Section]) -> dict[str, Any]:
    """The mean of every difference by part, set and arm, and the shares kept."""
    found: dict[str, Any] = {}
    for section in sections:
        entry = {f"minus {arm}": round(section.minus(arm).mean, 1) for arm in section.arms if arm != section.first}
        kept = section.kept() if section.part == "distill" else None
        found[f"{section.part} {section.name}"] = entry | ({"kept": round(kept.mean, 3)} if kept else {})
    return found


def page(sections: Sequence[Section], ours: str, sizes: Any) -> str:
    """The whole page."""
    num_seeds = max(len(contents) for each in sections for contents in each.arms.values())
    lines = [
        "# Transfer: what we found",
        "",
        f"Written by `benchmarks/transfer.py`, whose head says what is compared; ours is `{ours}`. Test images, paired",
        "by seed; in brackets the 95 % bootstrap interval over seeds ([protocol.md](protocol.md)). Claims below one",
        f"point need ten seeds; here are {num_seeds}. Compute is all that an encoder cost, teachers included.",
    ]
    for part, title in TITLES.items():
        mine = [section for section in sections if section.part == part]
        if not mine:
            continue
        lines += ["", f"## {title.format(labels=sizes.labels_per_class)}"]
        for section in mine:
            lines += ["", f"### {section.name}", "", *table(section), "", *claims(section)]
        if len(mine) > 1:
            lines += ["", *overall(mine)]
    return "\n".join(lines) + "\n"


def table(section: Section) -> list[str]:
    """Markdown, an arm a row."""
    also = [("balanced, %", "balanced"), ("AUROC, %", "auroc")] if section.imbalanced else []
    # AUROC is measured where a classifier was fine-tuned
    also = [(title, key) for title, key in also if all(key in cell for cell in section.arms[section.first])]
    titles = ["", MEASURED[section.part], f"{section.first} minus it", *(title for title, _ in also), "compute"]
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for arm, contents in section.arms.items():
        minus = "" if arm == section.first else interval_text(vars(section.minus(arm)), 1, "+")
        extra = [
            interval_text(vars(bootstrap(section.values(arm, key))), 1) if key in contents[0] else "" for _, key in also
        ]
        flops = flops_text(fmean(section.values(arm, "flops")))
        rows.append(
            f"| {' | '.join([arm, interval_text(vars(bootstrap(section.values(arm))), 1), minus, *extra, flops])} |"
        )
    return rows


def claims(section: Section) -> list[str]:
    """What the issue asked for, with whether it holds here."""
    if section.part == "distill":
        kept = section.kept()
        share = "not defined: the teacher is not above the untrained student"
        if kept is not None:
            share = f"{kept.mean:.2f} [{kept.low:.2f}, {kept.high:.2f}], {_holds(kept.mean >= KEEP_AT_LEAST)}"
        return [
            f"- Kept, (student - untrained) / (teacher - untrained), at least {KEEP_AT_LEAST:g}: {share}.",
            *(f"- {_claim(arm, section.minus(arm))}." for arm in (SAME, TOTAL)),
        ]
    key = "balanced" if section.imbalanced else "accuracy"
    others = [arm for arm in section.arms if arm not in (section.first, PIXELS) and not arm.endswith("frozen")]
    return [f"- {_claim(arm, section.minus(arm, key))}." for arm in others]


def overall(sections: Sequence[Section]) -> list[str]:
    """Differences over all sets of a part: seeds within sets are resampled within sets."""
    lines = ["### All sets", ""]
    for arm in sections[0].arms:
        if arm in (sections[0].first, PIXELS, TEACHER):
            continue
        gaps = [
            [ours - other for ours, other in zip(each.values(each.first), each.values(arm), strict=True)]
            for each in sections
        ]
        lines.append(f"- `{sections[0].first}` minus `{arm}`: {hierarchical_bootstrap(gaps)} points.")
    return lines


def _claim(arm: str, minus: Interval) -> str:
    if arm == THEIRS:
        return f"Not below `{arm}`: {minus} points, {_holds(minus.high >= 0)}"
    return f"Above `{arm}`: {minus} points, {_holds(minus.above_zero)}"


def _holds(does: bool) -> str:
    return "holds" if does else "does not hold"
