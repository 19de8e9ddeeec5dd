import pytest
import torch

from taskrl.modalities.image.objectives.relation import (
    NEIGHBOURS,
    PATCH_SHAKE,
    PATCH_SHARE,
    PATCH_STEP,
    Pairs,
    RelativePosition,
    SameSource,
)
from tests.builders import generator, random_images
from tests.taskrl.modalities.image.objectives.stubs import StubNetworks, naive_cross_entropy


def test_half_of_the_pairs_have_the_same_source_and_half_have_not() -> None:
    batch = random_images(5, 3, 8)
    task, nets = SameSource({}, (3, 8, 8)), StubNetworks(torch.zeros(10, 2))
    task.loss(nets, task.make_views(batch, generator()))
    differences = nets.given[0][:, :3]
    assert torch.equal(differences[:5], torch.zeros(5, 3))
    assert bool((differences[5:].sum(dim=1) > 0).all())


def test_relation_loss_is_the_cross_entropy_of_same_and_other() -> None:
    logits = torch.randn((10, 2), generator=generator())
    views = torch.rand((10, 1, 4, 4), generator=generator())
    loss = float(SameSource({}, (1, 4, 4)).loss(StubNetworks(logits), views))
    assert loss == pytest.approx(naive_cross_entropy(logits, torch.tensor([0] * 5 + [1] * 5)), rel=1e-5)


def test_a_pair_looks_the_same_from_both_sides() -> None:
    nets = [StubNetworks(torch.zeros(4, 2)) for _ in range(2)]
    first, second = torch.rand((2, 2, 3, 4, 4), generator=generator())
    for net, views in zip(nets, (torch.cat([first, second]), torch.cat([second, first])), strict=True):
        SameSource({}, (3, 4, 4)).loss(net, views)
    assert torch.equal(nets[0].given[0][:2], nets[1].given[0][:2])


def test_the_second_patch_lies_where_its_label_says() -> None:
    ramp = torch.linspace(-1, 1, 100)
    rows = ramp[:, None].expand(100, 100)
    batch = torch.stack([rows, rows.T, rows])[None].repeat(64, 1, 1, 1)
    views = RelativePosition({}, (3, 100, 100)).make_views((batch + 1) / 2, generator())
    first, second = (2 * views.images.mean(dim=(2, 3)) - 1).chunk(2)
    expected = PATCH_STEP * torch.tensor(NEIGHBOURS, dtype=torch.float32)[views.labels]
    assert float(first[:, :2].abs().max()) <= PATCH_SHAKE + 0.01
    assert float((second[:, :2] - expected).abs().max()) <= PATCH_SHAKE + 0.01
    assert len(views.labels.unique()) == 8


def test_patches_are_enlarged_to_the_full_size() -> None:
    batch = (torch.linspace(0, 1, 100)[:, None].expand(100, 100))[None, None].repeat(4, 1, 1, 1)
    views = RelativePosition({}, (1, 100, 100)).make_views(batch, generator())
    spread = views.images.amax(dim=(1, 2, 3)) - views.images.amin(dim=(1, 2, 3))
    assert views.images.shape == (8, 1, 100, 100)
    torch.testing.assert_close(spread, torch.full((8,), PATCH_SHARE), atol=0.01, rtol=0)


def test_relative_position_loss_is_the_cross_entropy_of_the_labels() -> None:
    logits, labels = torch.randn((4, 8), generator=generator()), torch.tensor([0, 7, 3, 3])
    views = Pairs(torch.rand((8, 1, 4, 4), generator=generator()), labels)
    loss = float(RelativePosition({}, (1, 4, 4)).loss(StubNetworks(logits), views))
    assert loss == pytest.approx(naive_cross_entropy(logits, labels), rel=1e-5)
