import json
from collections.abc import Callable
from dataclasses import asdict
from math import pi

import numpy as np
import pytest
import torch
from torch import Tensor

import ontogeny.genome.compare as module
from ontogeny.errors import InputError
from ontogeny.genome.alignment import Alignment
from ontogeny.genome.compare import (
    MaskComparison,
    SubspaceComparison,
    compare,
    overlap,
    overlap_null,
    overlap_p_value,
    principal_angles,
)
from ontogeny.genome.genome import Genome, Mask, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Site
from ontogeny.streams import stream

WIDTH = 32
# role -> (d_out, d_in, reads the residual stream, writes it)
ROLES = {
    "attention.query": (32, 32, True, False),
    "attention.key": (16, 32, True, False),
    "attention.value": (16, 32, True, False),
    "attention.output": (32, 32, False, True),
    "mlp.gate": (48, 32, True, False),
    "mlp.up": (48, 32, True, False),
    "mlp.down": (32, 48, False, True),
}


def frame(d: int, k: int, seed: int, *path: str | int) -> Tensor:
    return haar(d, k, stream(seed, "frame", *path))


def random_genome(seed: int, layers: int = 4, rank: int = 8) -> Genome:
    genes = {}
    for i in range(layers):
        for role, (d_out, d_in, reads, writes) in ROLES.items():
            name = f"layers.{i}.{role}"
            U, V = frame(d_out, rank, seed, name, "U"), frame(d_in, rank, seed, name, "V")
            genes[Site(name, (d_out, d_in), reads, writes)] = Subspace(U, V)
    return Genome(genes, {})


def map_residual(genome: Genome, mapping: Callable[[Tensor], Tensor]) -> Genome:
    genes = {}
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        U = mapping(gene.U) if site.writes_residual else gene.U
        genes[site] = Subspace(U, mapping(gene.V) if site.reads_residual else gene.V)
    return Genome(genes, {})


def subspace_rows(genomes: list[Genome], align: Alignment | None = None) -> list[SubspaceComparison]:
    return [row for row in compare(genomes, align=align or "none") if isinstance(row, SubspaceComparison)]


