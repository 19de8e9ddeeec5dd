"""Promises of plain steps beyond the shared contract: schedule, cold heads, mixture shares, divergence."""

import math

import pytest
import torch
from torch import Tensor

from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.inner_loop import LOSS_WINDOW, PlainSteps, StepRules
from taskrl.predictor.predictor import Predictor
from taskrl.tasks.task import Mixture
from taskrl.types import AdaptReport
from tests.builders import generator, same_tensors
from tests.taskrl.predictor.toys import FEATURES, ToyTask, budget, endless, mixture, toy_flops, toy_predictor

STEP = toy_flops(8)
FROZEN = toy_flops(8, frozen=True)


def adapt(
    predictor: Predictor, task: Mixture, flops: float, start: float = 0.0, end: float = 1.0, **settings: float
) -> AdaptReport:
    loop = PlainSteps(meter=FlopMeter(), rules=StepRules(**settings))  # type: ignore[arg-type]
    return loop.adapt(predictor, task, endless(), generator(), budget(flops, start, end))


def with_heads(*tasks: ToyTask) -> Predictor:
    predictor = toy_predictor()
    for task in tasks:
        predictor.add_heads(task.head_specs(FEATURES))
    return predictor


@pytest.mark.parametrize(("flops", "steps"), [(1, 1), (STEP, 1), (1.49 * STEP, 1), (1.51 * STEP, 2), (10 * STEP, 10)])
def test_steps_are_the_whole_number_nearest_to_the_budget_and_at_least_one(flops: float, steps: int) -> None:
    predictor = toy_predictor()
    report = adapt(predictor, mixture((ToyTask(), 1.0)), flops)
    assert report.num_steps == {"toy": steps} and predictor.num_steps == steps
    assert report.compute.flops == steps * STEP
    assert report.compute.images == steps * 8


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2), (0.05, 0.95)])
def test_each_objective_gets_its_share_of_the_flops_to_within_a_step(shares: tuple[float, float]) -> None:
    one, two = ToyTask("one"), ToyTask("two", views=2)
    flops = 60 * STEP
    report = adapt(with_heads(one, two), mixture((one, shares[0]), (two, shares[1])), flops)
    costs = {"one": STEP, "two": toy_flops(16)}
    spent = {name: num * costs[name] for name, num in report.num_steps.items()}
    assert report.compute.flops == sum(spent.values())
    assert abs(report.compute.flops - flops) <= max(costs.values()) / 2
    for name, share in zip(("one", "two"), shares, strict=True):
        assert abs(spent[name] - share * flops) <= 1.5 * max(costs.values())


def test_objectives_take_turns() -> None:
    order: list[str] = []
    one, two = (ToyTask(name, spy=lambda _, name=name: order.append(name)) for name in ("one", "two"))
    adapt(with_heads(one, two), mixture((one, 0.5), (two, 0.5)), 6 * STEP)
    first_four = ["one", "one", "two", "two"]  # the meter counts an objective just before its first step
    assert order == first_four + ["one", "two"] * 2


def test_a_head_met_by_a_trained_encoder_is_warmed_with_the_encoder_frozen_and_charged() -> None:
    predictor = with_heads(ToyTask("old"))
    adapt(predictor, mixture((ToyTask("old"), 1.0)), 2 * STEP)
    seen: list[tuple[Tensor, Tensor, bool]] = []

    def spy(_: int) -> None:
        weight = predictor.encoder.conv.weight
        head = predictor.nets.heads["new"][0].weight
        seen.append((weight.detach().clone(), head.detach().clone(), weight.requires_grad))

    task = ToyTask("new", spy=spy)
    meter = FlopMeter()
    loop = PlainSteps(meter=meter)
    counting = ToyTask("new")
    predictor_for_counting = with_heads(counting)
    for frozen in (True, False):
        meter.step(predictor_for_counting, mixture((counting, 1.0)).parts[0], next(endless()), frozen=frozen)
    report = loop.adapt(predictor, mixture((task, 1.0)), endless(), generator(), budget(3 * FROZEN + 2 * STEP))
    assert [trainable for *_, trainable in seen] == [False] * 3 + [True] * 2
    weights, heads, _ = zip(*seen, strict=True)
    assert all(torch.equal(weights[0], weight) for weight in weights[:4])
    assert not torch.equal(weights[3], weights[4])
    assert all(not torch.equal(heads[i], heads[i + 1]) for i in range(4))
    assert report.compute.flops == 3 * FROZEN + 2 * STEP
    assert report.num_steps == {"new": 5} and predictor.num_steps == 4


