"""What every inner loop promises."""

from collections.abc import Callable

import pytest
import torch

from taskrl.meta import MetaProblem
from taskrl.predictor.inner_loop import InnerLoop, PlainSteps, StepRules
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import torch_generator
from taskrl.tasks.task import Mixture
from taskrl.types import AdaptReport, Budget
from tests.builders import same_tensors

INNER_LOOPS: dict[str, Callable[[MetaProblem], InnerLoop]] = {
    "plain": lambda problem: PlainSteps(meter=problem.meter, rules=StepRules(learning_rate=3e-3)),
    "plain without warm-up": lambda problem: PlainSteps(
        meter=problem.meter, rules=StepRules(warmup_share=0.0, head_warmup_steps=0)
    ),
}
RECIPES = ["reference", "masked=1", "contrastive=0,jigsaw=1,masked=0.5", "masked=1,jigsaw=1"]


@pytest.fixture(params=INNER_LOOPS.values(), ids=INNER_LOOPS.keys())
def loop(request: pytest.FixtureRequest, tiny_problem: MetaProblem) -> InnerLoop:
    made: InnerLoop = request.param(tiny_problem)
    return made


def decide(
    problem: MetaProblem, loop: InnerLoop, recipe: str, predictor: Predictor, *, steps: float = 6, seed: int = 0
) -> AdaptReport:
    task = problem.build_task(problem.task_space.recipe(recipe))
    budget = Budget(flops=int(steps * problem.reference_step_flops), start=0.0, end=0.5)
    batches = problem.stream.batches(torch_generator(seed, "order"))
    return loop.adapt(predictor, task, batches, torch_generator(seed, "views"), budget)


def dearest_step(problem: MetaProblem, predictor: Predictor, task: Mixture) -> int:
    batch = next(problem.stream.batches(torch_generator(0, "order")))
    return max(problem.meter.step(predictor, part, batch) for part in task.parts)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_budget_is_met_to_within_half_a_step_fresh_or_trained(
    tiny_problem: MetaProblem, loop: InnerLoop, recipe: str
) -> None:
    predictor = tiny_problem.make_predictor(0)
    decide(tiny_problem, loop, "reference", predictor, steps=1)
    for steps in (6, 7.3, 11.8):
        report = decide(tiny_problem, loop, recipe, predictor, steps=steps)
        half = (
            dearest_step(tiny_problem, predictor, tiny_problem.build_task(tiny_problem.task_space.recipe(recipe))) / 2
        )
        assert abs(report.compute.flops - int(steps * tiny_problem.reference_step_flops)) <= half


@pytest.mark.parametrize("recipe", RECIPES)
def test_same_generators_same_weights_and_other_generators_others(
    tiny_problem: MetaProblem, loop: InnerLoop, recipe: str
) -> None:
    seen = []
    for seed in (1, 1, 2):
        predictor = tiny_problem.make_predictor(0)
        seen.append((decide(tiny_problem, loop, recipe, predictor, seed=seed), predictor.snapshot()))
    assert seen[0][0] == seen[1][0] and same_tensors(seen[0][1], seen[1][1])
    assert not same_tensors(seen[0][1], seen[2][1])


def test_the_report_accounts_for_every_objective_and_image(tiny_problem: MetaProblem, loop: InnerLoop) -> None:
    predictor = tiny_problem.make_predictor(0)
    report = decide(tiny_problem, loop, "masked=1,jigsaw=1", predictor, steps=8)
    assert set(report.num_steps) == set(report.losses) == {"contrastive", "masked", "jigsaw"}
    batch = tiny_problem.stream.batch_size
    views = {"contrastive": 2, "masked": 1, "jigsaw": 1}
    assert report.compute.images == sum(num * views[name] * batch for name, num in report.num_steps.items())
    assert not report.diverged


def test_training_changes_the_encoder_and_leaves_it_ready_to_train(tiny_problem: MetaProblem, loop: InnerLoop) -> None:
    predictor = tiny_problem.make_predictor(0)
    before = {key: value.detach().clone() for key, value in predictor.encoder.named_parameters()}
    decide(tiny_problem, loop, "reference", predictor)
    assert all(not torch.equal(before[key], value) for key, value in predictor.encoder.named_parameters())
    assert all(parameter.requires_grad for parameter in predictor.nets.parameters())
    assert predictor.nets.training


def test_a_snapshot_before_a_decision_undoes_it(tiny_problem: MetaProblem, loop: InnerLoop) -> None:
    predictor = tiny_problem.make_predictor(0)
    decide(tiny_problem, loop, "reference", predictor)
    before = predictor.snapshot()
    first = decide(tiny_problem, loop, "masked=1", predictor, seed=4), predictor.snapshot()
    predictor.restore(before)
    again = decide(tiny_problem, loop, "masked=1", predictor, seed=4), predictor.snapshot()
    assert first[0] == again[0] and same_tensors(first[1], again[1])


def test_the_global_generator_is_left_alone(tiny_problem: MetaProblem, loop: InnerLoop) -> None:
    before = torch.get_rng_state()
    decide(tiny_problem, loop, "masked=1,noise=0.1,cutout=0.2", tiny_problem.make_predictor(0))
    assert torch.equal(torch.get_rng_state(), before)
