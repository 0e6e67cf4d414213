"""Overlap of genomes, site by site, beside what chance gives; raw, or after aligning their residual streams."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm
from torch import Tensor
from torch.nn.functional import pad

from ontogeny.errors import InputError
from ontogeny.genome.genome import Genome, Mask, Subspace
from ontogeny.genome.topology import degree_matched_mask_cosine, expected_mask_cosine, mask_cosine
from ontogeny.streams import numpy_stream, stream

Align = Literal["none", "permute", "orthogonal"]
Side = Literal["out", "in"]
Stack = Float[Tensor, "sides d k"]
SMALL_RANK = 10  # below it the normal approximation of the null is poor
DRAWS = 1999  # Haar pairs behind a Monte Carlo p-value
REFITS = 199  # layer-permuted alignments behind the p-value of an alignment
STEPS = 20  # of one alignment, at most
SETTLED = 1e-6  # relative change of the objective below which an alignment stops
WELL_CONDITIONED = 1e-8  # of a Gram matrix: smallest to largest eigenvalue


@dataclass(frozen=True)
class OverlapNull:
    """Mean and standard deviation of the overlap of two independent Haar-random subspaces."""

    mean: float
    sd: float


@dataclass(frozen=True)
class SubspaceComparison:
    """One site and side of genomes ``first`` and ``second`` (their positions in the list given).

    side: "out" for U, "in" for V; residual: whether it is a residual-stream side. Angles in radians.
    other_layers: mean overlap with ``second``'s other layers of the same role (None if there are none); an overlap no
    larger than that is not specific to the layer.
    chance, sd, z, p (one-sided): of two Haar-random subspaces. After an alignment chance, sd and z are this row's over
    the layer-permuted refits, and p is that of the mean overlap of all rows of the pair.
    """

    first: int
    second: int
    site: str
    side: Side
    residual: bool
    overlap: float
    chance: float
    sd: float
    z: float
    p: float
    smallest_angle: float
    largest_angle: float
    other_layers: float | None


@dataclass(frozen=True)
class MaskComparison:
    """One site of two mask genomes: cosine, and what masks of these densities or degrees have by chance."""

    first: int
    second: int
    site: str
    cosine: float
    chance: float
    degree_matched: float


@dataclass(frozen=True, eq=False)
class _Group:
    """One role and side: the bases of both genomes in the layers they share, in float64."""

    role: str
    side: Side
    residual: bool
    layers: tuple[int, ...]
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]


def principal_angles(A: Float[Tensor, "d k1"], B: Float[Tensor, "d k2"]) -> Float[Tensor, " k"]:
    """The min(k1, k2) principal angles of the spans of orthonormal columns, in radians, ascending.

    Source: Björck & Golub 1973: from sines where angles are small, for there a cosine has lost their digits.
    """
    wide, narrow = (A.double(), B.double()) if A.shape[1] >= B.shape[1] else (B.double(), A.double())
    inner = wide.T @ narrow
    cosines = torch.linalg.svdvals(inner).clamp(max=1)
    sines = torch.linalg.svdvals(narrow - wide @ inner).flip(0).clamp(max=1)
    return torch.where(cosines.square() > 0.5, sines.arcsin(), cosines.arccos())


def overlap(A: Float[Tensor, "d k1"], B: Float[Tensor, "d k2"]) -> float:
    """‖AᵀB‖²_F/min(k1, k2) of orthonormal columns: mean squared cosine of the principal angles, in [0, 1]."""
    return float((A.double().T @ B.double()).square().sum()) / min(A.shape[1], B.shape[1])


def overlap_null(d: int, k1: int, k2: int) -> OverlapNull:
    """What independent Haar-random subspaces of ranks k1, k2 in d dimensions overlap by chance.

    Mean max(k1, k2)/d; variance of the numerator 2·k1·k2·(d − k1)(d − k2)/[d²(d − 1)(d + 2)]. Raises InputError unless
    1 ≤ k1, k2 ≤ d.
    """
    if not (1 <= k1 <= d and 1 <= k2 <= d):
        raise InputError(f"expected ranks from 1 to {d}, found {k1} and {k2}; pass bases with at most d columns")
    if d in (k1, k2):  # the whole space contains the other subspace
        return OverlapNull(1.0, 0.0)
    variance = 2 * k1 * k2 * (d - k1) * (d - k2) / (d**2 * (d - 1) * (d + 2))
    return OverlapNull(max(k1, k2) / d, sqrt(variance) / min(k1, k2))


def overlap_p_value(value: float, d: int, k1: int, k2: int, *, seed: int = 0) -> float:
    """Probability that two Haar-random subspaces overlap at least this much.

    Normal approximation; below rank 10, (1 + draws at least as large)/(1 + 1999) over Monte Carlo draws.
    """
    null = overlap_null(d, k1, k2)
    if null.sd == 0:
        return 1.0
    if min(k1, k2) >= SMALL_RANK:
        return float(norm.sf((value - null.mean) / null.sd))
    draws = _null_draws(d, min(k1, k2), max(k1, k2), seed)
    return (1 + int((draws >= value).sum())) / (1 + draws.size)


def compare(
    genomes: Sequence[Genome], *, align: Align = "none", seed: int = 0
) -> list[SubspaceComparison] | list[MaskComparison]:
    """Every pair of genomes: one row a site (and side) that both have, where their widths are equal.

    align maps the second genome's residual stream onto the first's, by a permutation of its coordinates ("permute") or
    an orthogonal matrix ("orthogonal"), fitted on residual sides of odd layers; only residual sides of even layers are
    reported. Aligning raises overlap by itself, so its chance values and p come from 199 refits with the second
    genome's layers permuted within each role. Cost on one thread: COST
    Raises InputError on fewer than two genomes, mixed kinds, no site in common, or an alignment of masks, of genomes of
    different widths, or of genomes without both odd and even layers.
    """
    kind = _common_kind(genomes)
    if kind is Mask and align != "none":
        raise InputError(f"expected align none for masks, found {align}; alignment is defined for subspaces only")
    masks: list[MaskComparison] = []
    subspaces: list[SubspaceComparison] = []
    for i, j in combinations(range(len(genomes)), 2):
        if kind is Mask:
            masks += _mask_rows(genomes, i, j)
        elif align == "none":
            subspaces += _subspace_rows(i, j, _groups(genomes[i], genomes[j]), seed)
        else:
            subspaces += _aligned_rows(i, j, _groups(genomes[i], genomes[j]), align, seed)
    if not (masks or subspaces):
        raise InputError("expected genomes that share sites of equal width, found none; compare matching architectures")
    return masks or subspaces


def summarise(rows: Sequence[SubspaceComparison]) -> list[dict[str, str | int | float]]:
    """Means over layers of overlap and chance, one entry a pair, role and side, in order of appearance."""
    grouped: dict[tuple[int, int, str, str], list[SubspaceComparison]] = {}
    for row in rows:
        grouped.setdefault((row.first, row.second, _layer_and_role(row.site)[1], row.side), []).append(row)
    return [
        {
            "first": first,
            "second": second,
            "role": role,
            "side": side,
            "layers": len(group),
            "overlap": float(np.mean([row.overlap for row in group])),
            "chance": float(np.mean([row.chance for row in group])),
        }
        for (first, second, role, side), group in grouped.items()
    ]


def _common_kind(genomes: Sequence[Genome]) -> type[Subspace] | type[Mask]:
    kinds = {type(gene) for genome in genomes for gene in genome.genes.values()}
    if len(genomes) < 2 or len(kinds) != 1:
        raise InputError(
            f"expected two or more genomes of one kind, found {len(genomes)} with genes of "
            f"{sorted(kind.__name__ for kind in kinds)}; compare subspaces with subspaces and masks with masks"
        )
    return kinds.pop()


def _mask_rows(genomes: Sequence[Genome], i: int, j: int) -> list[MaskComparison]:
    others = {site.name: gene for site, gene in genomes[j].genes.items()}
    rows = []
    for site, gene in genomes[i].genes.items():
        other = others.get(site.name)
        if isinstance(gene, Mask) and isinstance(other, Mask) and gene.keep.shape == other.keep.shape:
            masks = [gene.keep], [other.keep]
            chance, degree_matched = expected_mask_cosine(*masks), degree_matched_mask_cosine(*masks)
            rows.append(MaskComparison(i, j, site.name, mask_cosine(*masks), chance, degree_matched))
    return rows


def _groups(first: Genome, second: Genome) -> list[_Group]:
    """Sites that both genomes have, by role and side; sides of different width are left out."""
    others = {site.name: gene for site, gene in second.genes.items()}
    grouped: dict[tuple[str, Side, bool, int], dict[int, tuple[Tensor, Tensor]]] = {}
    for site, gene in first.genes.items():
        other = others.get(site.name)
        if not (isinstance(gene, Subspace) and isinstance(other, Subspace)):
            continue
        layer, role = _layer_and_role(site.name)
        sides: tuple[tuple[Side, bool, Tensor, Tensor], ...] = (
            ("out", site.writes_residual, gene.U, other.U),
            ("in", site.reads_residual, gene.V, other.V),
        )
        for side, residual, A, B in sides:
            if A.shape[0] == B.shape[0]:
                grouped.setdefault((role, side, residual, A.shape[0]), {})[layer] = A.double(), B.double()
    return [
        _Group(role, side, residual, tuple(bases), *map(tuple, zip(*bases.values(), strict=True)))
        for (role, side, residual, _), bases in grouped.items()
    ]


def _subspace_rows(i: int, j: int, groups: Sequence[_Group], seed: int) -> list[SubspaceComparison]:
    rows = []
    for group in groups:
        overlaps = _overlaps(group.first, group.second)
        for at, (layer, A, B) in enumerate(zip(group.layers, group.first, group.second, strict=True)):
            value, angles, size = overlaps[at, at].item(), principal_angles(A, B), (A.shape[0], A.shape[1], B.shape[1])
            null, others = overlap_null(*size), len(group.layers) - 1
            rows.append(
                SubspaceComparison(
                    first=i,
                    second=j,
                    site=f"layers.{layer}.{group.role}",
                    side=group.side,
                    residual=group.residual,
                    overlap=value,
                    chance=null.mean,
                    sd=null.sd,
                    z=_z_score(value, null.mean, null.sd),
                    p=overlap_p_value(value, *size, seed=seed),
                    smallest_angle=angles[0].item(),
                    largest_angle=angles[-1].item(),
                    other_layers=(overlaps[at].sum().item() - value) / others if others else None,
                )
            )
    return rows


def _overlaps(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> Float[Tensor, "n n"]:
    """The overlap of every layer of the first with every layer of the second."""
    ranks = [[basis.shape[1] for basis in bases] for bases in (firsts, seconds)]
    squares = (torch.cat(list(firsts), 1).T @ torch.cat(list(seconds), 1)).square().numpy()
    starts = [np.cumsum([0, *side[:-1]]) for side in ranks]
    sums = np.add.reduceat(np.add.reduceat(squares, starts[0], axis=0), starts[1], axis=1)
    return torch.from_numpy(sums / np.minimum.outer(*ranks))


def _aligned_rows(i: int, j: int, groups: Sequence[_Group], align: Align, seed: int) -> list[SubspaceComparison]:
    """Rows of even layers' residual sides after the alignment, with the refits' mean, sd and p."""
    groups = [group for group in groups if group.residual]
    parities = {layer % 2 for group in groups for layer in group.layers}
    widths = sorted({basis.shape[0] for group in groups for basis in group.first})
    if len(widths) != 1 or parities != {0, 1}:
        raise InputError(
            f"expected one residual width and residual sides in odd and even layers, found widths {widths} and "
            f"layers {sorted({layer for group in groups for layer in group.layers})}; use align none"
        )
    mapping = _fit(groups, align)
    observed = _held_out(groups, mapping)
    refits = np.empty((REFITS, observed.size))
    for draw in range(REFITS):
        permuted = [_permute_layers(group, numpy_stream(seed, "alignment", i, j, draw, group.role)) for group in groups]
        refits[draw] = _held_out(permuted, _fit(permuted, align))
    # a permutation may be the identity, and then equal means differ by rounding at most
    at_least = int((refits.mean(1) >= observed.mean() - 1e-12).sum())
    mapped = [replace(group, second=tuple(mapping @ basis for basis in group.second)) for group in groups]
    rows = [row for row in _subspace_rows(i, j, mapped, seed) if _layer_and_role(row.site)[0] % 2 == 0]
    return [
        replace(row, chance=mean, sd=sd, z=_z_score(row.overlap, mean, sd), p=(1 + at_least) / (1 + REFITS))
        for row, mean, sd in zip(rows, refits.mean(0).tolist(), refits.std(0, ddof=1).tolist(), strict=True)
    ]


def _held_out(groups: Sequence[_Group], mapping: Tensor) -> npt.NDArray[np.float64]:
    """Overlaps in even layers once the second genome's residual stream is mapped."""
    return np.array([overlap(A, mapping @ B) for A, B in _bases(groups, parity=0)])


