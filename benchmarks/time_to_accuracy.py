"""Seconds of training to three levels of linear accuracy: taskrl against LightlySSL 1.6, one run each.

    python benchmarks/time_to_accuracy.py --pilot --data-root data    # once: fixes the levels; about 9 minutes
    python benchmarks/time_to_accuracy.py --data-root data            # about 20 minutes on two cores
    python benchmarks/time_to_accuracy.py --quick                     # shows that it runs; levels of its own

Needs the packages of the extra `bench`; an idle machine. Data: cluttered digits, and Fashion-MNIST where its files lie
below --data-root (docs/data.md); --quick takes digits alone. Levels: what the reference recipe reaches at the end of
the pilot's longest schedule, minus 4, 2 and 1 points, from results/time_to_accuracy_levels.json; the pilot's seeds are
not measured.

Both sides train as in throughput_vs_lightly.py, one run on the whole machine with that program's best settings, from
the same initial encoders; here both clip gradients. One protocol: the rate rises for 20 steps, then stays; accuracy is
taken at steps 60, 78, ... (x 1.3). The encoder is copied there with the clock stopped and scored after training, as
final encoders are: linear accuracy on the validation images, batch-norm statistics set anew; at most 5,000 labelled
images are fitted, drawn once. Time to a level: mean seconds at the first of these steps at which the mean accuracy
over seeds reaches the level.

Finished runs are cells in results/cells, keyed by a hash of what decides them; after a change of the code that trains,
remove time-to-accuracy-*.json there. Headline: ratio_DATA_LEVEL, LightlySSL's seconds over taskrl's; ratio_DATA_step,
the same for one step.
"""

import argparse
import datetime
import hashlib
import itertools
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import measure
import torch
from numpy.typing import NDArray
from throughput_vs_lightly import CORES, GIVEN, LightlyTraining, Players, Setting, best, faster_transform, grid
from torch import Tensor
from views import peer_versions

from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import load_config
from taskrl.errors import DataError
from taskrl.evaluation import accuracy
from taskrl.machine import machine, versions
from taskrl.predictor.inner_loop import MAX_GRADIENT_NORM
from taskrl.run_folder import write_result
from taskrl.seeding import torch_generator
from taskrl.types import Budget, Inputs

SOURCES = {"digits": "cluttered-digits", "fashion": "fashion-mnist"}
SIDES = ("taskrl", "lightly")
TEAMS = {"taskrl": "taskrl_single", "lightly": "lightly_tuned_single"}
MARGINS = {"low": 4.0, "mid": 2.0, "top": 1.0}
LEVELS_FILE = measure.RESULTS / "time_to_accuracy_levels.json"
WARM_UP_STEPS = 20
# progress at which taskrl's warm-up of 5 % is over; staying there keeps the rate at 99 % of its peak
HOLD = 0.05
FIRST_CHECK, CHECK_RATIO = 60, 1.3
MAX_FITTED = 5000
EncoderState = dict[str, Tensor]
Checks = Iterator[tuple[float, EncoderState]]
"""Seconds of training and the encoder at each step that is checked."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Seeds and lengths. pilot_lengths: steps of schedules that end. most_steps: of the pilot's constant rate."""

    seeds: tuple[int, ...] = (0, 1, 2)
    pilot_seeds: tuple[int, ...] = (100, 101)
    pilot_lengths: tuple[int, ...] = (1600, 3200)
    most_steps: int = 2400
    first_check: int = FIRST_CHECK
    max_fitted: int = MAX_FITTED
    quick: bool = False


QUICK = Plan(
    seeds=(0,), pilot_seeds=(100,), pilot_lengths=(30, 60), most_steps=52, first_check=40, max_fitted=1000, quick=True
)
QUICK_LEVELS = {"digits": {"levels": {"low": 50.0, "mid": 55.0, "top": 60.0}, "most_steps": 52}}


def check_steps(first: int, last: int) -> list[int]:
    """Steps at which accuracy is taken: a geometric series up to `last`."""
    steps = [first]
    while (following := round(steps[-1] * CHECK_RATIO)) <= last:
        steps.append(following)
    return steps


@cache
def problem_of(source: str, root: Path | None, precision: str) -> Assembled:
    """taskrl's defaults on a data set."""
    given = GIVEN | {"data.source": source, "predictor.precision": precision, "data.root": root and str(root)}
    config = load_config(given=given)
    return assemble(config, load_data(config))


def rate_factor(step: int) -> float:
    """Learning rate before `step` over its peak, as taskrl's schedule has it between 0 and HOLD."""
    risen = min(step / WARM_UP_STEPS, 1.0)
    fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * HOLD * risen))
    return min(1.0, risen + 0.25) * fall


