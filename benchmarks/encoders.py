"""Which small encoder is the most accurate for its training time?

    python benchmarks/encoders.py --jobs 2                            # 10 minutes; results/encoders.json
    python benchmarks/encoders.py --jobs 2 --data-root data           # Fashion-MNIST as well
    python benchmarks/encoders.py --quick                             # 8x8 digits, a blink of training: that it runs

Every design trains on the reference recipe by the real inner loop, on one thread, for one wall time T. Its time for one
step is measured first, turn by turn with the others (the faster of fp32 and bf16 is kept); it gets T / that time steps,
as FLOPs, in a few decisions of one cosine, and the seconds that it took are recorded. Its learning rate is the better
of two at the shortest T on a seed of its own. T = 0 is untrained. Accuracy is linear, on validation images, fitted on
at most 5,000 pretraining and probe images. Finished trainings are cells keyed by a hash of all that decides them, the
sources of encoder and inner loop included; an interrupted study goes on. FLOPs are torch's count, which takes the
gradient of a depthwise convolution for that of a dense one.
"""

import functools
import hashlib
import inspect
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, alternate, finish, median, parser, seconds
from torch import Tensor, nn

import taskrl
from taskrl.assemble import Assembled, assemble, load_data
from taskrl.config import load_config
from taskrl.evaluation.accuracy import Accuracy, measure
from taskrl.machine import machine
from taskrl.modalities.image.modeling import Encoder, ResidualBlock, SmallNet, initialise
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import PlainSteps, StepRules
from taskrl.predictor.predictor import Predictor
from taskrl.run_folder import write_result
from taskrl.seeding import isolated_global_rng, torch_generator
from taskrl.types import Budget, Inputs

FEATURES = 128
HEAD_DIM = 32
PRECISIONS = ("fp32", "bf16")
RATES = (1e-3, 3e-3)
RATE_SEED = 107
NUM_DECISIONS = 4
MAX_FITTED = 5000
Map = Callable[..., Iterable[Any]]
# Sources that decide speed or accuracy, below the package.
DECISIVE = ("modalities/image/modeling.py", "modalities/image/views.py", "predictor/*.py")


class ConvNet(nn.Module):
    """A stem of patches, `blocks`, then 1x1 to the map (B, FEATURES, h, w)."""

    feature_dim = FEATURES
    forward = SmallNet.forward  # pools `feature_map`

    def __init__(self, in_channels: int, patch: int, width: int, blocks: Sequence[nn.Module], last_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(in_channels, width, patch), *blocks, conv(last_width, FEATURES, 1))
        initialise(self)

    def feature_map(self, x: Tensor) -> Tensor:
        return self.body(x)


