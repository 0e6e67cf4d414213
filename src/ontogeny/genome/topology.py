"""Boolean masks as bipartite graphs (d_out rows × d_in columns): their statistics, their chance, their rewiring."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.errors import InputError

HUB_SHARE = 0.01  # the rows (columns) of highest degree that count as hubs
BLOCKS = 8  # the mask is cut into BLOCKS × BLOCKS blocks
FIT_STEPS = 1000
FIT_TOLERANCE = 1e-8  # of a degree, in edges per node


def topology(keep: Bool[Tensor, "m n"]) -> dict[str, float]:
    """Statistics of one mask; a ratio whose denominator is zero is 0.

    density: share of edges. {row,column}_degree_{mean,sd,max,cv}: cv = sd/mean. {row,column}_hub_share: share of edges
    at the 1 % of rows (columns) with most of them, at least one. clustering: ``clustering``; clustering_chance: the
    same for expected counts under ``degree_model``. block_cv: sd/mean of the densities of 8 × 8 blocks;
    block_cv_chance: what independent edges of this density give.
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

    Edges (a, b), (c, d) become (a, d), (c, b) where neither exists (Maslov & Sneppen 2002); 10 accepted swaps an edge
    mix well (Milo et al. 2003). A sweep pairs all edges at random and proposes every swap at once. A pair swaps only if
    no other pair proposes its new edges or touches its old ones: then the sweep undoes itself with the same
    probability, so it leaves the uniform distribution over all masks of these degrees unchanged.
    Above density ½ the absent edges are rewired instead, which is the same thing. Stops after swaps_per_edge × edges
    accepted swaps, or after 100 × swaps_per_edge sweeps where the degrees admit few swaps or none.
    """
    absent = bool(keep.double().mean() > 0.5)
    graph = (keep ^ absent).numpy().ravel()
    columns, (row, column) = keep.shape[1], np.nonzero((keep ^ absent).numpy())
    half, accepted = row.size // 2, 0
    for _ in range(100 * swaps_per_edge if half else 0):
        order = generator.permutation(row.size)
        first, second = order[:half], order[half : 2 * half]
        swap = _swappable(graph, columns, row, column, first, second)
        first, second = first[swap], second[swap]
        graph[row[first] * columns + column[first]] = graph[row[second] * columns + column[second]] = False
        column[first], column[second] = column[second], column[first]
        graph[row[first] * columns + column[first]] = graph[row[second] * columns + column[second]] = True
        accepted += first.size
        if accepted >= swaps_per_edge * row.size:
            break
    return torch.from_numpy(graph.reshape(keep.shape)) ^ absent


def mask_cosine(first: Sequence[Bool[Tensor, "_ _"]], second: Sequence[Bool[Tensor, "_ _"]]) -> float:
    """Cosine of two sets of masks, one mask a site in the same order: shared edges/√(edges · edges); 0 if either is empty.

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


def _swappable(
    graph: npt.NDArray[np.bool_],
    columns: int,
    row: npt.NDArray[np.intp],
    column: npt.NDArray[np.intp],
    first: npt.NDArray[np.intp],
    second: npt.NDArray[np.intp],
) -> npt.NDArray[np.bool_]:
    """Which pairs may swap, by flat cell: new cells free and proposed once, old cells proposed by nobody."""
    new_first, new_second = row[first] * columns + column[second], row[second] * columns + column[first]
    proposals = np.bincount(np.concatenate([new_first, new_second]), minlength=graph.size)
    free = ~(graph[new_first] | graph[new_second]) & (proposals[new_first] == 1) & (proposals[new_second] == 1)
    old_first, old_second = row[first] * columns + column[first], row[second] * columns + column[second]
    return np.asarray(free & (proposals[old_first] == 0) & (proposals[old_second] == 0))


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


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
