"""Two numbers first: what one core can do, and how far a training step is from that.

    python benchmarks/ceiling.py               # about a minute; results/ceiling.json
    python benchmarks/ceiling.py --quick       # shows that it runs
    python benchmarks/ceiling.py --profile     # also prints the operators by their own time

The machine: matrix products of n x n (fp32 and bf16; n = 2048 on the CPU, 8192 on a GPU, which a smaller one cannot
fill), and copies (bytes read + bytes written), once through main memory and once of an activation's size, in cache.

The step: one of the reference recipe with the default encoder and batch on cluttered digits. Its floor is the sum over
its parts of max(FLOPs / matmul rate, bytes / copy rate). FLOPs are torch's count (convolutions and products only).
Bytes are an estimate from shapes. A is what autograd keeps for the backward pass (distinct storages, parameters left
out), P the parameters, N the batch:

    forward     2 A + P     every kept activation is written once and read once by the next operator
    backward    3 A + 2 P   reads them, writes and reads a gradient for each; reads weights, writes their gradients
    optimiser  10 P         norm (1), clip (2), AdamW: reads weight, gradient, two moments, writes all but the gradient
    views       N + V       reads the uint8 batch once, writes the float32 views V once

So operators that keep nothing (additions, ReLU in place) count as fused, and views as one fused operator. The faster
copy rate is taken, because activations may stay in cache. The count of FLOPs includes products with padding zeros,
which a convolution may skip (up to a fifth at 7x7): fp32 can come out slightly below its floor.

Measured, turn by turn: the whole step (the real inner loop over many steps), forward + backward + optimiser alone on
ready-made views, the forward pass alone, the optimiser with its clipping alone, the views alone. The backward pass and
"other" (batches, bookkeeping, checks) are differences. One thread throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from measure import alternate, finish, median, parser, ratios, seconds
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from taskrl.assemble import assemble, load_data
from taskrl.config import load_config
from taskrl.meta import MetaProblem
from taskrl.predictor.inner_loop import MAX_GRADIENT_NORM
from taskrl.seeding import torch_generator
from taskrl.types import Budget

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = 256 * 2**20
CACHED_COPY_BYTES = 3 * 2**20
PARTS = ("forward", "backward", "optimiser", "views")
PROFILE_ROWS = 25


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How often things are repeated. runs: turns. steps: of training in a turn. products, copies: in a turn."""

    runs: int
    steps: int
    products: int
    copies: int


FULL = Amount(runs=9, steps=40, products=3, copies=8)
QUICK = Amount(runs=5, steps=5, products=1, copies=2)


@final
class Step:
    """One training step of the reference recipe, whole and in pieces; each method runs `num` of them."""

    def __init__(self, problem: MetaProblem) -> None:
        self.problem = problem
        self.task = problem.build_task(problem.task_space.reference)
        (self.part,) = self.task.parts
        self.predictor = problem.make_predictor(0)
        self.predictor.add_heads(self.part.task.head_specs(self.predictor.feature_dim))
        device = self.predictor.device
        self.rng = torch_generator(0, "views", device=device)
        self.batches = problem.stream.batches(torch_generator(0, "batches"))
        self.batch = next(self.batches).to(device)
        self.ready_views = self.part.task.make_views(self.batch, self.rng)

    def whole(self, num: int) -> None:
        """The real inner loop."""
        budget = Budget(flops=num * self.problem.reference_step_flops, start=0.0, end=1.0)
        report = self.problem.inner_loop.adapt(self.predictor, self.task, self.batches, self.rng, budget)
        assert sum(report.num_steps.values()) == num
        assert not report.diverged

    def ready(self, num: int) -> None:
        """Forward, backward and optimiser on ready-made views."""
        self.predictor.nets.train()
        for _ in range(num):
            self.predictor.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            self._update()

    def forward(self, num: int) -> None:
        self.predictor.nets.train()
        for _ in range(num):
            self.loss()

    def optimiser(self, num: int) -> None:
        """Clipping and the optimiser, on the gradients that the last step left."""
        for _ in range(num):
            self._update()

    def views(self, num: int) -> None:
        for _ in range(num):
            self.part.task.make_views(self.batch, self.rng)

    def loss(self) -> Tensor:
        with self.predictor.autocast():
            return self.part.task.loss(self.predictor.networks(), self.ready_views)

    def _update(self) -> None:
        # at rate 0 the same gradients may be applied any number of times; the inner loop sets its own rate
        for group in self.predictor.optimizer.param_groups:
            group["lr"] = 0.0
        nn.utils.clip_grad_norm_(self.predictor.nets.parameters(), max_norm=MAX_GRADIENT_NORM)
        self.predictor.optimizer.step()


