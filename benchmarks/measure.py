"""What every benchmark shares: its command line, alternating runs, medians, and the record of a result.

Both sides of a comparison are measured in one run, turn by turn, so that a machine that slows down slows both.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from taskrl.machine import machine, versions
from taskrl.run_folder import write_result

RESULTS = Path(__file__).resolve().parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """--quick and --out, as every benchmark takes them."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="Under 50 s: shows that it runs; no figures to quote.")
    options.add_argument("--out", type=Path, help="JSON file; without it, results/<program>.json unless --quick.")
    return options


def alternate(sides: Mapping[str, Callable[[], float]], *, runs: int) -> dict[str, list[float]]:
    """Call every side `runs` times, turn by turn; each call returns its own measurement."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            found[name].append(side())
    return found


def seconds(work: Callable[[], Any], *, repeat: int = 1) -> float:
    """Wall time of one call of `work`, the mean over `repeat` calls."""
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    return (time.perf_counter() - started) / repeat


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median of the turn-by-turn ratios, with the smallest and the largest."""
    each = [ours / theirs for ours, theirs in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def finish(program: str, options: argparse.Namespace, headline: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Write the result with machine, versions and date; print the headline as the last line, one JSON object."""
    path = options.out or (None if options.quick else RESULTS / f"{Path(program).stem}.json")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "headline": dict(headline),
            "quick": options.quick,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine("cuda:0" if torch.cuda.is_available() else "cpu"),
            "versions": versions(),
            **details,
        }
        write_result(path, record)
    print(json.dumps(dict(headline)), flush=True)
