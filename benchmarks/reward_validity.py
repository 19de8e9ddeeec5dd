"""Does the reward rank encoders as linear accuracy does? Every signal and panel, per set, with intervals and attacks.

    python benchmarks/checkpoints.py --work build/checkpoints --sets cluttered-digits fashion-mnist=PATH ...
    python benchmarks/signals.py --work build/checkpoints --sets cluttered-digits fashion-mnist=PATH ...
    python benchmarks/reward_validity.py --work build/checkpoints --sets cluttered-digits fashion-mnist=PATH ...

Reads trained encoders and their signals, fits nothing: the panel's weights were fixed before. Accuracies are of test
images. Intervals are 95 % bootstrap intervals over encoders.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attacks
import numpy as np
import validity_figure
from checkpoints import Checkpoint, read
from measure import finish
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from taskrl.evaluation.panel import GOALS, Part, calibrated, calibration, copying, weighed
from taskrl.evaluation.stopping import StopRule
from taskrl.seeding import numpy_generator

Floats = NDArray[np.float64]
Score = Callable[[Checkpoint], float]
NUM_RESAMPLES = 1000
LABELLED = {"labels_30": "labels/30/ridge_r2", "labels_10": "labels/10/log_loss", "labels_5": "labels/5/log_loss",
            "labels_1": "labels/1/one_label"}  # fmt: skip
SIZES = {"panel": "full", "reward": "reward", "few_labels": "few_10", "few_labels_5": "few_5", "few_labels_1": "few_1"}
GOAL_FACTS = {"frozen": "linear", "finetune": "fine_tuned", "dense": "patch"}
MARGIN = 2.0
MIN_CELL = 4
PATIENCE = 3


def main() -> None:
    """Rank, compare and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME[=PATH]")
    parser.add_argument("--attacks", action="store_true", help="Measure the attack suite too (opens the data).")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--figure", type=Path, help="PNG of the panel against accuracy.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sets = {}
    for text in options.sets:
        name, _, path = text.partition("=")
        sets[name] = judge(name, path, options.work / name, with_attacks=options.attacks)
        print(name, json.dumps(sets[name]["headline"]), flush=True)
    if options.figure:
        titles = {
            name: f"{name}: {found['panel']['pooled_spearman']:.2f} (labels: {found['ceiling']['pooled_spearman']:.2f})"
            for name, found in sets.items()
        }
        validity_figure.draw({name: found.pop("points") for name, found in sets.items()}, titles, options.figure)
    for found in sets.values():
        found.pop("points", None)
    finish(__file__, options, summarise(sets), {"sets": sets})


def judge(name: str, path: str, folder: Path, *, with_attacks: bool) -> dict[str, Any]:
    """Everything about one set."""
    signals: dict[str, dict[str, float]] = json.loads((folder / "signals.json").read_text(encoding="utf-8"))
    points = [point for point in read(folder) if point.key in signals]
    pool = [point for point in points if point.run["kind"] in ("random", "untrained")]
    scores = scores_of(signals)
    truth = np.array([accuracy(point) for point in pool])
    rng = numpy_generator(0, "reward validity", name)
    found: dict[str, Any] = {"num_encoders": len(pool), "ceiling": ceiling(pool)}
    for label, score in scores.items():
        found[label] = ranked(pool, np.array([score(point) for point in pool]), truth, rng)
    found["goals"] = {goal: goal_order(pool, signals, goal) for goal in GOALS}
    found["knobs"] = knob_signs(points, scores["panel"], scores["reward"], scores["labels_30"])
    found["choice"] = checkpoint_choice(points, scores)
    if with_attacks:
        found["attacks"] = attacks.suite(name, path, folder, pool, scores, LABEL_FREE, accuracy, MARGIN)
    found["points"] = [(p.run["objective"], scores["panel"](p), accuracy(p)) for p in pool]
    best = max(truth)
    found["headline"] = {
        "panel": found["panel"]["pooled_spearman"],
        "within": found["panel"]["within_cells"],
        "few_labels": found["few_labels"]["pooled_spearman"],
        "pick_loses": round(float(best - accuracy(max(pool, key=scores["panel"]))), 2),
    }
    return found


def accuracy(point: Checkpoint) -> float:
    """Linear accuracy on test images, percent."""
    return float(point.facts["test"]["linear"])


def panel_value(signals: Mapping[str, float], parts: Mapping[str, Part], prefix: str) -> float:
    """What `Panel` makes of stored signals. prefix: "reward/" (512 images) or "full/" (768)."""
    values = {name.removeprefix(prefix): value for name, value in signals.items() if name.startswith(prefix)}
    penalty = signals["guard/penalty"] + copying(values, "copy" if prefix == "full/" else "busy_copy")
    return weighed(parts, values) - penalty


