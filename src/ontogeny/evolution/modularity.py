"""How far a network of layers falls into modules."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

Masks = Sequence[Bool[np.ndarray, "_ _"]]  # of every layer, (inputs, outputs)
LEAST = 1e-9  # that a division has to gain


def modularity(masks: Masks) -> float:
    """Newman's Q of the best division found by leading eigenvectors, halving modules while it gains (Newman 2006).

    Units are nodes, connections undirected edges of weight 1. 0 where there is no connection.
    """
    edges = adjacency(masks)
    total, degrees = edges.sum(), edges.sum(0)
    if total == 0:
        return 0.0
    surplus = edges - np.outer(degrees, degrees) / total
    open_modules, gained = [np.flatnonzero(degrees)], 0.0
    while open_modules:
        module = open_modules.pop()
        own = surplus[np.ix_(module, module)]
        own = own - np.diag(own.sum(1))
        side = np.linalg.eigh(own)[1][:, -1] > 0
        signs = np.where(side, 1.0, -1.0)
        if (gain := float(signs @ own @ signs) / (2 * total)) > LEAST:
            gained += gain
            open_modules += [module[side], module[~side]]
    return gained


def adjacency(masks: Masks) -> Float[np.ndarray, "units units"]:
    """The symmetric matrix of connections, layer after layer."""
    sizes = [masks[0].shape[0], *(mask.shape[1] for mask in masks)]
    ends = np.cumsum([0, *sizes])
    edges = np.zeros((ends[-1], ends[-1]))
    for (first, middle), last, mask in zip(pairwise(ends), ends[2:], masks, strict=False):
        edges[first:middle, middle:last] = mask
    return edges + edges.T


def within_halves(masks: Masks) -> float:
    """The share of paths that lead from a half of the inputs to the same half of the outputs; 0.5 is chance."""
    paths = np.eye(len(masks[0]))
    for mask in masks:
        paths = paths @ mask
    rows, columns = (size // 2 for size in paths.shape)
    inside = paths[:rows, :columns].sum() + paths[rows:, columns:].sum()
    return float(inside / paths.sum()) if paths.sum() > 0 else 0.5