def conv(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    """Convolution of patches of `size`, batch norm, ReLU."""
    layer = nn.Conv2d(in_channels, out_channels, size, stride=size, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


def patch_net(in_channels: int, side: int, *, patch: int, widths: Sequence[int], strides: Sequence[int]) -> ConvNet:
    """Residual 3x3 blocks; widths: of the stem, then of every block."""
    pairs = zip(itertools.pairwise(widths), strides, strict=True)
    blocks = [ResidualBlock(before, after, stride) for (before, after), stride in pairs]
    return ConvNet(in_channels, patch, widths[0], blocks, widths[-1])


class MixerBlock(nn.Module):
    """Depthwise convolution around a shortcut, then a pointwise one (ConvMixer, Trockman and Kolter 2022), ReLU."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=False)
        self.spatial = nn.Sequential(depthwise, nn.BatchNorm2d(width), nn.ReLU())
        self.channels = conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(x + self.spatial(x))


def conv_mixer(in_channels: int, side: int, *, patch: int, width: int, depth: int, size: int) -> ConvNet:
    """`depth` mixer blocks."""
    return ConvNet(in_channels, patch, width, [MixerBlock(width, size) for _ in range(depth)], width)


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al. 2021), heads of HEAD_DIM, an MLP of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_BPD: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(x_BPD)).unflatten(2, (3, -1, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        # as products: torch's fused attention for CPUs is several times slower in bf16 at this size
        weights = (query @ key.transpose(2, 3) * HEAD_DIM**-0.5).softmax(dim=3)
        x_BPD = x_BPD + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x_BPD + self.mlp(self.norm2(x_BPD))


class ViT(nn.Module):
    """Patches, learned positions, `depth` blocks, a last norm, then linear to the map (B, FEATURES, h, w)."""

    feature_dim = FEATURES
    forward = SmallNet.forward  # pools `feature_map`

    def __init__(self, in_channels: int, side: int, *, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(ViTBlock(width) for _ in range(depth)))
        self.widen = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, FEATURES))

    def feature_map(self, x: Tensor) -> Tensor:
        patches = self.stem(x)
        tokens = self.widen(self.blocks(patches.flatten(2).transpose(1, 2) + self.positions))
        return tokens.transpose(1, 2).unflatten(2, patches.shape[2:])


def small(in_channels: int, side: int, **shape: Any) -> SmallNet:
    """taskrl's own net, for images of any size."""
    return SmallNet(in_channels=in_channels, **shape)


DEFAULT = "small-32"
# name: (builder, shape); a net is builder(in_channels, side, **shape)
DESIGNS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    DEFAULT: (small, {"width": 32}),
    "small-32-blocks-1-1": (small, {"width": 32, "blocks": (1, 1)}),
    "small-64": (small, {"width": 64}),
    "patch2-32-64": (patch_net, {"patch": 2, "widths": (32, 64), "strides": (2,)}),
    "patch4-32-64": (patch_net, {"patch": 4, "widths": (32, 64), "strides": (1,)}),
    "patch4-64-64": (patch_net, {"patch": 4, "widths": (64, 64), "strides": (1,)}),
    "mixer-64": (conv_mixer, {"patch": 4, "width": 64, "depth": 2, "size": 3}),
    "vit-64": (ViT, {"patch": 4, "width": 64, "depth": 2}),
}


@dataclass(frozen=True)
class Training:
    """One cell: `num_steps` steps of this design, which should take `seconds`."""

    source: str
    design: str
    precision: str
    rate: float
    seed: int
    seconds: float
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class Effort:
    """times: the budgets T. runs, steps: of measuring a step, in turns and within one."""

    times: tuple[float, ...]
    seeds: tuple[int, ...]
    runs: int
    steps: int


FULL = Effort(times=(8.0, 20.0), seeds=(101, 102, 103), runs=5, steps=12)
QUICK = Effort(times=(0.1,), seeds=(101,), runs=2, steps=2)


@functools.lru_cache
def assembled(source: str, root: str | None) -> Assembled:
    """The data and the reference problem, once a process, which computes on one thread from now on."""
    torch.set_num_threads(1)
    settled = {"envs": "processes", "predictor.device": "cpu", "predictor.precision": "fp32"}
    config = load_config(given={"data.source": source, "data.root": root, **settled})
    return assemble(config, load_data(config))


def make_predictor(found: Assembled, design: str, precision: str, seed: int) -> Predictor:
    """An untrained predictor around the design."""
    shape = found.splits.pretraining.inputs.sample_shape
    build, settings = DESIGNS[design]
    with isolated_global_rng(seed):
        net: Any = build(shape[0], shape[1], **settings)
    channels: Any = found.encoder_config
    return Predictor(
        Encoder(net, mean=channels["mean"], std=channels["std"]),
        feature_dim=net.feature_dim,
        sample_shape=shape,
        weight_decay=found.config.predictor.weight_decay,
        precision=precision,
        seed=seed,
    )


def trainer(found: Assembled, predictor: Predictor, rate: float, seed: int) -> Callable[[int, float, float], int]:
    """Runs (steps, start, end) of the reference recipe by the inner loop; returns the FLOPs."""
    problem = found.problem
    task = problem.build_task(problem.task_space.reference)
    (part,) = task.parts
    predictor.add_heads(part.task.head_specs(predictor.feature_dim))
    # a meter of its own: meters remember costs by batch, for one encoder
    loop = PlainSteps(meter=FlopMeter(), rules=StepRules(learning_rate=rate))
    batches, rng = problem.stream.batches(torch_generator(seed, "batches")), torch_generator(seed, "views")
    cost = loop.meter.step(predictor, part, next(problem.stream.batches(torch_generator(0, "cost"))))

    def train(num_steps: int, start: float, end: float) -> int:
        budget = Budget(flops=num_steps * cost, start=start, end=end)
        report = loop.adapt(predictor, task, batches, rng, budget)
        if report.diverged or sum(report.num_steps.values()) != num_steps:
            raise RuntimeError(f"{num_steps} steps were asked for; the inner loop reports {report}.")
        return report.compute.flops

    return train


def step_seconds(found: Assembled, effort: Effort) -> dict[str, dict[str, Any]]:
    """Seconds of one step of every design in every precision, turn by turn; the faster precision of each."""
    sides: dict[str, Callable[[], float]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for design in DESIGNS:
        for precision in PRECISIONS:
            predictor = make_predictor(found, design, precision, seed=0)
            train = trainer(found, predictor, RATES[0], seed=0)
            weights = sum(weight.numel() for weight in predictor.encoder.parameters())
            rows[design] = {"flops": train(1, 0.0, 1.0), "weights": weights}
            work = functools.partial(train, effort.steps, 0.0, 1.0)
            sides[f"{design} {precision}"] = lambda work=work: seconds(work) / effort.steps
    times = {name: median(values) for name, values in alternate(sides, runs=effort.runs).items()}
    for design, row in rows.items():
        row["seconds_by_precision"] = {precision: times[f"{design} {precision}"] for precision in PRECISIONS}
        row["precision"] = min(PRECISIONS, key=row["seconds_by_precision"].__getitem__)
        row["seconds"] = row["seconds_by_precision"][row["precision"]]
    return rows


def train_and_score(found: Assembled, training: Training) -> dict[str, Any]:
    """One encoder: what it cost, and its accuracy."""
    predictor = make_predictor(found, training.design, training.precision, training.seed)
    train = trainer(found, predictor, training.rate, training.seed)
    num = min(NUM_DECISIONS, training.num_steps)
    edges = [round(training.num_steps * index / num) for index in range(num + 1)] if num else []
    started = time.perf_counter()
    flops = sum(train(edges[index + 1] - edges[index], index / num, (index + 1) / num) for index in range(num))
    took = time.perf_counter() - started
    predictor.recalibrate(found.problem.calibration)
    result = score(found, predictor)
    return {**asdict(training), "flops": flops, "took_seconds": took, "linear": result.linear, "knn": result.knn}


def score(found: Assembled, predictor: Predictor) -> Accuracy:
    """Accuracy on the validation images."""

    def features(inputs: Inputs, rows: Tensor) -> Tensor:
        return torch.cat([predictor.encode(inputs.take(part)) for part in rows.split(1024)])

    fitting, validation = found.splits.fitting, found.splits.validation
    assert fitting is not None
    assert validation.labels is not None
    rows = torch.randperm(len(fitting.inputs), generator=torch_generator(0, "fitted images"))[:MAX_FITTED]
    scored = features(validation.inputs, torch.arange(len(validation.inputs))), validation.labels
    return measure(features(fitting.inputs, rows), fitting.labels[rows], [scored])[0]


@functools.lru_cache
def code() -> str:
    """A hash of the sources that decide the numbers: those of the package and the nets of this file."""
    package = Path(taskrl.__file__).parent
    sources = [path.read_text(encoding="utf-8") for pattern in DECISIVE for path in sorted(package.glob(pattern))]
    sources += [inspect.getsource(part) for part in (ConvNet, conv, patch_net, MixerBlock, conv_mixer, ViTBlock, ViT)]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def cell(folder: Path, found: Assembled, settings: Mapping[str, Any], work: Callable[[], Any]) -> Any:
    """The finished cell of these settings on these data, made now if it is missing."""
    config = found.config.model_dump(include={"data": True, "tasks": True, "predictor": True})
    everything = {**settings, "config": config, "code": code(), "torch": torch.__version__, "machine": machine("cpu")}
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"encoder-{key}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, {"settings": everything, "result": work()})
    return json.loads(path.read_text(encoding="utf-8"))["result"]


def training_cell(folder: Path, root: str | None, training: Training) -> dict[str, Any]:
    """`train_and_score`, kept in `folder`."""
    found = assembled(training.source, root)
    settings = {**asdict(training), "shape": DESIGNS[training.design][1]}
    return dict(cell(folder, found, settings, lambda: train_and_score(found, training)))


def run_all(trainings: list[Training], folder: Path, root: str | None, mapper: Map) -> list[dict[str, Any]]:
    """Every training; one printed line each."""
    rows = []
    for row in mapper(functools.partial(training_cell, folder, root), trainings):
        rows.append(row)
        took = f"{row['seconds']:g} s, took {row['took_seconds']:.2f} s, {row['num_steps']} steps"
        print(f"{row['design']}, {took}, rate {row['rate']:g}, seed {row['seed']}: {row['linear']:.2f} %", flush=True)
    return rows


def study(source: str, root: str | None, effort: Effort, folder: Path, mapper: Map) -> dict[str, Any]:
    """Speed, learning rate, then every design at every budget on every seed."""
    found = assembled(source, root)
    designs = {name: [build.__name__, shape] for name, (build, shape) in DESIGNS.items()}
    settings = {"runs": effort.runs, "steps": effort.steps, "designs": designs}
    speed = cell(folder, found, settings, lambda: step_seconds(found, effort))

    def training(design: str, rate: float, seed: int, budget: float) -> Training:
        row = speed[design]
        return Training(source, design, row["precision"], rate, seed, budget, round(budget / row["seconds"]))

    tried = [training(design, rate, RATE_SEED, min(effort.times)) for design in DESIGNS for rate in RATES]
    trials = sorted(run_all(tried, folder, root, mapper), key=lambda row: row["linear"])
    chosen = {row["design"]: row["rate"] for row in trials}
    budgets = (0.0, *effort.times)
    asked = [training(design, chosen[design], seed, t) for t in budgets for seed in effort.seeds for design in DESIGNS]
    rows = run_all(asked, folder, root, mapper)
    accuracy = {f"{t:g} s": summarise([row for row in rows if row["seconds"] == t]) for t in budgets}
    print(table(source, speed, chosen, accuracy))
    return {**settings, "speed": speed, "trials": trials, "rates": chosen, "accuracy": accuracy, "rows": rows}


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of one budget: each design's mean accuracy and its paired difference from the default design."""
    linear = {(row["design"], row["seed"]): row["linear"] for row in rows}
    summary = {}
    for design in DESIGNS:
        own = {seed: value for (name, seed), value in linear.items() if name == design}
        summary[design] = {
            "mean": statistics.mean(own.values()),
            "minus_default": statistics.mean(value - linear[DEFAULT, seed] for seed, value in own.items()),
            "took_seconds": statistics.mean(row["took_seconds"] for row in rows if row["design"] == design),
        }
    return summary


def table(source: str, speed: dict[str, Any], rates: dict[str, float], accuracy: dict[str, Any]) -> str:
    """One data set as text."""
    budgets = "".join(f"{budget:>8}" for budget in accuracy)
    lines = [f"{source:20} {'step ms':>8} {'':5} {'GFLOP':>6} {'weights':>8} {'rate':>6}{budgets}"]
    for design, row in speed.items():
        means = "".join(f"{column[design]['mean']:8.2f}" for column in accuracy.values())
        lines.append(
            f"{design:20} {1e3 * row['seconds']:8.2f} {row['precision']:5} {row['flops'] / 1e9:6.2f} "
            f"{row['weights']:8} {rates[design]:6g}{means}"
        )
    return "\n".join(lines)


def main() -> None:
    """One study a data set."""
    options = parser(__doc__)
    options.add_argument("--data-root", type=Path, help="Of Fashion-MNIST: measured, too, unless --quick.")
    options.add_argument("--jobs", type=int, default=1, help="Trainings side by side.")
    given = options.parse_args()
    torch.set_num_threads(1)
    roots: dict[str, str | None] = {"digits" if given.quick else "cluttered-digits": None}
    if given.data_root and not given.quick:
        roots["fashion-mnist"] = str(given.data_root.resolve())
    effort = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch) if given.quick else RESULTS / "cells"
        mapper: Map = map
        if given.jobs > 1:
            context = multiprocessing.get_context("spawn")
            mapper = stack.enter_context(ProcessPoolExecutor(given.jobs, mp_context=context)).map
        studies = {source: study(source, root, effort, folder, mapper) for source, root in roots.items()}
    headline: dict[str, dict[str, Any]] = {"best": {}, "linear_accuracy": {}}
    for source, found in studies.items():
        for budget, rows in found["accuracy"].items():
            means = {design: round(row["mean"], 2) for design, row in rows.items()}
            headline["linear_accuracy"][f"{source}, {budget}"] = means
            if budget != "0 s":
                headline["best"][f"{source}, {budget}"] = max(means, key=means.__getitem__)
    finish(__file__, given, headline, {"rate_seed": RATE_SEED, "jobs": given.jobs, "threads": 1, "studies": studies})


if __name__ == "__main__":
    main()
