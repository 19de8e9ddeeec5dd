"""Features and folds that several tests of measures draw; float64."""

import torch
from torch import Tensor

from tests.builders import generator


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def rotation(dim: int, seed: int = 5) -> Tensor:
    return torch.linalg.qr(noise(dim, dim, seed=seed))[0]


def some_folds(num: int, num_folds: int = 5) -> Tensor:
    return torch.randperm(num, generator=generator(9)) % num_folds
