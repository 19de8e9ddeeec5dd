import pytest
import torch

from taskrl.modalities.image.objectives.jigsaw import PERMUTATIONS, Jigsaw, permute_tiles
from taskrl.modalities.image.objectives.rotation import Labelled
from tests.builders import generator, random_images
from tests.taskrl.modalities.image.objectives.stubs import StubNetworks, naive_cross_entropy

ALL = torch.arange(len(PERMUTATIONS))


def test_tile_i_of_the_result_is_the_tile_that_the_permutation_names() -> None:
    image = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(2, 0).repeat_interleave(2, 1).view(1, 1, 4, 4)
    for which, permutation in enumerate(PERMUTATIONS):
        result = permute_tiles(image, torch.tensor([which]))
        assert result[0, 0, ::2, ::2].flatten().tolist() == list(permutation)


@pytest.mark.parametrize("size", [8, 9])
def test_the_inverse_permutation_puts_the_image_back(size: int) -> None:
    images = random_images(len(ALL), 3, size)
    inverse = [PERMUTATIONS.index(tuple(sorted(range(4), key=lambda i: p[i]))) for p in PERMUTATIONS]
    assert torch.equal(permute_tiles(permute_tiles(images, ALL), torch.tensor(inverse)), images)


def test_permutations_only_move_pixels_and_all_24_differ() -> None:
    images = random_images(1, 1, 8).expand(len(ALL), -1, -1, -1)
    results = permute_tiles(images, ALL)
    assert torch.equal(results.flatten(1).sort(dim=1).values, images.flatten(1).sort(dim=1).values)
    assert len(results.flatten(1).unique(dim=0)) == 24


def test_an_odd_last_row_and_column_stay_where_they_are() -> None:
    images = random_images(len(ALL), 1, 9)
    results = permute_tiles(images, ALL)
    assert torch.equal(results[:, :, 8], images[:, :, 8]) and torch.equal(results[..., 8], images[..., 8])


def test_labels_say_how_the_views_were_permuted() -> None:
    batch = random_images(32, size=8)
    views = Jigsaw({}, (1, 8, 8)).make_views(batch, generator())
    assert torch.equal(views.images, permute_tiles(batch / 255, views.labels))
    assert len(views.labels.unique()) > 12


def test_loss_is_the_cross_entropy_of_the_labels() -> None:
    logits, labels = torch.randn((6, 24), generator=generator()), torch.tensor([0, 5, 23, 7, 0, 1])
    views = Labelled(torch.rand((6, 1, 4, 4), generator=generator()), labels)
    loss = float(Jigsaw({}, (1, 4, 4)).loss(StubNetworks(logits), views))
    assert loss == pytest.approx(naive_cross_entropy(logits, labels), rel=1e-5)
