"""Explicit randomness: every draw comes from a stream named by its path, and streams are independent.

There is no global generator and no ``seed + i``: two same-shaped sites never share a draw, and adding a
draw in one place moves none elsewhere.
"""

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed from sha256 of the path, e.g. ``stream_seed(0, "init", "layers.3.mlp.up")``."""
    text = "\x1f".join([str(int(seed)), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *path: str | int) -> torch.Generator:
    """An independent CPU generator for this path."""
    return torch.Generator().manual_seed(stream_seed(seed, *path))


def numpy_stream(seed: int, *path: str | int) -> np.random.Generator:
    """The same for NumPy."""
    return np.random.default_rng(stream_seed(seed, *path))
