import pytest
import torch

from taskrl.modalities.image.objectives.contrastive import TEMPERATURE, Contrastive
from tests.builders import generator, random_images, reference_levels
from tests.taskrl.modalities.image.objectives.stubs import StubNetworks
from tests.taskrl.modalities.image.objectives.test_losses import naive_nt_xent


def test_the_two_views_of_each_image_are_half_a_batch_apart() -> None:
    batch = random_images(6, size=16)
    views = Contrastive({}, (1, 16, 16)).make_views(batch, generator())
    first, second = views.chunk(2)
    assert torch.equal(first, batch / 255) and torch.equal(second, batch / 255)


def test_the_two_views_of_an_image_differ() -> None:
    views = Contrastive(reference_levels(), (1, 16, 16)).make_views(random_images(6, size=16), generator())
    first, second = views.chunk(2)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_loss_is_nt_xent_of_the_projections_of_the_pairs() -> None:
    projections = torch.randn((8, 5), generator=generator())
    views = torch.rand((8, 1, 4, 4), generator=generator())
    loss = float(Contrastive({}, (1, 4, 4)).loss(StubNetworks(projections), views))
    assert loss == pytest.approx(naive_nt_xent(projections[:4], projections[4:], TEMPERATURE), rel=1e-5)
