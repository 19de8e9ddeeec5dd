"""Predictor: encoder, task heads and optimiser; the model that solves pretext tasks."""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from taskrl.predictor.heads import build_head
from taskrl.seeding import derive_seed, isolated_global_rng
from taskrl.types import HeadSpec

ENCODE_BATCH = 512


class EncoderModule(Protocol):
    """What the predictor needs of an encoder, beside being an nn.Module."""

    feature_dim: int

    def feature_map(self, inputs: Tensor) -> Tensor: ...


@final
@dataclass(frozen=True)
class LiveNetworks:
    """The predictor's networks; with `params`, the same computation at other weights (names of
    `Nets.named_parameters`).
    """

    nets: "Nets"
    params: Mapping[str, Tensor] | None = None

    def features(self, inputs: Tensor) -> Tensor:
        return self._call("features", inputs)

    def feature_map(self, inputs: Tensor) -> Tensor:
        return self._call("feature_map", inputs)

    def head(self, name: str, features: Tensor) -> Tensor:
        return self._call(name, features)

    def _call(self, what: str, inputs: Tensor) -> Tensor:
        if self.params is None:
            result: Tensor = self.nets(what, inputs)
            return result
        # functional_call would change the real batch-norm statistics: hand it copies
        buffers = {name: buffer.clone() for name, buffer in self.nets.named_buffers()}
        moved: Tensor = functional_call(self.nets, {**self.params, **buffers}, (what, inputs))
        return moved