def train_taskrl(assembled: Assembled, seed: int, checks: Sequence[int]) -> Checks:
    """The inner loop, called once from check to check."""
    problem = assembled.problem
    predictor, task = problem.make_predictor(seed), problem.build_task(problem.task_space.reference)
    batches, rng = problem.stream.batches(torch_generator(seed, "order")), torch_generator(seed, "views")
    seconds = 0.0
    for done, goal in itertools.pairwise((0, WARM_UP_STEPS, *checks)):
        budget = Budget(flops=(goal - done) * problem.reference_step_flops, start=HOLD if done else 0.0, end=HOLD)
        started = time.perf_counter()
        report = problem.inner_loop.adapt(predictor, task, batches, rng, budget)
        seconds += time.perf_counter() - started
        rate = predictor.optimizer.param_groups[0]["lr"] / assembled.config.predictor.learning_rate
        if report.diverged or predictor.num_steps != goal or not math.isclose(rate, rate_factor(goal - 1)):
            raise RuntimeError(f"taskrl is at step {predictor.num_steps} with {rate} of the peak rate; expected {goal}")
        if goal in checks:
            yield seconds, _copy(predictor.encoder)


def train_lightly(assembled: Assembled, setting: Setting, seed: int, checks: Sequence[int]) -> Checks:
    """As in throughput_vs_lightly.py, with taskrl's rate and clipping."""
    torch.manual_seed(seed)
    training = LightlyTraining(assembled, setting, seed, max_gradient_norm=MAX_GRADIENT_NORM)
    steps, peak = training.steps(), assembled.config.predictor.learning_rate
    seconds, started = 0.0, time.perf_counter()
    for done in range(checks[-1]):
        training.set_rate(peak * rate_factor(done))
        next(steps)
        if done + 1 in checks:
            seconds += time.perf_counter() - started
            yield seconds, _copy(training.encoder)
            started = time.perf_counter()


def _copy(encoder: torch.nn.Module) -> EncoderState:
    return {name: value.detach().clone() for name, value in encoder.state_dict().items()}


def features_and_labels(
    assembled: Assembled, states: Sequence[EncoderState], max_fitted: int
) -> Iterator[tuple[NDArray[Any], ...]]:
    """For each encoder: features and labels to fit, features and labels to score (validation images)."""
    fitting, validation = assembled.splits.fitting, assembled.splits.validation
    if fitting is None or validation.labels is None:
        raise DataError("Linear accuracy needs labels, and these data have none.")
    fitted = torch.randperm(len(fitting.inputs), generator=torch_generator(0, "fitted"))[:max_fitted]
    scored = torch.arange(len(validation.inputs))
    scratch = assembled.problem.make_predictor(0)
    for state in states:
        scratch.encoder.load_state_dict(state)
        scratch.recalibrate(assembled.problem.calibration)

        def encode(inputs: Inputs, rows: Tensor) -> NDArray[Any]:
            return torch.cat([scratch.encode(inputs.take(part)) for part in rows.split(1024)]).numpy()

        fit, score = encode(fitting.inputs, fitted), encode(validation.inputs, scored)
        yield fit, fitting.labels[fitted].numpy(), score, validation.labels[scored].numpy()


def linear_accuracy(arrays: tuple[NDArray[Any], ...]) -> float:
    """Percent."""
    fit, fit_labels, score, labels = (torch.from_numpy(array) for array in arrays)
    return accuracy.measure(fit, fit_labels, [(score, labels)])[0].linear