def _permute_layers(group: _Group, generator: np.random.Generator) -> _Group:
    return replace(group, second=tuple(group.second[at] for at in generator.permutation(len(group.second))))


def _bases(groups: Sequence[_Group], parity: int) -> list[tuple[Tensor, Tensor]]:
    """(first, second) bases of the layers of this parity."""
    return [
        (A, B)
        for group in groups
        for layer, A, B in zip(group.layers, group.first, group.second, strict=True)
        if layer % 2 == parity
    ]


def _fit(groups: Sequence[_Group], align: Align) -> Float[Tensor, "d d"]:
    """The map Q that makes Σ tr(P_A Q P_B Qᵀ) large over the residual sides of odd layers: a local maximum, or near one.

    Each step goes to the permutation or orthogonal matrix that maximises the objective's linearisation at Q: a linear
    assignment, or the polar factor (Frank–Wolfe with full steps, as for the quadratic assignment problem; Vogelstein et
    al. 2015). Projectors are centred, P − (k/d)·I: that moves the objective by a constant only and takes half the steps.
    Starts from the better of the identity and a guess from quantities that such a map leaves unchanged.
    """
    start, nearest = METHODS[align]
    first, second = (_stack(side) for side in zip(*_bases(groups, parity=1), strict=True))
    left, right, both = _centre(first, second)
    starts = torch.eye(left.shape[0], dtype=torch.float64), start(first, second)
    candidates = [(Q, _gradient(first, second, Q)) for Q in starts]
    Q, gradient = max(candidates, key=lambda candidate: float((candidate[0] * candidate[1]).sum()))
    for _ in range(STEPS):
        value = float((Q * gradient).sum())
        Q = nearest(gradient - left @ Q - Q @ right + both * Q)
        gradient = _gradient(first, second, Q)
        if abs(float((Q * gradient).sum()) - value) <= SETTLED * value:
            break
    return Q


