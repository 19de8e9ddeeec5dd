"""The demo under several search seeds: does what was learned hold, and does it reach one hand-turned knob?

    python benchmarks/search_seeds.py --seeds 0 2 3 4 5          # 5 minutes a seed on two cores
    python benchmarks/search_seeds.py --quick                    # a tiny setting, to see that it runs

Finished seeds are cells, keyed by a hash of their whole configuration; a cell is never measured twice.
"""

import argparse
import datetime
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from agents.catalogue import AGENTS
from agents.final import UNTRAINED
from agents.progress import Reporter
from agents.summary import LEARNED, REFERENCE, difference
from agents.training import train
from taskrl.assemble import find_device
from taskrl.config import ExperimentConfig, load_config
from taskrl.evaluation.statistics import bootstrap
from taskrl.run_folder import RunFolder, write_result

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "configs" / "demo.yaml"
HAND_TURNED = "fixed:no-mirror"
WITHOUT_EFFECT: dict[str, Any] = {
    **dict.fromkeys(
        ("tracking", "workers", "worker_deadline_s", "envs", "ray_address", "mode", "policy", "compare"), True
    ),
    "predictor": {"compile"},
    "reward": {"scale", "reference_curve"},  # measured by the run itself
}
QUICK = [
    "predictor.batch_size=32",
    "predictor.width=8",
    "agent.episodes=8",
    "episode.steps_per_decision=2",
    "final.steps_per_decision=2",
    "final.seeds=2",
]


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 2, 3, 4, 5])
    parser.add_argument("--adopt", type=Path, nargs="*", default=[], help="Finished runs of the demo to take as cells.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    for run in options.adopt:
        result = RunFolder.open(run).result()
        store(result, cell_file(RunFolder.open(run).config(), options.out / "cells"))
    cells = [cell(config_of(seed, options.quick), options.out / "cells") for seed in options.seeds]
    summary = summarise(cells)
    if not options.quick:
        write_result(options.out / "search_seeds.json", summary)
    print(json.dumps(summary["headline"]))


def config_of(seed: int, quick: bool) -> ExperimentConfig:
    """The demo's configuration, scored on test images as in `make demo`."""
    # pinned: what is chosen by a timing must not decide which cell this is
    pinned = ["predictor.precision=bf16", "envs=processes"]
    overrides = [f"seed={seed}", "final.test=true", "tracking.uri=none", *pinned, *(QUICK if quick else [])]
    return load_config(DEMO, overrides)


def cell(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """The finished cell of a configuration, run now if it is missing."""
    path = cell_file(config, folder)
    if not path.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            store(train(config, Path(scratch) / "run", Reporter()).result(), path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def cell_file(config: ExperimentConfig, folder: Path) -> Path:
    """Named by a hash of everything that decides the numbers: the device that "auto" means here and the version of what
    the agent learns, but not tracking or workers.
    """
    decided = {"device": str(find_device(config.predictor.device)), "version": AGENTS[config.agent.name].version}
    values = config.model_dump(exclude=WITHOUT_EFFECT) | decided
    key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"search-seed-{key}.json"


def store(result: dict[str, Any], path: Path) -> None:
    """Keep what the summary and a reader need of a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = ("rows", "floors", "schedule", "choices", "machine", "versions", "config", "verdict")
    search = {name: value for name, value in result["search"].items() if name != "episodes"}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    write_result(path, {**{name: result[name] for name in kept}, "search": search, "date": today})


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry a search seed, and how many of them clear each bar."""
    entries = []
    for finished in cells:
        rows = finished["rows"]
        gaps = {
            other: difference(rows, ours, other)
            for ours, other in ((LEARNED, REFERENCE), (LEARNED, "random"), (LEARNED, "prior"), (LEARNED, HAND_TURNED))
        }
        argmax = difference(rows, "learned-argmax", REFERENCE)
        names = dict.fromkeys(row["generator"] for row in rows)
        entries.append(
            {
                "search_seed": finished["config"]["seed"],
                "linear": {name: vars(bootstrap(_linear(rows, name))) for name in names},
                "learned_minus": {name: vars(gap) for name, gap in gaps.items() if gap},
                "argmax_minus_reference": vars(argmax) if argmax else None,
                "pixels": finished["floors"]["pixels"]["best"],
                "schedule": [step["task"] for step in finished["schedule"]],
                "search_flops": finished["search"]["flops"],
                "search_seconds": finished["search"]["wall_seconds"],
            }
        )
    means = [entry["learned_minus"][REFERENCE]["mean"] for entry in entries]
    headline = {
        "num_search_seeds": len(entries),
        "beats_reference": sum(entry["learned_minus"][REFERENCE]["low"] > 0 for entry in entries),
        "reaches_hand_turned_knob": sum(entry["learned_minus"][HAND_TURNED]["high"] >= 0 for entry in entries),
        "learned_minus_reference": vars(bootstrap(means)),
        "untrained": sum(entry["linear"][UNTRAINED]["mean"] for entry in entries) / len(entries),
    }
    return {"headline": headline, "seeds": entries, "machine": cells[0]["machine"], "versions": cells[0]["versions"]}


def _linear(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [float(row["linear_accuracy"]) for row in rows if row["generator"] == name]


if __name__ == "__main__":
    main()
