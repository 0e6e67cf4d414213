"""What single controls compute, against explicit d × d projectors and closed forms."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.controls import transform
from ontogeny.genome.genome import Genome, Mask, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Site, make_site
from ontogeny.streams import stream

SITE = make_site("layers.0.mlp.up", (40, 30))


def basis(genome: Genome, site: Site, side: str) -> Tensor:
    gene = genome.genes[site]
    assert isinstance(gene, Subspace)
    return (gene.U if side == "U" else gene.V).double()


def overlap(A: Tensor, B: Tensor) -> float:
    """‖AᵀB‖²_F over the smaller rank: 1 where one span holds the other, 0 where they are orthogonal."""
    return float((A.T @ B).square().sum() / min(A.shape[1], B.shape[1]))


def mixed(*parts: Tensor, seed: int) -> Tensor:
    """An orthonormal basis of all these directions, in which none of them stands out."""
    joined: Tensor = torch.linalg.qr(torch.cat(parts, dim=1)).Q
    return (joined @ haar(joined.shape[1], joined.shape[1], stream(seed, "mix"))).float()


def genomes_of(sides: Sequence[tuple[Tensor, Tensor]]) -> list[Genome]:
    return [Genome({SITE: Subspace(U, V)}, {}) for U, V in sides]


def test_mean_only_finds_what_is_shared() -> None:
    """Donors that share k directions and differ in the rest have those k as their mean."""
    site = make_site("layers.0.mlp.up", (40, 30))
    shared = {side: haar(d, 3, stream(1, side)) for side, d in zip("UV", site.shape, strict=True)}
    genomes = []
    for seed in range(3):
        sides = []
        for side, d in zip("UV", site.shape, strict=True):
            own = haar(d, 3, stream(seed + 2, side, "own"))
            both = torch.linalg.qr(torch.cat([shared[side], own], dim=1)).Q
            sides.append((both @ haar(6, 6, stream(seed, side, "mix"))).float())
        genomes.append(Genome({site: Subspace(*sides)}, {}))
    mean = transform("mean-only", genomes, seed=0)
    for side in "UV":
        projector = sum(basis(g, site, side) @ basis(g, site, side).T for g in genomes) / 3
        leading = torch.linalg.eigh(projector).eigenvectors[:, -6:]
        assert overlap(basis(mean, site, side), leading) > 1 - 1e-5
        assert overlap(basis(mean, site, side), shared[side]) > 1 - 1e-5


def two_corpora(n: int) -> tuple[list[Genome], dict[str, list[Tensor]]]:
    """n donors of each corpus: two directions that all share, two a corpus, one of every donor's own; orthogonal."""
    directions: dict[str, list[Tensor]] = {"common": [], "first": [], "second": [], "own": []}
    sides: list[list[Tensor]] = [[] for _ in range(2 * n)]
    for side, d in zip("UV", SITE.shape, strict=True):
        frame = haar(d, 6 + 2 * n, stream(0, "corpora", side))
        common, first, second, own = frame.split([2, 2, 2, 2 * n], dim=1)
        for key, part in zip(directions, (common, first, second, own), strict=True):
            directions[key].append(part)
        for i, bases in enumerate(sides):
            bases.append(mixed(common, first if i < n else second, own[:, i : i + 1], seed=i))
    return genomes_of([(U, V) for U, V in sides]), directions


def test_corpus_specific_and_common_core() -> None:
    """Mean-only over both corpora holds what all share; corpus-specific what only donors of the first corpus have."""
    genomes, directions = two_corpora(3)
    core, specific = (transform(name, genomes, seed=0) for name in ("mean-only", "corpus-specific"))
    for side, common, first, second in zip("UV", *(directions[k] for k in ("common", "first", "second")), strict=True):
        assert overlap(basis(core, SITE, side), common) > 1 - 1e-5
        assert overlap(basis(specific, SITE, side), first) > 1 - 1e-5
        assert overlap(basis(specific, SITE, side), common) < 1e-5
        assert overlap(basis(specific, SITE, side), second) < 1e-5
    swapped = transform("corpus-specific", [*genomes[3:], *genomes[:3]], seed=0)
    assert overlap(basis(swapped, SITE, "U"), directions["second"][0]) > 1 - 1e-5


