"""Scales and bounds of the label-free panel from simulated data sets, and the weights that these alone would choose.

    python benchmarks/checkpoints.py --work build/checkpoints --worlds 0 24
    python benchmarks/signals.py --work build/checkpoints --worlds 0 24
    python benchmarks/calibrate_panel.py --work build/checkpoints

The shipped weights are fixed by hand, on cluttered digits, Fashion-MNIST and CIFAR-10 (docs/reward.md); a scale is the
spread of a part among encoders of one simulated set. Beside them stands what simulated sets alone choose: within each
set, accuracy is regressed on the parts (both centred there) by non-negative ridge regression, parts chosen by how well
they order the encoders of sets that the fit did not see. Writes taskrl/evaluation/calibration.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import read
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

from taskrl.evaluation.panel import CALIBRATION_FILE, MEASURES
from taskrl.run_folder import write_result

Floats = NDArray[np.float64]
# parts that may enter: nothing that the default task space plays, nothing that is only bounded by the feature size
STATISTICS = ("edges", "edge_layout", "edge_groups", "layout_groups", "spectrum", "spectrum_groups", "intensity",
              "intensity_groups", "joint_groups")  # fmt: skip
# of the reward: answered from one look at planted images, so that they cost about a tenth of a decision
REWARD_PARTS = ("planted", *(f"busy_{name}" for name in STATISTICS))
PARTS = (*REWARD_PARTS, *STATISTICS, "cluster_learnability", "cluster_stability", "effective_rank", "uniformity")
HIDDEN = ("corner_edges", "corner_intensity")
JUDGES = {
    "frozen": {"planted": 0.4, "edge_groups": 0.2, "layout_groups": 0.2, "intensity": 0.2},
    "finetune": {"planted": 0.25, "edges": 0.25, "edge_layout": 0.25, "edge_groups": 0.25},
    "dense": {"edges": 0.25, "edge_layout": 0.25, "layout_groups": 0.25, "spectrum": 0.25},
}
LABELS_SHARE = {"few_1": 0.1, "few_5": 0.2, "few_10": 0.43}
NEGATIVE = ("uniformity",)  # smaller is better
FEW = {"few_1": "labels/1/one_label", "few_5": "labels/5/log_loss", "few_10": "labels/10/log_loss"}
LABEL_PART = {"few_1": "one_label", "few_5": "labels", "few_10": "labels"}
RIDGE = 0.1
CAP = 0.45
MAX_PARTS = {"reward": 4, "full": 8}
MIN_SPREAD = 2.0
MIN_POINTS = 10
CUTS = (0.5, 99.5)


@dataclass(frozen=True)
class World:
    """Encoders of one simulated set: signals by name (N,), accuracies by goal (N,), nan where not measured."""

    name: str
    signals: Mapping[str, Floats]
    accuracy: Mapping[str, Floats]


def main() -> None:
    """Fit every goal and size; print how well unseen simulated sets are ordered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=CALIBRATION_FILE)
    options = parser.parse_args()
    folders = sorted(options.work.glob("world-*"))
    worlds = [world for folder in folders if (world := read_world(folder)) is not None]
    goals: dict[str, dict[str, Any]] = {}
    learned: dict[str, dict[str, Any]] = {}
    orders: dict[str, dict[str, float]] = {}
    for goal, judges in JUDGES.items():
        goals[goal], learned[goal], orders[goal] = {}, {}, {}
        for size, prefix, names in (("reward", "reward/", REWARD_PARTS), ("full", "full/", PARTS)):
            by_hand = [name if size == "full" else busy(name) for name in judges]
            goals[goal][size] = parts(worlds, prefix, by_hand, np.array(list(judges.values())))
            chosen = choose(worlds, goal, prefix, names, MAX_PARTS[size])
            learned[goal][size] = parts(worlds, prefix, chosen, fit(worlds, goal, prefix, chosen)[0])
            orders[goal][size] = round(held_out_order(worlds, goal, prefix, chosen), 3)
        for size, labels in FEW.items():
            share = LABELS_SHARE[size]
            shown = {**{f"reward/{busy(name)}": busy(name) for name in judges}, labels: LABEL_PART[size]}
            weights = np.array([*((1 - share) * weight for weight in judges.values()), share])
            goals[goal][size] = parts(worlds, "", list(shown), weights, shown)
    witness = {name: held_out_order(worlds, "frozen", "full/", [name]) for name in HIDDEN}
    record = {
        "hidden": max(witness, key=lambda name: witness[name]),
        "goals": goals,
        "worlds": [world.name for world in worlds],
        "num_encoders": sum(len(world.accuracy["frozen"]) for world in worlds),
        "learned": learned,
        "learned_held_out_spearman": orders,
    }
    write_result(options.out, record)
    print(json.dumps({"learned": {g: {s: list(p) for s, p in v.items()} for g, v in learned.items()}, **orders}))


