"""`taskrl finetune`: an encoder trained on labels, beside training from scratch and the frozen linear probe."""

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from agents.encoders import scored_part
from agents.progress import Reporter, TaskProgress
from agents.transferring import Source, open_source, training_of
from taskrl.config import ExperimentConfig
from taskrl.evaluation.accuracy import is_imbalanced
from taskrl.evaluation.statistics import paired_difference
from taskrl.export import README, export_encoder
from taskrl.folders import FORMAT_VERSION, to_json, write_text
from taskrl.modalities.image.modeling import SMALL
from taskrl.modalities.image.state_dicts import untrained_like
from taskrl.report_figures import counted, with_prefix
from taskrl.seeding import derive_seed
from taskrl.transfer.finetune import LEARNING_RATES, FineTuned, classify, encode_flops, fine_tune, linear_probe
from taskrl.transfer.labelled import class_name, draw_labelled
from taskrl.transfer.scores import Scores, score
from taskrl.transfer.training import Training
from taskrl.transfer.trunk import How, freeze, parse_how
from taskrl.types import Inputs

FINETUNED, SCRATCH, PROBE = "fine-tuned", "from scratch", "linear probe"
CLASSIFIER, CLASSES, RESULT = "classifier.safetensors", "classes.json", "result.json"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """how: full, last-K or linear-then-full. labels_per_class: None for all. views: "crop=0.6", or "none"."""

    how: str
    labels_per_class: int | None
    steps: int
    seeds: int
    views: str


