"""Counting floating point operations with torch's own counter, once for each kind of computation."""

import copy
from collections.abc import Callable, Hashable

import torch
from torch.utils.flop_counter import FlopCounterMode

from taskrl.predictor.predictor import LiveNetworks, Predictor
from taskrl.tasks.task import MixturePart


def flops_of(call: Callable[[], object]) -> int:
    """FLOPs of the torch operations inside `call`, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


class FlopMeter:
    """FLOPs of training steps and of encoding, cached by (objective, batch shape): they depend on shapes alone."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def step(self, predictor: Predictor, part: MixturePart, batch: torch.Tensor, *, frozen: bool = False) -> int:
        """FLOPs of one training step (forward, backward, heads); with `frozen`, of a step that trains the heads
        alone.

        Counted on a copy with a generator of its own, so that nothing of the run changes. The heads must exist.
        """
        key = ("step", part.name, tuple(batch.shape), frozen)
        if key not in self._known:
            nets = copy.deepcopy(predictor.nets)
            nets.compiled = False  # the counter sees no operation in a compiled call
            if frozen:
                nets.encoder.requires_grad_(False)
            rng = torch.Generator(device=batch.device).manual_seed(0)
            views = part.task.make_views(batch, rng)
            with FlopCounterMode(display=False) as counter:
                part.task.loss(LiveNetworks(nets), views).backward()
            self._known[key] = int(counter.get_total_flops())
        return self._known[key]

    def encode(self, predictor: Predictor) -> int:
        """FLOPs of encoding one input."""
        key = ("encode", predictor.sample_shape)
        if key not in self._known:
            nets = copy.deepcopy(predictor.nets).eval()
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                nets.encoder(torch.zeros(1, *predictor.sample_shape, device=predictor.device))
            self._known[key] = int(counter.get_total_flops())
        return self._known[key]