def main() -> None:
    """Measure, compare, record."""
    options = parser(__doc__)
    options.add_argument("--profile", action="store_true", help="Print the step's operators by their own time.")
    given = options.parse_args()
    torch.set_num_threads(1)
    steps = make_steps()
    device = steps["fp32"].predictor.device
    amount = QUICK if given.quick else FULL
    found = alternate(sides(steps, device, amount), runs=amount.runs)
    rates = {kind: machine_rates(found, kind) for kind in dict.fromkeys(("cpu", device.type))}
    details = {name: compare(step, name, found, rates[device.type]) for name, step in steps.items()}
    fastest = min(details, key=lambda name: details[name]["step_ms"])
    for name, detail in details.items():
        print(table(name, detail))
    if given.profile:
        for step in steps.values():
            print(profiled(step, amount.steps))
    rate = rates[device.type]
    headline = {
        "precision": fastest,
        **{key: round(rate[key], 2) for key in ("matmul_fp32_gflops", "matmul_bf16_gflops", "copy_gb_per_s")},
        "step_ms": round(details[fastest]["step_ms"], 3),
        "step_over_ready_views": round(details[fastest]["step_over_ready_views"]["median"], 3),
        "share_of_matmul_rate": round(details[fastest]["share_of_matmul_rate"]["median"], 3),
        "floor_ms": round(details[fastest]["floor_ms"], 3),
        "step_over_floor": round(details[fastest]["step_ms"] / details[fastest]["floor_ms"], 2),
    }
    settings = {**vars(amount), "threads": torch.get_num_threads(), "device": str(device)}
    finish(__file__, given, headline, {"settings": settings, "rates": rates, "steps": details, "seconds": found})


def make_steps() -> dict[str, Step]:
    """The default problem in both precisions, on the GPU if there is one."""
    settled = {"data.source": "cluttered-digits", "envs": "processes"}
    configs = {name: load_config(given={**settled, "predictor.precision": name}) for name in PRECISIONS}
    data = load_data(configs["fp32"])
    return {name: Step(assemble(config, data).problem) for name, config in configs.items()}


def sides(steps: dict[str, Step], device: torch.device, amount: Amount) -> dict[str, Callable[[], float]]:
    """Everything that is timed, each warmed up; a call gives the seconds of one product, copy or step."""
    found: dict[str, Callable[[], float]] = {}
    for kind in dict.fromkeys(("cpu", device.type)):
        where = torch.device(kind)
        for name, dtype in PRECISIONS.items():
            found[f"{kind} matmul {name}"] = timed(product(where, dtype), amount.products, where)
        found[f"{kind} copy"] = timed(copy_of(where, COPY_BYTES), amount.copies, where)
        found[f"{kind} copy in cache"] = timed(copy_of(where, CACHED_COPY_BYTES), 100 * amount.copies, where)
    for name, step in steps.items():
        for piece in (step.whole, step.ready, step.forward, step.optimiser, step.views):
            found[f"{name} {piece.__name__}"] = timed(piece, amount.steps, device)
    for side in found.values():
        side()
    return found


def timed(work: Callable[[int], None], num: int, device: torch.device) -> Callable[[], float]:
    """Seconds of one of the `num` things that work(num) does; a GPU's queue is empty before and after."""

    def finished() -> None:
        work(num)
        synchronise(device)

    def side() -> float:
        synchronise(device)
        return seconds(finished) / num

    return side


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product(device: torch.device, dtype: torch.dtype) -> Callable[[int], None]:
    """Matrix products of n x n."""
    n = PRODUCT_SIZE[device.type]
    left, right = (torch.randn(n, n, generator=torch_generator(0, side)).to(device, dtype) for side in ("a", "b"))
    out = torch.empty_like(left)

    def work(num: int) -> None:
        for _ in range(num):
            torch.mm(left, right, out=out)

    return work


