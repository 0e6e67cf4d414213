"""Windows of tokens: training batches drawn without replacement, and evenly spaced windows for evaluation."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.streams import stream


def _windows(tokens: NDArray[np.integer], length: int) -> int:
    """How many windows of length + 1 tokens start at multiples of ``length``; raises InputError if none does."""
    windows = (len(tokens) - 1) // length
    if windows < 1:
        raise InputError(
            f"text: expected a split of at least {length + 1:,} tokens (one window), found {len(tokens):,}; "
            "give more text or a shorter window"
        )
    return windows


def _gather(tokens: NDArray[np.integer], starts: NDArray[np.int64], length: int) -> Int[Tensor, "count length_plus_1"]:
    return torch.from_numpy(tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64))


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, population: int) -> NDArray[np.int64]:
    order: NDArray[np.int64] = torch.randperm(population, generator=stream(seed, "data", epoch)).numpy()
    return order


def draw(seed: int, step: int, size: int, population: int) -> Int[np.ndarray, " size"]:
    """Which of ``population`` examples a step's batch holds: each once an epoch, every epoch in an order of its own."""
    epochs, positions = np.divmod(np.arange(step * size, (step + 1) * size), population)
    return np.concatenate([_order(seed, int(e), population)[positions[epochs == e]] for e in np.unique(epochs)])


@dataclass(frozen=True, eq=False)
class Batches:
    """Training batches as a pure function of (seed, step); every epoch visits each window once, in its own order.

    tokens: 1-D ids of the train split; length: tokens a model reads; size: windows a batch. Raises InputError if
    the tokens do not make one window.
    """

    tokens: NDArray[np.integer]
    length: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        _windows(self.tokens, self.length)

    def __call__(self, step: int) -> Int[Tensor, "size length_plus_1"]:
        """The batch of a step (from 0), int64: inputs are [:, :-1], targets [:, 1:]."""
        chosen = draw(self.seed, step, self.size, _windows(self.tokens, self.length))
        return _gather(self.tokens, chosen * self.length, self.length)

    def epochs(self, steps: int) -> float:
        """How often ``steps`` steps visit each window."""
        return steps * self.size / _windows(self.tokens, self.length)

    def check_budget(self, steps: int, max_epochs: int) -> None:
        """Raises InputError if ``steps`` steps visit the text more than ``max_epochs`` times."""
        epochs = self.epochs(steps)
        if epochs > max_epochs:
            needed = steps * self.size * self.length
            raise InputError(
                f"text: {steps:,} steps of {self.size} × {self.length} tokens read {needed:,} tokens, {epochs:.2f} "
                f"epochs of the train split's {len(self.tokens):,}; at most {max_epochs} allowed: give more text "
                f"(about {needed / max_epochs:,.0f} train tokens), fewer steps, or smaller batches"
            )


def evaluation_windows(tokens: NDArray[np.integer], length: int, count: int) -> Int[Tensor, "count length_plus_1"]:
    """``count`` windows of length + 1 tokens, evenly spaced over a split, whose targets do not overlap (int64).

    All of them where fewer exist. Raises InputError if none does.
    """
    available = _windows(tokens, length)
    taken = min(count, available)
    return _gather(tokens, np.arange(taken) * available // taken * length, length)
