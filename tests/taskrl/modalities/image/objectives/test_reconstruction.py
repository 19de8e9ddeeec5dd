import pytest
import torch

from taskrl.modalities.image.masks import patch_size
from taskrl.modalities.image.objectives.losses import masked_mse, standardised
from taskrl.modalities.image.objectives.reconstruction import (
    BlockMasked,
    ContextRestoration,
    Damaged,
    Masked,
    swap_patches,
)
from tests.builders import generator, random_images
from tests.taskrl.modalities.image.objectives.stubs import StubNetworks

SIZES = [28, 30, 32]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("objective", [Masked, BlockMasked])
def test_hidden_pixels_are_the_visible_mean_and_visible_pixels_are_untouched(
    objective: type[Masked] | type[BlockMasked], size: int
) -> None:
    batch = random_images(4, 3, size)
    views = objective({"mask_ratio": 0.6}, (3, size, size)).make_views(batch, generator())
    images = batch / 255
    for image, corrupted, mask in zip(images, views.corrupted, views.mask, strict=True):
        hidden = mask.expand_as(image)
        assert torch.equal(corrupted[~hidden], image[~hidden])
        for channel in range(3):
            expected = image[channel][~mask[0]].mean()
            torch.testing.assert_close(corrupted[channel][mask[0]], expected.expand(int(mask.sum())))
    assert torch.equal(views.target, standardised(images))


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
def test_masked_hides_the_ratio_of_the_pixels(ratio: float) -> None:
    views = Masked({"mask_ratio": ratio}, (1, 28, 28)).make_views(random_images(8, size=28), generator())
    torch.testing.assert_close(views.mask.float().mean(dim=(1, 2, 3)), torch.full((8,), ratio), atol=0.01, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_swapping_is_a_permutation_of_pixels_that_changes_only_where_it_says(size: int) -> None:
    images = torch.rand((6, 2, size, size), generator=generator())
    grid = size // patch_size(size)
    swapped, changed = swap_patches(images, generator(1), grid, 0.3)
    assert torch.equal(swapped.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)
    moved = (swapped != images).any(dim=1)
    cells = moved.view(6, grid, size // grid, grid, size // grid)
    assert torch.equal(cells.any(dim=4).any(dim=2), changed)


def test_swapping_exchanges_about_the_share_in_pairs() -> None:
    images = torch.rand((6, 1, 28, 28), generator=generator())
    _, changed = swap_patches(images, generator(1), 7, 0.3)
    assert changed.flatten(1).sum(dim=1).tolist() == [2 * round(0.3 * 49 / 2)] * 6
    assert len(changed.flatten(1).unique(dim=0)) > 1


def test_swapping_the_same_way_again_puts_the_image_back() -> None:
    images = torch.rand((6, 1, 28, 28), generator=generator())
    once, _ = swap_patches(images, generator(1), 7, 0.3)
    twice, _ = swap_patches(once, generator(1), 7, 0.3)
    assert torch.equal(twice, images)


def test_context_restoration_is_scored_where_patches_moved() -> None:
    batch = random_images(4, 1, 28)
    views = ContextRestoration({}, (1, 28, 28)).make_views(batch, generator())
    assert bool(views.mask[(views.corrupted != batch / 255)].all())
    assert torch.equal(views.target, standardised(batch / 255))


@pytest.mark.parametrize("objective", [Masked, BlockMasked, ContextRestoration])
def test_loss_is_the_masked_mse_of_the_prediction(
    objective: type[Masked] | type[BlockMasked] | type[ContextRestoration],
) -> None:
    prediction, target = torch.randn((2, 3, 1, 8, 8), generator=generator())
    mask = torch.rand((3, 1, 8, 8), generator=generator(1)) < 0.5
    task = objective({"mask_ratio": 0.6}, (1, 8, 8))
    loss = task.loss(StubNetworks(prediction), Damaged(target, target, mask))
    torch.testing.assert_close(loss, masked_mse(prediction, target, mask))


def test_a_prediction_of_another_size_is_resized_to_the_image() -> None:
    target = torch.full((1, 1, 30, 30), 2.0)
    mask = torch.ones(1, 1, 30, 30, dtype=torch.bool)
    task = Masked({"mask_ratio": 0.6}, (1, 30, 30))
    assert float(task.loss(StubNetworks(torch.full((1, 1, 32, 32), 2.0)), Damaged(target, target, mask))) < 1e-10