def busy(name: str) -> str:
    """The same question about images with planted patches."""
    return name if name == "planted" else f"busy_{name}"


def read_world(folder: Path) -> World | None:
    """Everything measured in `folder`, or None with fewer than 10 encoders or a spread of accuracies below 2 points."""
    store = folder / "signals.json"
    if not store.is_file():
        return None
    signals = json.loads(store.read_text(encoding="utf-8"))
    points = [point for point in read(folder) if point.key in signals]
    names = list(signals[points[0].key])
    accuracy = {
        "frozen": np.array([point.facts["test"]["linear"] for point in points]),
        "finetune": np.array([point.facts.get("fine_tuned", np.nan) for point in points], dtype=float),
        "dense": np.array([point.facts.get("patch", np.nan) for point in points], dtype=float),
    }
    if len(points) < MIN_POINTS or accuracy["frozen"].std() < MIN_SPREAD:
        return None
    return World(folder.name, {n: np.array([signals[p.key][n] for p in points]) for n in names}, accuracy)


def choose(worlds: Sequence[World], goal: str, prefix: str, names: Sequence[str], most: int) -> list[str]:
    """Forward selection by the held-out order; stops when no part adds 0.003."""
    chosen: list[str] = []
    best = -1.0
    while len(chosen) < most:
        trials = {name: held_out_order(worlds, goal, prefix, [*chosen, name]) for name in names if name not in chosen}
        name = max(trials, key=lambda n: trials[n])
        if trials[name] < best + 0.003:
            break
        chosen.append(name)
        best = trials[name]
    return chosen


def held_out_order(worlds: Sequence[World], goal: str, prefix: str, names: Sequence[str]) -> float:
    """Mean Spearman over sets of eight folds, each ordered by a fit on the other folds."""
    scores = []
    for fold in range(min(8, len(worlds))):
        rest = [world for index, world in enumerate(worlds) if index % 8 != fold]
        weights, scales = fit(rest, goal, prefix, names)
        for world in worlds[fold::8]:
            x, y = table(world, goal, prefix, names)
            value = x @ (weights / scales)
            scores.append(float(spearmanr(value, y)[0]) if value.std() > 0 else 0.0)
    return float(np.mean(scores))


def table(world: World, goal: str, prefix: str, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Parts (N, K), signed so that more is better, and accuracy (N,), both centred."""
    known = np.isfinite(world.accuracy[goal])
    signs = [-1.0 if name in NEGATIVE else 1.0 for name in names]
    x = np.stack([sign * world.signals[prefix + n] for sign, n in zip(signs, names, strict=True)], axis=1)[known]
    y = world.accuracy[goal][known]
    return x - x.mean(0), y - y.mean()


def fit(worlds: Sequence[World], goal: str, prefix: str, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Weights (K,), summing to 1 and none above its cap, of parts divided by scales (K,), their spread in a set."""
    tables = [table(world, goal, prefix, names) for world in worlds]
    scales = np.sqrt(np.mean([x.var(0) for x, _ in tables], axis=0)) + 1e-9
    x = np.concatenate([x / scales for x, _ in tables])
    y = np.concatenate([y / (y.std() + 1e-9) for _, y in tables])
    penalty = np.sqrt(RIDGE * len(x)) * np.eye(len(names))
    weights, _ = nnls(np.concatenate([x, penalty]), np.concatenate([y, np.zeros(len(names))]))
    weights = weights / max(weights.sum(), 1e-9)
    for _ in range(20):  # what is above the cap goes to the others
        if len(names) * CAP <= 1 or weights.max() <= CAP + 1e-9 or (weights > 0).sum() * CAP <= 1:
            break
        weights = np.minimum(weights, CAP)
        weights = weights / weights.sum()
    return weights, scales


def parts(
    worlds: Sequence[World],
    prefix: str,
    columns: Sequence[str],
    weights: Floats,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the panel needs of each part with a weight; names: of columns that are called otherwise there."""
    scales = fit(worlds, "frozen", prefix, columns)[1]
    found = {}
    for column, weight, scale in zip(columns, weights, scales, strict=True):
        if weight < 0.01:
            continue
        seen = np.concatenate([world.signals[prefix + column] for world in worlds])
        low, high = np.percentile(seen, CUTS) if column in MEASURES else (-1.0, 1.0)
        sign = -1.0 if column in NEGATIVE else 1.0
        values = {"weight": sign * weight, "scale": scale, "low": low, "high": high}
        found[names[column] if names else column] = {key: round(float(v), 5) for key, v in values.items()}
    return found


if __name__ == "__main__":
    main()