def test_a_fresh_encoder_needs_no_warm_up_nor_does_a_known_head() -> None:
    predictor = toy_predictor()
    for _ in range(2):
        report = adapt(predictor, mixture((ToyTask(), 1.0)), 3 * STEP)
        assert report.compute.flops == 3 * STEP and report.num_steps == {"toy": 3}


def nan_at(call: int):  # type: ignore[no-untyped-def]
    """Spoils the loss of one call; the meter's counting call is the first."""
    return lambda number, loss: loss * float("nan") if number == call else loss


def infinite_slope_at(call: int):  # type: ignore[no-untyped-def]
    """A finite loss whose gradient is not."""
    return lambda number, loss: loss + (loss - loss.detach()).sqrt() if number == call else loss


@pytest.mark.parametrize("spoil", [nan_at(3), infinite_slope_at(3)], ids=["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_puts_the_predictor_back_and_is_reported(spoil) -> None:  # type: ignore[no-untyped-def]
    predictor = toy_predictor()
    adapt(predictor, mixture((ToyTask("old"), 1.0)), 2 * STEP)
    before = predictor.snapshot()
    report = adapt(predictor, mixture((ToyTask("bad", spoil=spoil), 1.0)), 20 * STEP, head_warmup_steps=0)
    assert report.diverged
    assert same_tensors(predictor.snapshot(), before)
    assert list(predictor.nets.heads) == ["old"] and predictor.num_steps == 2
    assert report.compute.flops == 3 * STEP
    assert all(math.isfinite(loss) for loss in report.losses.values())
    again = adapt(predictor, mixture((ToyTask("old"), 1.0)), 2 * STEP)
    assert not again.diverged and predictor.num_steps == 4


def test_divergence_at_the_first_step_and_in_the_warm_up_is_reported_too() -> None:
    predictor = toy_predictor()
    report = adapt(predictor, mixture((ToyTask(spoil=lambda _, loss: loss * float("inf")), 1.0)), 5 * STEP)
    assert report.diverged and report.losses == {} and report.compute.flops == STEP
    adapt(predictor, mixture((ToyTask("old"), 1.0)), STEP)
    before = predictor.snapshot()
    report = adapt(predictor, mixture((ToyTask("new", spoil=lambda _, loss: loss * float("nan")), 1.0)), 5 * STEP)
    assert report.diverged and same_tensors(predictor.snapshot(), before)
    assert all(parameter.requires_grad for parameter in predictor.nets.parameters())


def test_the_reported_loss_is_the_mean_of_the_last_steps() -> None:
    seen: list[float] = []

    def remember(_: int, loss: Tensor) -> Tensor:
        seen.append(float(loss.detach()))
        return loss

    report = adapt(toy_predictor(), mixture((ToyTask(spoil=remember), 1.0)), 20 * STEP)
    assert report.losses["toy"] == pytest.approx(sum(seen[-LOSS_WINDOW:]) / LOSS_WINDOW)


def rates(start: float, end: float, steps: int = 20) -> list[float]:
    predictor, seen = toy_predictor(), list[float]()
    task = ToyTask(spy=lambda _: seen.append(predictor.optimizer.param_groups[-1]["lr"]))
    adapt(predictor, mixture((task, 1.0)), steps * STEP, start, end, learning_rate=0.01, warmup_share=0.2)
    return seen[1:]


def test_the_learning_rate_rises_and_then_falls_over_the_episode() -> None:
    whole = rates(0.0, 1.0)
    peak = whole.index(max(whole))
    assert 1 <= peak <= 5 and whole[0] < 0.3 * max(whole) and max(whole) > 0.008
    assert all(a > b for a, b in zip(whole[peak:], whole[peak + 1 :], strict=False))
    assert whole[-1] < 0.05 * max(whole)


def test_decisions_continue_the_schedule_of_the_episode() -> None:
    whole = rates(0.0, 1.0, steps=20)
    halves = rates(0.0, 0.5, steps=10) + rates(0.5, 1.0, steps=10)
    assert halves == pytest.approx(whole)


def test_every_head_has_the_encoders_rate() -> None:
    predictor = toy_predictor()
    adapt(predictor, mixture((ToyTask("one"), 0.5), (ToyTask("two"), 0.5)), 4 * STEP)
    assert len({group["lr"] for group in predictor.optimizer.param_groups}) == 1
    assert len(predictor.optimizer.param_groups) == 3


def test_each_step_trains_on_the_next_batch() -> None:
    taken: list[int] = []

    def counted():  # type: ignore[no-untyped-def]
        for batch in endless():
            taken.append(1)
            yield batch

    loop = PlainSteps(meter=FlopMeter())
    loop.adapt(toy_predictor(), mixture((ToyTask(), 1.0)), counted(), generator(), budget(5 * STEP))
    assert 5 <= len(taken) <= 6