def test_principal_angles_are_accurate_at_both_ends() -> None:
    angles = torch.tensor([1e-12, 1e-7, 0.3, 1.2, pi / 2], dtype=torch.float64)
    Q = frame(20, 10, 0, "angles")
    first, second = Q[:, :5], Q[:, :5] * angles.cos() + Q[:, 5:] * angles.sin()
    found = principal_angles(first @ frame(5, 5, 1, "basis"), second)
    torch.testing.assert_close(found[2:], angles[2:], rtol=0, atol=1e-7)
    torch.testing.assert_close(found[:2], angles[:2], rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(
        principal_angles(Q, second[:, :3]), torch.zeros(3, dtype=torch.float64), atol=1e-14, rtol=0
    )


def test_overlap_is_the_mean_squared_cosine_and_knows_no_basis() -> None:
    A, B = frame(30, 4, 0, "A"), frame(30, 7, 0, "B")
    assert overlap(A, B) == pytest.approx(principal_angles(A, B).cos().square().mean().item())
    assert overlap(A @ frame(4, 4, 0, "R"), B) == pytest.approx(overlap(A, B))
    assert overlap(A, A.float()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("d", "k1", "k2"), [(40, 10, 10), (24, 12, 5), (12, 1, 11), (2, 1, 1)])
def test_haar_pairs_match_the_null(d: int, k1: int, k2: int) -> None:
    values = [overlap(frame(d, k1, seed, "first"), frame(d, k2, seed, "second")) for seed in range(1000)]
    null = overlap_null(d, k1, k2)
    assert null.mean == max(k1, k2) / d
    assert np.mean(values) == pytest.approx(null.mean, abs=4 * null.sd / len(values) ** 0.5)
    assert np.std(values) == pytest.approx(null.sd, rel=0.1)
    p_values = np.array([overlap_p_value(value, d, k1, k2) for value in values])
    assert (p_values <= 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_the_null_of_a_whole_space_is_a_point() -> None:
    assert overlap_null(8, 8, 3).mean == 1.0
    assert overlap_null(8, 8, 3).sd == 0.0
    assert overlap_p_value(1.0, 8, 8, 3) == 1.0
    with pytest.raises(InputError, match="ranks from 1 to 8"):
        overlap_null(8, 9, 3)


def test_identical_genomes_overlap_fully_and_by_layer() -> None:
    genome = random_genome(0)
    rows = subspace_rows([genome, genome])
    assert len(rows) == 2 * len(genome.genes)
    for row in rows:
        assert row.overlap == pytest.approx(1.0)
        assert row.largest_angle == pytest.approx(0.0, abs=1e-7)
        assert row.p <= 1e-3
        assert row.z > 10
        assert row.other_layers == pytest.approx(row.chance, abs=4 * row.sd)
    assert {(row.side, row.residual) for row in rows if row.site == "layers.0.mlp.down"} == {
        ("out", True),
        ("in", False),
    }
    json.dumps([asdict(row) for row in rows], allow_nan=False)


def test_other_layers_is_the_mean_over_the_second_genome() -> None:
    A, B = random_genome(0, layers=3), random_genome(1, layers=3)
    row = next(row for row in subspace_rows([A, B]) if (row.site, row.side) == ("layers.1.mlp.up", "in"))
    U = {site.name: gene.V for genome in (A, B) for site, gene in genome.genes.items() if isinstance(gene, Subspace)}
    V = {site.name: gene.V for site, gene in A.genes.items() if isinstance(gene, Subspace)}["layers.1.mlp.up"]
    assert row.overlap == pytest.approx(overlap(V, U["layers.1.mlp.up"]))
    assert row.other_layers == pytest.approx(np.mean([overlap(V, U[f"layers.{i}.mlp.up"]) for i in (0, 2)]))


def test_all_pairs_and_different_ranks() -> None:
    rows = subspace_rows([random_genome(0), random_genome(1, rank=5), random_genome(2, layers=2, rank=11)])
    assert {(row.first, row.second) for row in rows} == {(0, 1), (0, 2), (1, 2)}
    assert len([row for row in rows if row.second == 2]) == 2 * 2 * 2 * len(ROLES)
    assert np.mean([row.z for row in rows]) == pytest.approx(0.0, abs=4 / len(rows) ** 0.5)
    assert np.std([row.z for row in rows]) == pytest.approx(1.0, abs=0.3)


def test_sides_of_different_width_are_left_out() -> None:
    narrow, wide = Site("layers.0.mlp.up", (48, 32), True), Site("layers.0.mlp.up", (64, 32), True)
    genomes = [Genome({site: Subspace(frame(site.shape[0], 4, 0), frame(32, 4, 0))}, {}) for site in (narrow, wide)]
    assert [row.side for row in subspace_rows(genomes)] == ["in"]


@pytest.mark.parametrize("align", ["permute", "orthogonal"])
def test_a_mapped_genome_is_at_chance_until_it_is_aligned(align: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.REFITS >= 199
    monkeypatch.setattr(module, "REFITS", 39)
    genome = random_genome(0)
    Q = frame(WIDTH, WIDTH, 7)
    order = torch.randperm(WIDTH, generator=stream(7, "order"))
    mapped = map_residual(genome, (lambda B: B[order]) if align == "permute" else (lambda B: Q @ B))
    raw = [row for row in subspace_rows([genome, mapped]) if row.residual]
    assert np.mean([row.overlap for row in raw]) == pytest.approx(0.25, abs=0.05)
    rows = subspace_rows([genome, mapped], align)
    assert {row.site.split(".")[1] for row in rows} == {"0", "2"}
    assert len(rows) == 2 * len(ROLES)
    for row in rows:
        assert row.residual
        assert row.overlap == pytest.approx(1.0, abs=1e-6)
        assert row.p == 1 / 40
        assert row.chance < 0.7


@pytest.mark.parametrize("align", ["permute", "orthogonal"])
def test_aligning_unrelated_genomes_finds_nothing(align: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFITS", 39)
    p_values = [
        subspace_rows([random_genome(seed, layers=2), random_genome(seed + 50, layers=2)], align)[0].p
        for seed in range(4)
    ]
    assert min(p_values) > 0.03
    assert max(p_values) > 0.2


def test_masks_are_compared_by_cosine() -> None:
    site = Site("layers.0.mlp.up", (40, 60), True)
    masks = [torch.rand(40, 60, generator=stream(seed, "mask")) < 0.2 for seed in range(2)]
    rows = compare([Genome({site: Mask(mask)}, {}) for mask in (masks[0], masks[0], masks[1])])
    same, different = rows[0], rows[1]
    assert isinstance(same, MaskComparison)
    assert isinstance(different, MaskComparison)
    assert same.cosine == pytest.approx(1.0)
    assert different.cosine == pytest.approx(0.2, abs=0.05)
    assert different.chance == pytest.approx(0.2, abs=0.02)
    assert different.degree_matched == pytest.approx(0.2, abs=0.03)


def test_what_cannot_be_compared_is_refused() -> None:
    site = Site("layers.0.mlp.up", (32, 32), True)
    subspace = Genome({site: Subspace(frame(32, 4, 0), frame(32, 4, 1))}, {})
    mask = Genome({site: Mask(torch.ones(32, 32).bool())}, {})
    other = Genome({Site("layers.1.mlp.up", (32, 32)): Subspace(frame(32, 4, 0), frame(32, 4, 1))}, {})
    with pytest.raises(InputError, match="one kind"):
        compare([subspace, mask])
    with pytest.raises(InputError, match="two or more"):
        compare([subspace])
    with pytest.raises(InputError, match="masks"):
        compare([mask, mask], align="permute")
    with pytest.raises(InputError, match="odd and even"):
        compare([subspace, subspace], align="orthogonal")
    with pytest.raises(InputError, match="share sites"):
        compare([subspace, other])


def test_a_site_outside_the_layers_is_compared_alone() -> None:
    genome = Genome({Site("head", (32, 32)): Subspace(frame(32, 4, 0), frame(32, 4, 1))}, {})
    rows = subspace_rows([genome, genome])
    assert [(row.site, row.side, row.other_layers) for row in rows] == [("head", "out", None), ("head", "in", None)]
