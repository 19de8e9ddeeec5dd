"""Images a second through two-view contrastive training (SimCLR, NT-Xent): taskrl against LightlySSL 1.6.

    python benchmarks/throughput_vs_lightly.py            # about 14 minutes on two cores
    python benchmarks/throughput_vs_lightly.py --quick    # shows that it runs

Needs the packages of the extra `bench`; an idle machine. Counted are input images, two views each. Both sides: the
small encoder and projection head of taskrl's defaults, batch 64, NT-Xent at the same temperature, fused AdamW with the
same rate and decay, the same images and the reference recipe's views at the same probabilities (views.py).

taskrl       `problem.inner_loop.adapt` on the reference task, in calls of the default 15 steps; the better of fp32 and
             bf16, as precision "auto" chooses. All cores: one process a core with one thread. Single run: one process,
             the better of 1 and all threads.
LightlySSL   as its SimCLR example: LightlyDataset of PIL images, DataLoader, one forward pass a view. One run a core
             (one thread each), and one run on the whole machine. "docs": SimCLRTransform in fp32, as in that example,
             with the best of the loader workers (persistent) and torch threads. "tuned", what its documentation does
             not do: also bf16 autocast with channels_last, and a leaner transform of its parts. As in that example
             it neither clips gradients nor checks the loss, which taskrl does.

A process runs before, through and after the window of time in which its images are counted, so that all of them are at
work for the whole window. Headline, medians of turn-by-turn ratios: ratio_grey28 and ratio_rgb32, taskrl on all cores
over the better of "docs" on one run and one run a core; ratio_single_run, single runs, the smaller of the two image
kinds; the same keys with _tuned against "tuned".
"""

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import measure
import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from views import (
    LIGHTLY_TRANSFORMS,
    RECIPES,
    Recipe,
    dataset_of,
    fastest,
    lightly_transform,
    peer_versions,
    pil_images,
    sides_of,
)

from taskrl.assemble import Assembled, assemble
from taskrl.config import EpisodeConfig, PredictorConfig, load_config
from taskrl.modalities.image.objectives.contrastive import PROJECTION_DIM, TEMPERATURE
from taskrl.seeding import isolated_global_rng, torch_generator
from taskrl.types import Budget

KINDS = ("grey28", "rgb32")
BATCH_SIZE = PredictorConfig().batch_size
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
STEADY = 0.2
# groups of one episode: nothing is left for `assemble` to choose by a timing of its own
GIVEN = {"predictor.device": "cpu", "tracking.uri": "none", "agent.group_size": 1}
PILOT_WINDOW_S = 2.0
LIGHTLY_TEAMS = {way: (f"lightly_{way}_run_a_core", f"lightly_{way}_single") for way in ("docs", "tuned")}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one process trains. workers and transform are LightlySSL's, and its bf16 comes with channels_last.

    steps_a_call: of taskrl's inner loop.
    """

    side: str
    images: str
    threads: int = 1
    workers: int = 0
    bf16: bool = False
    transform: str = LIGHTLY_TRANSFORMS[0]
    steps_a_call: int = EpisodeConfig().steps_per_decision


class PilImages(Dataset[tuple[Any, int]]):
    """Decoded PIL images in memory, with `transform` as torchvision's sets have it."""

    def __init__(self, images_NCHW: Tensor, labels: Tensor) -> None:
        self.images, self.labels = pil_images(images_NCHW), labels.tolist()
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


class LightlyTraining:
    """SimCLR as LightlySSL's example trains it, from the encoder that taskrl starts from under `seed`."""

    def __init__(
        self, assembled: Assembled, setting: Setting, seed: int, *, max_gradient_norm: float | None = None
    ) -> None:
        predictor = assembled.problem.make_predictor(seed)
        inputs = assembled.splits.pretraining.inputs
        rows = torch.arange(len(inputs))
        recipe = Recipe(channels=inputs.sample_shape[0], size=inputs.sample_shape[1])
        images = PilImages(inputs.take(rows), torch.zeros_like(rows))
        with isolated_global_rng(seed):
            head = SimCLRProjectionHead(predictor.feature_dim, predictor.feature_dim, PROJECTION_DIM, batch_norm=False)
        self.encoder = predictor.encoder
        self.max_gradient_norm = max_gradient_norm
        self.bf16 = setting.bf16
        self.layout = torch.channels_last if setting.bf16 else torch.contiguous_format
        self.model = nn.Sequential(self.encoder, head).to(memory_format=self.layout).train()
        settings = assembled.config.predictor
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.loss = NTXentLoss(temperature=TEMPERATURE)
        self.loader = DataLoader(
            LightlyDataset.from_torch_dataset(images, transform=lightly_transform(recipe, setting.transform)),
            batch_size=settings.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=setting.workers,
            persistent_workers=setting.workers > 0,
            # a spawned process would spawn its loader workers too, which no Linux user of a plain script does
            multiprocessing_context="fork" if setting.workers and sys.platform == "linux" else None,
            generator=torch_generator(seed, "order"),
        )

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def steps(self) -> Iterator[int]:
        """Endless; yields the number of images of each step."""
        while True:
            for (first, second), _, _ in self.loader:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                    z0 = self.model(first.contiguous(memory_format=self.layout))
                    z1 = self.model(second.contiguous(memory_format=self.layout))
                    loss = self.loss(z0, z1)
                loss.backward()
                if self.max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.max_gradient_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                yield len(first)