def kept(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The cell at `path`, worked out now if it is missing."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, {**work(), **_where_and_when()})
    return dict(json.loads(path.read_text(encoding="utf-8")))


def cell_file(folder: Path, values: dict[str, Any]) -> Path:
    """Named by a hash of everything that decides a cell."""
    key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"time-to-accuracy-{key}.json"


def _where_and_when() -> dict[str, Any]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": machine("cpu"), "versions": versions(), "date": today}


def _deciding(assembled: Assembled, plan: Plan, **more: Any) -> dict[str, Any]:
    config = assembled.config.model_dump(include={"data": {"source", "split_seed"}, "predictor": True})
    protocol = {"warm_up": WARM_UP_STEPS, "hold": HOLD, "max_fitted": plan.max_fitted}
    return {**config, **protocol, "step_flops": assembled.problem.reference_step_flops, **more}


def train(assembled: Assembled, setting: Setting, seed: int, checks: Sequence[int]) -> Checks:
    """On the setting's side."""
    if setting.side == "taskrl":
        return train_taskrl(assembled, seed, checks)
    return train_lightly(assembled, setting, seed, checks)


def curve(
    assembled: Assembled, setting: Setting, seed: int, checks: Sequence[int], plan: Plan, pool: ProcessPoolExecutor
) -> dict[str, Any]:
    """Steps, seconds and linear accuracy of one run, after a short one that is thrown away."""
    torch.set_num_threads(setting.threads)
    list(train(assembled, setting, seed, [WARM_UP_STEPS + 2]))
    states, seconds = [], []
    for spent, state in train(assembled, setting, seed, checks):
        seconds.append(spent)
        states.append(state)
    torch.set_num_threads(CORES)
    linear = list(pool.map(linear_accuracy, features_and_labels(assembled, states, plan.max_fitted)))
    return {"seed": seed, "setting": asdict(setting), "steps": list(checks), "seconds": seconds, "linear": linear}


def measured_cells(
    problems: dict[str, Assembled],
    settings: dict[str, Setting],
    plan: Plan,
    checks: list[int],
    folder: Path,
    pool: ProcessPoolExecutor,
) -> dict[str, list[dict[str, Any]]]:
    """Side -> one cell a seed; the sides take turns."""
    cells: dict[str, list[dict[str, Any]]] = {side: [] for side in settings}
    for seed, (side, setting) in itertools.product(plan.seeds, settings.items()):
        assembled = problems[side]
        deciding = _deciding(assembled, plan, setting=asdict(setting), seed=seed, checks=checks)
        work = partial(curve, assembled, setting, seed, checks, plan, pool)
        cells[side].append(kept(cell_file(folder, deciding), work))
        print(f"{assembled.splits.name}, seed {seed}, {side}: {cells[side][-1]['seconds'][-1]:.1f} s", flush=True)
    return cells


def _mean(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Over rows, check by check."""
    return [sum(values) / len(rows) for values in zip(*(row[key] for row in rows), strict=True)]


def summary_of(cells: dict[str, list[dict[str, Any]]], levels: dict[str, float]) -> dict[str, Any]:
    """Time to each level on each side (None where it is not reached), and the ratios."""
    curves: dict[str, dict[str, list[float]]] = {}
    for side, rows in cells.items():
        curves[side] = {key: _mean(rows, key) for key in ("steps", "seconds", "linear")}
    reached: dict[str, dict[str, Any]] = {}
    for level, percent in levels.items():
        entry: dict[str, Any] = {"percent": percent}
        for side, line in curves.items():
            first = next((index for index, value in enumerate(line["linear"]) if value >= percent), None)
            entry[side] = None if first is None else {key: line[key][first] for key in ("steps", "seconds")}
        both = entry["lightly"] and entry["taskrl"]
        entry["ratio"] = entry["lightly"]["seconds"] / entry["taskrl"]["seconds"] if both else None
        reached[level] = entry
    step = {side: line["seconds"][-1] / line["steps"][-1] for side, line in curves.items()}
    return {"levels": reached, "mean_curves": curves, "seconds_a_step": step, "cells": cells}


def best_settings(plan: Plan, folder: Path) -> dict[str, Setting]:
    """Each side's fastest single run on grey images, found once on this machine."""

    def work() -> dict[str, Any]:
        transform = faster_transform("grey28")
        with Players(run_in_s=1.0) as players:
            found = {side: best(players, grid(TEAMS[side], "grey28", transform, quick=False), 1) for side in SIDES}
        return {"settings": {side: asdict(chosen) for side, (chosen, _) in found.items()}}

    if plan.quick:
        return {side: grid(TEAMS[side], "grey28", "SimCLRTransform", quick=True)[0] for side in SIDES}
    cell = kept(cell_file(folder, {"best settings": machine("cpu")}), work)
    return {side: Setting(**values) for side, values in cell["settings"].items()}


def pilot_run(
    source: str, root: Path | None, seed: int, length: int | None, plan: Plan, folder: Path
) -> dict[str, Any]:
    """One cell of the pilot: the reference recipe with a schedule of `length` steps, or with a constant rate."""
    torch.set_num_threads(1)
    assembled = problem_of(source, root, "fp32")
    checks = check_steps(plan.first_check, plan.most_steps)

    def work() -> dict[str, Any]:
        if length is None:
            states = [state for _, state in train_taskrl(assembled, seed, checks)]
        else:
            problem = assembled.problem
            predictor, task = problem.make_predictor(seed), problem.build_task(problem.task_space.reference)
            batches, rng = problem.stream.batches(torch_generator(seed, "order")), torch_generator(seed, "views")
            budget = Budget(flops=length * problem.reference_step_flops, start=0.0, end=1.0)
            if problem.inner_loop.adapt(predictor, task, batches, rng, budget).diverged:
                raise RuntimeError(f"the reference recipe diverged within {length} steps from seed {seed}")
            states = [_copy(predictor.encoder)]
        linear = [linear_accuracy(arrays) for arrays in features_and_labels(assembled, states, plan.max_fitted)]
        return {"steps": checks if length is None else [length], "linear": linear, "seed": seed}

    deciding = _deciding(assembled, plan, pilot=length, seed=seed, checks=checks)
    return kept(cell_file(folder, deciding), work)


def pilot(names: Sequence[str], root: Path | None, plan: Plan, folder: Path) -> dict[str, Any]:
    """Levels of each data set, and how many steps the measurement takes: two checks beyond the top level."""
    keys = list(itertools.product(names, (None, *plan.pilot_lengths), plan.pilot_seeds))
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        jobs = {
            key: pool.submit(pilot_run, SOURCES[key[0]], root, key[2], key[1], plan, folder)
            for key in sorted(keys, key=lambda key: -(key[1] or 0))
        }
        rows = {key: job.result() for key, job in jobs.items()}
    found: dict[str, Any] = {}
    for name in names:
        mean = {
            length: _mean([rows[name, length, seed] for seed in plan.pilot_seeds], "linear")
            for length in (None, *plan.pilot_lengths)
        }
        converged = mean[plan.pilot_lengths[-1]][0]
        levels = {level: round(converged - margin, 2) for level, margin in MARGINS.items()}
        steps = check_steps(plan.first_check, plan.most_steps)
        reached = next((i for i, value in enumerate(mean[None]) if value >= levels["top"]), len(steps) - 1)
        found[name] = {
            "converged": converged,
            "levels": levels,
            "most_steps": steps[min(reached + 2, len(steps) - 1)],
            "schedules": {str(length): mean[length][0] for length in plan.pilot_lengths},
            "constant_rate": {"steps": steps, "linear": mean[None]},
        }
    return {"data": found, "plan": asdict(plan), **_where_and_when()}


def available(names: Sequence[str], root: Path | None) -> list[str]:
    """The data sets whose files are there."""
    found = []
    for name in names:
        try:
            problem_of(SOURCES[name], root, "fp32")
            found.append(name)
        except DataError as error:
            print(f"{name} is skipped: {error}", flush=True)
    return found


def main() -> None:
    """The pilot, or the measurement at the levels that it fixed."""
    parser = measure.parser(__doc__)
    parser.add_argument("--data-root", type=Path, help="Folder of Fashion-MNIST's files, as in `taskrl --data-root`.")
    parser.add_argument("--pilot", action="store_true", help="Measure what the recipe reaches and write the levels.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if options.quick else measure.RESULTS / "cells"
        run(options, QUICK if options.quick else Plan(), folder)


def run(options: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """Everything that `main` does once it knows where cells lie."""
    names = available(["digits"] if plan.quick else list(SOURCES), options.data_root)
    if options.pilot:
        found = pilot(names, options.data_root, plan, folder)
        if not plan.quick or options.out:
            write_result(options.out or LEVELS_FILE, found)
        print(json.dumps({name: found["data"][name]["levels"] for name in names}))
        return
    if not plan.quick and not LEVELS_FILE.is_file():
        raise SystemExit(f"The levels are not fixed yet ({LEVELS_FILE.name} is missing); run with --pilot first.")
    fixed = QUICK_LEVELS if plan.quick else json.loads(LEVELS_FILE.read_text(encoding="utf-8"))["data"]
    settings = best_settings(plan, folder)
    precision = "bf16" if settings["taskrl"].bf16 else "fp32"
    details: dict[str, Any] = {"peers": peer_versions(), "plan": asdict(plan)}
    headline: dict[str, Any] = {}
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        for name in [name for name in names if name in fixed]:
            checks = check_steps(plan.first_check, fixed[name]["most_steps"])
            problems = {
                "taskrl": problem_of(SOURCES[name], options.data_root, precision),
                "lightly": problem_of(SOURCES[name], options.data_root, "fp32"),
            }
            cells = measured_cells(problems, settings, plan, checks, folder, pool)
            details[name] = summary_of(cells, fixed[name]["levels"])
            for level, entry in details[name]["levels"].items():
                headline[f"ratio_{name}_{level}"] = entry["ratio"] and round(entry["ratio"], 2)
            step = details[name]["seconds_a_step"]
            headline[f"ratio_{name}_step"] = round(step["lightly"] / step["taskrl"], 2)
    measure.finish(__file__, options, headline, details)


if __name__ == "__main__":
    main()