def _stack(bases: Sequence[Tensor]) -> Stack:
    """Padded to one rank by zero columns, which leave the projectors as they are."""
    rank = max(basis.shape[1] for basis in bases)
    return torch.stack([pad(basis, (0, rank - basis.shape[1])) for basis in bases])


def _gradient(first: Stack, second: Stack, Q: Tensor) -> Tensor:
    """Σ P_A Q P_B, by factors; its inner product with Q is the objective."""
    return _sum_of_products(first @ (first.mT @ (Q @ second)), second)


def _sum_of_products(left: Stack, right: Stack) -> Tensor:
    """Σ_s left_s·right_sᵀ"""
    return left.transpose(0, 1).flatten(1) @ right.transpose(0, 1).flatten(1).T


def _centre(first: Stack, second: Stack) -> tuple[Tensor, Tensor, float]:
    """Σ b·P_A, Σ a·P_B and Σ a·b with a, b = k/d of each side: what turns the gradient into that of P − (k/d)·I."""
    a, b = (side.square().sum((1, 2), keepdim=True) / side.shape[1] for side in (first, second))
    return _sum_of_products(b * first, first), _sum_of_products(a * second, second), float((a * b).sum())


def _nearest_permutation(matrix: Tensor) -> Tensor:
    rows, columns = linear_sum_assignment(matrix.numpy(), maximize=True)
    permutation = torch.zeros_like(matrix)
    permutation[rows, columns] = 1
    return permutation


