"""Promises of the batch stream: every input at most once an epoch, the order from the generator alone."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from taskrl.data.dataset import InMemory, Subset
from taskrl.data.stream import NUM_AHEAD, BatchStream
from taskrl.errors import DataError
from tests.builders import generator


class OnDisk:
    """Inputs that are not in memory: input i is the number i; counts the reads and can fail."""

    sample_shape = (1,)

    def __init__(self, num: int, fail: bool = False) -> None:
        self.num, self.fail, self.num_reads = num, fail, 0

    def __len__(self) -> int:
        return self.num

    def take(self, indices: Tensor) -> Tensor:
        self.num_reads += 1
        if self.fail:
            raise DataError("the disk is gone")
        return indices.to(torch.uint8)[:, None]


def in_memory(num: int) -> InMemory:
    return InMemory(torch.arange(num, dtype=torch.uint8)[:, None])


def first(batches: Iterator[Tensor], num: int) -> Tensor:
    """The next batches (num, batch_size)."""
    return torch.stack([next(batches)[:, 0] for _ in range(num)])


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("taskrl-reader")]


@pytest.mark.parametrize("inputs", [in_memory(23), OnDisk(23)], ids=["memory", "disk"])
def test_every_epoch_gives_each_input_at_most_once_and_leaves_the_last_partial_batch_out(inputs: InMemory) -> None:
    batches = BatchStream(inputs, 5).batches(generator())
    epochs = [first(batches, 4).flatten().tolist() for _ in range(6)]
    batches.close()  # type: ignore[attr-defined]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert set().union(*epochs) == set(range(23))


def test_batches_are_uint8_of_the_size_and_shape_asked_for() -> None:
    stream = BatchStream(InMemory(torch.zeros(9, 3, 4, 4, dtype=torch.uint8)), 4)
    batch = next(stream.batches(generator()))
    assert batch.shape == (4, 3, 4, 4) and batch.dtype == torch.uint8


def test_same_seed_same_order_and_another_seed_another() -> None:
    stream = BatchStream(in_memory(50), 8)
    orders = [first(stream.batches(generator(seed)), 12) for seed in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_two_iterators_of_one_stream_do_not_disturb_each_other() -> None:
    stream = BatchStream(in_memory(50), 8)
    alone = first(stream.batches(generator(1)), 6)
    one, other = stream.batches(generator(1)), stream.batches(generator(2))
    rows = []
    for _ in range(6):
        rows.append(next(one)[:, 0])
        next(other)
    assert torch.equal(torch.stack(rows), alone)


def test_inputs_on_disk_come_in_the_same_order_as_inputs_in_memory() -> None:
    lazy = BatchStream(OnDisk(50), 8).batches(generator(3))
    expected = first(BatchStream(in_memory(50), 8).batches(generator(3)), 15)
    assert torch.equal(first(lazy, 15), expected)
    lazy.close()  # type: ignore[attr-defined]


def test_a_subset_streams_its_own_inputs_in_memory_and_on_disk() -> None:
    rows = torch.tensor([3, 5, 7, 11, 13, 17])
    for base in (in_memory(20), OnDisk(20)):
        batches = BatchStream(Subset(base, rows), 3).batches(generator())
        assert set(first(batches, 2).flatten().tolist()) == set(rows.tolist())
        batches.close()  # type: ignore[attr-defined]


def test_reading_ahead_is_bounded_and_starts_with_the_first_batch() -> None:
    disk = OnDisk(50)
    batches = BatchStream(disk, 8).batches(generator())
    assert disk.num_reads == 0 and readers() == []
    next(batches)
    time.sleep(0.05)
    assert 1 <= disk.num_reads <= NUM_AHEAD
    batches.close()  # type: ignore[attr-defined]


def test_closing_the_iterator_stops_its_threads() -> None:
    batches = BatchStream(OnDisk(50), 8).batches(generator())
    next(batches)
    assert readers()
    batches.close()  # type: ignore[attr-defined]
    assert readers() == []


def test_an_error_while_reading_reaches_the_caller_and_stops_the_threads() -> None:
    batches = BatchStream(OnDisk(50, fail=True), 8).batches(generator())
    with pytest.raises(DataError, match="the disk is gone"):
        next(batches)
    assert readers() == []


def test_more_than_one_batch_of_images_is_asked_for_when_there_are_too_few() -> None:
    with pytest.raises(DataError, match="A batch of 6 does not fit into 5 images; use a smaller batch or more images"):
        BatchStream(in_memory(5), 6)
    assert first(BatchStream(in_memory(5), 5).batches(generator()), 3).shape == (3, 5)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_of_no_image_is_refused(batch_size: int) -> None:
    with pytest.raises(DataError, match=f"A batch of {batch_size} images"):
        BatchStream(in_memory(5), batch_size)


def test_streaming_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first(BatchStream(in_memory(50), 8).batches(generator()), 10)
    assert torch.equal(torch.get_rng_state(), before)
