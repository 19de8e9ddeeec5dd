"""InnerLoop: how a predictor learns one task within a budget of FLOPs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.predictor import Predictor, Snapshot
from taskrl.tasks.task import Mixture, MixturePart
from taskrl.types import AdaptReport, Budget, Compute

LOSS_WINDOW = 8
MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One decision's work: train `predictor` on `task` with inputs from `batches`, spending about `budget.flops`."""

    predictor: Predictor
    task: Mixture
    batches: Iterator[Tensor]
    rng: torch.Generator
    budget: Budget


class InnerLoop(Protocol):
    """Trains `predictor` on `task` with inputs from `batches`, spending about `budget.flops`."""

    def adapt(
        self, predictor: Predictor, task: Mixture, batches: Iterator[Tensor], rng: torch.Generator, budget: Budget
    ) -> AdaptReport: ...


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One training step to come. frozen: heads only. rate: learning rate."""

    part: MixturePart
    frozen: bool
    rate: float


@dataclass(frozen=True, kw_only=True)
class StepRules:
    """Which step comes next. The rate follows a cosine over the whole episode after a linear warm-up; a head that
    is met by a trained encoder is first trained alone for `head_warmup_steps`, all charged.

    warmup_share: share of the episode with a rising rate. final_share: last rate over peak rate.
    """

    learning_rate: float = 2e-3
    warmup_share: float = 0.05
    final_share: float = 0.02
    head_warmup_steps: int = 3

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` through the episode, in [0, 1]."""
        rise = min(1.0, (progress + 0.25 * self.warmup_share) / self.warmup_share) if self.warmup_share else 1.0
        fall = self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.learning_rate * rise * fall


DEFAULT_RULES = StepRules()


@final
class PlainSteps:
    """Plain gradient steps, one predictor after the other.

    Each step trains the objective that is furthest behind its share of the FLOPs. A loss that is not finite puts the
    predictor back.
    """

    def __init__(self, *, meter: FlopMeter, rules: StepRules = DEFAULT_RULES) -> None:
        self.meter = meter
        self.rules = rules

    def adapt(
        self, predictor: Predictor, task: Mixture, batches: Iterator[Tensor], rng: torch.Generator, budget: Budget
    ) -> AdaptReport:
        """Train until the next step would overshoot the budget by more than half of itself; at least one step."""
        assignment = Assignment(predictor=predictor, task=task, batches=batches, rng=rng, budget=budget)
        run = Run(assignment, self.meter, self.rules)
        while turn := run.next_turn():
            loss, finite = _step(predictor, turn, run.draw_views(turn))
            run.record(turn, loss, bool(finite))
        return run.report()


def _step(predictor: Predictor, turn: Turn, views: Any) -> tuple[Tensor, Tensor]:
    """One step of the optimiser, unless loss or gradient is not finite; the loss and whether it was."""
    encoder, task = predictor.nets.encoder, turn.part.task
    for group in predictor.optimizer.param_groups:
        group["lr"] = turn.rate
    if turn.frozen:
        encoder.requires_grad_(False)
    with predictor.autocast():
        loss = task.loss(predictor.networks(), views)
    predictor.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if turn.frozen:
        encoder.requires_grad_(True)
    gradients = [gradient for p in predictor.nets.parameters() if (gradient := p.grad) is not None]
    norm = nn.utils.get_total_norm(gradients)
    if norm > MAX_GRADIENT_NORM:  # rare: what clipping would multiply by 1 is left alone
        nn.utils.clip_grads_with_norm_(predictor.nets.parameters(), MAX_GRADIENT_NORM, norm)
    loss = loss.detach()
    finite = torch.isfinite(loss + norm)
    if finite:
        predictor.optimizer.step()
    return loss, finite


class Run:
    """One assignment under way: what comes next, and the books."""

    def __init__(self, assignment: Assignment, meter: FlopMeter, rules: StepRules) -> None:
        """Adds the heads that the task needs."""
        self.assignment = assignment
        self.diverged = False
        self._meter, self._rules = meter, rules
        self._before: Snapshot = assignment.predictor.snapshot()
        self._flops = self._images = self._num_trained = 0
        self._losses: dict[str, list[Tensor]] = {}
        self._num_steps: dict[str, int] = {}
        self._next = self._fetch()
        predictor, parts = assignment.predictor, assignment.task.parts
        predictor.nets.train()
        cold = [part for part in parts if predictor.missing_heads(part.task.head_specs(predictor.feature_dim))]
        for part in parts:
            predictor.add_heads(part.task.head_specs(predictor.feature_dim))
        met_late = predictor.pretrained or predictor.num_steps > 0
        self._warm_up = [part for part in cold for _ in range(rules.head_warmup_steps)] if met_late else []
        self._spent = dict.fromkeys((part.name for part in parts), 0.0)

    def next_turn(self) -> Turn | None:
        """The next step, or None when the budget is spent or the predictor has diverged."""
        budget = self.assignment.budget
        if self.diverged:
            return None
        if self._warm_up:
            return Turn(part=self._warm_up[0], frozen=True, rate=self._rules.rate(budget.start))
        part = min(self.assignment.task.parts, key=lambda part: (self._spent[part.name] / part.share, -part.share))
        if self._num_trained and self._flops + self._cost(part, frozen=False) / 2 > budget.flops:
            return None
        done = min(self._flops / max(budget.flops, 1), 1.0)
        return Turn(part=part, frozen=False, rate=self._rules.rate(budget.start + done * (budget.end - budget.start)))

    def draw_views(self, turn: Turn) -> Any:
        """The next batch as `turn` sees it."""
        return turn.part.task.make_views(self._next, self.assignment.rng)

    def record(self, turn: Turn, loss: Tensor, finite: bool) -> None:
        """Enter a finished step into the books. One that was not finite puts the predictor back and ends the run."""
        cost, name = self._cost(turn.part, frozen=turn.frozen), turn.part.name
        self._flops += cost
        self._images += turn.part.task.num_encoded(len(self._next))
        if not finite:
            self.diverged = True
            self.assignment.predictor.restore(self._before)
            return
        self._losses.setdefault(name, []).append(loss)
        self._num_steps[name] = self._num_steps.get(name, 0) + 1
        if turn.frozen:
            self._warm_up.pop(0)
        else:
            self._spent[name] += cost
            self._num_trained += 1
            self.assignment.predictor.num_steps += 1
        self._next = self._fetch()

    def report(self) -> AdaptReport:
        return AdaptReport(
            losses={name: float(torch.stack(values[-LOSS_WINDOW:]).mean()) for name, values in self._losses.items()},
            num_steps=self._num_steps,
            compute=Compute(flops=self._flops, images=self._images),
            diverged=self.diverged,
        )

    def _fetch(self) -> Tensor:
        return next(self.assignment.batches).to(self.assignment.predictor.device, non_blocking=True)

    def _cost(self, part: MixturePart, *, frozen: bool) -> int:
        return self._meter.step(self.assignment.predictor, part, self._next, frozen=frozen)
