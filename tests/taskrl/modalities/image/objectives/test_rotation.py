import pytest
import torch

from taskrl.modalities.image.objectives.rotation import Labelled, Rotation, turn
from tests.builders import generator, random_images
from tests.taskrl.modalities.image.objectives.stubs import StubNetworks, naive_cross_entropy


def test_each_image_is_turned_by_its_own_quarter_turns() -> None:
    images = random_images(8, 3, 5)
    turns = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    turned = turn(images, turns)
    for image, k, result in zip(images, turns.tolist(), turned, strict=True):
        assert torch.equal(result, torch.rot90(image, k, dims=(1, 2)))


def test_turning_back_gives_the_image() -> None:
    images, turns = random_images(8, 1, 6), torch.arange(8) % 4
    assert torch.equal(turn(turn(images, turns), (4 - turns) % 4), images)


def test_labels_say_how_the_views_were_turned_and_all_four_occur() -> None:
    batch = random_images(64, size=8)
    views = Rotation({}, (1, 8, 8)).make_views(batch, generator())
    assert torch.equal(views.images, turn(batch / 255, views.labels))
    assert views.labels.bincount(minlength=4).min() >= 8


def test_loss_is_the_cross_entropy_of_the_labels() -> None:
    logits, labels = torch.randn((6, 4), generator=generator()), torch.tensor([0, 1, 2, 3, 0, 1])
    views = Labelled(torch.rand((6, 1, 4, 4), generator=generator()), labels)
    loss = float(Rotation({}, (1, 4, 4)).loss(StubNetworks(logits), views))
    assert loss == pytest.approx(naive_cross_entropy(logits, labels), rel=1e-5)
