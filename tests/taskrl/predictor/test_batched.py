"""Batched steps against separate ones: the same steps, the same losses and first gradients up to rounding."""

from collections.abc import Sequence

import pytest
import torch

from taskrl.meta import MetaProblem
from taskrl.predictor.batched import BatchedSteps
from taskrl.predictor.inner_loop import Assignment, PlainSteps, StepRules
from taskrl.seeding import torch_generator
from taskrl.types import AdaptReport, Budget
from tests.builders import same_tensors

RECIPES = ("reference", "masked=1", "contrastive=0,jigsaw=1,masked=0.5", "contrastive=0,weight/rotation=1,no-mirror")
RULES = StepRules(learning_rate=3e-3)


def work(problem: MetaProblem, recipe: str, seed: int, steps: float) -> Assignment:
    predictor = problem.make_predictor(seed)
    return Assignment(
        predictor=predictor,
        task=problem.build_task(problem.task_space.recipe(recipe)),
        batches=problem.stream.batches(torch_generator(seed, "order")),
        rng=torch_generator(seed, "views"),
        budget=Budget(flops=int(steps * problem.reference_step_flops), start=0.0, end=0.5),
    )


def again(problem: MetaProblem, old: Assignment, recipe: str, steps: float) -> Assignment:
    """Another decision of the same predictor."""
    task = problem.build_task(problem.task_space.recipe(recipe))
    budget = Budget(flops=int(steps * problem.reference_step_flops), start=0.5, end=1.0)
    return Assignment(predictor=old.predictor, task=task, batches=old.batches, rng=old.rng, budget=budget)


def both(
    problem: MetaProblem, plain: Sequence[Assignment], batched: Sequence[Assignment]
) -> tuple[list[AdaptReport], list[AdaptReport]]:
    loop = PlainSteps(meter=problem.meter, rules=RULES)
    apart = [loop.adapt(one.predictor, one.task, one.batches, one.rng, one.budget) for one in plain]
    return apart, BatchedSteps(meter=problem.meter, rules=RULES).adapt_all(batched)


def same_books(first: AdaptReport, second: AdaptReport) -> None:
    assert (first.num_steps, first.compute, first.diverged) == (second.num_steps, second.compute, second.diverged)


def test_first_steps_have_the_gradients_of_separate_predictors(tiny_problem: MetaProblem) -> None:
    plain, batched = ([work(tiny_problem, name, seed, 1) for seed, name in enumerate(RECIPES)] for _ in range(2))
    for first, second in zip(*both(tiny_problem, plain, batched), strict=True):
        same_books(first, second)
        assert second.losses == pytest.approx(dict(first.losses), rel=1e-4)
    for one, other in zip(plain, batched, strict=True):
        ours, theirs = (work.predictor.optimizer.state_dict()["state"] for work in (one, other))
        assert ours.keys() == theirs.keys()
        for row in ours:
            scale = ours[row]["exp_avg"].abs().max()
            torch.testing.assert_close(
                theirs[row]["exp_avg"], ours[row]["exp_avg"], atol=float(5e-3 * scale), rtol=1e-3
            )
            assert theirs[row]["step"] == ours[row]["step"]


def test_later_decisions_with_other_objectives_and_cold_heads_stay_close(tiny_problem: MetaProblem) -> None:
    plain, batched = ([work(tiny_problem, "reference", seed, 3) for seed in range(3)] for _ in range(2))
    both(tiny_problem, plain, batched)
    later = ("masked=1", "reference", "contrastive=0,jigsaw=1")
    plain = [again(tiny_problem, old, name, 4) for old, name in zip(plain, later, strict=True)]
    batched = [again(tiny_problem, old, name, 4) for old, name in zip(batched, later, strict=True)]
    for first, second in zip(*both(tiny_problem, plain, batched), strict=True):
        same_books(first, second)
        assert second.losses == pytest.approx(dict(first.losses), rel=0.02)
    for one, other in zip(plain, batched, strict=True):
        assert list(one.predictor.nets.state_dict()) == list(other.predictor.nets.state_dict())
        features = [
            (work.predictor.recalibrate(tiny_problem.calibration), work.predictor.encode(tiny_problem.calibration))[1]
            for work in (one, other)
        ]
        torch.testing.assert_close(features[1], features[0], atol=0.05 * float(features[0].std()), rtol=0.05)


def test_one_that_diverges_is_put_back_and_the_others_go_on(tiny_problem: MetaProblem) -> None:
    works = [work(tiny_problem, "reference", seed, 3) for seed in range(3)]
    with torch.no_grad():
        next(works[1].predictor.encoder.parameters()).fill_(float("nan"))
    before = works[1].predictor.snapshot()
    untouched = works[0].predictor.snapshot()
    reports = BatchedSteps(meter=tiny_problem.meter, rules=RULES).adapt_all(works)
    assert [report.diverged for report in reports] == [False, True, False]
    assert reports[1].num_steps == {} and reports[1].compute.flops > 0
    after = works[1].predictor.snapshot()
    assert after.num_steps == before.num_steps == 0 and after.head_specs == before.head_specs
    assert not same_tensors(works[0].predictor.snapshot().weights, untouched.weights)
    assert works[2].predictor.num_steps == 3
