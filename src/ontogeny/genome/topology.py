"""Boolean masks as bipartite graphs (d_out rows × d_in columns): their statistics, their chance, their rewiring."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.errors import InputError

Booleans = npt.NDArray[np.bool_]
HUB_SHARE = 0.01  # the rows (columns) of highest degree that count as hubs
BLOCKS = 8  # the mask is cut into BLOCKS × BLOCKS blocks
SETTLING_SWEEPS = 10  # stopping right after a swap would favour small masks that admit many
FIT_STEPS = 1000
FIT_TOLERANCE = 1e-8  # in edges a row


def topology(keep: Bool[Tensor, "m n"]) -> dict[str, float]:
    """Statistics of one mask; a ratio whose denominator is zero is 0.

    density: share of edges. {row,column}_degree_{mean,sd,max,cv}: cv = sd/mean. {row,column}_hub_share: share of edges
    at the 1 % of rows (columns) with most of them, at least one. clustering: ``clustering``; clustering_chance: its
    value for ``degree_model`` (3 % above the mean of rewired masks at 96 × 160, 1 % at 576 × 1536). block_cv: sd/mean
    of the densities of 8 × 8 blocks; block_cv_chance: what independent edges of this density give.
    """
    density, block_cv, block_cv_chance = keep.double().mean().item(), *_block_variation(keep)
    return {
        "density": density,
        **_degree_summary("row", keep.sum(1).double()),
        **_degree_summary("column", keep.sum(0).double()),
        "clustering": clustering(keep.double()),
        "clustering_chance": clustering(degree_model(keep)),
        "block_cv": block_cv,
        "block_cv_chance": block_cv_chance,
    }


def clustering(probability: Float[Tensor, "m n"]) -> float:
    """4·(number of 4-cycles)/(number of 3-paths): how often a path of three edges is closed by a fourth; in [0, 1].

    Source: Robins & Alexander, "Small worlds among interlocking directors" (2004). Entries are 0 and 1, or edge
    probabilities, for which it is the ratio of the expected counts. Exact in float64. 0 without 3-paths.
    """
    p = probability.double() if probability.shape[0] <= probability.shape[1] else probability.double().T
    shared, same_edge = p @ p.T, p.square() @ p.square().T  # (m, m)
    closed = shared.square() - same_edge  # ordered pairs of different columns that join rows i and j
    four_cycles_times_four = float(closed.sum() - closed.diagonal().sum())
    rows, columns = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
    return _ratio(four_cycles_times_four, float((p * (rows - p) * (columns - p)).sum()))


def degree_model(keep: Bool[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Edge probabilities x_i·y_j/(1 + x_i·y_j) whose expected degrees are the mask's: chance given the degrees.

    Maximum entropy for a bipartite graph (Saracco et al., "Randomizing bipartite networks", 2015), by fixed-point
    iteration over classes of equal degree. Full rows or columns are approached, not reached.
    """
    rows, row_class, row_count = np.unique(keep.sum(1).numpy(), return_inverse=True, return_counts=True)
    columns, column_class, column_count = np.unique(keep.sum(0).numpy(), return_inverse=True, return_counts=True)
    edges = float(rows @ row_count)
    if edges == 0:
        return torch.zeros(keep.shape, dtype=torch.float64)
    x, y = rows / sqrt(edges), columns / sqrt(edges)
    for _ in range(FIT_STEPS):
        x = rows / (column_count * y / (1 + np.outer(x, y))).sum(1)
        y = columns / (row_count[:, None] * x[:, None] / (1 + np.outer(x, y))).sum(0)
        odds = np.outer(x, y)
        probability = odds / (1 + odds)
        if np.abs(probability @ column_count - rows).max() < FIT_TOLERANCE:
            break
    return torch.from_numpy(probability[row_class][:, column_class])


def rewire(keep: Bool[Tensor, "m n"], generator: np.random.Generator, swaps_per_edge: int = 10) -> Bool[Tensor, "m n"]:
    """A random mask with exactly the same row and column degrees, by double-edge swaps.

    A swap turns edges (a, b), (c, d) into (a, d), (c, b) (Maslov & Sneppen 2002); 10 of them an edge mix well (Milo et
    al. 2003). They are made in batches: a sweep pairs the rows at random, and each pair shares out anew, at random and
    keeping both degrees, the columns that only one of the two has (Curveball: Strona et al. 2014). Sweeps leave the
    uniform distribution over masks of these degrees unchanged and reach all of it (Carstens, Berger & Strona 2018).
    Stops once swaps_per_edge × edges swaps were made (one for each edge that a row gives to its partner) and 10 more
    sweeps, or after 100 × swaps_per_edge sweeps, where the degrees admit few swaps or none. Above density ½ the absent
    edges are rewired instead, which is the same thing and faster.
    """
    absent = bool(keep.double().mean() > 0.5)
    graph = (keep ^ absent).numpy()
    half, target, swaps, settled = graph.shape[0] // 2, swaps_per_edge * int(graph.sum()), 0, 0
    for _ in range(100 * swaps_per_edge if half else 0):
        order = generator.permutation(graph.shape[0])
        first, second = order[:half], order[half : 2 * half]
        before = graph[first]
        graph[first], graph[second] = _trade(before, graph[second], generator)
        swaps += int((graph[first] & ~before).sum())
        settled += swaps >= target
        if settled > SETTLING_SWEEPS:
            break
    return torch.from_numpy(graph) ^ absent


