"""docs/results.md: tables and claims out of the finished comparisons of benchmarks/does_it_pay.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.catalogue import AGENTS
from agents.compare.claims import BENCH, CLAIMS, claim_sentence
from agents.compare.methods import chosen_methods
from agents.compare.outcome import unmeasured
from agents.compare.table import pairs
from agents.summary import flops_text, interval_text, measured_by
from taskrl.config import validate
from taskrl.evaluation.statistics import hierarchical_bootstrap
from taskrl.report_figures import counted

BREADTH = "breadth"
PARTS = {BREADTH: "Final runs as long as a search", "depth": "The whole sum"}
OF_ROWS = ("method", "length", "number", "train_seed", "linear_accuracy", "balanced_accuracy", "imbalanced")
KEPT = ("claims", "break_even", "table", "verdict", "notes", "machine", "versions", "config")
Comparison = Mapping[str, Any]


def kept(result: Comparison) -> dict[str, Any]:
    """What the page needs of a comparison's result, and what tells where it was measured."""
    rows = [{name: row.get(name) for name in OF_ROWS} for row in result["rows"]]
    version = AGENTS[result["config"]["agent"]["name"]].version
    return {**{name: result[name] for name in KEPT}, "rows": rows, "agent_version": version}


def page(sets: Mapping[str, Mapping[str, Comparison]]) -> str:
    """sets: comparisons by part, by the name of their data."""
    lines = [
        "# Does it pay? What we found",
        "",
        "Written by `benchmarks/does_it_pay.py`; settings in `configs/pays.yaml`, fixed before the first cell ran.",
        "How each number is made: [compare.md](compare.md) and [protocol.md](protocol.md). Test images.",
        "What we make of it: [what the study found](compare.md#what-the-study-found-so-far).",
        "",
    ]
    for name, parts in sets.items():
        lines += [f"## {name}", "", next(iter(parts.values()))["verdict"], ""]
        for part, one in parts.items():
            compare = one["config"]["compare"]
            rests_on = f"{compare['searches']} searches, {counted(compare['finals'], 'final encoder')} of each."
            notes = [f"- **{note}**" for note in one["notes"]]
            lines += [f"### {PARTS[part]}", "", rests_on, "", *_table(one["table"]), ""]
            absent = _absent(one) if part == BREADTH else []
            lines += [*notes, *_claims(one["claims"]), *absent, ""]
        if "depth" in parts:
            lines += [parts["depth"]["break_even"]["sentence"], ""]
    elsewhere = [parts for name, parts in sets.items() if name != BENCH]
    for part in PARTS:
        lines += _overall([parts[part] for parts in elsewhere if part in parts])
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    balanced = any(entry.get("balanced") for entry in entries)
    titles = ["method", "length", "linear accuracy, %", *(["balanced, %"] if balanced else []), "minus `reference`"]
    titles += ["search", "training"]
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for entry in entries:
        cells = (
            " ".join([f"`{entry['method']}`", entry["mark"]]).strip(),
            f"{entry['length']}" if entry["length"] else "",
            interval_text(entry["linear"], 1),
            *([interval_text(entry.get("balanced"), 1)] if balanced else []),
            interval_text(entry["difference"], 1, "+"),
            flops_text(entry["search_flops"]),
            flops_text(entry["train_flops"]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _claims(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that this comparison could measure."""
    return [f"- {claim_sentence(entry)}" for entry in entries if entry["strictest"] is not None]


def _absent(one: Comparison) -> list[str]:
    """What the plan has and this comparison has not."""
    config = validate({**one["config"], "compare": {**one["config"]["compare"], "methods": None}})
    known = chosen_methods(config, labelled=True, paid_by_labels=True, num_channels=1)
    there = {entry["method"] for entry in one["table"]}
    names = [f"`{method.name}`" for method in known if method.name not in there]
    sentences = unmeasured(one["claims"])
    return [*([f"- Not compared yet: {', '.join(names)}."] if names else []), *(f"- {text}" for text in sentences)]


def _overall(comparisons: Sequence[Comparison]) -> list[str]:
    """The claims in the mean over sets, at the greatest length that all of them have: sets are resampled, then searches
    (seeds where neither method searches).
    """
    lengths = [set(one["config"]["compare"]["lengths"]) for one in comparisons]
    length = max(set.intersection(*lengths), default=None) if lengths else None
    if length is None:
        return []
    told = []
    for claim in CLAIMS:
        for theirs in claim.theirs:
            gaps = [found for one in comparisons if (found := _gaps(one, claim.ours, theirs, length))]
            if len(gaps) > 1:
                gap = interval_text(vars(hierarchical_bootstrap(gaps)), 1, "+")
                told.append(f"- {claim.name}: `{claim.ours}` minus `{theirs}` {gap} points, {len(gaps)} sets.")
    heading = [f"## In the mean over sets other than {BENCH}, at length {length}", ""]
    return [*heading, *told, ""] if told else []


def _gaps(one: Comparison, ours: str, theirs: str, length: int) -> list[float]:
    """The mean difference of every search, of every seed where there is none; empty where it was not measured."""
    column = measured_by(one["rows"])
    groups = [[a[column] - b[column] for a, b in found] for found in pairs(one["rows"], ours, theirs, length)]
    return groups[0] if len(groups) == 1 else [sum(group) / len(group) for group in groups]