LABEL_FREE: dict[str, Callable[[Mapping[str, float]], float]] = {
    "panel": lambda signals: panel_value(signals, calibrated("frozen", "full"), "full/"),
    "reward": lambda signals: panel_value(signals, calibrated("frozen", "reward"), "reward/"),
}


def scores_of(signals: Mapping[str, Mapping[str, float]]) -> dict[str, Score]:
    """Name -> score of a checkpoint: the panels, the labelled probes, every single signal, and two naive predictors."""
    some = next(iter(signals.values()))
    scores: dict[str, Score] = {}
    for label, size in SIZES.items():
        parts = calibrated("frozen", size)
        prefix = "full/" if size == "full" else "reward/"
        few = size.removeprefix("few_")
        labels = LABELLED.get(f"labels_{few}", "")

        def mixed(point: Checkpoint, parts: Any = parts, prefix: str = prefix, labels: str = labels) -> float:
            row = signals[point.key]
            known = {name: row.get(labels, 0.0) for name in ("labels", "one_label")}
            return panel_value({**row, **{f"{prefix}{name}": value for name, value in known.items()}}, parts, prefix)

        scores[label] = mixed
    by_simulated = {name: Part(**values) for name, values in calibration()["learned"]["frozen"]["full"].items()}
    scores["panel_by_simulated_sets"] = lambda point: panel_value(signals[point.key], by_simulated, "full/")
    for label, signal in LABELLED.items():
        scores[label] = lambda point, signal=signal: signals[point.key][signal]
    for signal in some:
        if signal.split("/")[0] in ("full", "reward"):
            scores[signal] = lambda point, signal=signal: signals[point.key][signal]
    scores["steps"] = lambda point: float(point.steps)
    scores["minus_training_loss"] = lambda point: -float(point.facts["loss"])
    return scores


