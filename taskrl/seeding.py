"""Named random generators, all spawned from one seed.

Stable-Baselines3 reseeds the global generators of Python, NumPy and torch, so nothing here or in the predictor draws
from them. A name and a path of integers give a stream that no other name can disturb.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the stream called `path` under `seed`; stable over processes and versions of Python."""
    text = "/".join([str(int(seed)), *(str(part) for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *path: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for the stream called `path`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *path))


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called `path`."""
    return np.random.default_rng(derive_seed(seed, *path))


@contextmanager
def isolated_global_rng(seed: int) -> Iterator[None]:
    """Run library code that insists on torch's global generator (module initialisation, dropout) from `seed`.

    The global state is put back afterwards, so that code around the block is not disturbed.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**63)
        yield
