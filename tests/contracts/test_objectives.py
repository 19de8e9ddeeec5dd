"""What every registered image objective promises, old or new."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from taskrl.modalities.image.objectives.catalogue import image_objectives
from taskrl.predictor.predictor import Predictor
from taskrl.tasks.task import PretextTask
from taskrl.types import Networks
from tests.builders import blobs, generator, random_images, reference_levels, same_tensors, tensors_of, tiny_predictor

OBJECTIVES = image_objectives().names()
SHAPES = [(1, 28), (3, 32), (1, 30)]
BATCH = 8


class CountingNetworks:
    """The predictor's networks, counting the images that go through the encoder and naming the heads called."""

    def __init__(self, nets: Networks) -> None:
        self.nets, self.num_images, self.heads = nets, 0, set[str]()

    def features(self, inputs: Tensor) -> Tensor:
        self.num_images += len(inputs)
        return self.nets.features(inputs)

    def feature_map(self, inputs: Tensor) -> Tensor:
        self.num_images += len(inputs)
        return self.nets.feature_map(inputs)

    def head(self, name: str, features: Tensor) -> Tensor:
        self.heads.add(name)
        return self.nets.head(name, features)


def make(name: str, channels: int = 1, size: int = 28, **changes: float) -> tuple[PretextTask, Predictor]:
    task = image_objectives()[name](reference_levels(channels, size, **changes), (channels, size, size))
    predictor = tiny_predictor(channels, size)
    predictor.add_heads(task.head_specs(predictor.feature_dim))
    return task, predictor


def train(
    task: PretextTask, predictor: Predictor, batch: Tensor, draw: Callable[[int], torch.Generator]
) -> list[float]:
    losses = []
    for step in range(30):
        loss = task.loss(predictor.networks(), task.make_views(batch, draw(step)))
        predictor.optimizer.zero_grad()
        loss.backward()
        predictor.optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("channels", "size"), SHAPES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_is_a_finite_scalar_and_its_gradient_reaches_encoder_and_heads(
    name: str, channels: int, size: int
) -> None:
    task, predictor = make(name, channels, size)
    loss = task.loss(predictor.networks(), task.make_views(random_images(BATCH, channels, size), generator()))
    assert loss.shape == () and loss.dtype == torch.float32 and bool(loss.isfinite())
    loss.backward()
    for part in (predictor.encoder, *predictor.nets.heads.values()):
        gradients = [parameter.grad for parameter in part.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool((gradient != 0).any()) for gradient in gradients if gradient is not None)


@pytest.mark.parametrize(("channels", "size"), SHAPES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_views_are_float_images_in_0_to_1_and_the_batch_stays_as_it_was(name: str, channels: int, size: int) -> None:
    task, _ = make(name, channels, size, noise=0.1, rotation=0.8, jitter=0.8)
    batch = random_images(BATCH, channels, size)
    before = batch.clone()
    views = tensors_of(task.make_views(batch, generator()))
    assert torch.equal(batch, before)
    images = [view for path, view in views.items() if view.is_floating_point() and "target" not in path]
    assert len(images) == 1
    assert images[0].dtype == torch.float32 and images[0].shape[1:] == (channels, size, size)
    assert float(images[0].min()) >= 0 and float(images[0].max()) <= 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_same_generator_state_same_views_and_loss_and_another_state_others(name: str) -> None:
    batch = random_images(BATCH, size=28)
    seen = []
    for seed in (3, 3, 4):
        task, predictor = make(name)
        views = task.make_views(batch, generator(seed))
        seen.append((views, task.loss(predictor.networks(), views)))
    assert same_tensors(seen[0], seen[1])
    assert not same_tensors(seen[0][0], seen[2][0])
    assert not torch.equal(seen[0][1], seen[2][1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_draws_from_the_global_generator(name: str) -> None:
    task, predictor = make(name, noise=0.1, cutout=0.2, blur=0.5)
    before = torch.get_rng_state()
    task.loss(predictor.networks(), task.make_views(random_images(BATCH, size=28), generator())).backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_depends_on_weights_and_views_alone(name: str) -> None:
    task, predictor = make(name)
    views = task.make_views(random_images(BATCH, size=28), generator())
    weights = {key: value.detach().clone() for key, value in predictor.nets.named_parameters()}
    first = task.loss(predictor.networks(), views)
    again = task.loss(predictor.networks(), views)
    elsewhere = task.loss(predictor.networks(weights), views)
    assert torch.equal(first, again)
    torch.testing.assert_close(first, elsewhere)


@pytest.mark.parametrize(("channels", "size"), SHAPES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_head_specs_do_not_depend_on_strengths_and_are_the_heads_that_the_loss_calls(
    name: str, channels: int, size: int
) -> None:
    task, predictor = make(name, channels, size)
    other, _ = make(name, channels, size, crop=1.0, mask_ratio=0.75, rotation=0.8)
    assert task.head_specs(16) == task.head_specs(16) == other.head_specs(16)
    nets = CountingNetworks(predictor.networks())
    task.loss(nets, task.make_views(random_images(BATCH, channels, size), generator()))
    assert nets.heads == set(task.head_specs(16))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_num_encoded_is_what_goes_through_the_encoder(name: str) -> None:
    task, predictor = make(name)
    for num in (BATCH, 5):
        nets = CountingNetworks(predictor.networks())
        task.loss(nets, task.make_views(random_images(num, size=28), generator()))
        assert nets.num_images == task.num_encoded(num)


def test_heads_of_different_objectives_have_different_names() -> None:
    names = [head for name in OBJECTIVES for head in make(name)[0].head_specs(16)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_thirty_steps_learn_a_fixed_batch_of_views(name: str) -> None:
    task, predictor = make(name, size=16)
    losses = train(task, predictor, blobs(torch.arange(32) % 4), lambda step: generator(0))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["contrastive", "rotation", "masked"])
def test_thirty_steps_learn_the_task_and_not_only_its_views(name: str) -> None:
    task, predictor = make(name, size=16, mirror=0.0, crop=0.6)
    losses = train(task, predictor, blobs(torch.arange(64) % 4), generator)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
