"""What metrics.jsonl of a finished run tells its report: rewards by part, compute and seconds, in one pass."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskrl.evaluation.statistics import bootstrap
from taskrl.tasks.spec import TaskSpec

PART, SHARE, LEVEL = "reward_part/", "share/", "level/"
MAX_BLOCKS = 40
MAX_PARTS = 40
COMPUTE = ("train_flops", "measure_flops", "train_images", "measure_images")
SECONDS = ("train_s", "measure_s")
Metrics = Mapping[str, float | None]


def log_record(path: Path, *, decisions: int, group_size: int, searched: bool) -> dict[str, Any] | None:
    """For result.json; None where `path` (metrics.jsonl) is missing or empty.

    began (seconds since 1970) and seconds: of the whole run, pauses included. search: see `_search_record`; None where
    nothing was searched. finals: what the decisions of the final encoders cost. decisions: of a search episode.
    """
    search: dict[int, Metrics] = {}  # a decision that a resumed run repeats counts once
    finals: dict[str, tuple[int, Metrics]] = {}
    times = list[float]()
    for entry in entries(path):
        times.append(entry["time"])
        if entry["kind"] == "decision":
            if searched and not entry["run"]:
                search[entry["step"]] = entry["metrics"]
            elif entry["step"] >= finals.get(entry["run"], (0, {}))[0]:
                finals[entry["run"]] = entry["step"], entry["metrics"]
    if not times:
        return None
    return {
        "began": round(min(times), 1),
        "seconds": round(max(times) - min(times), 1),
        "search": _search_record(search, decisions, group_size) if search else None,
        "finals": _compute([metrics for _, metrics in finals.values()]),
    }


def logged_specs(path: Path) -> list[str]:
    """The tasks (JSON specs) of a run without a search, decision by decision."""
    specs: dict[int, str] = {}
    for entry in entries(path):
        if entry["kind"] == "decision" and not entry["run"]:
            mixture, levels = (_named(entry["metrics"], start) for start in (SHARE, LEVEL))
            specs[entry["step"]] = TaskSpec(mixture=mixture, levels=levels).to_json()
    return [specs[step] for step in sorted(specs)]


def mean_shares(played: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Each objective's share of a decision's compute, averaged over the episodes (JSON specs) that came so far."""
    num = max((len(specs) for specs in played), default=0)
    columns = [[TaskSpec.from_json(specs[i]) for specs in played if i < len(specs)] for i in range(num)]
    names = dict.fromkeys(name for column in columns for spec in column for name, _ in spec.mixture)
    return {
        name: [round(sum(spec.share(name) for spec in column) / len(column), 4) for column in columns] for name in names
    }


def _named(metrics: Mapping[str, float], start: str) -> tuple[tuple[str, float], ...]:
    return tuple((name.removeprefix(start), value) for name, value in metrics.items() if name.startswith(start))


def entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """Whole lines only: a run that was killed may have left half of one."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and {"kind", "step", "run", "time", "metrics"} <= entry.keys():
                yield entry


def _search_record(search: Mapping[int, Metrics], decisions: int, group_size: int) -> dict[str, Any]:
    """third: episodes in the first and in the last third. parts: reward of an episode by part in both, intervals over
    groups of episodes. curve: the same in up to 40 blocks. by_decision: mean gain at each decision, in both thirds.
    spent: FLOPs, images and seconds of all workers together.
    """
    lasts = {step // decisions: search[step] for step in sorted(search)}
    seconds = {name: sum(entry.get(f"time/{name}") or 0.0 for entry in search.values()) for name in SECONDS}
    found = dict.fromkeys(name for entry in search.values() for name in entry if name.startswith("reward"))
    names = list(found)[:MAX_PARTS]
    episodes = np.unique([step // decisions for step in search])
    rewards = np.zeros((len(names), len(episodes), decisions))
    for step, metrics in search.items():
        row = np.searchsorted(episodes, step // decisions)
        rewards[:, row, step % decisions] = [metrics.get(name) or 0.0 for name in names]
    third = max(len(episodes) // 3, 1)
    ends = {"first": slice(None, third), "last": slice(-third, None)}
    groups = episodes // group_size
    blocks = np.array_split(np.arange(len(episodes)), min(MAX_BLOCKS, len(np.unique(groups))))
    totals = dict(zip((name.removeprefix(PART) for name in names), rewards.sum(2), strict=True))
    gain = rewards[names.index(f"{PART}gain")] if f"{PART}gain" in names else rewards.sum(0)
    return {
        "third": third,
        "parts": {
            name: {end: _over_groups(values[which], groups[which]) for end, which in ends.items()}
            for name, values in totals.items()
        },
        "curve": {
            "episode": [int(episodes[block[-1]]) for block in blocks],
            "parts": {
                name: [round(float(values[block].mean()), 6) for block in blocks] for name, values in totals.items()
            },
        },
        "by_decision": {end: gain[which].mean(0).round(6).tolist() for end, which in ends.items()},
        "num_diverged": int(sum(metrics.get("diverged") or 0.0 for metrics in search.values())),
        "spent": {**_compute(list(lasts.values())), **{name: round(value, 2) for name, value in seconds.items()}},
    }


def _compute(lasts: Sequence[Metrics]) -> dict[str, float]:
    """Over episodes, from the last decision of each: what it logs was spent since the episode began."""
    return {name: sum(entry.get(f"compute/{name}") or 0.0 for entry in lasts) for name in COMPUTE}


def _over_groups(values: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, float | None]:
    """Episodes of a group share their start, so groups are what is resampled; one alone has no interval."""
    means = [float(values[groups == group].mean()) for group in np.unique(groups)]
    if len(means) == 1:
        return {"mean": round(means[0], 6), "low": None, "high": None}
    return {name: round(value, 6) for name, value in vars(bootstrap(means)).items()}
