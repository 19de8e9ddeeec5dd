"""Policies centred on the reference recipe, and action spaces that draw from the prior (docs/protocol.md).

SB3 draws the exploration of DQN and the warm-up of DQN, SAC and TQC from `action_space.sample()`; the spaces here draw
that from the prior instead of uniformly.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from envs.observation import ObservationBuilder
from taskrl.meta import ObservationSpec
from taskrl.tasks.space import TaskSpace

WEIGHT_SCALE = 0.1
REFERENCE_VALUE = 0.01
LARGEST_COORDINATE = 0.9


class PriorDiscrete(spaces.Discrete):
    """Discrete whose samples follow the prior."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        super().__init__(len(weights))
        self._weights = weights

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        return np.int64(self.np_random.choice(len(self._weights), p=self._weights))


class PriorBox(spaces.Box):
    """Box in [-1, 1] whose samples are squashed Gaussians around the reference."""

    def __init__(self, mean: NDArray[np.float32], log_std: float) -> None:
        super().__init__(-1.0, 1.0, mean.shape, np.float32)
        self._mean, self._log_std = mean, log_std

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.float32]:
        noise = self.np_random.standard_normal(len(self._mean))
        return np.tanh(self._mean + math.exp(self._log_std) * noise).astype(np.float32)


def prior_mean(space: TaskSpace) -> NDArray[np.float32]:
    """The reference in the Gaussian's own coordinates (before tanh)."""
    coordinates = np.asarray(space.encode(space.reference), dtype=np.float64)
    return np.arctanh(np.clip(coordinates, -LARGEST_COORDINATE, LARGEST_COORDINATE)).astype(np.float32)


def prior_log_std(strength: float) -> float:
    """sd 1 without a prior, smaller the stronger it is."""
    return -math.log1p(strength)


def exploring_space(space: TaskSpace, strength: float) -> spaces.Space[Any]:
    """The action space of `space` with samples from the prior (MultiDiscrete is returned as it is)."""
    if space.codec == "discrete":
        return PriorDiscrete(space.prior_weights(strength))
    if space.codec == "box":
        return PriorBox(prior_mean(space), prior_log_std(strength))
    return space.action_space


def centre(
    policy: BasePolicy, family: str, space: TaskSpace, shown: ObservationSpec, *, strength: float, persistence: float
) -> None:
    """Make the policy's first distribution the prior; later in an episode, the last level gets `persistence`
    more.

    Only linear policies (no hidden layers, no memory) can start with persistence; see docs/adr.
    """
    if family == "logits":
        _set(policy.action_net, np.concatenate(space.prior_logits(strength)))
        # gains are a few hundredths: SB3's first values, of order 1, would bury them in the advantages
        _set(policy.value_net, np.zeros(1, dtype=np.float32), scale=0.0)
        if persistence:
            _persist(policy, space, ObservationBuilder(space, shown).names, persistence)
    elif family == "values":
        values = np.zeros(int(space.action_space.n), dtype=np.float32)  # type: ignore[attr-defined]
        values[int(space.encode(space.reference))] = REFERENCE_VALUE * strength
        for net in (policy.q_net, policy.q_net_target):
            # weights in the unit of the values, or their noise would bury the reference's lead
            _set(net.q_net[-1], values, scale=WEIGHT_SCALE * REFERENCE_VALUE)  # type: ignore[index, union-attr]
    else:
        mean = prior_mean(space)
        _set(policy.actor.mu, mean)  # type: ignore[union-attr]
        _set(policy.actor.log_std, np.full_like(mean, prior_log_std(strength)))  # type: ignore[union-attr]


def set_logits(
    policy: BasePolicy,
    space: TaskSpace,
    names: Sequence[str],
    *,
    start: NDArray[np.float64],
    slope: NDArray[np.float64],
    persistence: float,
) -> None:
    """Make a linear policy's logits `start` + progress x `slope` (all parts in a row), and `persistence` more for what
    was played last. names: of the observation's entries.
    """
    _set(policy.action_net, start, scale=0.0)
    with torch.no_grad():
        weight: torch.Tensor = policy.action_net.weight  # type: ignore[assignment, union-attr]
        weight[:, names.index("progress")] = torch.as_tensor(slope)
    _persist(policy, space, names, persistence)


def _persist(policy: BasePolicy, space: TaskSpace, names: Sequence[str], persistence: float) -> None:
    first = names.index(f"last/{space.parts[0].name}/0")
    num_levels = sum(len(part.levels) for part in space.parts)
    with torch.no_grad():
        weight: torch.Tensor = policy.action_net.weight  # type: ignore[assignment, union-attr]
        weight[:, first : first + num_levels] += persistence * torch.eye(num_levels)


def _set(layer: Any, bias: NDArray[np.floating], *, scale: float = WEIGHT_SCALE) -> None:
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.copy_(torch.as_tensor(bias))