class Nets(nn.Module):
    """Encoder and heads under one roof, so that one state dict and one functional call reach them all.

    compiled: pooled features for training come from torch.compile's version of the encoder.
    """

    def __init__(self, encoder: nn.Module, *, compiled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict()
        self.compiled = compiled

    def forward(self, what: str, inputs: Tensor) -> Tensor:
        if what == "features":
            result: Tensor = _compiled_call()(self.encoder, inputs) if self.compiled else self.encoder(inputs)
        elif what == "feature_map":
            result = self.encoder.feature_map(inputs)  # type: ignore[operator]
        else:
            result = self.heads[what](inputs)
        return result


@functools.cache
def _compiled_call() -> Callable[[nn.Module, Tensor], Tensor]:
    """One for the whole process: a new predictor of the same architecture compiles nothing."""
    compiled: Callable[[nn.Module, Tensor], Tensor] = torch.compile(lambda module, x: module(x), dynamic=False)
    return compiled


@dataclass(frozen=True)
class Snapshot:
    """A deep copy of everything that training changes."""

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    head_specs: tuple[tuple[str, HeadSpec], ...]
    num_steps: int


@final
class Predictor:
    """Encoder + task heads + AdamW. Heads appear when a task first asks for them."""

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        sample_shape: tuple[int, ...],
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
        seed: int = 0,
        pretrained: bool = False,
    ) -> None:
        """sample_shape: (C, H, W) of one input. precision: "fp32" or "bf16" (autocast of training).
        compiled: train through torch.compile. pretrained: `encoder` has been trained before.
        """
        self.device = torch.device(device)
        self.feature_dim = feature_dim
        self.sample_shape = sample_shape
        self.precision = precision
        self.nets = Nets(encoder, compiled=compiled).to(self.device).to(memory_format=torch.channels_last)
        self.num_steps = 0
        self.pretrained = pretrained
        self._map_scale = self._find_map_scale()
        self._seed = seed
        self._head_specs: dict[str, HeadSpec] = {}
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._step_hooks: list[Callable[..., None]] = []
        self.optimizer = self._new_optimizer()

    @property
    def encoder(self) -> nn.Module:
        return self.nets.encoder

    def networks(self, params: Mapping[str, Tensor] | None = None) -> LiveNetworks:
        """The networks at the present weights, or at `params` (for gradient-based meta-optimisers)."""
        return LiveNetworks(self.nets, params)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that training runs in."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def missing_heads(self, specs: Mapping[str, HeadSpec]) -> list[str]:
        """Names in `specs` that have no head yet."""
        return [name for name in specs if name not in self._head_specs]

    def after_steps(self, hook: Callable[..., None]) -> None:
        """Call `hook` after every step of the optimiser from here on, also of those that `restore` makes."""
        self._step_hooks.append(hook)
        self.optimizer.register_step_post_hook(hook)

    def add_heads(self, specs: Mapping[str, HeadSpec]) -> None:
        """Create the heads that are missing, initialised from the predictor's seed and their name."""
        for name in self.missing_heads(specs):
            with isolated_global_rng(derive_seed(self._seed, "head", name)):
                head = build_head(specs[name], map_scale=self._map_scale)
            self.nets.heads[name] = head.to(self.device).to(memory_format=torch.channels_last)
            self._head_specs[name] = specs[name]
            self.optimizer.add_param_group({"params": list(self.nets.heads[name].parameters())})

    def encode(self, inputs: Tensor) -> Tensor:
        """Features (B, D), float32, of uint8 or [0, 1] inputs: eval mode, no gradient, in batches."""
        self.nets.eval()
        with torch.inference_mode():
            rows = [self.nets.encoder(part).float() for part in _in_batches(inputs.to(self.device))]
        self.nets.train()
        return torch.cat(rows).clone()

    def recalibrate(self, inputs: Tensor) -> Tensor:
        """Set batch-norm statistics to those of `inputs` (one frozen batch), whatever views were trained last.

        Returns the features of `inputs` (B, D), float32, as normalised by these statistics: what `encode` gives next,
        up to the factor B / (B - 1) in the variances.
        """
        with fresh_statistics(self.nets.encoder) as has_any:
            if not has_any:
                return self.encode(inputs)
            self.nets.train()
            with torch.no_grad():
                features: Tensor = self.nets.encoder(inputs.to(self.device))
        return features.float()

    def snapshot(self) -> Snapshot:
        """A deep copy; nothing that trains later changes it."""
        weights = {name: value.detach().clone() for name, value in self.nets.state_dict().items()}
        optimizer = copy.deepcopy(self.optimizer.state_dict())
        return Snapshot(weights, optimizer, tuple(self._head_specs.items()), self.num_steps)

    def restore(self, snapshot: Snapshot) -> None:
        """Back to exactly the state of `snapshot`: weights, statistics, heads, optimiser."""
        self.nets.heads.clear()
        self._head_specs.clear()
        self.optimizer = self._new_optimizer()
        self.add_heads(
            dict(snapshot.head_specs)
        )  # in the snapshot's order, which is the order of the optimiser's groups
        self.nets.load_state_dict(dict(snapshot.weights))
        self.optimizer.load_state_dict(copy.deepcopy(dict(snapshot.optimizer)))
        self.num_steps = snapshot.num_steps

    def _new_optimizer(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(
            self.nets.encoder.parameters(), lr=self._learning_rate, weight_decay=self._weight_decay, fused=True
        )
        for hook in self._step_hooks:
            optimizer.register_step_post_hook(hook)
        return optimizer

    def _find_map_scale(self) -> int:
        """Input pixels a cell of the feature map (at least 1), found by one pass without side effects."""
        probe = copy.deepcopy(self.nets.encoder).eval()
        with torch.no_grad():
            cells = probe.feature_map(torch.zeros(1, *self.sample_shape, device=self.device)).shape[-1]  # type: ignore[operator]
        return max(1, math.ceil(self.sample_shape[-1] / int(cells)))


@contextmanager
def fresh_statistics(net: nn.Module) -> Iterator[bool]:
    """Batch-norm statistics of `net` become the plain averages over what it sees in training mode inside the block.
    Yields whether it has any.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    yield bool(norms)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _in_batches(inputs: Tensor) -> Iterator[Tensor]:
    return iter(inputs.split(ENCODE_BATCH))