def ranked(pool: Sequence[Checkpoint], score: Floats, truth: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """Spearman pooled with its interval, per objective, and the median over (objective, length) cells."""
    # ranks are taken once: ranking every resample anew differs by its ties only
    rows = rng.integers(len(pool), size=(NUM_RESAMPLES, len(pool)))
    resampled = pearson(rankdata(score)[rows], rankdata(truth)[rows])
    groups: dict[str, list[int]] = {}
    cells: dict[tuple[str, int], list[int]] = {}
    for index, point in enumerate(pool):
        groups.setdefault(point.run["objective"], []).append(index)
        cells.setdefault((point.run["objective"], point.steps), []).append(index)
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    within = [rho(score[rows], truth[rows]) for rows in cells.values() if len(rows) >= MIN_CELL]
    return {
        "pooled_spearman": round(rho(score, truth), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "per_objective": {n: round(rho(score[r], truth[r]), 3) for n, r in groups.items() if len(r) >= MIN_CELL},
        "within_cells": round(float(np.median(within)), 3),
    }


def pearson(first_RN: Floats, second_RN: Floats) -> Floats:
    """Correlation of each pair of rows; nan where one is constant."""
    first = first_RN - first_RN.mean(1, keepdims=True)
    second = second_RN - second_RN.mean(1, keepdims=True)
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.where(scale > 0, (first * second).sum(1) / np.where(scale > 0, scale, 1), np.nan)


def rho(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation; 0 when one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second)[0])


def ceiling(pool: Sequence[Checkpoint]) -> dict[str, float]:
    """How well linear accuracy on other images (validation) orders the encoders as test accuracy does; within: the
    median over cells. No signal that reads as few labels can be expected above it.
    """
    test = np.array([accuracy(point) for point in pool])
    other = np.array([float(point.facts["validation"]["linear"]) for point in pool])
    cells: dict[tuple[str, int], list[int]] = {}
    for index, point in enumerate(pool):
        cells.setdefault((point.run["objective"], point.steps), []).append(index)
    within = [rho(other[rows], test[rows]) for rows in cells.values() if len(rows) >= MIN_CELL]
    return {"pooled_spearman": round(rho(other, test), 3), "within_cells": round(float(np.median(within)), 3)}


def goal_order(pool: Sequence[Checkpoint], signals: Mapping[str, Mapping[str, float]], goal: str) -> dict[str, float]:
    """Spearman of the goal's own panel, and of the panel for frozen features, with what the goal asks for."""
    fact = GOAL_FACTS[goal]
    some = [point for point in pool if goal == "frozen" or fact in point.facts]
    truth = np.array([accuracy(point) if goal == "frozen" else point.facts[fact] for point in some])
    row = {}
    for label, source in (("own", goal), ("frozen", "frozen")):
        parts = calibrated(source, "full")
        row[label] = round(rho(np.array([panel_value(signals[p.key], parts, "full/") for p in some]), truth), 3)
    return {**row, "num_encoders": len(some)}


def knob_signs(points: Sequence[Checkpoint], *scores: Score) -> list[dict[str, Any]]:
    """The reference with one knob at another level: change of test accuracy and of each score, mean over seeds."""
    runs = [point for point in points if point.run["kind"] == "knob"]
    base = {point.run["seed"]: point for point in runs if point.run["knob"] == "reference"}
    rows: dict[tuple[str, float], list[Checkpoint]] = {}
    for point in runs:
        if point.run["knob"] != "reference" and point.run["seed"] in base:
            rows.setdefault((point.run["knob"], point.run["level"]), []).append(point)
    found = []
    for (knob, level), group in sorted(rows.items()):
        change = [
            float(np.mean([score(p) - score(base[p.run["seed"]]) for p in group])) for score in (accuracy, *scores)
        ]
        names = ("accuracy", "panel", "reward", "labels_30")
        found.append(
            {
                "knob": knob,
                "level": level,
                **{n: round(c, 4) for n, c in zip(names, change, strict=True)},
                "agrees": bool(np.sign(change[0]) == np.sign(change[1])),
            }
        )
    return found


def checkpoint_choice(points: Sequence[Checkpoint], scores: Mapping[str, Score]) -> dict[str, Any]:
    """Along each long run: points of accuracy lost by the panel's choice and by the last, and what stopping saves."""
    runs: dict[str, list[Checkpoint]] = {}
    for point in points:
        if point.run["kind"] == "long":
            runs.setdefault(point.run["objective"], []).append(point)
    found: dict[str, Any] = {}
    for objective, group in runs.items():
        group.sort(key=lambda point: point.steps)
        truth = [accuracy(point) for point in group]
        rule, stopped = StopRule(patience=PATIENCE), len(group) - 1
        for index, point in enumerate(group):
            if rule.add(scores["panel"](point)):
                stopped = index
                break
        found[objective] = {
            "choice_loses": round(max(truth) - accuracy(max(group, key=scores["panel"])), 2),
            "last_loses": round(max(truth) - truth[-1], 2),
            "stop_loses": round(max(truth) - truth[rule.best_index], 2),
            "stop_saves": round(1 - group[stopped].steps / group[-1].steps, 3),
            "past_its_best": bool(int(np.argmax(truth)) < len(truth) - 1),
        }
    return found


def summarise(sets: Mapping[str, Any]) -> dict[str, Any]:
    """The lines of "it is done when"."""
    panel = {name: found["panel"] for name, found in sets.items()}
    naive = ("steps", "minus_training_loss")
    choices = [run for found in sets.values() for run in found["choice"].values()]
    past = [run for run in choices if run["past_its_best"]]
    knobs = [row for found in sets.values() for row in found["knobs"]]
    return {
        "sets_at_0.9": sum(found["pooled_spearman"] >= 0.9 for found in panel.values()),
        "sets_at_0.8": sum(found["pooled_spearman"] >= 0.8 for found in panel.values()),
        "lowest_pooled": min(found["pooled_spearman"] for found in panel.values()),
        "median_within_cells": float(np.median([found["within_cells"] for found in panel.values()])),
        "best_naive_pooled": {
            n: float(np.median([found[n]["pooled_spearman"] for found in sets.values()])) for n in naive
        },
        "pick_loses": {name: found["headline"]["pick_loses"] for name, found in sets.items()},
        "few_labels": {name: found["few_labels"]["pooled_spearman"] for name, found in sets.items()},
        "ceiling": {name: found["ceiling"]["pooled_spearman"] for name, found in sets.items()},
        "knob_signs_agree": f"{sum(row['agrees'] for row in knobs)} of {len(knobs)}",
        "choice_loses": round(float(np.mean([run["choice_loses"] for run in choices])), 2) if choices else None,
        "last_loses": round(float(np.mean([run["last_loses"] for run in choices])), 2) if choices else None,
        "stop_loses_past_best": round(float(np.mean([run["stop_loses"] for run in past])), 2) if past else None,
        "stop_saves_past_best": round(float(np.mean([run["stop_saves"] for run in past])), 3) if past else None,
    }


if __name__ == "__main__":
    main()
