"""Promises of the predictor: exact restore, measuring without traces, functional calls beside the real weights."""

import pytest
import torch
from torch import nn

from taskrl.assemble import assemble, load_data
from taskrl.config import ExperimentConfig
from taskrl.modalities.image.objectives.catalogue import image_objectives
from taskrl.predictor.predictor import ENCODE_BATCH, Predictor
from taskrl.seeding import torch_generator
from taskrl.types import Budget
from tests.builders import (
    generator,
    random_images,
    reference_levels,
    same_tensors,
    tensors_of,
    tiny_predictor,
)


def train(predictor: Predictor, *objectives: str, seed: int = 0, steps: int = 2) -> None:
    """Steps on each objective in turn, with the heads that they need."""
    for name in objectives:
        task = image_objectives()[name](reference_levels(), predictor.sample_shape)
        predictor.add_heads(task.head_specs(predictor.feature_dim))
        for step in range(steps):
            views = task.make_views(random_images(16, seed=seed + step), generator(seed + step))
            predictor.optimizer.zero_grad()
            task.loss(predictor.networks(), views).backward()
            predictor.optimizer.step()
            predictor.num_steps += 1


def test_restore_undoes_training_exactly_heads_that_came_later_included() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation")
    before = predictor.snapshot()
    rates = [group["lr"] for group in predictor.optimizer.param_groups]
    train(predictor, "rotation", "contrastive", "masked", seed=5)
    for group in predictor.optimizer.param_groups:
        group["lr"] = 0.5
    predictor.recalibrate(random_images(32, seed=9))
    assert not same_tensors(predictor.snapshot(), before)
    predictor.restore(before)
    assert same_tensors(predictor.snapshot(), before)
    assert list(predictor.nets.heads) == ["rotation"] and predictor.num_steps == 2
    assert [group["lr"] for group in predictor.optimizer.param_groups] == rates
    assert predictor.missing_heads({"masked": before.head_specs[0][1]}) == ["masked"]


def test_a_restored_predictor_goes_on_exactly_as_the_first_one_did() -> None:
    predictor = tiny_predictor()
    train(predictor, "contrastive", "masked")
    snapshot = predictor.snapshot()
    train(predictor, "masked", "rotation", seed=3)
    first = predictor.snapshot()
    predictor.restore(snapshot)
    train(predictor, "masked", "rotation", seed=3)
    assert same_tensors(predictor.snapshot(), first)


def test_a_snapshot_is_not_changed_by_what_trains_later_and_restores_twice() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation")
    snapshot = predictor.snapshot()
    copy = {key: value.clone() for key, value in tensors_of(snapshot).items()}
    for _ in range(2):
        train(predictor, "rotation", seed=4)
        predictor.restore(snapshot)
        assert same_tensors(tensors_of(snapshot), copy)
        assert same_tensors(tensors_of(predictor.snapshot()), copy)


def test_a_snapshot_restores_into_another_predictor() -> None:
    first, second = tiny_predictor(seed=0), tiny_predictor(seed=1)
    train(first, "contrastive", "rotation")
    second.restore(first.snapshot())
    images = random_images(8)
    assert torch.equal(first.encode(images), second.encode(images))
    for predictor in (first, second):
        train(predictor, "rotation", seed=2)
    assert same_tensors(first.snapshot(), second.snapshot())


def test_heads_start_from_the_seed_and_their_name_in_whatever_order_they_come() -> None:
    first, second, other = tiny_predictor(seed=0), tiny_predictor(seed=0), tiny_predictor(seed=1)
    for predictor, order in ((first, "rotation jigsaw"), (second, "jigsaw rotation"), (other, "rotation jigsaw")):
        for name in order.split():
            task = image_objectives()[name]({}, (1, 16, 16))
            predictor.add_heads(task.head_specs(predictor.feature_dim))
    assert same_tensors(dict(first.nets.state_dict()), dict(second.nets.state_dict()))
    assert not torch.equal(first.nets.heads["rotation"][0].weight, other.nets.heads["rotation"][0].weight)


def test_adding_a_head_again_changes_nothing() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation")
    before = predictor.snapshot()
    predictor.add_heads(dict(before.head_specs))
    assert same_tensors(predictor.snapshot(), before)
    assert len(predictor.optimizer.param_groups) == 2


