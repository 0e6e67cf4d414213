"""Every control keeps exactly what it declares to preserve and loses what it declares to destroy."""

import copy
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.controls import CONTROLS, is_residual, transform
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace, load, save
from ontogeny.genome.linalg import haar, orthonormality_error
from ontogeny.genome.sites import Site, make_site
from ontogeny.streams import stream

D, KV, FFN, LAYERS, SEED = 64, 32, 96, 4, 7
SHAPES = {
    "attention.query": (D, D),
    "attention.key": (KV, D),
    "attention.value": (KV, D),
    "attention.output": (D, D),
    "mlp.gate": (FFN, D),
    "mlp.up": (FFN, D),
    "mlp.down": (D, FFN),
}
SITES = [make_site(f"layers.{i}.{role}", shape) for i in range(LAYERS) for role, shape in SHAPES.items()]
SIDES = [(site, side) for site in SITES for side in ("U", "V")]
RANK = {site: min(site.shape) // (4 if site.name.startswith("layers.0") else 8) for site in SITES}


def donor(seed: int, *, agree: bool = False, normalisation: str = "rms") -> Genome:
    """Independent Haar bases; or, where layers ``agree``, residual sides drawn near one frame they share.

    Ranks differ between roles, layers and donors, as they do where they are chosen by energy.
    """
    frame = haar(D, 20, stream(seed, "frame"))

    def basis(site: Site, side: str) -> Tensor:
        d, k = site.shape[side == "V"], RANK[site] + (seed == 1)
        free = haar(d, k, stream(seed, "donor", site.name, side))
        if not (agree and is_residual(site, side)):  # type: ignore[arg-type]
            return free.float()
        near = frame @ haar(20, k, stream(seed, "in the frame", site.name, side))
        mixed: Tensor = torch.linalg.qr(near + 0.5 * free).Q
        return mixed.float()

    genes: dict[Site, Gene] = {site: Subspace(basis(site, "U"), basis(site, "V")) for site in SITES}
    return Genome(genes, {"source": {"id": f"donor-{seed}", "normalisation": normalisation}, "recipe": {"rank": "25%"}})


def mask_donor(seed: int) -> Genome:
    """Masks with uneven rows, columns and densities."""
    genes: dict[Site, Gene] = {}
    for j, site in enumerate(SITES):
        rows, columns = (torch.rand(n, generator=stream(seed, site.name, n, i)) for i, n in enumerate(site.shape))
        chance = (0.1 + 0.01 * j) * 4 * rows[:, None] * columns
        genes[site] = Mask(torch.rand(site.shape, generator=stream(seed, site.name, "edges")) < chance)
    return Genome(genes, {"source": {}, "recipe": {"density": "20%"}})


def donors(name: str, *, agree: bool = False) -> list[Genome]:
    """As many donors as layers, where a control mixes donors: then no two layers share one."""
    if CONTROLS[name].kind == "mask":
        return [mask_donor(0)]
    return [donor(seed, agree=agree) for seed in range(LAYERS if CONTROLS[name].donors > 1 else 1)]


def basis(genome: Genome, site: Site, side: str) -> Tensor:
    gene = genome.genes[site]
    assert isinstance(gene, Subspace)
    return (gene.U if side == "U" else gene.V).double()


def keep(genome: Genome, site: Site) -> Tensor:
    gene = genome.genes[site]
    assert isinstance(gene, Mask)
    return gene.keep


def overlap(A: Tensor, B: Tensor) -> float:
    """‖AᵀB‖²_F over the smaller rank: 1 where one span holds the other."""
    return float((A.T @ B).square().sum() / min(A.shape[1], B.shape[1]))


def chance(d: int, k: int, l: int) -> tuple[float, float]:  # noqa: E741
    """Mean and standard deviation of ``overlap`` for independent Haar spans of rank k and l in R^d.

    tr(P Q) has mean kl/d and variance 2·k(d−k)·l(d−l)/(d²(d−1)(d+2)).
    """
    variance = 2 * k * (d - k) * l * (d - l) / (d**2 * (d - 1) * (d + 2))
    return k * l / d / min(k, l), sqrt(variance) / min(k, l)


def z_score(A: Tensor, B: Tensor) -> float:
    expected, sd = chance(len(A), A.shape[1], B.shape[1])
    return (overlap(A, B) - expected) / sd


def is_chance(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """The overlaps of all pairs, and their mean, are those of independent Haar spans, within 5 standard deviations."""
    scores = [z_score(A, B) for A, B in pairs]
    return max(map(abs, scores)) < 5 and abs(sum(scores)) / sqrt(len(scores)) < 5


def some_sides(which: str) -> list[tuple[Site, str]]:
    wanted: dict[str, Callable[[Site, Any], bool]] = {
        "residual": is_residual,
        "internal": lambda site, side: not is_residual(site, side),
        "left": lambda site, side: side == "U",
        "right": lambda site, side: side == "V",
    }
    return [(site, side) for site, side in SIDES if wanted[which](site, side)]


# A check takes the donors and what became of them: True where the property is kept, exactly.
def spans_kept(which: str) -> Callable[[list[Genome], Genome], bool]:
    def check(before: list[Genome], after: Genome) -> bool:
        pairs = [(basis(before[0], *s), basis(after, *s)) for s in some_sides(which)]
        return all(overlap(A, B) > 1 - 1e-5 for A, B in pairs)

    return check


def spans_gone(which: str) -> Callable[[list[Genome], Genome], bool]:
    def check(before: list[Genome], after: Genome) -> bool:
        return is_chance([(basis(before[0], *s), basis(after, *s)) for s in some_sides(which)])

    return check


def residual_pairs() -> list[tuple[tuple[Site, str], tuple[Site, str]]]:
    sides = some_sides("residual")
    return [(a, b) for i, a in enumerate(sides) for b in sides[:i]]


def coherence_kept(before: list[Genome], after: Genome) -> bool:
    return all(
        abs(overlap(basis(before[0], *a), basis(before[0], *b)) - overlap(basis(after, *a), basis(after, *b))) < 1e-4
        for a, b in residual_pairs()
    )


def coherence_gone(before: list[Genome], after: Genome) -> bool:
    """What a layer writes meets what another reads as by chance, on average (one shared draw may meet many)."""

    def excess(genome: Genome) -> float:
        found: list[float] = []
        for (a, side), (b, other) in residual_pairs():
            if side != other and a.name.split(".")[1] != b.name.split(".")[1]:
                A, B = basis(genome, a, side), basis(genome, b, other)
                found.append(overlap(A, B) - chance(D, A.shape[1], B.shape[1])[0])
        return sum(found) / len(found)

    return excess(before[0]) > 0.2 and abs(excess(after)) < 0.02


def shared_frame(before: list[Genome], after: Genome) -> bool:
    """Of any two residual sides one holds the other."""
    return all(overlap(basis(after, *a), basis(after, *b)) > 1 - 1e-5 for a, b in residual_pairs())


def same_gene(a: Gene, b: Gene) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def close(a: Gene, b: Gene) -> bool:
    """Equal, but for the last bits of products that depend on how the factors lie in memory."""
    return all(torch.allclose(x, y, atol=1e-6) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def of_some_donor(before: list[Genome], after: Genome) -> bool:
    """Every layer comes whole from one donor, and every donor gives one."""
    givers = []
    for i in range(LAYERS):
        layer = [site for site in SITES if site.name.startswith(f"layers.{i}.")]
        givers.append([all(same_gene(after.genes[s], g.genes[s]) for s in layer) for g in before].index(True))
    return sorted(givers) == list(range(LAYERS))


def half_of_each(before: list[Genome], after: Genome) -> bool:
    """Every site comes from the first or the second donor, half of them from each."""
    givers = [[same_gene(after.genes[s], genome.genes[s]) for genome in before[:2]].index(True) for s in SITES]
    return sum(givers) == len(SITES) - len(SITES) // 2


def of_role(before: list[Genome], after: Genome) -> bool:
    """Per role a permutation of the layers that leaves none in place."""
    for role in SHAPES:
        sites = [site for site in SITES if site.name.endswith(role)]
        order = [[same_gene(after.genes[s], before[0].genes[t]) for t in sites].index(True) for s in sites]
        if sorted(order) != list(range(LAYERS)) or any(i == j for i, j in enumerate(order)):
            return False
    return True


def rank_kept(before: list[Genome], after: Genome) -> bool:
    return all(basis(before[0], *s).shape == basis(after, *s).shape for s in SIDES)


def degrees(genome: Genome, site: Site) -> list[Tensor]:
    return [keep(genome, site).sum(1), keep(genome, site).sum(0)]


def density_erk(before: list[Genome], after: Genome) -> bool:
    """Every site keeps (d_out + d_in)/Σ(d_out + d_in) of all kept entries, within one entry."""
    edges = {site: int(keep(after, site).sum()) for site in SITES}
    share = sum(edges.values()) / sum(sum(site.shape) for site in SITES)
    return all(abs(edges[site] - share * sum(site.shape)) < 1 for site in SITES)


def mask_gone(before: list[Genome], after: Genome) -> bool:
    """Kept connections meet the donor's about as often as their density says: at most half of the excess is left."""
    for site in SITES:
        a, b = keep(before[0], site), keep(after, site)
        common, density = float((a & b).sum() / a.sum()), float(b.double().mean())
        if common > density + 0.5 * (1 - density):
            return False
    return True


PRESERVES: dict[str, Callable[[list[Genome], Genome], bool]] = {
    "rank": rank_kept,
    **{which: spans_kept(which) for which in ("residual", "internal", "left", "right")},
    "coherence": coherence_kept,
    "shared-frame": shared_frame,
    "genes-of-some-donor": of_some_donor,
    "half-of-each": half_of_each,
    "genes-of-role": of_role,
    "total-density": lambda before, after: (
        sum(int(keep(before[0], s).sum()) for s in SITES) == sum(int(keep(after, s).sum()) for s in SITES)
    ),
    "density": lambda before, after: all(keep(before[0], s).sum() == keep(after, s).sum() for s in SITES),
    "erk-density": density_erk,
    "degrees": lambda before, after: all(
        torch.equal(a, b) for s in SITES for a, b in zip(degrees(before[0], s), degrees(after, s), strict=True)
    ),
    "degree-sequence": lambda before, after: all(
        torch.equal(a.sort().values, b.sort().values)
        for s in SITES
        for a, b in zip(degrees(before[0], s), degrees(after, s), strict=True)
    ),
}
DESTROYS: dict[str, Callable[[list[Genome], Genome], bool]] = {
    **{which: spans_gone(which) for which in ("residual", "internal", "left", "right")},
    "coherence": coherence_gone,
    "basis": lambda before, after: (
        not any(torch.allclose(basis(before[0], *s), basis(after, *s), atol=0.1) for s in SIDES)
    ),
    "mask": mask_gone,
    "density": lambda before, after: not any(keep(before[0], s).sum() == keep(after, s).sum() for s in SITES),
    "degrees": lambda before, after: (
        not any(torch.equal(degrees(before[0], s)[0], degrees(after, s)[0]) for s in SITES)
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_declared_invariants(name: str) -> None:
    assert CONTROLS[name].preserves
    for agree in (False, True):  # independent donors have no coherence to lose
        before = donors(name, agree=agree)
        after = transform(name, before, seed=SEED)
        for word in CONTROLS[name].preserves:
            assert PRESERVES[word](before, after), f"{name} does not preserve {word}"
        for word in CONTROLS[name].destroys:
            if (word == "coherence") == agree or word in ("mask", "degrees", "basis"):
                assert DESTROYS[word](before, after), f"{name} does not destroy {word}"


@pytest.mark.parametrize("word", DESTROYS)
def test_checks_have_power(word: str) -> None:
    """No check of a loss is passed by a genome that lost nothing, nor one of a kept span by a random genome."""
    name = "mask-random" if word in ("mask", "degrees", "density") else "random"
    before = donors(name, agree=word == "coherence")
    assert not DESTROYS[word](before, before[0])
    if word in PRESERVES:
        assert not PRESERVES[word](before, transform(name, before, seed=SEED))


@pytest.mark.parametrize("name", CONTROLS)
def test_what_every_control_promises(name: str) -> None:
    before = donors(name)
    copies = copy.deepcopy([dict(genome.genes) for genome in before])
    after, again = (transform(name, before, seed=SEED) for _ in range(2))
    assert set(after.genes) == set(SITES)
    for genome, original in zip(before, copies, strict=True):  # the input is as it was
        assert all(same_gene(a, b) for a, b in zip(genome.genes.values(), original.values(), strict=True))
    assert all(same_gene(after.genes[site], again.genes[site]) for site in SITES)
    others = [transform(name, before, seed=seed).genes for seed in (1, 2)]
    differ = any(not same_gene(after.genes[site], genes[site]) for genes in others for site in SITES)
    assert differ != (name in ("mean-only", "corpus-specific"))  # which draw nothing
    same_shape = [(a, b) for i, a in enumerate(SITES) for b in SITES[:i] if a.shape == b.shape and RANK[a] == RANK[b]]
    assert not any(same_gene(after.genes[a], after.genes[b]) for a, b in same_shape)
    for site, gene in after.genes.items():
        if isinstance(gene, Subspace):
            assert (gene.U.dtype, gene.V.dtype) == (torch.float32, torch.float32)
            assert [len(gene.U), len(gene.V)] == list(site.shape)
            assert max(orthonormality_error(gene.U), orthonormality_error(gene.V)) < 1e-6
        else:
            assert gene.keep.shape == site.shape
            assert gene.keep.dtype == torch.bool
    assert after.provenance["recipe"]["control"] == name
    assert after.provenance["recipe"]["seed"] == SEED
    assert "certificates" not in after.provenance  # they speak of the donor's subspaces
    assert ("overlap" in after.provenance) == (CONTROLS[name].kind == "mask")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_genome_and_its_file_give_the_same_control(name: str, tmp_path: Path) -> None:
    """Whatever order sites are in: a file comes back in its own."""
    before = donors(name)
    fresh = transform(name, before, seed=SEED)
    loaded = []
    for genome in before:
        save(Genome(dict(reversed(list(genome.genes.items()))), genome.provenance), tmp_path / "g")
        loaded.append(load(tmp_path / "g"))
    mixed = transform(name, [*loaded[:1], *before[1:]], seed=SEED)
    assert all(close(fresh.genes[site], mixed.genes[site]) for site in SITES)
    save(fresh, tmp_path / "control")
    again = load(tmp_path / "control")
    assert all(same_gene(again.genes[site], fresh.genes[site]) for site in SITES)


def test_random_overlaps_are_haar() -> None:
    """Over ≥ 5 draws the overlap of two independent bases has the mean k/d and the variance of Haar spans."""
    genome = donor(0)
    draws = [transform("random", [genome], seed=seed) for seed in range(5)]
    assert is_chance([(basis(a, *s), basis(genome, *s)) for a in draws for s in SIDES])
    assert is_chance([(basis(a, *s), basis(b, *s)) for i, a in enumerate(draws) for b in draws[:i] for s in SIDES])
    pairs = [(basis(a, *s), basis(genome, *s)) for a in draws for s in SIDES]
    assert torch.tensor(list(map(z_score, *zip(*pairs, strict=True)))).std().item() == pytest.approx(1, abs=0.15)


def test_no_two_sides_share_a_draw() -> None:
    """Neither U and V of a square site, nor sites of one shape: not even the rotations inside their spans."""
    before = donor(0)
    for name in ("random", "in-subspace"):
        after = transform(name, [before], seed=SEED)
        draws = [basis(after, *s) if name == "random" else basis(before, *s).T @ basis(after, *s) for s in SIDES]
        for i, A in enumerate(draws):
            assert not any(A.shape == B.shape and torch.allclose(A, B, atol=1e-3) for B in draws[:i])


@pytest.mark.parametrize("normalisation", ["layer", "rms"])
def test_rotation_under_layer_norm_fixes_all_ones(normalisation: str) -> None:
    """LayerNorm takes the mean away, so the all-ones direction is special and must stay; RMSNorm knows none."""
    ones = torch.ones(D, 1, dtype=torch.float64) / sqrt(D)
    before = donor(0, normalisation=normalisation)
    genes = dict(before.genes)
    for site, side in some_sides("residual"):
        Q = torch.linalg.qr(torch.cat([ones, basis(before, site, side)], dim=1)).Q[:, : RANK[site]].float()
        gene = genes[site]
        assert isinstance(gene, Subspace)
        genes[site] = Subspace(Q, gene.V) if side == "U" else Subspace(gene.U, Q)
    after = transform("rotated", [Genome(genes, before.provenance)], seed=SEED)
    kept = min(overlap(ones, basis(after, *s)) for s in some_sides("residual"))
    assert (kept > 1 - 1e-5) == (normalisation == "layer")
    assert all(overlap(basis(after, *s), basis(before, *s)) < 0.5 for s in some_sides("residual"))


@pytest.mark.parametrize("name", CONTROLS)
def test_mistakes_are_refused(name: str) -> None:
    control = CONTROLS[name]
    wrong = donor(0) if control.kind == "mask" else mask_donor(0)
    with pytest.raises(InputError, match=f"{name} needs {control.kind} genomes"):
        transform(name, [wrong] * control.donors, seed=0)
    with pytest.raises(InputError, match=f"at least {control.donors} genomes, found {control.donors - 1}"):
        transform(name, donors(name)[: control.donors - 1], seed=0)
    one = donors(name)[0]
    fewer = Genome(dict(list(one.genes.items())[1:]), one.provenance)
    with pytest.raises(InputError, match="same sites"):
        transform(name, [one, fewer], seed=0)


def test_other_mistakes() -> None:
    with pytest.raises(InputError, match=r"no control 'shuffle': known are random, coherent"):
        transform("shuffle", [donor(0)], seed=0)
    single = {s: g for s, g in donor(0).genes.items() if s.name.startswith("layers.0.")}
    with pytest.raises(InputError, match="only one layer has"):
        transform("layer-shuffled", [Genome(single, {})], seed=0)
    site = make_site("encoder.dense", (4, 4))
    unnamed = Genome({site: Subspace(torch.eye(4)[:, :2], torch.eye(4)[:, :2])}, {})
    for name in ("layer-shuffled", "chimera"):
        with pytest.raises(InputError, match="has no layer"):
            transform(name, [unnamed, unnamed], seed=0)


def test_sites_by_pattern_have_no_residual_side() -> None:
    """Controls of the residual stream leave alone what nobody declared to lie in it."""
    site = make_site("encoder.dense", (8, 6))
    before = Genome({site: Subspace(haar(8, 2, stream(0)).float(), haar(6, 2, stream(1)).float())}, {})
    assert same_gene(transform("rotated", [before], seed=0).genes[site], before.genes[site])
