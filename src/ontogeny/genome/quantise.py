"""A genome told in fewer bits: its bases' entries rounded, and what they take.

A genome is spans, so any basis of a span may be rounded. A random one, its entries spread evenly, loses least: Chee et
al. 2023 (QuIP, arXiv:2307.13304) rotate for that reason. The rotation comes from a fixed stream and costs no bits.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.extract import rank_of
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.streams import stream

FULL = 32  # bits of an entry as it is
CLIPS = torch.arange(1, 21, dtype=torch.float64) / 20  # ranges tried for a column, as shares of its largest entry


def quantise(genome: Genome, bits: int) -> Genome:
    """The genome with every entry of its bases rounded to ``bits`` bits, the spans of what is left orthonormal again.

    Raises InputError for masks, and for bits outside 1 to 16.
    """
    if not 1 <= bits <= 16:
        raise InputError(f"{bits} bits: expected 1 to 16 an entry")
    genes = {}
    for site, gene in genome.genes.items():
        if not isinstance(gene, Subspace):
            raise InputError(f"site {site.name}: a mask takes one bit an entry already; only directions are quantised")
        U, V = (_rounded(Q, bits, stream(0, "quantise", site.name, side)) for Q, side in ((gene.U, "U"), (gene.V, "V")))
        genes[site] = Subspace(U.to(gene.U), V.to(gene.V))
    recipe = {"quantised from": genome.provenance.get("recipe", {}), "bits": bits}
    return replace(genome, genes=genes, provenance={"recipe": recipe, "source": genome.provenance.get("source", {})})


def genome_bits(shapes: Iterable[tuple[int, int]], rank: str, bits: int = FULL) -> int:
    """What U and V of matrices of these shapes (d_out, d_in) take at a rank. Codes alone: no scale is stored."""
    return bits * sum((m + n) * rank_of(rank, min(m, n)) for m, n in shapes)


def _rounded(Q: Float[Tensor, "d k"], bits: int, generator: torch.Generator) -> Float[Tensor, "d k"]:
    """The orthonormal matrix nearest to the rounded Q in Frobenius norm, float64: the polar factor, in Q's own basis.

    No entry is off by more than ‖Q' − Q‖_F ≤ 4·√(dk)/2^bits.
    """
    rotation = haar(Q.shape[1], Q.shape[1], generator)
    codes = _codes(Q.to("cpu", torch.float64) @ rotation, bits)
    P, _, Rt = torch.linalg.svd(codes / codes.norm(dim=0), full_matrices=False)  # columns have length 1: no scale
    rounded: Tensor = P @ Rt @ rotation.T
    return rounded


def _codes(Q: Float[Tensor, "d k"], bits: int) -> Float[Tensor, "d k"]:
    """Odd multiples of ½: uniform mid-rise levels, a column's range the one of least squared error (Max 1960).

    One bit is the sign.
    """
    half = 2 ** (bits - 1)
    steps = CLIPS[:, None, None] * Q.abs().amax(0) / half  # (clips, 1, k)
    codes = (Q / steps).floor().clamp(-half, half - 1) + 0.5
    best = (codes * steps - Q).square().sum(1).argmin(0)  # (k)
    chosen: Tensor = codes.gather(0, best.expand(1, len(Q), -1))[0]
    return chosen
