"""Statistics and planted patches that the label-free panel asks for."""

import math

import pytest
import torch
from torch import Tensor

from taskrl.modalities.image import held_out
from tests.builders import blobs, generator, random_images


def bars(direction: str, num: int = 6, size: int = 16) -> Tensor:
    """Black and white bars that run "across" or "down", uint8."""
    wave = (torch.arange(size) // 2 % 2 * 255).to(torch.uint8)
    image = wave[:, None].expand(size, size) if direction == "across" else wave[None].expand(size, size)
    return image.expand(num, 1, size, size).clone()


def test_the_histogram_says_where_edges_point() -> None:
    across = held_out.orientation_histograms(bars("across"), grid=1)
    down = held_out.orientation_histograms(bars("down"), grid=1)
    assert across.argmax(1).tolist() == [held_out.NUM_ORIENTATIONS // 2] * 6
    assert down.argmax(1).tolist() == [0] * 6


def test_histograms_of_a_grid_have_a_cell_each_and_unit_length() -> None:
    found = held_out.orientation_histograms(random_images(5), grid=4)
    assert found.shape == (5, 16 * held_out.NUM_ORIENTATIONS)
    assert torch.allclose(found.norm(dim=1), torch.ones(5))


def test_contrast_does_not_change_the_histogram() -> None:
    images = random_images(4).float() / 255
    full, faint = (held_out.orientation_histograms(part, grid=2) for part in (images, 0.3 * images + 0.2))
    assert torch.allclose(full, faint, atol=1e-5)


def test_a_quarter_turn_and_a_mirror_leave_the_shape_of_the_histogram() -> None:
    images = blobs(torch.arange(8) % 4)
    shape = held_out.turned_alike(held_out.orientation_histograms(images, grid=1))
    for other in (images.rot90(1, (2, 3)), images.flip(3)):
        moved = held_out.turned_alike(held_out.orientation_histograms(other, grid=1))
        assert torch.allclose(shape, moved, atol=0.02)


def test_intensity_statistics_are_means_and_spreads_of_the_channels() -> None:
    images = random_images(4, channels=3)
    found = held_out.intensity_statistics(images)
    flat = images.float().flatten(2) / 255
    assert torch.allclose(found[:, :3], flat.mean(2))
    assert torch.allclose(found[:, 3:6], flat.std(2))
    assert torch.allclose(found[:, 12:15], flat.median(2).values, atol=0.01)


@pytest.mark.parametrize(("direction", "half"), [("across", 1), ("down", 0)])
def test_the_spectrum_tells_directions_and_rings_apart(direction: str, half: int) -> None:
    bands = held_out.spectrum_bands(bars(direction))[0].view(held_out.NUM_BANDS, 2)
    assert int(bands.flatten().argmax()) % 2 == half
    assert int(bands.max(1).values.argmax()) == held_out.NUM_BANDS // 2


def test_coarse_pixels_are_cell_means() -> None:
    images = random_images(3, size=8)
    found = held_out.coarse_pixels(images, grid=2)
    assert found[1, 0] == pytest.approx(float(images[1, 0, :4, :4].float().mean() / 255), abs=1e-6)


def test_prototypes_are_patches_of_the_images() -> None:
    images = random_images(10, size=12)
    patches = held_out.prototypes(images, generator())
    side = patches.shape[2]
    windows = (images.float() / 255).unfold(2, side, 1).unfold(3, side, 1).reshape(-1, side * side)
    for patch in patches.reshape(len(patches), -1):
        assert (windows - patch).abs().sum(1).min() == 0
    assert len(patches) == held_out.NUM_PROTOTYPES


def test_every_patch_is_planted_equally_often_and_where_it_lies_the_image_changed() -> None:
    images, patches = random_images(32), held_out.prototypes(random_images(8, seed=1), generator())
    planted, which = held_out.plant(images, patches, generator(2))
    assert which.bincount().tolist() == [2] * 16
    changed = ((planted - images.float() / 255).abs() > 1e-3).flatten(1).float().mean(1)
    low, high = (math.pi / 4 * share**2 for share in held_out.PLANTED_SHARES)
    assert low * 0.8 <= float(changed.min())
    assert float(changed.max()) <= high * 1.1


def test_the_two_corners_are_opposite_and_come_from_the_image() -> None:
    ramp = torch.linspace(0, 1, 16)[:, None].expand(16, 16)
    images = ramp.expand(20, 1, 16, 16)
    first, second = held_out.crops(images, generator())
    means = torch.stack([first.mean(dim=(1, 2, 3)), second.mean(dim=(1, 2, 3))])
    assert torch.allclose(means.sum(0), torch.ones(20), atol=0.03)
    assert ((means[0] - means[1]).abs() > 0.3).all()


def test_coarse_images_keep_size_and_mean_and_lose_detail() -> None:
    images = random_images(4)
    found = held_out.coarse(images)
    assert found.shape == images.shape
    assert found.std() < 0.8 * (images.float() / 255).std()
    assert float(found.mean()) == pytest.approx(float(images.float().mean() / 255), abs=0.01)
