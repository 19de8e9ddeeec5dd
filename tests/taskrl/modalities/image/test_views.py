"""Views: each operation does what its name says, an image at a time, and a draw can be replayed."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from taskrl.modalities.image.views import ViewDraw, apply_view, make_view, sample_view, view_knobs
from tests.builders import generator, random_images, same_tensors, tensors_of

STRONGEST = {
    "crop": 0.15,
    "mirror": 0.5,
    "upside_down": 0.5,
    "rotation": math.pi,
    "jitter": 0.8,
    "blur": 0.5,
    "noise": 0.1,
    "cutout": 0.2,
    "greyscale": 0.5,
}
OFF = {**dict.fromkeys(STRONGEST, 0.0), "crop": 1.0}


def view(images: Tensor, seed: int = 0, **levels: float) -> Tensor:
    return make_view(images, generator(seed), levels)


def smooth_images(num: int, channels: int = 1, size: int = 32) -> Tensor:
    """Float images without sharp edges, so that resampling errors are small."""
    coarse = torch.rand((num, channels, 4, 4), generator=generator(5))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("levels", [{}, OFF])
@pytest.mark.parametrize("channels", [1, 3])
def test_with_all_knobs_off_a_view_is_the_image_bit_for_bit(channels: int, levels: dict[str, float]) -> None:
    images = random_images(4, channels, 20)
    assert torch.equal(view(images, **levels), images.float() / 255)
    assert torch.equal(view(images / 255, **levels), images / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_stay_in_0_to_1_with_the_shape_of_the_images_at_the_greatest_strengths(channels: int) -> None:
    images = random_images(64, channels, 24)
    before = images.clone()
    result = view(images, **STRONGEST)
    assert result.shape == images.shape and result.dtype == torch.float32
    assert float(result.min()) >= 0 and float(result.max()) <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(STRONGEST))
def test_each_knob_alone_changes_images_and_differs_from_image_to_image(name: str) -> None:
    images = random_images(1, 3, 24).expand(40, -1, -1, -1)
    result = view(images, **{name: STRONGEST[name]})
    either_or = name in ("mirror", "upside_down", "greyscale")
    assert len(result.flatten(1).unique(dim=0)) >= (2 if either_or else 15)
    assert not torch.equal(result, images / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_replaying_a_draw_gives_the_same_view(channels: int) -> None:
    images = random_images(16, channels, 24)
    draw = sample_view(generator(), images.shape, STRONGEST)
    assert torch.equal(apply_view(images, draw), apply_view(images, draw))
    assert torch.equal(apply_view(images, draw), view(images, **STRONGEST))


def test_the_generator_alone_decides_a_draw() -> None:
    before = torch.get_rng_state()
    first, again, other = (sample_view(generator(seed), (8, 3, 16, 16), STRONGEST) for seed in (1, 1, 2))
    assert same_tensors(first, again)
    assert not any(torch.equal(first_part, tensors_of(other)[key]) for key, first_part in tensors_of(first).items())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stronger_knob_does_not_disturb_the_draws_of_the_others() -> None:
    gentle = sample_view(generator(), (8, 1, 16, 16), {"crop": 0.3, "jitter": 0.4})
    with_more = sample_view(generator(), (8, 1, 16, 16), {"crop": 0.3, "jitter": 0.4, "blur": 0.5, "cutout": 0.2})
    assert same_tensors([gentle.affine_B23, gentle.gain_B], [with_more.affine_B23, with_more.gain_B])


@pytest.mark.parametrize(("knob", "dim"), [("mirror", 3), ("upside_down", 2)])
def test_a_flip_at_probability_1_equals_torch_flip(knob: str, dim: int) -> None:
    images = random_images(6, 3, 17)
    torch.testing.assert_close(view(images, **{knob: 1.0}), images.flip(dim) / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("knob", "dim"), [("mirror", 3), ("upside_down", 2)])
def test_a_flip_at_probability_a_half_flips_about_half_of_the_images_and_leaves_the_rest(knob: str, dim: int) -> None:
    images = random_images(400, 1, 6) / 255
    result = view(images, **{knob: 0.5})
    flipped = (result - images.flip(dim)).abs().amax(dim=(1, 2, 3)) < 1e-5
    kept = (result - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((flipped ^ kept).all())
    assert 160 < int(flipped.sum()) < 240


def test_an_affine_draw_of_a_half_turn_turns_the_image_by_pi() -> None:
    images = random_images(3, 1, 15) / 255
    half_turn = torch.tensor([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]).expand(3, 2, 3)
    turned = apply_view(images, ViewDraw(affine_B23=half_turn))
    torch.testing.assert_close(turned, images.rot90(2, dims=(2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bound", [0.3, 0.8, math.pi])
def test_rotations_are_pure_turns_spread_over_plus_and_minus_the_bound(bound: float) -> None:
    affine = sample_view(generator(), (1000, 1, 16, 16), {"rotation": bound}).affine_B23
    assert affine is not None
    linear = affine[:, :, :2]
    torch.testing.assert_close(linear @ linear.mT, torch.eye(2).expand(1000, 2, 2), atol=1e-5, rtol=0)
    assert torch.equal(affine[:, :, 2], torch.zeros(1000, 2))
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    assert float(angle.abs().max()) <= bound + 1e-5
    assert float(angle.max()) > 0.98 * bound and float(angle.min()) < -0.98 * bound
    assert float(angle.mean()) == pytest.approx(0, abs=0.1 * bound)


@pytest.mark.parametrize("smallest", [0.6, 0.3, 0.15])
def test_crops_cover_areas_from_the_smallest_to_1_and_stay_inside_the_image(smallest: float) -> None:
    affine = sample_view(generator(), (4000, 1, 16, 16), {"crop": smallest}).affine_B23
    assert affine is not None
    width, height, x, y = affine[:, 0, 0], affine[:, 1, 1], affine[:, 0, 2], affine[:, 1, 2]
    area = width * height
    assert smallest - 1e-5 <= float(area.min()) < smallest + 0.01
    assert 0.97 < float(area.max()) <= 1 + 1e-5
    below_middle = float((area < (smallest + 1) / 2).float().mean())
    assert below_middle == pytest.approx(0.5, abs=0.06)
    assert bool(((width / height).log().abs() <= math.log(4 / 3) + 1e-5).all())
    assert float((x.abs() + width).max()) <= 1 + 1e-5 and float((y.abs() + height).max()) <= 1 + 1e-5
    assert float(x.min()) < -0.3 * (1 - smallest) and float(x.max()) > 0.3 * (1 - smallest)


def test_a_crop_shows_the_enlarged_window() -> None:
    images = smooth_images(1)
    window = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, -0.5]]])
    expected = torch.nn.functional.interpolate(images[:, :, :16, 16:], size=(32, 32), mode="bilinear")
    result = apply_view(images, ViewDraw(affine_B23=window))
    torch.testing.assert_close(result[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], atol=1e-4, rtol=0)


def test_greyscale_at_probability_1_gives_every_channel_the_luma() -> None:
    images = random_images(5, 3, 8) / 255
    result = view(images, greyscale=1.0)
    luma = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)
    for channel in range(3):
        torch.testing.assert_close(result[:, channel], luma, atol=1e-5, rtol=0)


def test_greyscale_probability_is_the_share_of_grey_views() -> None:
    result = view(random_images(1000, 3, 4), greyscale=0.2)
    grey = (result.amax(dim=1) - result.amin(dim=1)).amax(dim=(1, 2)) < 1e-5
    assert 150 < int(grey.sum()) < 250


def test_colour_operations_keep_greys_grey() -> None:
    grey = random_images(50, 1, 8).expand(-1, 3, -1, -1)
    result = view(grey, jitter=0.8, greyscale=0.5)
    assert float((result.amax(dim=1) - result.amin(dim=1)).max()) < 1e-5


@pytest.mark.parametrize("jitter", [0.4, 0.8])
def test_jitter_spares_a_fifth_and_changes_brightness_and_contrast_within_its_strength(jitter: float) -> None:
    draw = sample_view(generator(), (2000, 1, 4, 4), {"jitter": jitter})
    assert draw.gain_B is not None and draw.contrast_B is not None
    spared = (draw.gain_B == 1) & (draw.contrast_B == 1)
    assert 0.17 < float(spared.float().mean()) < 0.23
    for factor in (draw.gain_B, draw.contrast_B):
        assert 1 - jitter <= float(factor.min()) < 1 - 0.95 * jitter
        assert 1 + 0.95 * jitter < float(factor.max()) <= 1 + jitter


@pytest.mark.parametrize(("jitter", "hue"), [(0.4, 0.1), (0.8, 0.2)])
def test_hue_turns_by_the_protocols_share_of_the_circle_at_most(jitter: float, hue: float) -> None:
    mix = sample_view(generator(), (2000, 3, 4, 4), {"jitter": jitter}).colour_BCC
    assert mix is not None
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    saturation = torch.linalg.det(mix.double()).sqrt()[:, None, None]
    saturate = saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3)
    turn = torch.linalg.solve(saturate, mix.double())
    angle = torch.arccos(((turn.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1)) / (2 * math.pi)
    assert 0.95 * hue < float(angle.max()) <= hue + 1e-3
    assert 1 - jitter - 1e-5 <= float(saturation.min()) < float(saturation.max()) <= 1 + jitter + 1e-5


def test_brightness_multiplies_and_contrast_stretches_about_the_mean() -> None:
    images = 0.4 + 0.2 * torch.rand((2, 1, 6, 6), generator=generator())
    brighter = ViewDraw(gain_B=torch.tensor([1.2, 0.5]), contrast_B=torch.ones(2))
    torch.testing.assert_close(apply_view(images, brighter), images * torch.tensor([1.2, 0.5])[:, None, None, None])
    stretched = apply_view(images, ViewDraw(gain_B=torch.ones(2), contrast_B=torch.tensor([1.5, 0.0])))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(stretched[0], (images[0] - mean[0]) * 1.5 + mean[0])
    torch.testing.assert_close(stretched[1], mean[1].expand(1, 6, 6))


def test_blur_equals_torchvisions_gaussian_blur_and_spares_images_with_sigma_0() -> None:
    images, sigma = random_images(3, 3, 32) / 255, torch.tensor([0.5, 0.0, 1.3])
    result = apply_view(images, ViewDraw(sigma_B=sigma))
    assert torch.equal(result[1], images[1])
    for index in (0, 2):
        expected = reference.gaussian_blur(images[index], kernel_size=[7, 7], sigma=[float(sigma[index])])
        torch.testing.assert_close(result[index], expected, atol=1e-5, rtol=0)


def test_blur_probability_is_the_share_of_blurred_views_and_blurring_smooths() -> None:
    images = random_images(400, 1, 16) / 255
    result = view(images, blur=0.5)
    blurred = (result != images).flatten(1).any(dim=1)
    assert 160 < int(blurred.sum()) < 240
    assert bool((result[blurred].std(dim=(1, 2, 3)) < images[blurred].std(dim=(1, 2, 3))).all())
    assert bool((view(images, blur=1.0) != images).flatten(1).any(dim=1).all())


def test_noise_has_at_most_the_given_sd_and_no_bias() -> None:
    images = torch.full((200, 1, 16, 16), 0.5)
    added = view(images, noise=0.1) - images
    spread = added.std(dim=(1, 2, 3))
    assert 0.09 < float(spread.max()) < 0.115 and float(spread.min()) < 0.01
    assert float(added.mean()) == pytest.approx(0, abs=0.002)


def test_cutout_fills_one_rectangle_of_at_most_the_area_with_the_images_mean() -> None:
    images = random_images(200, 3, 20) / 255
    result = view(images, cutout=0.2)
    shares = []
    for image, cut in zip(images, result, strict=True):
        changed = (cut != image).any(dim=0)
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert torch.equal(changed, rows[:, None] & columns[None, :])
        torch.testing.assert_close(cut[:, changed], image.mean().expand(3, int(changed.sum())))
        shares.append(float(changed.float().mean()))
    assert 0.15 < max(shares) < 0.25
    assert min(shares) > 0.02


def test_the_knobs_are_those_of_the_protocol() -> None:
    table = {
        "crop": ((1.0, 0.6, 0.3, 0.15), 0.3, 1.5),
        "mirror": ((0.0, 0.5), 0.5, 1.0),
        "upside_down": ((0.0, 0.5), 0.0, 2.0),
        "rotation": ((0.0, 0.3, 0.8, math.pi), 0.0, 1.5),
        "jitter": ((0.0, 0.4, 0.8), 0.4, 1.5),
        "blur": ((0.0, 0.5), 0.0, 1.0),
        "noise": ((0.0, 0.1), 0.0, 1.0),
        "cutout": ((0.0, 0.2), 0.0, 1.0),
        "greyscale": ((0.0, 0.2, 0.5), 0.2, 1.0),
    }
    colour = {knob.name: knob for knob in view_knobs(3, 32)}
    assert colour.keys() == table.keys()
    for name, (levels, at_reference, logit) in table.items():
        knob = colour[name]
        assert knob.levels == pytest.approx(levels) and knob.logit == logit
        assert knob.levels[knob.reference] == at_reference
    assert [knob.name for knob in view_knobs(1, 32)] == [name for name in table if name != "greyscale"]


def test_the_reference_blurs_images_above_32_pixels_only() -> None:
    references = {size: {knob.name: knob.levels[knob.reference] for knob in view_knobs(1, size)} for size in (32, 33)}
    assert references[32]["blur"] == 0 and references[33]["blur"] == 0.5
