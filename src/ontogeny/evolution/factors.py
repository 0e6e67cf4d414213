"""Shares of the variance of what was measured in a fully crossed design, with all interactions."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
from jaxtyping import Float

BETWEEN = " × "  # the names of an interaction's factors


def variance_shares(values: Float[np.ndarray, "*cells"], factors: Sequence[str]) -> dict[str, float]:
    """Each effect's share of the variance over cells, summed over what was measured of every cell.

    ``values``: one axis a factor, then any others, which are what was measured of a cell (predictions, say). An effect
    is what the mean over all other factors adds to the effects that it contains (Hoeffding 1948); effects are
    orthogonal, so their shares add up to 1. Of cells that are all alike every share is 0.
    """
    axes = range(len(factors))
    subsets = chain.from_iterable(combinations(axes, size) for size in range(len(factors) + 1))
    effects: dict[tuple[int, ...], np.ndarray] = {}
    for subset in subsets:
        mean = values.mean(axis=tuple(axis for axis in axes if axis not in subset), keepdims=True)
        effects[subset] = mean - sum((e for part, e in effects.items() if set(part) < set(subset)), np.zeros(()))
    effects.pop(())
    squares = {s: float(np.square(np.broadcast_to(effect, values.shape)).sum()) for s, effect in effects.items()}
    total = sum(squares.values())
    return {
        BETWEEN.join(factors[axis] for axis in subset): square / total if total else 0.0
        for subset, square in squares.items()
    }


def total_share(shares: dict[str, float], factor: str) -> float:
    """What depends on a factor at all: its main effect and every interaction it is in (Homma & Saltelli 1996)."""
    return sum(share for name, share in shares.items() if factor in name.split(BETWEEN))