def finetune(
    path: Path,
    architecture: str | None,
    config: ExperimentConfig,
    options: FinetuneOptions,
    out: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Fine-tune, compare, print the table and write the folder `out`; returns what result.json holds."""
    how = parse_how(options.how)
    source = open_source(path, architecture, config, out, options.seeds, reporter)
    training = training_of(source, config, options.steps, options.views)
    freeze(copy.deepcopy(source.loaded.encoder), how.last)
    draw_labelled(source.splits, options.labels_per_class, seed=config.seed)
    assert source.splits.fitting is not None  # draw_labelled has seen to it
    reads: list[str] = []
    split, inputs, labels = scored_part(source.splits, "taskrl finetune --final", reads.append, test=config.final.test)
    for read in reads:
        reporter.say(read)
    rows: list[Row] = []
    best: _Found | None = None
    with reporter.task("Fine-tuning", options.seeds * 2 * len(LEARNING_RATES), "run") as progress:
        for index in range(options.seeds):
            found = _one_seed(source, how, training, options, config.seed + index, (inputs, labels), progress)
            rows += found.rows
            if best is None or found.fine_tuned.inner.order > best.fine_tuned.inner.order:
                best = found
    assert best is not None
    result = {
        "format_version": FORMAT_VERSION,
        "encoder": source.name,
        "data": source.splits.name,
        "scored_on": split,
        "test_reads": reads,
        **asdict(options),
        "learning_rates": list(LEARNING_RATES),
        "batch_size": training.batch_size,
        "precision": training.precision,
        "imbalanced": is_imbalanced(labels, source.splits.fitting.labels),
        "notes": list(source.notes),
        "written_seed": best.row["seed"],
        "rows": rows,
        "differences": _differences(rows),
    }
    _print(result, reporter)
    _write(out, source, best, result)
    reporter.say(f"Fine-tuned encoder and classifier: {out}\nHow to load them without taskrl: {out / README}")
    return result


@dataclass(frozen=True)
class _Found:
    """row: what the fine-tuned encoder scored."""

    rows: tuple[Row, ...]
    fine_tuned: FineTuned

    @property
    def row(self) -> Row:
        return next(row for row in self.rows if row["name"] == FINETUNED)


def _one_seed(
    source: Source,
    how: How,
    training: Training,
    options: FinetuneOptions,
    seed: int,
    scored: tuple[Inputs, Tensor],
    progress: TaskProgress,
) -> _Found:
    """The three rows of a seed: the same labelled images, batches and views for both trainings."""
    inputs, labels = scored
    data = draw_labelled(source.splits, options.labels_per_class, seed=seed)
    encoder = source.loaded.encoder
    fresh = untrained_like(source.loaded.config, derive_seed(seed, "from scratch"))
    rows: list[Row] = []
    trained: dict[str, FineTuned] = {}
    # a net that was never trained has no modules worth keeping, and a probe of its features is a poor start: from
    # scratch means all of it, with a classifier that starts from 0
    for name, start, what in ((FINETUNED, encoder, how), (SCRATCH, fresh, How(None, False))):
        found = fine_tune(start, data, what, training, seed=seed, after_rate=lambda: progress.advance(f"seed {seed}"))
        trained[name] = found
        scores = score(classify(found.encoder, found.classifier, inputs, training.device), labels)
        chosen = {"learning_rate": found.learning_rate, "step": found.step, "inner_balanced": found.inner.balanced}
        rows.append(_row(name, seed, scores, found.flops, found.seconds) | chosen)
    started = time.monotonic()
    classifier = linear_probe(encoder, data, training.device)
    num_labels = len(data.together.labels)
    flops = num_labels * encode_flops(encoder, source.shape)
    seconds = time.monotonic() - started
    rows.append(
        _row(PROBE, seed, score(classify(encoder, classifier, inputs, training.device), labels), flops, seconds)
    )
    return _Found(tuple(row | {"num_labels": num_labels} for row in rows), trained[FINETUNED])


def _row(name: str, seed: int, scores: Scores, flops: int, seconds: float) -> Row:
    return {
        "name": name,
        "seed": seed,
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced,
        "auroc": scores.auroc,
        "flops": flops,
        "wall_seconds": round(seconds, 3),
    }


def _differences(rows: list[Row]) -> list[dict[str, Any]]:
    """Fine-tuned minus each other row, in points, over paired seeds."""
    found = []
    for other in (SCRATCH, PROBE):
        for measure in ("accuracy", "balanced_accuracy"):
            pair = [[row[measure] for row in rows if row["name"] == name] for name in (FINETUNED, other)]
            found.append(
                {"minus": other, "measure": measure, **asdict(paired_difference(*pair)), "seeds": len(pair[0])}
            )
    return found


def _print(result: Mapping[str, Any], reporter: Reporter) -> None:
    rows, differences = result["rows"], result["differences"]
    imbalanced = result["imbalanced"]
    table = Table(
        title=f"{result['encoder']} on {result['data']}, {rows[0]['num_labels']} labels, {result['how']}, "
        f"{result['scored_on']} images, mean of {counted(result['seeds'], 'seed')}"
    )
    table.add_column("")
    auroc = ("AUROC, %",) if imbalanced else ()
    compared, kind = ("balanced_accuracy", " (balanced)") if imbalanced else ("accuracy", "")
    titles = ("accuracy, %", f"fine-tuned minus it{kind}", "balanced, %", *auroc, "compute", "s")
    for title in titles:
        table.add_column(title, justify="right")
    for name in (FINETUNED, SCRATCH, PROBE):
        mine = [row for row in rows if row["name"] == name]

        def mean(key: str, mine: list[Row] = mine) -> float:
            return fmean(row[key] for row in mine)

        difference = next((d for d in differences if (d["minus"], d["measure"]) == (name, compared)), None)
        cells = [f"{mean('accuracy'):.1f}", "" if difference is None else interval_text(difference)]
        cells.append(f"{mean('balanced_accuracy'):.1f}")
        if imbalanced:
            cells.append("" if mine[0]["auroc"] is None else f"{mean('auroc'):.1f}")
        table.add_row(name, *cells, with_prefix(mean("flops"), "FLOP"), f"{mean('wall_seconds'):.1f}")
    reporter.console.print(table)
    if imbalanced:
        reporter.say("Classes are imbalanced by more than 3 to 1: quote balanced accuracy.")
    if result["seeds"] == 1:
        reporter.say("One seed: no interval, and no claim; give --seeds 5.")


def interval_text(difference: Mapping[str, Any]) -> str:
    """A paired difference in points, with its interval where there is more than one seed."""
    text = f"{difference['mean']:+.1f}"
    return text if difference["seeds"] == 1 else f"{text} [{difference['low']:+.1f}, {difference['high']:+.1f}]"


def _write(out: Path, source: Source, best: _Found, result: Mapping[str, Any]) -> None:
    splits, tuned = source.splits, best.fine_tuned
    classes = [class_name(splits, label) for label in range(tuned.classifier.out_features)]

    def also(draft: Path) -> None:
        state = {name: value.detach().contiguous() for name, value in tuned.classifier.state_dict().items()}
        save_file(state, draft / CLASSIFIER, metadata={"format": "pt"})
        (draft / CLASSIFIER).chmod(0o644)
        write_text(draft / CLASSES, to_json({"classes": classes}))
        write_text(draft / RESULT, to_json(result))
        write_text(draft / README, _readme(source, classes, result))

    card = {
        "training": "fine-tuned on labels by taskrl",
        "data": splits.name,
        "generator": FINETUNED,
        "from": source.name,
        "how": result["how"],
        "learning_rate": tuned.learning_rate,
        "step": tuned.step,
        "seed": best.row["seed"],
        f"{result['scored_on']}_accuracy": best.row["accuracy"],
        "seeds": result["seeds"],
        "mean_over_seeds": _mean_accuracy(result["rows"]),
    }
    export_encoder(tuned.encoder, source.config, out, example=source.example, card=card, also=also)


def _mean_accuracy(rows: list[Row]) -> float:
    return fmean(row["accuracy"] for row in rows if row["name"] == FINETUNED)


def _readme(source: Source, classes: list[str], result: Mapping[str, Any]) -> str:
    torchvision = "" if source.config["architecture"] == SMALL else "torchvision, "
    channels, size = source.config["in_channels"], source.shape[1]
    rows = "\n".join(
        f"| {row['name']} | {row['seed']} | {row['accuracy']:.1f} | {row['balanced_accuracy']:.1f} |"
        for row in result["rows"]
    )
    return f"""# Fine-tuned encoder with its classifier

Images of {result["data"]} to {len(classes)} classes.
Loading needs torch, {torchvision}safetensors and the `modeling.py` in this folder.

```python
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = "."  # this folder
sys.path.insert(0, FOLDER)
from modeling import load_encoder

encoder = load_encoder(FOLDER)  # on the CPU, in eval mode
classifier = load_file(Path(FOLDER) / "{CLASSIFIER}")  # weight (classes, features) and bias
classes = json.loads((Path(FOLDER) / "{CLASSES}").read_text(encoding="utf-8"))["classes"]
images = torch.rand(2, {channels}, {size}, {size})  # float in [0, 1], or uint8; normalised inside
with torch.no_grad():
    logits = torch.nn.functional.linear(encoder(images), classifier["weight"], classifier["bias"])
probabilities = logits.softmax(1)  # (2, {len(classes)})
predicted = [classes[index] for index in logits.argmax(1).tolist()]
```

Scored on {result["scored_on"]} images; the weights are those of seed {result["written_seed"]}, which the inner part of
its training labels liked best. `{RESULT}` has everything, `manifest.json` the size and SHA-256 of every file.

| | seed | accuracy, % | balanced, % |
|---|---|---|---|
{rows}
"""