def erdos_renyi_counts(shapes: Sequence[tuple[int, int]], total: int) -> list[int]:
    """How many of ``total`` edges each matrix gets at densities ∝ (m + n)/(m·n); a matrix that is full gets no more.

    Source: the Erdős–Rényi(-Kernel) densities of Mocanu et al. 2018 and Evci et al., "Rigging the lottery" (2020).
    Edges are ∝ m + n: ε·(m + n) of them, or m·n where that is less; whole numbers by largest remainder.
    Raises InputError for more edges than entries.
    """
    sizes, weights = np.array([(m * n, m + n) for m, n in shapes], dtype=np.float64).T
    if total > sizes.sum():
        raise InputError(f"expected at most {sizes.sum():.0f} edges in these matrices, found {total}")
    order = np.argsort(sizes / weights)  # in this order they fill up
    filled = np.concatenate([[0.0], np.cumsum(sizes[order])[:-1]])
    epsilon = (total - filled) / np.cumsum(weights[order][::-1])[::-1]  # if the first 0, 1, 2, … of them are full
    first = np.argmax(epsilon <= (sizes / weights)[order])
    share = np.minimum(sizes, epsilon[first] * weights)
    counts = np.floor(share).astype(int)
    counts[np.argsort(counts - share, kind="stable")[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def mask_cosine(first: Sequence[Bool[Tensor, "_ _"]], second: Sequence[Bool[Tensor, "_ _"]]) -> float:
    """Cosine of two sets of masks, one a site, in the same order: shared edges/√(edges · edges); 0 if one is empty.

    Raises InputError when the sites' shapes differ.
    """
    _check_shapes(first, second)
    shared = sum(int((a & b).sum()) for a, b in zip(first, second, strict=True))
    return _ratio(shared, sqrt(_edges(first) * _edges(second)))


def expected_mask_cosine(first: Sequence[Bool[Tensor, "_ _"]], second: Sequence[Bool[Tensor, "_ _"]]) -> float:
    """The cosine that masks of these densities have by chance: Σ n·p·q/√(Σ n·p · Σ n·q), n entries, densities p and q.

    Raises InputError when the sites' shapes differ.
    """
    _check_shapes(first, second)
    shared = sum(int(a.sum()) * int(b.sum()) / max(1, a.numel()) for a, b in zip(first, second, strict=True))
    return _ratio(shared, sqrt(_edges(first) * _edges(second)))


def degree_matched_mask_cosine(first: Sequence[Bool[Tensor, "_ _"]], second: Sequence[Bool[Tensor, "_ _"]]) -> float:
    """The cosine that masks of these row and column degrees have by chance, each drawn from its ``degree_model``.

    Raises InputError when the sites' shapes differ.
    """
    _check_shapes(first, second)
    shared = sum(float((degree_model(a) * degree_model(b)).sum()) for a, b in zip(first, second, strict=True))
    return _ratio(shared, sqrt(_edges(first) * _edges(second)))


def _trade(first: Booleans, second: Booleans, generator: np.random.Generator) -> tuple[Booleans, Booleans]:
    """Each row of ``first`` and its partner in ``second`` share out at random what only one of them has."""
    differ = first ^ second
    keys = np.where(differ, generator.random(first.shape), 2.0)  # columns that can't move sort last
    given = np.arange(first.shape[1]) < (first & differ).sum(1, keepdims=True)
    taken = np.zeros_like(first)
    np.put_along_axis(taken, np.argsort(keys, axis=1), given, axis=1)
    return (first & second) | taken, (first & second) | (differ & ~taken)


def _degree_summary(name: str, degrees: Float[Tensor, " r"]) -> dict[str, float]:
    mean, sd = degrees.mean().item(), degrees.std(correction=0).item()
    hubs = degrees.topk(max(1, round(HUB_SHARE * degrees.numel()))).values
    return {
        f"{name}_degree_mean": mean,
        f"{name}_degree_sd": sd,
        f"{name}_degree_max": degrees.max().item(),
        f"{name}_degree_cv": _ratio(sd, mean),
        f"{name}_hub_share": _ratio(hubs.sum().item(), degrees.sum().item()),
    }


def _block_variation(keep: Tensor) -> tuple[float, float]:
    """(coefficient of variation of block densities, its binomial value √mean((1 − p)/(p·block size)))."""
    densities = [
        (block.double().mean(), block.numel())
        for band in keep.tensor_split(min(BLOCKS, keep.shape[0]), dim=0)
        for block in band.tensor_split(min(BLOCKS, keep.shape[1]), dim=1)
    ]
    values = torch.stack([density for density, _ in densities])
    p, inverse_size = keep.double().mean().item(), float(np.mean([1 / size for _, size in densities]))
    return _ratio(values.std(correction=0).item(), values.mean().item()), sqrt(_ratio(1 - p, p) * inverse_size)


def _check_shapes(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    shapes = [tuple(mask.shape) for mask in first], [tuple(mask.shape) for mask in second]
    if shapes[0] != shapes[1]:
        raise InputError(f"expected masks of equal shapes, found {shapes[0]} and {shapes[1]}; compare the same sites")


def _edges(masks: Sequence[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _ratio(numerator: float | int, denominator: float | int) -> float:
    return numerator / denominator if denominator else 0.0
