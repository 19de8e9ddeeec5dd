"""What every probe promises: a number of the encoder alone, counted, larger for a better encoder."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from taskrl.assemble import assemble
from taskrl.config import ExperimentConfig, load_config
from taskrl.data.dataset import RawDataset
from taskrl.errors import ConfigError
from taskrl.meta import MetaProblem
from taskrl.predictor.predictor import Predictor
from taskrl.seeding import torch_generator
from taskrl.types import Budget, Quality
from tests.builders import blob_dataset, generator, same_tensors, tensors_of
from tests.conftest import TINY

PROBES = ["ridge", "few", "panel", "solvability"]


@pytest.fixture(params=PROBES)
def problem(request: pytest.FixtureRequest, tiny_images: RawDataset) -> MetaProblem:
    config: ExperimentConfig = load_config(given={**TINY, "reward.probe": request.param, "reward.num_folds": 3})
    enough_to_tell = blob_dataset(400) if request.param == "few" else tiny_images  # ten labels a class
    return assemble(config, enough_to_tell).problem


def measure(problem: MetaProblem, encode: Callable[[Tensor], Tensor]) -> Quality:
    return problem.probe(encode, problem.probe_data)


def trained(problem: MetaProblem, steps: int = 3) -> Predictor:
    predictor = problem.make_predictor(0)
    budget = Budget(flops=steps * problem.reference_step_flops, start=0.0, end=1.0)
    task = problem.build_task(problem.task_space.reference)
    batches = problem.stream.batches(torch_generator(0, "order"))
    problem.inner_loop.adapt(predictor, task, batches, torch_generator(0, "views"), budget)
    predictor.recalibrate(problem.calibration)
    return predictor


def pixels(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)


def test_the_same_encoder_has_the_same_quality_and_measuring_draws_no_random_number(problem: MetaProblem) -> None:
    predictor = problem.make_predictor(0)
    before = torch.get_rng_state()
    assert measure(problem, predictor.encode) == measure(problem, predictor.encode)
    assert torch.equal(torch.get_rng_state(), before)


def test_measuring_leaves_the_data_and_the_predictor_alone(problem: MetaProblem) -> None:
    predictor = problem.make_predictor(0)
    data = {key: value.clone() for key, value in tensors_of(problem.probe_data).items()}
    before = predictor.snapshot()
    measure(problem, predictor.encode)
    assert same_tensors(tensors_of(problem.probe_data), data)
    assert same_tensors(predictor.snapshot(), before)


def test_the_cost_is_every_image_encoded_and_the_solve(problem: MetaProblem) -> None:
    num = 0

    def counting(images: Tensor) -> Tensor:
        nonlocal num
        num += len(images)
        return pixels(images)

    quality = measure(problem, counting)
    assert quality.num_encoded == num > 0
    assert quality.solve_flops > 0


def test_quality_is_finite_and_higher_for_an_encoder_that_sees_more(problem: MetaProblem) -> None:
    blind = measure(problem, lambda images: torch.ones(len(images), 8))
    rng = generator()
    noisy = measure(problem, lambda images: torch.randn((len(images), 8), generator=rng))
    seeing = measure(problem, pixels)
    assert all(torch.tensor(quality.value).isfinite() for quality in (blind, noisy, seeing))
    assert blind.value < seeing.value
    if problem.probe_data.labels is not None:  # two dozen images are too few for the panel to tell noise from little
        assert noisy.value < seeing.value


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_have_no_quality_and_cost_the_same(problem: MetaProblem, bad: float) -> None:
    def ruined(images: Tensor) -> Tensor:
        features = pixels(images)
        features[3, 2] = bad
        return features

    found, expected = measure(problem, ruined), measure(problem, pixels)
    assert math.isnan(found.value)
    assert (found.num_encoded, found.solve_flops) == (expected.num_encoded, expected.solve_flops)
    assert problem.hidden is not None and problem.hidden_data is not None
    assert math.isnan(problem.hidden(ruined, problem.hidden_data).value)


def test_only_probes_that_need_labels_hold_labels(problem: MetaProblem) -> None:
    assert problem.hidden_data is not None
    assert problem.hidden_data.labels is None
    without = dataclasses.replace(problem.probe_data, labels=None)
    if problem.probe_data.labels is None:
        assert measure(problem, pixels) == problem.probe(pixels, without)
    else:
        with pytest.raises((ConfigError, KeyError)):
            problem.probe(pixels, without)


def test_the_hidden_measure_is_no_part_of_the_quality(problem: MetaProblem) -> None:
    assert problem.hidden is not None
    assert problem.hidden_data is not None
    hidden = problem.hidden(pixels, problem.hidden_data)
    assert not (set(hidden.parts) & set(measure(problem, pixels).parts)) - {"collapse_penalty"}


def test_changing_only_batch_norm_statistics_earns_nothing(problem: MetaProblem) -> None:
    predictor = trained(problem)
    expected = measure(problem, predictor.encode)
    for module in predictor.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator())
            module.running_var.uniform_(0.01, 10, generator=generator())
    assert measure(problem, predictor.encode).value != expected.value
    predictor.recalibrate(problem.calibration)
    assert measure(problem, predictor.encode) == expected


def test_views_that_pass_through_without_a_step_earn_nothing(problem: MetaProblem) -> None:
    predictor = trained(problem)
    expected = measure(problem, predictor.encode)
    with torch.no_grad():
        for seed in range(5):
            predictor.networks().features(torch.rand((16, 1, 16, 16), generator=generator(seed)) ** 4)
    assert measure(problem, predictor.encode).value != expected.value
    predictor.recalibrate(problem.calibration)
    assert measure(problem, predictor.encode) == expected
