"""How alike two networks are on the same rows: every measure is an inner product of vectors of length 1."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

Features = Float[np.ndarray, "rows features"]
Pairs = Float[np.ndarray, "rows rows"]  # of length 1 as a vector
Basis = Float[np.ndarray, "d k"]


def centred_kernel(features: Features) -> Pairs:
    """XXᵀ without its diagonal, U-centred (Székely & Rizzo 2014). ⟨K, L⟩ of two is debiased linear CKA.

    Unrelated features have 0 in the mean however many there are (Song et al. 2012; Kornblith et al. 2019; Murphy et al.
    2024). Where all rows are one, as in a network whose units are dead, it is 0 and so is every similarity.
    """
    size = (features**2).sum()
    features = features - features.mean(0)  # changes nothing but the terms' size
    kernel = features @ features.T
    np.fill_diagonal(kernel, 0.0)
    n, sums = len(kernel), kernel.sum(0)
    kernel += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums[None]) / (n - 2)
    np.fill_diagonal(kernel, 0.0)
    norm = np.linalg.norm(kernel)
    return np.asarray(kernel / norm if norm > 1e-12 * size else np.zeros_like(kernel))


def neighbours(features: Features, k: int) -> Pairs:
    """Which k rows are nearest to every row. ⟨A, B⟩ of two is mutual k-NN, the share in common (Huh et al. 2024)."""
    squares = (features**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * features @ features.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, k, axis=1)[:, :k]
    found = np.zeros_like(distances)
    np.put_along_axis(found, nearest, 1.0, axis=1)
    return np.asarray(found / np.linalg.norm(found))


def alike(first: Pairs, second: Pairs) -> float:
    """Their inner product."""
    return float(np.vdot(first, second))


def beyond(first: Pairs, second: Pairs, shared: Pairs) -> float:
    """How alike both are beyond what each has in common with a third: the partial correlation of centred kernels.

    Of distances it is the partial distance correlation (Székely & Rizzo 2014).
    """
    of_first, of_second = alike(first, shared), alike(second, shared)
    return (alike(first, second) - of_first * of_second) / float(np.sqrt((1 - of_first**2) * (1 - of_second**2)))


def permuted(pairs: Pairs, rows: Int[np.ndarray, " rows"]) -> Pairs:
    """The same of features whose rows stand in this order."""
    return np.asarray(pairs[np.ix_(rows, rows)])


def within_groups(groups: Int[np.ndarray, " rows"], rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """An order of rows that gives every row another of its own group."""
    order = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order[members] = rng.permutation(members)
    return order


def leading(features: Features, k: int) -> Basis:
    """The k principal directions of centred features."""
    _, _, directions = np.linalg.svd(features - features.mean(0), full_matrices=False)
    return np.asarray(directions[:k].T)


def overlap(first: Basis, second: Basis) -> float:
    """‖UᵀV‖² / k of two bases of k directions: 1 for the same span, k/d by chance in d dimensions."""
    return float(np.sum((first.T @ second) ** 2) / first.shape[1])


def matched_overlaps(
    covariance: Float[np.ndarray, "d d"], k: int, sets: int, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """The mean overlap of ``sets`` random spans of k directions that the covariance weights, as often as ``draws``.

    What populations have in common that merely share their covariance (Elsayed et al. 2016, Nature Communications 7).
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    spans, _ = np.linalg.qr(root @ rng.normal(size=(draws, sets, len(root), k)))
    summed = (spans @ spans.swapaxes(-1, -2)).sum(1)  # Σ P over a set: ‖Σ P‖² holds all pairs twice, and sets · k
    overlaps: Float[np.ndarray, " draws"] = ((summed**2).sum((-2, -1)) / k - sets) / (sets * (sets - 1))
    return overlaps


def variance_shares(gram: Float[np.ndarray, "m m"], factors: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Shares of the variance of m vectors, known by their inner products, that crossed factors have by themselves.

    ``factors``: each network's level. Balanced: every combination of levels equally often. "rest" has interactions.
    By chance a factor of l levels has (l − 1)/(m − 1).
    """
    m = len(gram)
    mean = np.full((m, m), 1 / m)
    total = float(np.trace(gram) - (mean * gram).sum())
    shares = {}
    for name, levels in factors.items():
        same = np.equal.outer(levels, levels)
        shares[name] = float(((same / same.sum(1) - mean) * gram).sum()) / total
    return shares | {"rest": 1 - sum(shares.values())}