@cache
def problem_of(kind: str, precision: str) -> Assembled:
    """taskrl's defaults on the images of `kind`, on the CPU."""
    return assemble(load_config(given=GIVEN | {"predictor.precision": precision}), dataset_of(kind))


def steps_of(setting: Setting) -> Iterator[int]:
    """Endless training under `setting`; yields the number of input images of each chunk."""
    assembled = problem_of(setting.images, "bf16" if setting.bf16 and setting.side == "taskrl" else "fp32")
    if setting.side == "lightly":
        yield from LightlyTraining(assembled, setting, 0).steps()
    problem = assembled.problem
    predictor, task = problem.make_predictor(0), problem.build_task(problem.task_space.reference)
    batches, rng = problem.stream.batches(torch_generator(0, "order")), torch_generator(0, "views")
    budget = Budget(flops=setting.steps_a_call * problem.reference_step_flops, start=STEADY, end=STEADY)
    while True:
        report = problem.inner_loop.adapt(predictor, task, batches, rng, budget)
        if report.diverged:
            raise RuntimeError("the inner loop diverged; its rate of images means nothing")
        yield report.compute.images // 2


def rate_between(steps: Iterator[int], start: float, stop: float) -> float:
    """Images a second over the chunks that lie in [start, stop] (time.perf_counter); at least one chunk."""
    num_images, first, last = 0, 0.0, 0.0
    for done in steps:
        now = time.perf_counter()
        if not first:
            first = last = now if now >= start else 0.0
            continue
        if now >= stop and num_images:
            break
        num_images, last = num_images + done, now
    return num_images / (last - first)


def play(orders: Connection) -> None:
    """A process that trains under one setting after the other, as it is told; trainings are kept until dropped."""
    trainings: dict[Setting, Iterator[int]] = {}
    while (order := orders.recv()) is not None:
        if order == "drop":
            trainings.clear()
            continue
        torch.set_num_threads(order.threads)
        if order not in trainings:
            trainings[order] = steps_of(order)
        next(trainings[order])
        orders.send("ready")
        start, stop = orders.recv()
        orders.send(rate_between(trainings[order], start, stop))


