"""How many predictors at once: worker processes, batched predictors and Ray actors against one worker.

    python benchmarks/env_scaling.py                  # about 4 minutes on two cores
    python benchmarks/env_scaling.py --quick          # shows that it runs
    python benchmarks/env_scaling.py --device cuda    # on a GPU: are 16 batched predictors 8 times one?

Every side plays whole decisions of the default search (15 steps of the reference recipe, then measuring) in a
lock-step group; figures are pretraining images a second, medians over alternating turns. The ratios:
`two_workers_over_one`, `ray_over_processes` (two workers each), `batched_4_over_1`, `batched_16_over_1` (one
process, one device). `pool_start_s` is the time from opening a pool of two processes to its first answers.
`overhead_share` is the share of a decision that a real search spends on all but training (policy, log with
MLflow, learner, measuring).
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure

from agents.progress import Reporter
from agents.training import train
from envs.host import WorkerSetup
from envs.pool import Pool
from envs.workers import open_pool
from taskrl.assemble import assemble, load_data
from taskrl.config import ExperimentConfig, load_config

GROUP = 8
QUICK_GROUP = 4
QUICK = {"data.source": "digits", "predictor.width": 8, "predictor.batch_size": 32, "episode.steps_per_decision": 2}
SIDES = {
    "one worker": ("processes", 1, GROUP),
    "two workers": ("processes", 2, GROUP),
    "two Ray actors": ("ray", 2, GROUP),
    "batched 1": ("batched", 1, 1),
    "batched 4": ("batched", 1, 4),
    "batched 16": ("batched", 1, 16),
}


@dataclasses.dataclass
class Side:
    """An open pool, how long it took to open, and where its episodes are."""

    pool: Pool
    start_s: float
    num_envs: int
    images_per_decision: int
    action: Any
    decisions: int
    index: int = 0
    episode: int = 0

    def reset(self) -> None:
        """A fresh episode everywhere."""
        self.index, self.episode = 0, self.episode + 1
        self._everywhere("reset", self.episode)

    def rate(self) -> float:
        """Images a second over one decision everywhere."""
        if self.index == self.decisions:
            self.reset()
        started = time.perf_counter()
        self._everywhere("step", self.index, self.action)
        self.index += 1
        return self.num_envs * self.images_per_decision / (time.perf_counter() - started)

    def _everywhere(self, method: str, *arguments: Any) -> None:
        workers = self.pool.num_workers
        for env_id in range(self.num_envs):
            self.pool.call(env_id % workers, method, env_id, *arguments)
        for env_id in range(self.num_envs):
            self.pool.result(env_id % workers)


def main() -> None:
    """Open every side, measure them turn by turn, then the overhead of a real search."""
    options = arguments()
    runs = 2 if options.quick else options.runs
    with sides(options) as opened:
        for side in opened.values():
            side.reset()
            side.rate()
        rates = measure.alternate({name: side.rate for name, side in opened.items()}, runs=runs)
        starts = {name: side.start_s for name, side in opened.items()}
    compared = {
        "two_workers_over_one": measure.ratios(rates["two workers"], rates["one worker"]),
        "ray_over_processes": measure.ratios(rates["two Ray actors"], rates["two workers"]),
        "batched_4_over_1": measure.ratios(rates["batched 4"], rates["batched 1"]),
        "batched_16_over_1": measure.ratios(rates["batched 16"], rates["batched 1"]),
    }
    headline = {name: round(ratio["median"], 3) for name, ratio in compared.items()}
    headline["pool_start_s"] = round(starts["two workers"], 2)
    headline["overhead_share"] = round(overhead_share(options), 4)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    details = {"images_per_second": medians, "ratios": compared, "turns": rates, "start_s": starts}
    measure.finish(__file__, options, headline, details)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = measure.parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--runs", type=int, default=9, help="Turns, at least 5.")
    return parser.parse_args()


def configuration(options: argparse.Namespace, **given: Any) -> ExperimentConfig:
    """The default configuration, small with --quick."""
    settings = QUICK if options.quick else {}
    return load_config(given={"predictor.device": options.device, **settings, **given})


@contextmanager
def sides(options: argparse.Namespace) -> Iterator[dict[str, Side]]:
    """All pools, one after the other opened and waited for."""
    opened: dict[str, Side] = {}
    base = configuration(options)
    dataset = load_data(base)
    try:
        for name, (envs, workers, num_envs) in SIDES.items():
            num_envs = min(num_envs, QUICK_GROUP) if options.quick else num_envs
            config = configuration(options, envs=envs, workers=workers)
            assembled = assemble(config, dataset)
            started = time.perf_counter()
            pool = open_pool(WorkerSetup(assembled.config, dataset, "multidiscrete"), warn=print)
            for worker in range(workers):
                pool.call(worker, "reset", 0, 0)
            for worker in range(workers):
                pool.result(worker)
            start_s = time.perf_counter() - started
            space, episode = assembled.problem.task_space, config.episode
            images = episode.steps_per_decision * config.predictor.batch_size
            opened[name] = Side(pool, start_s, num_envs, images, space.encode(space.reference), episode.decisions)
        yield opened
    finally:
        for side in opened.values():
            side.pool.close()


def overhead_share(options: argparse.Namespace) -> float:
    """Median over the decisions of a short real search, its first group left out."""
    group = QUICK_GROUP if options.quick else GROUP
    changes = {"agent.group_size": group, "agent.episodes": 4 * group, "final.seeds": 0}
    with tempfile.TemporaryDirectory() as scratch:
        run = train(configuration(options, envs="processes", workers=2, **changes), Path(scratch) / "run", Reporter())
        lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shares = {
        line["step"]: line["metrics"]["time/overhead_share"]
        for line in lines
        if "time/overhead_share" in line.get("metrics", {})
    }
    first = group * load_config().episode.decisions
    return statistics.median(share for step, share in shares.items() if step >= first)


if __name__ == "__main__":
    main()