def copy_of(device: torch.device, num_bytes: int) -> Callable[[int], None]:
    """Copies of `num_bytes` from one buffer to another."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.zeros_like(source)

    def work(num: int) -> None:
        for _ in range(num):
            target.copy_(source)

    return work


def machine_rates(found: dict[str, list[float]], kind: str) -> dict[str, float]:
    """GFLOP/s and GB/s of a device from the seconds of a product and of a copy."""
    flops = 2 * PRODUCT_SIZE[kind] ** 3
    return {
        **{f"matmul_{name}_gflops": flops / median(found[f"{kind} matmul {name}"]) / 1e9 for name in PRECISIONS},
        "copy_gb_per_s": 2 * COPY_BYTES / median(found[f"{kind} copy"]) / 1e9,
        "copy_in_cache_gb_per_s": 2 * CACHED_COPY_BYTES / median(found[f"{kind} copy in cache"]) / 1e9,
    }


def step_flops(step: Step) -> dict[str, int]:
    """Counted FLOPs of each part; the counter sees convolutions and products, so the last two have none."""
    total = step.problem.meter.step(step.predictor, step.part, step.batch)
    with FlopCounterMode(display=False) as counter:
        step.loss()
    forward = int(counter.get_total_flops())
    return {"forward": forward, "backward": total - forward, "optimiser": 0, "views": 0}


def step_bytes(step: Step) -> dict[str, int]:
    """Estimated bytes of each part, by the rules at the top of this file."""
    tensors = [*step.predictor.nets.parameters(), *step.predictor.nets.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # the graph must live until all addresses are known, else one could be used twice
        loss = step.loss()
    activations = sum(kept.values())
    del loss
    weights = sum(weight.nbytes for weight in step.predictor.nets.parameters())
    return {
        "forward": 2 * activations + weights,
        "backward": 3 * activations + 2 * weights,
        "optimiser": 10 * weights,
        "views": step.batch.nbytes + step.ready_views.nbytes,
    }


def compare(step: Step, name: str, found: dict[str, list[float]], rates: dict[str, float]) -> dict[str, Any]:
    """The floor of one precision, what was measured, and the ratios that count."""
    flops, moved = step_flops(step), step_bytes(step)
    gflops = rates[f"matmul_{name}_gflops"]
    copy_rate = max(rates["copy_gb_per_s"], rates["copy_in_cache_gb_per_s"])
    measured = {
        piece: 1e3 * median(found[f"{name} {piece}"]) for piece in ("whole", "ready", "forward", "optimiser", "views")
    }
    measured["backward"] = measured["ready"] - measured["forward"] - measured["optimiser"]
    parts = {}
    for part in PARTS:
        by_flops, by_bytes = flops[part] / gflops / 1e6, moved[part] / copy_rate / 1e6
        parts[part] = {
            "flops": flops[part],
            "bytes": moved[part],
            "flops_ms": by_flops,
            "bytes_ms": by_bytes,
            "floor_ms": max(by_flops, by_bytes),
            "measured_ms": measured[part],
        }
    kind = step.predictor.device.type
    product_flops = 2 * PRODUCT_SIZE[kind] ** 3
    best = min(PRECISIONS, key=lambda precision: median(found[f"{kind} matmul {precision}"]))
    ideal = [second * sum(flops.values()) / product_flops for second in found[f"{kind} matmul {best}"]]
    return {
        "parts": parts,
        "floor_ms": sum(part["floor_ms"] for part in parts.values()),
        "step_ms": measured["whole"],
        "ready_views_ms": measured["ready"],
        "other_ms": measured["whole"] - measured["ready"] - measured["views"],
        "step_over_ready_views": ratios(found[f"{name} whole"], found[f"{name} ready"]),
        "share_of_matmul_rate": ratios(ideal, found[f"{name} ready"]),
    }


def table(name: str, detail: dict[str, Any]) -> str:
    """One precision as text."""
    lines = [f"{name:10} {'GFLOP':>8} {'MB':>8} {'FLOPs ms':>9} {'bytes ms':>9} {'floor ms':>9} {'measured':>9}"]
    for part, row in detail["parts"].items():
        lines.append(
            f"{part:10} {row['flops'] / 1e9:8.3f} {row['bytes'] / 1e6:8.2f} {row['flops_ms']:9.3f} "
            f"{row['bytes_ms']:9.3f} {row['floor_ms']:9.3f} {row['measured_ms']:9.3f}"
        )
    lines.append(f"{'other':10} {'':36} {'':9} {detail['other_ms']:9.3f}")
    lines.append(f"{'step':10} {'':36} {detail['floor_ms']:9.3f} {detail['step_ms']:9.3f}")
    return "\n".join([*lines, ""])


def profiled(step: Step, num: int) -> str:
    """The operators of `num` whole steps by their own time."""
    on_gpu = step.predictor.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        step.whole(num)
        synchronise(step.predictor.device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = profiler.key_averages().table(sort_by=order, row_limit=PROFILE_ROWS, max_name_column_width=48)
    return f"{step.predictor.precision}, {num} steps\n{found}"


if __name__ == "__main__":
    main()
