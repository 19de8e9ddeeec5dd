"""InnerLoop: how a predictor learns one task within a budget of FLOPs."""

import math
from collections.abc import Iterator
from typing import Protocol, final

import torch
from torch import Tensor, nn

from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.predictor import Predictor
from taskrl.tasks.task import Mixture, MixturePart
from taskrl.types import AdaptReport, Budget, Compute

LOSS_WINDOW = 8
MAX_GRADIENT_NORM = 5.0


class InnerLoop(Protocol):
    """Trains `predictor` on `task` with inputs from `batches`, spending about `budget.flops`."""

    def adapt(
        self, predictor: Predictor, task: Mixture, batches: Iterator[Tensor], rng: torch.Generator, budget: Budget
    ) -> AdaptReport: ...


@final
class PlainSteps:
    """Plain gradient steps; each step trains the objective that is furthest behind its share of the FLOPs.

    The learning rate follows a cosine over the whole episode after a linear warm-up. A head that is met by a trained
    encoder is first trained alone for `head_warmup_steps`, all charged. A loss that is not finite puts the predictor
    back.
    """

    def __init__(
        self,
        *,
        meter: FlopMeter,
        learning_rate: float = 2e-3,
        warmup_share: float = 0.05,
        final_share: float = 0.02,
        head_warmup_steps: int = 3,
    ) -> None:
        """warmup_share: share of the episode with a rising rate. final_share: last rate over peak rate."""
        self.meter = meter
        self.learning_rate = learning_rate
        self.warmup_share = warmup_share
        self.final_share = final_share
        self.head_warmup_steps = head_warmup_steps

    def adapt(
        self, predictor: Predictor, task: Mixture, batches: Iterator[Tensor], rng: torch.Generator, budget: Budget
    ) -> AdaptReport:
        """Train until the next step would overshoot the budget by more than half of itself; at least one step."""
        before = predictor.snapshot()
        run = _Run(predictor, self.meter, batches, rng)
        met_late = predictor.num_steps > 0
        cold = [part for part in task.parts if predictor.missing_heads(part.task.head_specs(predictor.feature_dim))]
        for part in task.parts:
            predictor.add_heads(part.task.head_specs(predictor.feature_dim))
        for part in cold if met_late else []:
            self._set_rate(predictor, budget.start)
            for _ in range(self.head_warmup_steps):
                run.step(part, frozen=True)
        spent = dict.fromkeys((part.name for part in task.parts), 0.0)
        while not run.diverged:
            part = min(task.parts, key=lambda part: (spent[part.name] / part.share, -part.share))
            cost = run.cost(part)
            if run.num_trained and run.flops + cost / 2 > budget.flops:
                break
            done = min(run.flops / max(budget.flops, 1), 1.0)
            self._set_rate(predictor, budget.start + done * (budget.end - budget.start))
            run.step(part)
            spent[part.name] += cost
        if run.diverged:
            predictor.restore(before)
        return run.report()

    def _set_rate(self, predictor: Predictor, progress: float) -> None:
        rise = min(1.0, (progress + 0.25 * self.warmup_share) / self.warmup_share) if self.warmup_share else 1.0
        fall = self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        for group in predictor.optimizer.param_groups:
            group["lr"] = self.learning_rate * rise * fall


class _Run:
    """The bookkeeping of one call of `adapt`."""

    def __init__(self, predictor: Predictor, meter: FlopMeter, batches: Iterator[Tensor], rng: torch.Generator) -> None:
        self.predictor, self.meter, self.batches, self.rng = predictor, meter, batches, rng
        self.flops = 0
        self.images = 0
        self.num_trained = 0
        self.diverged = False
        self._losses: dict[str, list[Tensor]] = {}
        self._num_steps: dict[str, int] = {}
        self._next = self._fetch()

    def _fetch(self) -> Tensor:
        return next(self.batches).to(self.predictor.device, non_blocking=True)

    def cost(self, part: MixturePart, *, frozen: bool = False) -> int:
        return self.meter.step(self.predictor, part, self._next, frozen=frozen)

    def step(self, part: MixturePart, *, frozen: bool = False) -> None:
        predictor, batch = self.predictor, self._next
        self.flops += self.cost(part, frozen=frozen)
        self.images += part.task.num_encoded(len(batch))
        views = part.task.make_views(batch, self.rng)
        predictor.nets.train()
        encoder = predictor.nets.encoder
        if frozen:
            encoder.requires_grad_(False)
        with predictor.autocast():
            loss = part.task.loss(predictor.networks(), views)
        predictor.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        encoder.requires_grad_(True)
        norm = nn.utils.clip_grad_norm_(predictor.nets.parameters(), max_norm=MAX_GRADIENT_NORM)
        if not torch.isfinite(loss.detach() + norm):
            self.diverged = True
            return
        predictor.optimizer.step()
        self._losses.setdefault(part.name, []).append(loss.detach())
        self._num_steps[part.name] = self._num_steps.get(part.name, 0) + 1
        self.num_trained += not frozen
        predictor.num_steps += not frozen
        self._next = self._fetch()

    def report(self) -> AdaptReport:
        return AdaptReport(
            losses={name: float(torch.stack(values[-LOSS_WINDOW:]).mean()) for name, values in self._losses.items()},
            num_steps=self._num_steps,
            compute=Compute(flops=self.flops, images=self.images),
            diverged=self.diverged,
        )
