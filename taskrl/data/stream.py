"""BatchStream: endless, reshuffled batches of inputs; inputs on disk are read ahead by threads."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

import torch
from torch import Tensor

from taskrl.data.dataset import InMemory, Subset
from taskrl.errors import DataError
from taskrl.types import Inputs

NUM_READERS = 2
NUM_AHEAD = 4


@final
class BatchStream:
    """Batches (batch_size, *sample_shape), uint8; every epoch in a new order, the last partial batch left out."""

    def __init__(self, inputs: Inputs, batch_size: int) -> None:
        """Raises DataError when there are fewer inputs than one batch, or a batch holds none."""
        if batch_size < 1:
            raise DataError(f"A batch of {batch_size} images cannot be trained on; use at least 1 image.")
        if batch_size > len(inputs):
            raise DataError(
                f"A batch of {batch_size} does not fit into {len(inputs)} images; use a smaller batch or more images."
            )
        self.inputs = inputs
        self.batch_size = batch_size

    def batches(self, rng: torch.Generator, *, skip: int = 0) -> Iterator[Tensor]:
        """Endless batches in an order that `rng` (a CPU generator) alone decides; closing the iterator stops its
        threads. skip: leave out that many at the beginning, without reading them.
        """
        orders = itertools.islice(self._orders(rng), skip, None)
        if _in_memory(self.inputs):
            return (self.inputs.take(rows) for rows in orders)
        return self._read_ahead(orders)

    def _orders(self, rng: torch.Generator) -> Iterator[Tensor]:
        num_batches = len(self.inputs) // self.batch_size
        while True:
            order = torch.randperm(len(self.inputs), generator=rng)
            yield from order[: num_batches * self.batch_size].split(self.batch_size)

    def _read_ahead(self, orders: Iterator[Tensor]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="taskrl-reader") as readers:
            pending: deque[Future[Tensor]] = deque()
            try:
                while True:
                    while len(pending) < NUM_AHEAD:
                        pending.append(readers.submit(self.inputs.take, next(orders)))
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


def _in_memory(inputs: Inputs) -> bool:
    while isinstance(inputs, Subset):
        inputs = inputs.base
    return isinstance(inputs, InMemory)
