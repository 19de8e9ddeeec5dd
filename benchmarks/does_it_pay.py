"""Does the learned policy pay? The whole study, set by set and cell by cell; regenerates docs/results.md.

    python benchmarks/does_it_pay.py --work build/pays --sets cluttered-digits
    python benchmarks/does_it_pay.py --work build/pays --sets cluttered-digits fashion-mnist=PATH cifar10=PATH
    python benchmarks/does_it_pay.py --work build/pays --sets ... --parts breadth --finals 2
    python benchmarks/does_it_pay.py --work build/pays --sets ... --quick

Every set is compared twice with `taskrl compare`, from one store of cells: in breadth (every method, final runs as long
as a search) and in depth (what is asked for the whole sum, final runs 1 and 5 times as long, 1 and 25 times on sets
other than cluttered digits). A stopped study goes on when it is started again; one with fewer final encoders, or
without depth, is a part of the whole: nothing is run twice. What earlier calls compared, other sets or the other part,
stays on the page.
The page says what it rests on. Settings: configs/pays.yaml. GTSRB, RSSCN7 and FSDD are opened once, at the end.
"""

import argparse
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
from measure import RESULTS, finish, parser
from pays_page import PARTS, kept, page

from agents.catalogue import AGENTS
from agents.compare.claims import BENCH
from agents.compare.comparison import compare
from agents.progress import Reporter
from taskrl.config import ExperimentConfig, flatten, load_config
from taskrl.data.dataset import Part
from taskrl.errors import ConfigError
from taskrl.folders import new_file, read_json

ROOT = Path(__file__).resolve().parents[1]
SETTINGS, PAGE = ROOT / "configs" / "pays.yaml", ROOT / "docs" / "results.md"
CELLS, EARLIER = RESULTS / "pays", RESULTS / "does_it_pay.json"
DEPTH = ("learned", "learned-argmax", "one-knob", "reference", "reference-total")
LENGTHS, LENGTHS_ELSEWHERE = (1, 5), (1, 25)
OF_CALL = ("compare.", "workers", "data.", "tracking.")  # what calls and sets may differ in
GROUPED = ("gtsrb", "fsdd")  # by track, by speaker
ELSEWHERE = ["compare.searches=3", "compare.finals=4"]
QUICK = ["predictor.width=8", "predictor.batch_size=16", "episode.steps_per_decision=1", "agent.episodes=8",
         "final.steps_per_decision=2", "compare.searches=2", "compare.finals=1"]  # fmt: skip
QUICK_METHODS = ["learned", "one-knob", "random"]


def main() -> None:
    """Run what is missing, then write the page."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--work", type=Path, required=True, help="Where comparisons lie; cells lie elsewhere.")
    options_parser.add_argument("--sets", nargs="+", required=True, metavar="NAME[=PATH]")
    options_parser.add_argument("--workers", type=int, default=2)
    options_parser.add_argument("--cells", type=Path, default=CELLS)
    options_parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options_parser.add_argument("--methods", type=lambda text: text.split(","), help="Left out: all, or DEPTH.")
    options_parser.add_argument("--finals", type=int, help="Of each search; the settings' number, when left out.")
    options = options_parser.parse_args()
    found: dict[str, dict[str, Any]] = {} if options.quick else earlier()
    for text in options.sets:
        name, _, path = text.partition("=")
        source = name if not path else subset(name, path, options.work)
        for part in options.parts:
            found.setdefault(name, {})[part] = kept(result(name, source, part, options))
    if not options.quick:
        PAGE.write_text(page(found), encoding="utf-8")
    verdicts = {name: next(iter(parts.values()))["verdict"] for name, parts in found.items()}
    finish(__file__, options, verdicts, {"sets": found})


def earlier() -> dict[str, dict[str, Any]]:
    """Comparisons of earlier calls, by set and part: they stay on the page. Raises ConfigError where they had other
    settings, which the page would pass over.
    """
    found: dict[str, dict[str, Any]] = read_json(EARLIER)["sets"] if EARLIER.is_file() else {}
    asked = load_config(SETTINGS)
    settings: dict[str, Any] = {
        key: value
        for key, value in flatten(asked.model_dump()).items()
        if not key.startswith(OF_CALL) and value not in ("auto", None, [])  # each run settles those
    }
    settings["agent version"] = AGENTS[asked.agent.name].version
    for name, parts in found.items():
        for part, one in parts.items():
            had = {**flatten(one["config"]), "agent version": one.get("agent_version")}
            other = [key for key, value in settings.items() if had.get(key) != value]
            if other:
                raise ConfigError(
                    f"{EARLIER.name} holds {name} ({part}) with {other[0]}={had.get(other[0])!r}, and {SETTINGS.name} "
                    f"has {settings[other[0]]!r}; move the file away, or put the settings back."
                )
    return found


def configuration(name: str, source: str, part: str, options: argparse.Namespace) -> ExperimentConfig:
    """One comparison."""
    overrides = [f"workers={options.workers}", *([] if name == BENCH else ELSEWHERE)]
    overrides += QUICK if options.quick else []
    overrides += [] if options.finals is None else [f"compare.finals={options.finals}"]
    given: dict[str, Any] = {"data.source": source}
    if name in GROUPED:
        given["data.groups"] = "track"
    if part == "depth":
        given["compare.lengths"] = list(LENGTHS if name == BENCH else LENGTHS_ELSEWHERE)
    methods = options.methods or (list(DEPTH) if part == "depth" else QUICK_METHODS if options.quick else None)
    if methods is not None:
        given["compare.methods"] = methods
    return load_config(SETTINGS, overrides, given)


def result(name: str, source: str, part: str, options: argparse.Namespace) -> dict[str, Any]:
    """A finished comparison of a set; run now as far as it is missing."""
    cells = options.work / "quick-cells" if options.quick else options.cells
    folder = options.work / f"{name}-{part}{'-quick' if options.quick else ''}"
    return compare(configuration(name, source, part, options), folder, Reporter(), cells=cells)


def subset(name: str, path: str, work: Path) -> str:
    """An npz of at most 6,000 training and 1,500 test images of a set, drawn once."""
    target = work / f"{name}.npz"
    if not target.is_file():
        dataset = checkpoints.dataset_of(name, path)
        assert dataset.test is not None
        with new_file(target) as draft:  # half a file would be taken for the set
            np.savez(draft, **_columns(dataset.train, "train"), **_columns(dataset.test, "test"))
    return str(target)


def _columns(part: Part, half: str) -> dict[str, Any]:
    assert part.labels is not None
    images = part.inputs.take(torch.arange(len(part.inputs))).permute(0, 2, 3, 1).squeeze(-1).numpy()
    groups = {} if part.groups is None else {f"track_{half}": part.groups.numpy()}
    return {f"x_{half}": images, f"y_{half}": part.labels.numpy(), **groups}


if __name__ == "__main__":
    main()