class Players:
    """One process a core; use as a context manager. run_in_s: how long trainings run before a window begins."""

    def __init__(self, *, run_in_s: float) -> None:
        self.run_in_s = run_in_s
        self._players: list[tuple[Any, Connection]] = []

    def __enter__(self) -> "Players":
        spawn = multiprocessing.get_context("spawn")
        for _ in range(CORES):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=play, args=(theirs,))
            process.start()
            theirs.close()
            self._players.append((process, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._players:
            if process.is_alive():
                pipe.send(None)
        for process, _ in self._players:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()

    def drop(self) -> None:
        """End all trainings and their loader workers."""
        for _, pipe in self._players:
            pipe.send("drop")

    def rate(self, setting: Setting, num_processes: int, window_s: float) -> float:
        """Images a second of `num_processes` at once, all under `setting`, over one window."""
        pipes = [pipe for _, pipe in self._players[:num_processes]]
        for pipe in pipes:
            pipe.send(setting)
        for pipe in pipes:
            pipe.recv()
        start = time.perf_counter() + self.run_in_s
        for pipe in pipes:
            pipe.send((start, start + window_s))
        return sum(pipe.recv() for pipe in pipes)


def grid(team: str, kind: str, transform: str, *, quick: bool) -> list[Setting]:
    """The settings among which a team's best is chosen."""
    side, single = team.partition("_")[0], team.endswith("single")
    threads = dict.fromkeys((1, CORES)) if single else (1,)
    workers = (0,) if side == "taskrl" else (0, 1, 2, 3, 4) if single else (0, 1)
    as_documented = team.startswith("lightly_docs")
    settings = [
        Setting(side=side, images=kind, threads=num_threads, workers=num_workers, bf16=bf16, transform=transform)
        for num_threads, num_workers, bf16 in itertools.product(
            threads, workers, (False,) if as_documented else (False, True)
        )
    ]
    return [replace(settings[len(settings) // 4], steps_a_call=5)] if quick else settings


def best(
    players: Players, settings: Sequence[Setting], num_processes: int, window_s: float = PILOT_WINDOW_S
) -> tuple[Setting, list[dict[str, Any]]]:
    """The fastest setting by one window each, and what was found."""
    found = []
    for setting in settings:
        found.append({**asdict(setting), "images_per_second": players.rate(setting, num_processes, window_s)})
        players.drop()
    fastest_row = max(range(len(found)), key=lambda row: found[row]["images_per_second"])
    return settings[fastest_row], found


def faster_transform(kind: str) -> str:
    """Which of LightlySSL's two transforms takes less time for these images on one thread."""
    torch.set_num_threads(1)
    images = dataset_of(kind).train.inputs.take(torch.arange(BATCH_SIZE))
    return fastest(sides_of(RECIPES[kind], images)["lightly"], runs=3)[0]


def compare(kind: str, players: Players, *, runs: int, window_s: float, quick: bool) -> dict[str, Any]:
    """Choose every side's best setting, then measure them turn by turn."""
    fast = LIGHTLY_TRANSFORMS[0] if quick else faster_transform(kind)
    teams = {
        team: (
            grid(team, kind, fast if "tuned" in team else LIGHTLY_TRANSFORMS[0], quick=quick),
            1 if team.endswith("single") else CORES,
        )
        for team in ("taskrl_all_cores", "taskrl_single", *itertools.chain(*LIGHTLY_TEAMS.values()))
    }
    chosen, pilots = {}, {}
    pilot_s = min(window_s, PILOT_WINDOW_S)
    for team, (settings, num) in teams.items():
        chosen[team], pilots[team] = best(players, settings, num, pilot_s) if len(settings) > 1 else (settings[0], [])
    turns = {team: lambda team=team: players.rate(chosen[team], teams[team][1], window_s) for team in teams}
    found = measure.alternate(turns, runs=runs)
    players.drop()
    rates = {team: measure.median(values) for team, values in found.items()}
    ratios = {}
    for way, pair in LIGHTLY_TEAMS.items():
        lightly_best = max(pair, key=lambda team: rates[team])
        ratios[way] = {
            "lightly_best": lightly_best,
            "all_cores": measure.ratios(found["taskrl_all_cores"], found[lightly_best]),
            "single_run": measure.ratios(found["taskrl_single"], found[pair[1]]),
        }
    return {
        "ratios": ratios,
        "images_per_second": rates,
        "settings": {team: asdict(setting) for team, setting in chosen.items()},
        "runs": found,
        "pilot": pilots,
    }


def headline_of(details: dict[str, Any]) -> dict[str, Any]:
    """Ratios to LightlySSL as documented, then as tuned by us; images a second."""
    headline: dict[str, Any] = {}
    for way, suffix in (("docs", ""), ("tuned", "_tuned")):
        ratios = {kind: details[kind]["ratios"][way] for kind in KINDS}
        for kind in KINDS:
            headline[f"ratio_{kind}{suffix}"] = round(ratios[kind]["all_cores"]["median"], 2)
        headline[f"ratio_single_run{suffix}"] = round(min(ratios[kind]["single_run"]["median"] for kind in KINDS), 2)
    for kind in KINDS:
        rates = details[kind]["images_per_second"]
        headline[f"images_per_second_{kind}"] = {team: round(rate) for team, rate in rates.items()}
    return headline


def main() -> None:
    """Grey images, then colour."""
    options = measure.parser(__doc__).parse_args()
    details: dict[str, Any] = {"peers": peer_versions(), "cores": CORES, "batch_size": BATCH_SIZE}
    run_in_s, window_s, runs = (0.2, 0.6, 1) if options.quick else (1.0, 6.0, 5)
    with Players(run_in_s=run_in_s) as players:
        for kind in KINDS:
            details[kind] = compare(kind, players, runs=runs, window_s=window_s, quick=options.quick)
            print(f"{kind}: images a second {details[kind]['images_per_second']}", flush=True)
    details["method"] = {"run_in_s": run_in_s, "window_s": window_s, "runs": runs}
    measure.finish(__file__, options, headline_of(details), details)


if __name__ == "__main__":
    main()
