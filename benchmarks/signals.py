"""Every signal of every checkpoint, measured once: parts of the panel, labelled scores, few labels, collapse signals.

    python benchmarks/signals.py --work build/checkpoints --sets cluttered-digits gtsrb=PATH --worlds 0 24

Signals are kept beside the checkpoints in signals.json; a checkpoint that has its signals is not measured again.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import checkpoints
import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.assemble import Assembled
from taskrl.data.splits import cap_labels
from taskrl.evaluation.collapse import effective_rank, feature_std
from taskrl.evaluation.labelled import knn_accuracy, log_loss_score, one_label_score
from taskrl.evaluation.panel import CLEAN, COPIED, MEASURES, PAIR_MEASURES, answers, collapse_penalty
from taskrl.evaluation.probes import ridge_r2
from taskrl.measuring import label_folds, unlabelled
from taskrl.run_folder import write_result
from taskrl.types import Encode

FEW = (5, 10, 30)
JUDGING = (CLEAN, "planted", "corner")
NUM_REWARD, NUM_FULL, NUM_FOLDS = 512, 768, 10


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=[], metavar="NAME[=PATH]")
    parser.add_argument("--worlds", type=int, nargs=2, default=(0, 0), metavar=("FIRST", "END"))
    parser.add_argument("--export", type=Path, help="Folder for one JSON a set: records and signals without weights.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for text in options.sets:
        name, _, path = text.partition("=")
        measure(lambda name=name, path=path: checkpoints.open_set(name, path), options.work / name)
    for seed in range(*options.worlds):
        measure(lambda seed=seed: checkpoints.open_world(seed), options.work / f"world-{seed:03d}")
    if options.export:
        names = [text.partition("=")[0] for text in options.sets] + [f"world-{s:03d}" for s in range(*options.worlds)]
        for name in names:
            export(options.work / name, options.export)


def export(folder: Path, out: Path) -> None:
    """Everything known of the encoders in `folder`, but their weights, in one file."""
    store = folder / "signals.json"
    if not store.is_file():
        return
    signals = json.loads(store.read_text(encoding="utf-8"))
    rounded = {key: {name: round(value, 4) for name, value in row.items()} for key, row in signals.items()}
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")) if path != store]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"runs": runs, "signals": rounded}, separators=(",", ":"))
    (out / f"reward-validity-{folder.name}.json").write_text(text, encoding="utf-8")


def measure(opened: Any, folder: Path) -> None:
    """Signals of every checkpoint in `folder` that has none yet."""
    store = folder / "signals.json"
    found: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    missing = [point for point in checkpoints.read(folder) if point.key not in found]
    if not missing:
        return
    assembled: Assembled = opened()
    meter = Meter(assembled)
    predictor = assembled.problem.make_predictor(0)
    for point in missing:
        found[point.key] = meter.signals(point.load(predictor).encode)
    write_result(store, found)
    print(folder.name, len(missing), "measured", flush=True)


class Meter:
    """The measuring data of one set, and every signal of an encoder on them."""

    def __init__(self, assembled: Assembled) -> None:
        config, splits = assembled.config, assembled.splits
        self.data = {
            count: unlabelled(
                config.model_copy(update={"reward": config.reward.model_copy(update={"panel_images": count})}),
                splits.probe,
                splits.pretraining.inputs,
                torch.device("cpu"),
            )
            for count in (NUM_REWARD, NUM_FULL)
        }
        one, self.one_labels, _ = _few(assembled, 1)
        # labelled images first, then unlabelled ones
        self.one_inputs = torch.cat([one, self.data[NUM_FULL].inputs])
        self.few = {per_class: _few(assembled, per_class) for per_class in FEW}

    def signals(self, encode: Encode) -> dict[str, float]:
        """By name; parts of the panel on 512 images under "reward/", on 768 under "full/"."""
        small, large = self.data[NUM_REWARD], self.data[NUM_FULL]
        every = set(MEASURES) | set(PAIR_MEASURES) | set(COPIED.values())
        every |= {name for question in large.questions.values() for name in question.targets}
        values = {f"reward/{name}": value for name, value in answers(encode, small, every).values.items()}
        judging = {*MEASURES, *COPIED.values(), *(name for key in JUDGING for name in large.questions[key].targets)}
        values |= {f"full/{name}": value for name, value in answers(encode, large, judging).values.items()}
        features = encode(small.inputs)
        values |= {"guard/feature_std": feature_std(features), "guard/effective_rank": effective_rank(features)}
        values["guard/penalty"] = collapse_penalty(features)
        rows = torch.arange(len(self.one_labels))
        values["labels/1/one_label"] = one_label_score(encode(self.one_inputs), rows, self.one_labels)
        for per_class, (inputs, labels, folds) in self.few.items():
            features = encode(inputs)
            values |= {
                f"labels/{per_class}/ridge_r2": ridge_r2(features, F.one_hot(labels), folds),
                f"labels/{per_class}/log_loss": log_loss_score(features, labels, folds),
                f"labels/{per_class}/knn": knn_accuracy(features, labels, folds),
            }
        return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}


def _few(assembled: Assembled, per_class: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and folds of at most `per_class` labels a class; groups whole where there are any."""
    capped = cap_labels(assembled.splits.probe, per_class, seed=0)
    assert capped.labels is not None
    inputs = capped.inputs.take(torch.arange(len(capped.inputs)))
    return inputs, capped.labels, label_folds(capped.labels, capped.groups, min(per_class, NUM_FOLDS), seed=0)


if __name__ == "__main__":
    main()
