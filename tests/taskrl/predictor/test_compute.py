"""FLOPs are torch's counts, once a kind of step, without a trace on anything that runs."""

import pytest
import torch

from taskrl.modalities.image.objectives.catalogue import image_objectives
from taskrl.predictor.compute import FlopMeter
from taskrl.predictor.predictor import Predictor
from taskrl.tasks.task import MixturePart
from tests.builders import random_images, reference_levels, same_tensors, tiny_predictor
from tests.taskrl.predictor.toys import FEATURES, SIZE, ToyTask, mixture, toy_flops, toy_predictor


def image_part(name: str, predictor: Predictor) -> MixturePart:
    task = image_objectives()[name](reference_levels(), predictor.sample_shape)
    predictor.add_heads(task.head_specs(predictor.feature_dim))
    return MixturePart(name=name, share=1.0, task=task)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_step_of_the_toy_costs_what_one_counts_by_hand(batch_size: int, frozen: bool) -> None:
    predictor, task = toy_predictor(), ToyTask()
    predictor.add_heads(task.head_specs(FEATURES))
    part = mixture((task, 1.0)).parts[0]
    cost = FlopMeter().step(predictor, part, random_images(batch_size, 1, SIZE), frozen=frozen)
    assert cost == toy_flops(batch_size, frozen=frozen)


def test_encoding_one_input_costs_the_forward_convolution() -> None:
    assert FlopMeter().encode(toy_predictor()) == 2 * FEATURES * SIZE * SIZE * 9


@pytest.mark.parametrize("name", ["rotation", "masked", "jigsaw"])
def test_cost_is_proportional_to_the_batch(name: str) -> None:
    predictor, meter = tiny_predictor(), FlopMeter()
    part = image_part(name, predictor)
    one, four = (meter.step(predictor, part, random_images(num)) for num in (4, 16))
    assert four == 4 * one > 0


def test_two_views_cost_about_twice_one_view_and_a_frozen_encoder_less() -> None:
    predictor, meter = tiny_predictor(), FlopMeter()
    rotation, contrastive = image_part("rotation", predictor), image_part("contrastive", predictor)
    batch = random_images(16)
    one, two = meter.step(predictor, rotation, batch), meter.step(predictor, contrastive, batch)
    assert 1.8 < two / one < 2.3
    assert meter.step(predictor, rotation, batch, frozen=True) < 0.6 * one


def test_counting_leaves_the_predictor_the_batch_and_the_global_generator_alone() -> None:
    predictor = tiny_predictor()
    part = image_part("contrastive", predictor)
    batch, before = random_images(8), predictor.snapshot()
    images, rng = batch.clone(), torch.get_rng_state()
    FlopMeter().step(predictor, part, batch)
    FlopMeter().step(predictor, part, batch, frozen=True)
    FlopMeter().encode(predictor)
    assert same_tensors(predictor.snapshot(), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in predictor.nets.parameters())
    assert predictor.nets.training and torch.equal(batch, images)
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_kind_of_step_is_counted_once() -> None:
    predictor, task, meter = toy_predictor(), ToyTask(), FlopMeter()
    predictor.add_heads(task.head_specs(FEATURES))
    part = mixture((task, 1.0)).parts[0]
    costs = {meter.step(predictor, part, random_images(8, 1, SIZE, seed=seed)) for seed in range(3)}
    assert len(costs) == 1 and task.num_calls == 1
    meter.step(predictor, part, random_images(4, 1, SIZE))
    assert task.num_calls == 2