def test_a_new_head_is_trained() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation", steps=1)
    before = predictor.nets.heads["rotation"][0].weight.detach().clone()
    train(predictor, "rotation", steps=1)
    assert not torch.equal(predictor.nets.heads["rotation"][0].weight, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encode_gives_float32_features_without_gradient_in_eval_mode_twice_the_same(precision: str) -> None:
    predictor = tiny_predictor(precision=precision)
    train(predictor, "rotation")
    before = predictor.snapshot()
    images = random_images(8)
    features = predictor.encode(images)
    assert features.shape == (8, predictor.feature_dim) and features.dtype == torch.float32
    assert not features.requires_grad and not features.is_inference()
    assert torch.equal(predictor.encode(images), features)
    assert same_tensors(predictor.snapshot(), before)
    with torch.no_grad():
        predictor.encoder.eval()
        torch.testing.assert_close(predictor.encoder(images), features)


def test_an_images_features_do_not_depend_on_the_images_beside_it() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation")
    images = random_images(ENCODE_BATCH + 20)
    features = predictor.encode(images)
    assert features.shape == (ENCODE_BATCH + 20, predictor.feature_dim)
    torch.testing.assert_close(predictor.encode(images[-5:]), features[-5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predictor.encode(images / 255), features, atol=1e-5, rtol=1e-5)


def test_training_goes_on_in_training_mode_after_encoding() -> None:
    predictor = tiny_predictor()
    predictor.encode(random_images(4))
    assert all(module.training for module in predictor.nets.modules())


def test_autocast_is_bf16_only_when_asked_for() -> None:
    images = random_images(4) / 255
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        predictor = tiny_predictor(precision=precision)
        with predictor.autocast():
            assert predictor.networks().feature_map(images).dtype == dtype


def test_networks_at_the_present_parameters_give_the_present_outputs() -> None:
    predictor = tiny_predictor()
    train(predictor, "contrastive", "masked")
    params = {key: value.detach().clone() for key, value in predictor.nets.named_parameters()}
    images = random_images(8) / 255
    here, there = predictor.networks(), predictor.networks(params)
    torch.testing.assert_close(here.feature_map(images), there.feature_map(images))
    features = here.features(images)
    torch.testing.assert_close(features, there.features(images))
    torch.testing.assert_close(here.head("contrastive", features), there.head("contrastive", features))


def test_networks_at_other_parameters_leave_the_real_weights_buffers_and_gradients_alone() -> None:
    predictor = tiny_predictor()
    train(predictor, "contrastive")
    predictor.optimizer.zero_grad()
    before = predictor.snapshot()
    params = {key: (0.5 * value.detach()).requires_grad_() for key, value in predictor.nets.named_parameters()}
    nets = predictor.networks(params)
    loss = nets.head("contrastive", nets.features(random_images(8) / 255)).square().mean()
    gradients = torch.autograd.grad(loss, list(params.values()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(bool((gradient != 0).any()) for gradient in gradients)
    assert same_tensors(predictor.snapshot(), before)
    assert all(parameter.grad is None for parameter in predictor.nets.parameters())


def test_gradients_flow_through_an_inner_step() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation")
    task = image_objectives()["rotation"]({}, predictor.sample_shape)
    views = task.make_views(random_images(8), generator())
    params = {key: value.detach().clone().requires_grad_() for key, value in predictor.nets.named_parameters()}
    rate = torch.tensor(0.1, requires_grad=True)
    inner = torch.autograd.grad(task.loss(predictor.networks(params), views), list(params.values()), create_graph=True)
    moved = {key: value - rate * grad for (key, value), grad in zip(params.items(), inner, strict=True)}
    outer = task.loss(predictor.networks(moved), views)
    (gradient,) = torch.autograd.grad(outer, [rate])
    assert bool(gradient.isfinite()) and float(gradient) != 0


def test_recalibrating_makes_the_features_of_those_images_normal_and_forgets_all_earlier_statistics() -> None:
    predictor = tiny_predictor()
    train(predictor, "rotation")
    images = random_images(64, seed=3)
    weights = {key: value.detach().clone() for key, value in predictor.nets.named_parameters()}
    predictor.recalibrate(images)
    expected = predictor.encode(images)
    norms = [module for module in predictor.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.momentum == 0.1 for norm in norms)
    for norm in norms:
        norm.running_mean.normal_(generator=generator())
        norm.running_var.uniform_(0.1, 9, generator=generator())
    assert not torch.allclose(predictor.encode(images), expected, atol=0.1)
    predictor.recalibrate(images)
    assert torch.equal(predictor.encode(images), expected)
    assert same_tensors(dict(predictor.nets.named_parameters()), weights)


def test_recalibrated_statistics_are_those_of_the_batch() -> None:
    predictor, images = tiny_predictor(), random_images(64, seed=3)
    predictor.recalibrate(images)
    measured = predictor.encode(images)
    predictor.nets.train()
    with torch.no_grad():
        in_training_mode = predictor.encoder(images)
    torch.testing.assert_close(measured, in_training_mode, atol=0.02, rtol=0.02)


def test_recalibrating_an_encoder_without_batch_norm_changes_nothing() -> None:
    from tests.taskrl.predictor.toys import toy_predictor

    predictor = toy_predictor()
    before = predictor.snapshot()
    predictor.recalibrate(random_images(4, 1, 8))
    assert same_tensors(predictor.snapshot(), before)


def test_recalibrating_gives_the_features_that_encoding_gives_next() -> None:
    predictor, images = tiny_predictor(), random_images(256, seed=5)
    features = predictor.recalibrate(images)
    assert features.dtype == torch.float32 and not features.requires_grad
    torch.testing.assert_close(features, predictor.encode(images), rtol=0.01, atol=0.01)


@pytest.mark.slow
def test_a_compiled_predictor_trains_as_a_plain_one_and_its_flops_are_counted_the_same(
    tiny_config: ExperimentConfig,
) -> None:
    """Slow: compiling takes seconds and needs a C++ compiler."""
    reports, features = [], []
    for how in ("never", "always"):
        settings = tiny_config.predictor.model_copy(update={"compile": how})
        config = tiny_config.model_copy(update={"predictor": settings})
        problem = assemble(config, load_data(config)).problem
        predictor = problem.make_predictor(0)
        budget = Budget(flops=3 * problem.reference_step_flops, start=0.0, end=1.0)
        batches = problem.stream.batches(torch_generator(0, "order"))
        task = problem.build_task(problem.task_space.reference)
        reports.append(problem.inner_loop.adapt(predictor, task, batches, torch_generator(0, "views"), budget))
        predictor.recalibrate(problem.calibration)
        features.append(predictor.encode(problem.calibration))
    assert reports[0].compute == reports[1].compute and reports[0].num_steps == reports[1].num_steps
    torch.testing.assert_close(features[1], features[0], rtol=0.02, atol=0.02)
