"""Signal-to-noise of one decision's reward, and whether that signal points where the final accuracy does.

    python benchmarks/reward_noise.py --sets cluttered-digits fashion-mnist=PATH [--work build/checkpoints]

From half an episode of the reference recipe: the recipe and every deviation in one knob, each with several draws of
batches and views, at the default length of a decision. Signal-to-noise is the spread between tasks over the spread
between draws. With --work, the gains of one decision are ranked against the final accuracies of the same recipes
(`checkpoints.py --kinds knob`): a loud signal can be wrong.
"""

from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
from measure import finish, parser
from scipy.stats import spearmanr

from envs.noise import NoiseReport, measure_noise
from taskrl.assemble import Assembled, assemble
from taskrl.config import load_config
from taskrl.tasks.spec import TaskSpec

PROBES = {"ridge, 30 labels a class": ["reward.probe=ridge"], "few, 10 labels a class": ["reward.probe=few",
          "reward.labels_per_class=10"], "label-free panel": ["reward.probe=panel"]}  # fmt: skip
SEEDS = (0, 1)
LENGTHS = (15, 60)


def main() -> None:
    """Measure every set, probe and length of decision."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--sets", nargs="+", default=["cluttered-digits"], metavar="NAME[=PATH]")
    options_parser.add_argument("--work", type=Path)
    options = options_parser.parse_args()
    torch.set_num_threads(1)
    sets: dict[str, Any] = {}
    for text in options.sets:
        name, _, path = text.partition("=")
        final = final_accuracies(options.work / name) if options.work else {}
        sets[name] = {
            probe: {
                str(steps): judge(name, path, settings, steps, SEEDS[:1] if options.quick else SEEDS, final)
                for steps in LENGTHS[: 1 if options.quick else None]
            }
            for probe, settings in PROBES.items()
        }
    headline = {
        name: {probe: {steps: row["signal_to_noise"] for steps, row in rows.items()} for probe, rows in probes.items()}
        for name, probes in sets.items()
    }
    finish(__file__, options, headline, {"sets": sets})


def judge(
    name: str, path: str, settings: list[str], steps: int, seeds: tuple[int, ...], final: dict[str, float]
) -> dict[str, Any]:
    """Signal-to-noise of one set, probe and length: the mean of several starts, and the order of the gains."""
    assembled = opened(name, path, settings)
    episode = assembled.config.episode.model_copy(update={"steps_per_decision": steps})
    found = [measure_noise(assembled.problem, episode, seed=seed) for seed in seeds]
    reports = [report for report in found if report is not None]
    row = {
        "signal_to_noise": round(ratio(reports), 2),
        "each": [round(report.noise.signal_to_noise, 2) for report in reports],
        "aa_sd": float(np.mean([report.noise.aa_sd for report in reports])),
        "signal_sd": float(np.mean([report.noise.signal_sd for report in reports])),
    }
    return row | order(reports, final)


def ratio(reports: list[NoiseReport]) -> float:
    """Signal over noise with variances averaged over the starts."""
    signal = np.mean([report.noise.signal_sd**2 for report in reports])
    chance = np.mean([report.noise.aa_sd**2 for report in reports])
    return float(np.sqrt(signal / chance)) if chance > 0 else 0.0


def order(reports: list[NoiseReport], final: dict[str, float]) -> dict[str, Any]:
    """Spearman of one decision's mean gain with the final accuracy of the recipe played throughout."""
    gains: dict[str, list[float]] = {}
    for report in reports:
        for action, row in zip(report.actions, report.gains, strict=True):
            gains.setdefault(action, []).append(float(np.mean(row)))
    known = [action for action in gains if action in final]
    if len(known) < 4:
        return {}
    pairs = [(float(np.mean(gains[action])), final[action]) for action in known]
    return {"spearman_with_final_accuracy": round(float(spearmanr(*zip(*pairs, strict=True))[0]), 2), "num": len(known)}


def opened(name: str, path: str, settings: list[str]) -> Assembled:
    """The set as `checkpoints.py` opens it, with the default objectives: only knobs deviate."""
    overrides = ["predictor.precision=bf16", "predictor.compile=never", "envs=processes", "workers=1", *settings]
    pinned = load_config(None, overrides, {"tasks.objectives": ["contrastive"]})
    config = pinned.model_copy(update={"data": checkpoints.set_configuration(name, path).data})
    return assemble(config, checkpoints.dataset_of(name, path))


def final_accuracies(folder: Path) -> dict[str, float]:
    """Mean test accuracy of each recipe with one knob changed, by its description."""
    found: dict[str, list[float]] = {}
    for point in checkpoints.read(folder):
        if point.run["kind"] == "knob":
            spec = TaskSpec.from_json(point.run["spec"])
            found.setdefault(spec.describe(), []).append(float(point.facts["test"]["linear"]))
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
