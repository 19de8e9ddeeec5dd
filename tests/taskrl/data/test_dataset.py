import pytest
import torch

from taskrl.data.dataset import InMemory, Part, Subset
from tests.builders import random_images


def test_a_subset_of_a_subset_takes_from_the_base() -> None:
    images = random_images(10, 3, 4)
    inner = Subset(Subset(InMemory(images), torch.tensor([9, 7, 5, 3, 1])), torch.tensor([4, 0]))
    assert len(inner) == 2 and inner.sample_shape == (3, 4, 4)
    assert torch.equal(inner.take(torch.tensor([1, 0, 1])), images[[9, 1, 9]])


@pytest.mark.parametrize("extra", [torch.arange(9), torch.arange(10, dtype=torch.int32), torch.rand(10)])
def test_labels_and_groups_are_int64_and_one_for_each_input(extra: torch.Tensor) -> None:
    inputs = InMemory(random_images(10))
    with pytest.raises(ValueError, match="int64, one for each input"):
        Part(inputs=inputs, labels=extra)
    with pytest.raises(ValueError, match="int64, one for each input"):
        Part(inputs=inputs, groups=extra)
