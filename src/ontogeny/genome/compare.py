"""Overlap of genomes, site by site, beside what chance gives; raw, or after aligning their residual streams."""

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
from scipy.special import ndtr
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.alignment import Alignment, fit_alignment
from ontogeny.genome.genome import Genome, Mask, Subspace
from ontogeny.genome.sites import layer_and_role
from ontogeny.genome.topology import degree_matched_mask_cosine, expected_mask_cosine, mask_cosine
from ontogeny.streams import numpy_stream

Side = Literal["out", "in"]
SMALL_RANK = 10  # below it the normal approximation of the null is poor
DRAWS = 1999  # Haar pairs behind a Monte Carlo p-value
REFITS = 199  # layer-permuted alignments behind the p-value of an alignment


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
    sites: tuple[str, ...]
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
        return float(ndtr((null.mean - value) / null.sd))
    draws = _null_draws(d, min(k1, k2), max(k1, k2), seed)
    return (1 + int((draws >= value).sum())) / (1 + draws.size)


def compare(
    genomes: Sequence[Genome], *, align: Literal["none"] | Alignment = "none", seed: int = 0
) -> list[SubspaceComparison] | list[MaskComparison]:
    """Every pair of genomes: one row a site (and side) that both have, where their widths are equal.

    align maps the second genome's residual stream onto the first's, by a permutation of its coordinates ("permute") or
    an orthogonal matrix ("orthogonal"), fitted on residual sides of odd layers; only residual sides of even layers are
    reported. Aligning raises overlap by itself, so its chance values and p come from 199 refits with the second
    genome's layers permuted within each role. Costs, a pair on one
    thread (permute, orthogonal): 5 s, 12 s at width 96 × 3 layers; about 28 and 40 minutes at 576 × 30.
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
    grouped: dict[tuple[str, Side, bool, int], list[tuple[str, int, Tensor, Tensor]]] = {}
    for site, gene in first.genes.items():
        other = others.get(site.name)
        if not (isinstance(gene, Subspace) and isinstance(other, Subspace)):
            continue
        layer, role = layer_and_role(site.name) or (0, site.name)  # a site taken by pattern is a role of its own
        sides: tuple[tuple[Side, bool, Tensor, Tensor], ...] = (
            ("out", site.writes_residual, gene.U, other.U),
            ("in", site.reads_residual, gene.V, other.V),
        )
        for side, residual, A, B in sides:
            if A.shape[0] == B.shape[0]:
                grouped.setdefault((role, side, residual, A.shape[0]), []).append(
                    (site.name, layer, A.double(), B.double())
                )
    return [
        _Group(role, side, residual, *zip(*members, strict=True))
        for (role, side, residual, _), members in grouped.items()
    ]


def _subspace_rows(i: int, j: int, groups: Sequence[_Group], seed: int) -> list[SubspaceComparison]:
    rows = []
    for group in groups:
        overlaps = _overlaps(group.first, group.second)
        for at, (site, A, B) in enumerate(zip(group.sites, group.first, group.second, strict=True)):
            value, angles, size = overlaps[at, at].item(), principal_angles(A, B), (A.shape[0], A.shape[1], B.shape[1])
            null, others = overlap_null(*size), len(group.sites) - 1
            rows.append(
                SubspaceComparison(
                    first=i,
                    second=j,
                    site=site,
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


def _aligned_rows(i: int, j: int, groups: Sequence[_Group], align: Alignment, seed: int) -> list[SubspaceComparison]:
    """Rows of even layers' residual sides after the alignment, with the refits' mean, sd and p."""
    groups = [group for group in groups if group.residual]
    parities = {layer % 2 for group in groups for layer in group.layers}
    widths = sorted({basis.shape[0] for group in groups for basis in group.first})
    if len(widths) != 1 or parities != {0, 1}:
        raise InputError(
            f"expected one residual width and residual sides in odd and even layers, found widths {widths} and "
            f"layers {sorted({layer for group in groups for layer in group.layers})}; use align none"
        )
    mapping = fit_alignment(_bases(groups, parity=1), align)
    observed = _held_out(groups, mapping)
    refits = np.empty((REFITS, observed.size))
    for draw in range(REFITS):
        permuted = [_permute_layers(group, numpy_stream(seed, "alignment", i, j, draw, group.role)) for group in groups]
        refits[draw] = _held_out(permuted, fit_alignment(_bases(permuted, parity=1), align))
    # a permutation may be the identity, and then equal means differ by rounding at most
    at_least = int((refits.mean(1) >= observed.mean() - 1e-12).sum())
    mapped = [replace(group, second=tuple(mapping @ basis for basis in group.second)) for group in groups]
    even = {site for group in groups for site, layer in zip(group.sites, group.layers, strict=True) if layer % 2 == 0}
    rows = [row for row in _subspace_rows(i, j, mapped, seed) if row.site in even]
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


@lru_cache(maxsize=256)
def _null_draws(d: int, small: int, large: int, seed: int) -> npt.NDArray[np.float64]:
    """Overlaps of Haar pairs: one span may be fixed to the leading coordinates."""
    generator = numpy_stream(seed, "overlap null", d, small, large)
    bases = (np.linalg.qr(generator.standard_normal((d, small))).Q for _ in range(DRAWS))
    return np.array([np.square(basis[:large]).sum() / small for basis in bases])


def _z_score(value: float, mean: float, sd: float) -> float:
    return (value - mean) / sd if sd > 0 else 0.0
