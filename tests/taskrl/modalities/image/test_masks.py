import pytest
import torch

from taskrl.modalities.image.masks import block, patch_size, random_patches, to_pixels
from tests.builders import generator


def test_patch_size_is_the_largest_divisor_that_leaves_seven_patches_a_side() -> None:
    assert [patch_size(size) for size in (28, 30, 31, 32, 64, 96, 8, 5)] == [4, 3, 1, 4, 8, 12, 1, 1]


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
@pytest.mark.parametrize("grid", [7, 8, 10])
def test_random_patches_hide_the_ratio_in_every_image_and_each_image_differently(grid: int, ratio: float) -> None:
    mask = random_patches(generator(), 32, grid, ratio)
    assert mask.shape == (32, grid, grid) and mask.dtype == torch.bool
    assert mask.flatten(1).sum(dim=1).tolist() == [round(ratio * grid * grid)] * 32
    assert len(mask.flatten(1).unique(dim=0)) == 32


def test_random_patches_hide_every_place_equally_often() -> None:
    share = random_patches(generator(), 4000, 7, 0.6).float().mean(dim=0)
    assert float((share - share.mean()).abs().max()) < 0.04


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("draw", [random_patches, block])
def test_something_is_hidden_and_something_stays_visible_at_every_ratio(draw, ratio: float) -> None:  # type: ignore[no-untyped-def]
    hidden = draw(generator(), 50, 7, ratio).flatten(1).sum(dim=1)
    assert int(hidden.min()) >= 1 and int(hidden.max()) <= 48


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
@pytest.mark.parametrize("grid", [7, 8, 15])
def test_a_block_is_one_rectangle_of_about_the_ratio(grid: int, ratio: float) -> None:
    mask = block(generator(), 200, grid, ratio)
    for image in mask:
        rows, columns = image.any(dim=1), image.any(dim=0)
        assert torch.equal(image, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            first, last = line.nonzero().flatten()[[0, -1]].tolist()
            assert int(line.sum()) == last - first + 1
    shares = mask.float().mean(dim=(1, 2))
    assert float(shares.mean()) == pytest.approx(ratio, abs=0.05)
    assert float((shares - ratio).abs().max()) < 0.15
    assert len(mask.flatten(1).unique(dim=0)) > 5


@pytest.mark.parametrize("draw", [random_patches, block])
def test_the_generator_alone_decides(draw) -> None:  # type: ignore[no-untyped-def]
    assert torch.equal(draw(generator(1), 9, 7, 0.5), draw(generator(1), 9, 7, 0.5))
    assert not torch.equal(draw(generator(1), 9, 7, 0.5), draw(generator(2), 9, 7, 0.5))


def test_to_pixels_repeats_each_patch() -> None:
    mask = random_patches(generator(), 3, 7, 0.5)
    expected = mask.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)[:, None]
    assert torch.equal(to_pixels(mask, 28, 28), expected)


def test_to_pixels_covers_images_that_the_grid_does_not_divide() -> None:
    mask = torch.tensor([[[True, False], [False, True]]])
    assert to_pixels(mask, 5, 3)[0, 0].int().tolist() == [[1, 1, 0]] * 3 + [[0, 0, 1]] * 2