def _nearest_orthogonal(matrix: Tensor) -> Tensor:
    """The polar factor; by the Gram matrix, at half the cost of the SVD, unless that would lose digits."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    if values[0] < WELL_CONDITIONED * values[-1]:
        left, _, right = torch.linalg.svd(matrix)
        return torch.as_tensor(left @ right)
    polar: Tensor = matrix @ (vectors * values.rsqrt()) @ vectors.T
    return polar


def _match_coordinates(first: Stack, second: Stack) -> Tensor:
    """Permutation by coordinate signatures: (P_s)ᵢᵢ and (P_s·mean P)ᵢᵢ for every side s, which move with coordinate i."""
    return _nearest_permutation(-torch.cdist(_signatures(first), _signatures(second)).square())


def _signatures(bases: Stack) -> Float[Tensor, "d features"]:
    average = _sum_of_products(bases, bases) / bases.shape[0]
    return torch.cat([bases.square().sum(2), (average @ bases * bases).sum(2)]).T


def _match_eigenvectors(first: Stack, second: Stack) -> Tensor:
    """Orthogonal map by the eigenvectors of one random combination of projectors, their signs by those of another."""
    weights = torch.rand(2, len(first), 1, 1, dtype=torch.float64, generator=stream(0, "alignment weights"))
    (frame_a, form_a), (frame_b, form_b) = _eigenframe(first, weights), _eigenframe(second, weights)
    # entries (i, j) of the forms agree up to signs sᵢ·sⱼ, so the leading eigenvector of their product carries the signs
    leading = torch.linalg.eigh(form_a * form_b).eigenvectors[:, -1]
    return frame_a * torch.where(leading < 0, -1.0, 1.0) @ frame_b.T


def _eigenframe(bases: Stack, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the first weighted sum of projectors, and the second sum in that frame."""
    first, second = (_sum_of_products(row * bases, bases) for row in weights)
    frame = torch.linalg.eigh(first).eigenvectors
    return frame, frame.T @ second @ frame


@lru_cache(maxsize=256)
def _null_draws(d: int, small: int, large: int, seed: int) -> npt.NDArray[np.float64]:
    """Overlaps of Haar pairs: one span may be fixed to the leading coordinates."""
    generator = numpy_stream(seed, "overlap null", d, small, large)
    bases = (np.linalg.qr(generator.standard_normal((d, small))).Q for _ in range(DRAWS))
    return np.array([np.square(basis[:large]).sum() / small for basis in bases])


def _z_score(value: float, mean: float, sd: float) -> float:
    return (value - mean) / sd if sd > 0 else 0.0


def _layer_and_role(name: str) -> tuple[int, str]:
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    if match is None:
        raise InputError(f"expected a site named layers.<number>.<role>, found {name!r}; rename the site")
    return int(match[1]), match[2]


METHODS = {
    "permute": (_match_coordinates, _nearest_permutation),
    "orthogonal": (_match_eigenvectors, _nearest_orthogonal),
}