@pytest.mark.parametrize("n", [1, 2, 4])
def test_corpus_specific_is_the_projectors_difference(n: int) -> None:
    """Eigenvectors of the d × d matrix, by NumPy; four donors' bases side by side are wider than the space."""
    sides = [tuple(haar(d, 5, stream(i, "donor", d)).float() for d in SITE.shape) for i in range(2 * n)]
    genomes = genomes_of([(U, V) for U, V in sides])
    specific = transform("corpus-specific", genomes, seed=0)
    for side in "UV":
        projectors = [(Q @ Q.T).numpy() for Q in (basis(genome, SITE, side) for genome in genomes)]
        values, vectors = np.linalg.eigh(sum(projectors[:n]) / n - sum(projectors[n:]) / n)
        assert values[-5] > 0
        assert overlap(basis(specific, SITE, side), torch.from_numpy(vectors[:, -5:].copy())) > 1 - 1e-5


def test_corpora_that_are_refused() -> None:
    genomes, _ = two_corpora(1)
    with pytest.raises(InputError, match="as many genomes of either corpus, found 3 in all"):
        transform("corpus-specific", [*genomes, genomes[0]], seed=0)
    with pytest.raises(InputError, match=r"site layers\.0\.mlp\.up: 3 directions are more .* expected the rank 5"):
        transform("corpus-specific", genomes, seed=0)  # they share 2 of 5
    with pytest.raises(InputError, match=r"0 directions are more .* donors of two corpora"):
        transform("corpus-specific", genomes[:1] * 2, seed=0)


def masks(density: float) -> Genome:
    sites = (make_site("layers.0.attention.key", (6, 40)), make_site("layers.0.mlp.up", (50, 40)))
    kept = {s: Mask(torch.rand(s.shape, generator=stream(0, s.name), dtype=torch.float64) < density) for s in sites}
    return Genome(kept, {})


def keeps(genome: Genome) -> list[Tensor]:
    return [gene.keep for gene in genome.genes.values() if isinstance(gene, Mask)]


@pytest.mark.parametrize("name", ["mask-random", "mask-layer-density", "mask-erk", "mask-degree", "mask-permuted"])
def test_a_masks_overlap_with_its_donor_is_in_its_provenance(name: str) -> None:
    before = masks(0.3)
    after = transform(name, [before], seed=4)
    a, b = (
        np.concatenate([keep.numpy().ravel() for keep in keeps(genome)]).astype(float) for genome in (before, after)
    )
    assert after.provenance["overlap"] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert 0.2 < after.provenance["overlap"] < 0.5  # chance is about the density
    assert transform(name, [masks(1.1)], seed=4).provenance["overlap"] == pytest.approx(1)  # nothing to move


def test_erk_masks_keep_in_proportion_to_rows_and_columns() -> None:
    """d_out + d_in is 46 and 90 here. The first matrix has 240 entries, which are all kept where its part is more."""
    for density, full in ((0.1, False), (0.6, True)):
        before = masks(density)
        total = sum(int(keep.sum()) for keep in keeps(before))
        first, second = (int(keep.sum()) for keep in keeps(transform("mask-erk", [before], seed=1)))
        assert first + second == total
        assert abs(first - (240 if full else total * 46 / 136)) < 1


def test_random_masks_have_one_density() -> None:
    """Drawn over all entries at once: each site's share differs from it by chance alone, unlike the donor's."""
    before = masks(0.3)
    genes = dict(before.genes)
    first = next(iter(genes))
    genes[first] = Mask(torch.ones(first.shape, dtype=torch.bool))
    total = 240 + int(keeps(before)[1].sum())
    found = [int(keeps(transform("mask-random", [Genome(genes, {})], seed=seed))[0].sum()) for seed in range(20)]
    density, size = total / 2240, 240
    sd = np.sqrt(size * density * (1 - density) * (1 - size / 2240))  # hypergeometric
    assert abs(np.mean(found) - size * density) < 4 * sd / np.sqrt(20)
    assert 0.5 * sd < np.std(found) < 1.6 * sd
