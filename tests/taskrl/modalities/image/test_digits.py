import pytest
import torch

from taskrl.errors import DataError
from taskrl.modalities.image.digits import cluttered_digits, plain_digits


def test_plain_digits_keep_a_fixed_stratified_test_part() -> None:
    first, second = plain_digits(), plain_digits()
    assert first.test is not None and second.test is not None
    assert (len(first.train.inputs), len(first.test.inputs)) == (1297, 500)
    assert first.train.inputs.sample_shape == (1, 16, 16)
    every = torch.arange(500)
    assert torch.equal(first.test.inputs.take(every), second.test.inputs.take(every))
    assert first.test.labels is not None
    assert first.test.labels.bincount().min() >= 48


def test_cluttered_digits_are_balanced_uint8_canvases() -> None:
    dataset = cluttered_digits(num_train=200, num_test=100)
    assert dataset.test is not None
    assert dataset.train.labels is not None and dataset.test.labels is not None
    assert dataset.train.labels.bincount().tolist() == [20] * 10
    assert dataset.test.labels.bincount().tolist() == [10] * 10
    canvases = dataset.train.inputs.take(torch.arange(200))
    assert canvases.shape == (200, 1, 28, 28)
    assert canvases.dtype == torch.uint8
    assert len(canvases.flatten(1).unique(dim=0)) == 200


def test_same_seed_same_canvases_and_another_seed_others() -> None:
    canvases = [cluttered_digits(50, 10, seed=seed).train.inputs.take(torch.arange(50)) for seed in (1, 1, 2)]
    assert torch.equal(canvases[0], canvases[1])
    assert not torch.equal(canvases[0], canvases[2])


def test_drawing_canvases_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    cluttered_digits(20, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_canvases_of_one_scanned_digit_are_one_group_of_one_class() -> None:
    train = cluttered_digits(num_train=3000, num_test=10).train
    assert train.labels is not None and train.groups is not None
    assert train.groups.bincount().max() > 1
    for group in train.groups.unique()[:50]:
        assert len(train.labels[train.groups == group].unique()) == 1


def test_no_canvas_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="at least 1 canvas"):
        cluttered_digits(num_train=0)
