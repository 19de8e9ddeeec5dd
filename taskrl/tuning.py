"""Choices that this machine's speed decides: measured once, remembered, and written into config.yaml.

Measured is the reference recipe's training step. The memory is a file of the user's cache folder (TASKRL_CACHE names
another folder); removing it costs a second at the next run.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from taskrl.config import EpisodeConfig, ExperimentConfig
from taskrl.errors import ConfigError, TaskrlError
from taskrl.folders import read_json, write_atomically
from taskrl.machine import machine
from taskrl.meta import MetaProblem
from taskrl.predictor.inner_loop import Assignment
from taskrl.seeding import torch_generator
from taskrl.types import Budget

CACHE_VARIABLE = "TASKRL_CACHE"
CACHE_FILE = "timings.json"
LEAST_GAIN = 1.1
PATIENCE_S = 1.0
MAX_ROUNDS = 5
STEPS_PER_ROUND = 3
MAX_BATCHED = 16
WORTH_ASKING_S = 900.0
NUM_OTHER_FINALS = 3

MakeProblem = Callable[[ExperimentConfig], MetaProblem]


def tuned(
    config: ExperimentConfig, make_problem: MakeProblem, shape: Sequence[int], alone: EpisodeConfig | None = None
) -> ExperimentConfig:
    """`config` with envs, precision and compile settled: of what it leaves open, the fastest that is at least 10 %
    faster than the plainer ones (processes before batched, fp32 before bf16).

    alone: the only episode that is trained, in this process; None is the whole run. Raises ConfigError when what it
    asks for cannot train here.
    """
    candidates = [_settled(config, envs, precision) for envs in _places(config) for precision in _precisions(config)]
    best = candidates[0]
    if len(candidates) > 1 or best.envs == "batched":
        rates = {number: images_per_second(each, make_problem, shape) for number, each in enumerate(candidates)}
        if not any(rates.values()):
            raise ConfigError(
                f"Batched predictors cannot train in {config.predictor.precision} on this device; "
                "use predictor.precision=fp32 or envs=processes."
            )
        chosen = 0
        for number, rate in rates.items():
            if rate > LEAST_GAIN * rates[chosen]:
                chosen = number
        best = candidates[chosen]
    return best if config.predictor.compile != "auto" else _with_compile(best, make_problem, shape, alone)


def _with_compile(
    config: ExperimentConfig, make_problem: MakeProblem, shape: Sequence[int], alone: EpisodeConfig | None
) -> ExperimentConfig:
    """`config` with compile settled: "always" if, over the whole run, it saves more than it costs in every worker.

    Only asked where a run is long: asking takes about half a minute itself.
    """
    plain = _settled(config, config.envs, config.predictor.precision, compiled="never")
    if config.envs == "batched":
        return plain
    num_images = (alone.num_steps if alone else _num_steps(config)) * config.predictor.batch_size
    plain_s = num_images / images_per_second(plain, make_problem, shape, alone=alone is not None)
    if plain_s < WORTH_ASKING_S:
        return plain
    compiled = _settled(config, config.envs, config.predictor.precision, compiled="always")
    compiling_s = _remembering(compiled, shape, "compiling", lambda: _seconds_to_compile(make_problem(compiled)))
    compiled_s = num_images / images_per_second(compiled, make_problem, shape, alone=alone is not None)
    return compiled if plain_s - compiled_s > compiling_s * len(config.tasks.objectives) else plain


def _num_steps(config: ExperimentConfig) -> int:
    """Of a whole run: its search, where it has one, and its final encoders."""
    searched = config.agent.episodes * config.episode.num_steps if config.mode == "search" else 0
    num_finals = config.final.seeds * (len(config.final.generators) + NUM_OTHER_FINALS)
    return searched + num_finals * config.final.episode.num_steps


def _seconds_to_compile(problem: MetaProblem) -> float:
    """The first step of a compiled predictor."""
    started = time.perf_counter()
    _train(problem, [_assignment(problem, 0, steps=1)], batched=False)
    return time.perf_counter() - started


def images_per_second(
    config: ExperimentConfig, make_problem: MakeProblem, shape: Sequence[int], *, alone: bool = False
) -> float:
    """Pretraining images a second on the whole machine under a settled `config`; 0 when it cannot train so. alone: of
    one predictor in this process.
    """

    def measured() -> float:
        if alone:
            return _rate_alone(config, make_problem(config))
        try:
            return _training_rate(config, make_problem(config))
        except RuntimeError:
            if config.envs != "batched":
                raise
            return 0.0  # torch.func has no rule for an operation in this precision, or memory ran out

    compiled = " compiled" if config.predictor.compile == "always" else ""
    place = "alone" if alone else config.envs
    return _remembering(config, shape, f"{place} {config.predictor.precision}{compiled}", measured)


def seconds_to_measure(config: ExperimentConfig, problem: MetaProblem, shape: Sequence[int]) -> float:
    """One measuring of quality, in seconds of one worker."""

    def measured() -> float:
        predictor = problem.make_predictor(0)
        taken = []
        with threads(1 if config.predictor.device == "cpu" else torch.get_num_threads()):
            for _ in range(2):
                started = time.perf_counter()
                problem.measure(predictor)
                taken.append(time.perf_counter() - started)
        return min(taken)

    what = f"measuring {config.predictor.precision} {config.reward.probe} {len(problem.probe_data.inputs)}"
    return _remembering(config, shape, what, measured)


def workers_at_once(config: ExperimentConfig) -> int:
    """How many predictors train at the same time at full speed: a core each, while several on one GPU take turns."""
    if config.envs == "batched" or config.predictor.device != "cpu":
        return 1
    return config.workers if config.envs == "ray" else min(config.workers, os.cpu_count() or 1)


def _settled(config: ExperimentConfig, envs: str, precision: str, *, compiled: str | None = None) -> ExperimentConfig:
    changes = {"precision": precision, "compile": compiled or config.predictor.compile}
    predictor = config.predictor.model_copy(update=changes)
    return config.model_copy(update={"envs": envs, "predictor": predictor})


def _places(config: ExperimentConfig) -> tuple[str, ...]:
    if config.envs != "auto":
        return (config.envs,)
    return ("processes", "batched") if config.agent.group_size > 1 else ("processes",)


def _precisions(config: ExperimentConfig) -> tuple[str, ...]:
    settings = config.predictor
    if settings.precision != "auto":
        return (settings.precision,)
    return ("fp32", "bf16") if has_bf16(torch.device(settings.device)) else ("fp32",)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16; elsewhere it is emulated, and not worth measuring."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _training_rate(config: ExperimentConfig, problem: MetaProblem) -> float:
    """Of all workers together, in images a second."""
    batched = config.envs == "batched"
    together = min(config.agent.group_size, MAX_BATCHED) if batched else 1
    num_threads = 1 if config.predictor.device == "cpu" and not batched else torch.get_num_threads()
    step_s = _seconds_a_step(problem, together, num_threads, batched=batched)
    return workers_at_once(config) * config.predictor.batch_size / step_s


def _rate_alone(config: ExperimentConfig, problem: MetaProblem) -> float:
    """Of one predictor that has this process to itself, in images a second."""
    return config.predictor.batch_size / _seconds_a_step(problem, 1, torch.get_num_threads(), batched=False)


def _seconds_a_step(problem: MetaProblem, together: int, num_threads: int, *, batched: bool) -> float:
    """In the fastest of some rounds of steps."""
    with threads(num_threads):
        works = [_assignment(problem, seed, steps=1) for seed in range(together)]
        _train(problem, works, batched)
        best, spent, rounds = float("inf"), 0.0, 0
        while rounds == 0 or (spent < PATIENCE_S and rounds < MAX_ROUNDS):
            works = [_assignment(problem, seed, steps=STEPS_PER_ROUND) for seed in range(together)]
            started = time.perf_counter()
            num_steps = _train(problem, works, batched)
            taken = time.perf_counter() - started
            best, spent, rounds = min(best, taken / num_steps), spent + taken, rounds + 1
    return best


def _assignment(problem: MetaProblem, seed: int, *, steps: int) -> Assignment:
    predictor = problem.make_predictor(seed)
    return Assignment(
        predictor=predictor,
        task=problem.build_task(problem.task_space.reference),
        batches=problem.stream.batches(torch_generator(seed, "tuning order")),
        rng=torch_generator(seed, "tuning views", device=predictor.device),
        budget=Budget(flops=steps * problem.reference_step_flops, start=0.0, end=0.1),
    )


def _train(problem: MetaProblem, works: Sequence[Assignment], batched: bool) -> int:
    if batched:
        reports = problem.batched_loop.adapt_all(works)
    else:
        loop = problem.inner_loop
        reports = [loop.adapt(work.predictor, work.task, work.batches, work.rng, work.budget) for work in works]
    return sum(sum(report.num_steps.values()) for report in reports)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many torch threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _key(config: ExperimentConfig, shape: Sequence[int]) -> str:
    """Everything that a timing depends on."""
    settings = config.predictor
    facts = {
        **machine(settings.device),
        "torch": torch.__version__,
        "encoder": f"{settings.encoder} {settings.width}",
        "shape": list(shape),
        "batch_size": settings.batch_size,
        "group_size": config.agent.group_size,
        "tasks": config.tasks.model_dump(mode="json"),  # what is timed is a step of the reference recipe
        "init": settings.init_sha256,  # whose stem may be another
        "workers": config.workers,
    }
    return json.dumps(facts, sort_keys=True)


def _cache_file() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskrl"
    return base / CACHE_FILE


def _remembering(config: ExperimentConfig, shape: Sequence[int], what: str, measure: Callable[[], float]) -> float:
    place = _key(config, shape)
    known = _rows(_memory(), place)
    if what not in known:
        known = {**known, what: measure()}
        _remember(place, known)
    return known[what]


def _memory() -> dict[str, Any]:
    """The whole file; nothing when it is missing or spoilt."""
    try:
        return read_json(_cache_file())
    except TaskrlError:
        return {}


def _rows(memory: Mapping[str, Any], place: str) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in memory.get(place, {}).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _remember(place: str, rows: Mapping[str, float]) -> None:
    """Best effort: a cache that cannot be written costs a second at the next run."""
    path = _cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**_memory(), place: dict(rows)}, indent=1))
    except OSError:
        return
