"""Simulated sets as data of a run: a seed draws a world, and only what is taken is painted."""

import pickle

import pytest
import torch

from taskrl.data.dataset import InMemory, RawDataset
from taskrl.errors import DataError
from taskrl.modalities.image.simulated import source
from taskrl.modalities.image.simulated.sets import simulated_set
from taskrl.modalities.image.simulated.source import NUM_TEST, NUM_TRAIN, NUM_VALIDATION, PaintedLater, set_for
from taskrl.types import Inputs


def everything(inputs: Inputs) -> torch.Tensor:
    return inputs.take(torch.arange(len(inputs)))


@pytest.fixture(scope="module")
def colour() -> RawDataset:
    """In three channels; the world of this seed is grey."""
    return set_for(GREY_SEED, channels=3, image_size=16)


GREY_SEED = next(seed for seed in range(100) if source.world_for(seed, channels=3).channels == 1)


def test_the_parts_have_their_sizes_and_shape(colour: RawDataset) -> None:
    assert colour.validation is not None and colour.test is not None
    parts = {NUM_TRAIN: colour.train, NUM_VALIDATION: colour.validation, NUM_TEST: colour.test}
    for count, part in parts.items():
        images = everything(part.inputs)
        assert images.shape == (count, 3, 16, 16) and images.dtype == torch.uint8
        assert part.inputs.sample_shape == (3, 16, 16) and len(part.inputs) == count
        assert part.labels is not None
        assert part.labels.bincount().amax() - part.labels.bincount().amin() <= 1
    assert len(colour.class_names) == int(colour.train.labels.max()) + 1  # type: ignore[union-attr]


def test_a_grey_world_is_shown_with_its_channel_repeated(colour: RawDataset) -> None:
    images = everything(colour.train.inputs)
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_one_channel_draws_grey_worlds() -> None:
    dataset = set_for(3, channels=1, image_size=16)
    assert dataset.train.inputs.sample_shape == (1, 16, 16)
    assert source.world_for(3, channels=1).channels == 1


def test_it_is_the_simulated_set_of_the_world() -> None:
    world = source.world_for(3, channels=1)
    ours, plain = set_for(3, channels=1, image_size=16), simulated_set(world, image_size=16, num_train=NUM_TRAIN)
    assert ours.facts == {"world": {"seed": world.seed, "family": world.family}}
    for mine, other in ((ours.train, plain.train), (ours.test, plain.test)):
        assert mine is not None and other is not None and mine.labels is not None and other.labels is not None
        assert torch.equal(everything(mine.inputs), everything(other.inputs))
        assert torch.equal(mine.labels, other.labels)


def test_validation_and_test_are_painted_when_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    painted: list[str] = []
    paint = source.paint_part

    def watched(world: source.World, role: str, count: int, image_size: int) -> source.Part:
        painted.append(role)
        return paint(world, role, count, image_size)

    monkeypatch.setattr(source, "paint_part", watched)
    dataset = set_for(0, channels=1, image_size=16)
    assert painted == ["train"]
    assert dataset.validation is not None
    first = dataset.validation.inputs.take(torch.arange(3))
    assert torch.equal(first, dataset.validation.inputs.take(torch.arange(3)))
    assert painted == ["train", "validation"]


def test_it_travels_to_another_process(colour: RawDataset) -> None:
    copy = pickle.loads(pickle.dumps(colour))
    assert isinstance(copy.train.inputs, InMemory) and isinstance(copy.test.inputs, PaintedLater)
    assert colour.test is not None
    assert torch.equal(everything(copy.test.inputs), everything(colour.test.inputs))


def test_seeds_draw_many_families() -> None:
    assert len({source.world_for(seed, channels=3).family for seed in range(30)}) == 7


def test_images_beyond_the_memory_are_refused() -> None:
    with pytest.raises(DataError, match=r"1000 simulated images of 512 pixels .* 750 MB, more than 100; choose"):
        set_for(0, channels=3, image_size=512, memory_limit_bytes=100 * 2**20)
