"""Rounded genomes: orthonormal, as near as their bits allow, the same every time, and as large as they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_masks, tiny_subspaces

from ontogeny.errors import InputError
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import canonical_basis, haar, orthonormality_error
from ontogeny.genome.quantise import _codes, genome_bits, quantise
from ontogeny.genome.sites import make_site
from ontogeny.streams import stream

SITE = make_site("layers.0.mlp.up", (40, 24))


def genome_of(seed: int, rank: int) -> Genome:
    U, V = (canonical_basis(haar(d, rank, stream(seed, d))).float() for d in SITE.shape)
    return Genome({SITE: Subspace(U, V)}, {"recipe": {"rank": str(rank)}})


def sides(genome: Genome) -> list[torch.Tensor]:
    return [Q for gene in genome.genes.values() if isinstance(gene, Subspace) for Q in (gene.U, gene.V)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 16), st.integers(1, 24), st.integers(0, 10**6))
def test_orthonormal_and_as_near_as_the_bits_allow(bits: int, rank: int, seed: int) -> None:
    genome = genome_of(seed, rank)
    for Q, rounded in zip(sides(genome), sides(quantise(genome, bits)), strict=True):
        assert rounded.shape == Q.shape
        assert rounded.dtype == Q.dtype
        assert orthonormality_error(rounded) < 1e-6
        assert float((rounded - Q).norm()) <= 4 * Q.numel() ** 0.5 / 2**bits + 1e-5


def test_the_same_every_time_whatever_else_is_in_the_genome() -> None:
    whole = tiny_subspaces()
    again = quantise(whole, 2)
    for site, gene in whole.genes.items():
        alone = quantise(Genome({site: gene}, {}), 2).genes[site]
        assert isinstance(alone, Subspace)
        assert torch.equal(alone.U, again.genes[site].U)  # type: ignore[union-attr]
    assert again.provenance["recipe"] == {"quantised from": whole.provenance["recipe"], "bits": 2}


def test_levels() -> None:
    Q = torch.tensor([[1.0], [0.4], [-0.3], [-1.0], [0.0]], dtype=torch.float64)
    assert _codes(Q, 1).flatten().tolist() == [0.5, 0.5, -0.5, -0.5, 0.5]  # the sign
    assert set(_codes(torch.randn(500, 3, generator=stream(0), dtype=torch.float64), 2).unique().tolist()) == {
        -1.5, -0.5, 0.5, 1.5,
    }  # fmt: skip


def test_a_column_has_the_step_of_least_squared_error() -> None:
    """Of a Gaussian's two bits: 0.996 standard deviations a step (Max 1960)."""
    Q = torch.randn(20_000, 1, generator=stream(1), dtype=torch.float64)
    codes = _codes(Q, 2)
    fitted = float((codes * Q).sum() / codes.square().sum())
    assert fitted == pytest.approx(0.996, abs=0.05)


def test_more_bits_keep_more_of_the_span() -> None:
    genome = genome_of(3, 6)
    U = sides(genome)[0].double()
    kept = [float((U.T @ sides(quantise(genome, bits))[0].double()).square().sum() / 6) for bits in (1, 2, 4, 8)]
    assert kept == sorted(kept)
    assert 0.5 < kept[0] < 0.9  # chance is 6/40
    assert kept[3] > 0.999


def test_bits_are_counted_from_the_shapes() -> None:
    genome = genome_of(0, 6)
    assert genome_bits([SITE.shape], "25%", 2) == 2 * sum(Q.numel() for Q in sides(genome))
    assert genome_bits([SITE.shape] * 2, "25%") == 2 * 32 * int(np.prod((64, 6)))


def test_what_cant_be_rounded() -> None:
    with pytest.raises(InputError, match="0 bits: expected 1 to 16"):
        quantise(tiny_subspaces(), 0)
    with pytest.raises(InputError, match="a mask takes one bit"):
        quantise(tiny_masks(), 2)
