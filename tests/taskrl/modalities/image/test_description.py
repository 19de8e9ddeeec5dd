"""Promises of a data set's description: what the views that we train with do, seen without labels."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from taskrl.data.dataset import InMemory
from taskrl.data.splits import Pretraining
from taskrl.evaluation.detectability import Description
from taskrl.modalities.image.description import STATISTICS, describe_images, shown, statistics
from taskrl.modalities.image.views import make_view, view_knobs
from tests.builders import blobs, generator, random_images


def textures(num: int, size: int = 16, channels: int = 1) -> Tensor:
    """Smooth noise without direction: its mirror images and quarter turns follow the same law."""
    noise = torch.rand((num, channels, size + 4, size + 4), generator=generator())
    smooth = F.avg_pool2d(F.avg_pool2d(noise, 3, 1), 3, 1)
    return ((smooth - smooth.mean()) * 3 + 0.5).mul(255).clamp(0, 255).to(torch.uint8)


def described(images: Tensor, groups: Tensor | None = None, seed: int = 0) -> Description:
    return describe_images(Pretraining(InMemory(images), groups), seed=seed)


def test_mirrors_are_invisible_on_textures_and_plain_on_wedges() -> None:
    same, lopsided = described(textures(400)).detectability, described(blobs(torch.arange(400) % 4)).detectability
    for knob in ("mirror", "upside_down"):
        assert same[knob] == pytest.approx(0.5, abs=0.1)
        assert lopsided[knob] > 0.9


def test_a_turn_is_compared_with_resampled_images() -> None:
    """Full turns of textures without direction show next to nothing, though resampling blurs every pixel."""
    images = textures(400)
    found = described(images).detectability
    blurred = make_view(images, generator(), {"rotation": 3.141593})
    untouched = images.float() / 255
    detail = [statistics(part)["detail"] for part in (untouched, blurred)]
    assert detail[1] < 0.93 * detail[0]
    assert found["rotation"] < 0.7


def test_every_view_knob_is_described_and_nothing_else() -> None:
    for channels in (1, 3):
        found = described(random_images(64, channels))
        assert tuple(found.detectability) == tuple(knob.name for knob in view_knobs(channels, 16))
        assert tuple(found.statistics) == STATISTICS
        assert all(0 <= value <= 1 for value in {**found.detectability, **found.statistics}.values())


def test_a_knob_is_shown_at_the_references_strength_or_at_its_strongest() -> None:
    levels = {knob.name: shown(knob)[knob.name] for knob in view_knobs(3, 64)}
    assert levels["crop"] == 0.3 and levels["jitter"] == 0.4, "the reference's"
    assert levels["noise"] == 0.1 and levels["rotation"] == pytest.approx(3.141593), "off in the reference"
    assert levels["mirror"] == levels["upside_down"] == levels["blur"] == levels["greyscale"] == 1.0, "on all images"


def test_the_same_images_give_the_same_description_and_no_global_draw() -> None:
    images = blobs(torch.arange(100) % 4)
    before = torch.get_rng_state()
    first = described(images)
    assert torch.equal(before, torch.get_rng_state())
    assert described(images) == first
    assert described(images, seed=1) != first
    assert first.compute.images == 100 * (1 + 2 + 8), "recalibration, untouched and resampled, eight knobs"
    assert first.compute.flops > 0


def test_frames_of_one_track_do_not_tell_on_each_other() -> None:
    """25 pictures, 16 frames each: with tracks kept whole, a mirrored picture is new to the classifier."""
    pictures = textures(25)
    images = pictures.repeat_interleave(16, dim=0)
    tracks = torch.arange(25).repeat_interleave(16)
    leaky, fair = (described(images, groups).detectability["mirror"] for groups in (None, tracks))
    assert leaky > 0.9 > 0.75 > fair


def test_large_images_are_averaged_down() -> None:
    found = described(textures(40, size=96))
    assert found.compute == described(textures(40, size=32)).compute


def test_statistics_say_what_they_are_called() -> None:
    dark = torch.zeros(2, 1, 8, 8)
    halves = dark.clone()
    halves[:, :, :, 4:] = 1
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    board = checks.float().expand(2, 1, 8, 8)
    assert statistics(dark)["brightness"] == 0 and statistics(halves)["brightness"] == 0.5
    assert statistics(halves)["contrast"] == pytest.approx(1) and statistics(dark)["contrast"] < 1e-5
    assert statistics(board)["detail"] > 4 * statistics(halves)["detail"]
    assert statistics(halves)["mirror_likeness"] == pytest.approx(0, abs=1e-6)
    assert statistics(halves.transpose(2, 3))["mirror_likeness"] == pytest.approx(1)
