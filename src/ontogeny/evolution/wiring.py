"""Random graphs that share some properties of a network's wiring: densities, degrees, hubs, clustering, blocks.

A wiring is one mask a matrix, (inputs, outputs) each. Only the network's inputs and outputs have names that mean
anything: a fresh network's hidden neurons are exchangeable.
"""

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ontogeny.genome.topology import clustering, rewire

Mask = Bool[Tensor, "m n"]
Wiring = list[Bool[Tensor, "_ _"]]
Some = Bool[np.ndarray, "_"]  # of the nodes of one layer

CLOSE = 0.02  # relative: how near the donor's clustering counts as matched
PROPOSALS = 20_000  # of swaps towards it


def keep_degrees(
    keep: Mask, rows: Bool[np.ndarray, " m"], columns: Bool[np.ndarray, " n"], rng: np.random.Generator
) -> Mask:
    """A random mask in which these rows and columns have the degrees that they had, and the others what falls to them.

    All: ``rewire``; none: as many entries anywhere.
    """
    graph = rewire(keep, rng).numpy().copy()
    for kept, others, axis in ((rows, columns, 1), (columns, rows, 0)):
        place = np.ix_(kept, ~others) if axis else np.ix_(~others, kept)
        graph[place] = rng.permuted(graph[place], axis=axis)
    rest = np.ix_(~rows, ~columns)
    graph[rest] = rng.permuted(graph[rest])
    return torch.from_numpy(graph)


def match_clustering(keep: Mask, rng: np.random.Generator) -> Mask:
    """A random mask with all its degrees and, within 2 % where swaps get there, its clustering.

    From a rewired one, by those double-edge swaps that do not move clustering away from the goal (the dk-series' way:
    Orsini et al. 2015).
    """
    goal, graph = clustering(keep.double()), rewire(keep, rng).double()
    ends = torch.nonzero(graph)
    apart = abs(clustering(graph) - goal)
    for first, second in rng.integers(max(1, len(ends)), size=(PROPOSALS, 2)):
        if apart <= CLOSE * goal:
            break
        (a, b), (c, d) = ends[first].tolist(), ends[second].tolist()
        if a == c or b == d or graph[a, d] or graph[c, b]:
            continue
        graph[a, b] = graph[c, d] = 0
        graph[a, d] = graph[c, b] = 1
        if (now := abs(clustering(graph) - goal)) <= apart:
            apart, ends[first], ends[second] = now, torch.tensor([a, d]), torch.tensor([c, b])
        else:
            graph[a, b] = graph[c, d] = 1
            graph[a, d] = graph[c, b] = 0
    return graph.bool()


def match_blocks(keep: Mask, groups: int, rng: np.random.Generator) -> Mask:
    """Rewired within every pair of groups: each node keeps how many edges it has to each group.

    Groups of rows and of columns by spectral co-clustering (Dhillon 2001): a degree-corrected block model with its
    counts exact (Karrer & Newman 2011).
    """
    rows, columns = co_cluster(keep, groups, rng)
    graph = keep.clone()
    for row in range(groups):
        for column in range(groups):
            place = np.ix_(np.flatnonzero(rows == row), np.flatnonzero(columns == column))
            if graph[place].any():
                graph[place] = rewire(graph[place], rng)
    return graph


def co_cluster(keep: Mask, groups: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A group for every row and every column; nodes without edges are in the first, where they change nothing."""
    from sklearn.cluster import SpectralCoclustering

    labels = [np.zeros(size, dtype=int) for size in keep.shape]
    live = [np.flatnonzero(keep.any(1 - axis).numpy()) for axis in (0, 1)]
    if (most := min(groups, *map(len, live))) > 1:
        model = SpectralCoclustering(most, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer distinct points than groups: then some stay empty
            model.fit(keep[np.ix_(*live)].double().numpy())
        for label, nodes, found in zip(labels, live, (model.row_labels_, model.column_labels_), strict=True):
            label[nodes] = found
    return labels[0], labels[1]


def hubs(wiring: Wiring, share: float) -> list[Some]:
    """Of every layer of nodes the share with most edges, both sides together; at least one; none of the named."""
    marked = []
    for before, after in pairwise(wiring):
        degrees = (before.sum(0) + after.sum(1)).numpy()
        most = np.zeros(len(degrees), dtype=bool)
        most[np.argsort(-degrees, kind="stable")[: max(1, round(share * len(degrees)))]] = True
        marked.append(most)
    nobody = np.zeros(len(wiring[0]), dtype=bool), np.zeros(wiring[-1].shape[1], dtype=bool)
    return [nobody[0], *marked, nobody[1]]


def wirings(
    donor: Wiring, share: float, groups: int, stream: Callable[[str], np.random.Generator]
) -> dict[str, Wiring]:
    """The donor's wiring and random ones that keep ever more of it, all with the donor's density in every matrix.

    ``density``: that alone. ``named``: also the degrees of inputs and outputs, whose names mean something. ``hubs``:
    also those of the hidden neurons with most edges. ``degree``: of all neurons. ``clustering``, ``blocks``: all
    degrees, and that. ``renamed``: the donor's graph, inputs and outputs under other names.
    """
    sizes = [len(donor[0]), *(mask.shape[1] for mask in donor)]
    nobody = [np.zeros(size, dtype=bool) for size in sizes]
    named = [~nobody[0], *nobody[1:-1], ~nobody[-1]]
    most = [a | b for a, b in zip(named, hubs(donor, share), strict=True)]
    everybody = [~some for some in nobody]

    def degrees(name: str, kept: Sequence[Some]) -> Wiring:
        rng = stream(name)
        return [keep_degrees(keep, kept[i], kept[i + 1], rng) for i, keep in enumerate(donor)]

    return {
        "density": degrees("density", nobody),
        "named": degrees("named", named),
        "hubs": degrees("hubs", most),
        "degree": degrees("degree", everybody),
        "clustering": [match_clustering(keep, stream(f"clustering {i}")) for i, keep in enumerate(donor)],
        "blocks": [match_blocks(keep, groups, stream(f"blocks {i}")) for i, keep in enumerate(donor)],
        "renamed": _rename(donor, stream("renamed")),
        "donor": list(donor),
    }


def _rename(donor: Wiring, rng: np.random.Generator) -> Wiring:
    renamed = list(donor)
    renamed[0] = renamed[0][rng.permutation(len(renamed[0]))]
    renamed[-1] = renamed[-1][:, rng.permutation(renamed[-1].shape[1])]
    return renamed


def effective(wiring: Wiring) -> float:
    """The share of edges on some path from an input to an output (Vysogorets & Kempe 2023); 0 without edges."""
    fed, heard = [torch.ones(len(wiring[0]), dtype=torch.bool)], [torch.ones(wiring[-1].shape[1], dtype=torch.bool)]
    for keep in wiring:
        fed.append((keep & fed[-1][:, None]).any(0))
    for keep in reversed(wiring):
        heard.insert(0, (keep & heard[0]).any(1))
    used = sum(int((keep & fed[i][:, None] & heard[i + 1]).sum()) for i, keep in enumerate(wiring))
    return used / max(1, sum(int(keep.sum()) for keep in wiring))
