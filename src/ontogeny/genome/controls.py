"""Control genomes: each destroys one named property and keeps the others. Pure tensors; genomes + seed -> genome.

A control is a function and a row of ``CONTROLS`` that declares what it preserves; one parametrised test checks
every declared invariant of every control. To add one, see docs/how-to-add-a-control.md.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ontogeny.errors import GenomeError, InputError
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace, kind
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Site, in_order, layer_and_role
from ontogeny.genome.topology import erdos_renyi_counts, mask_cosine, rewire
from ontogeny.streams import numpy_stream, stream

Genes = dict[Site, Gene]
Side = Literal["U", "V"]

SHARED = 1e-5  # eigenvalues of a difference of projectors up to here are zero, but for float32 bases


@dataclass(frozen=True)
class Control:
    """A transform and its declaration. ``preserves`` names properties that tests/genome/test_controls.py checks
    to hold exactly, ``destroys`` those it checks to be gone; ``donors`` is how many genomes it needs.
    """

    apply: Callable[[Sequence[Genome], int], Genes]
    description: str
    preserves: tuple[str, ...]
    destroys: tuple[str, ...]
    kind: Literal["subspace", "mask"] = "subspace"
    donors: int = 1


def transform(name: str, genomes: Sequence[Genome], *, seed: int) -> Genome:
    """Apply the control ``name`` to one or more genomes of the same sites.

    The provenance of a mask names its ``overlap``: the mask cosine with the first genome's.
    Raises InputError for an unknown name, too few genomes, the wrong kind, or genomes of different sites.
    """
    if name not in CONTROLS:
        raise InputError(f"no control {name!r}: known are {', '.join(CONTROLS)}")
    control = CONTROLS[name]
    if len(genomes) < control.donors:
        raise InputError(f"control {name} needs at least {control.donors} genomes, found {len(genomes)}")
    for genome in genomes:
        if kind(genome) != control.kind:
            raise InputError(f"control {name} needs {control.kind} genomes, found a {kind(genome)} genome")
        if set(genome.genes) != set(genomes[0].genes):
            raise InputError(f"control {name} needs genomes of the same sites and shapes; these differ")
    # in one order, so that a genome and its file give the same control
    genomes = [
        replace(genome, genes={site: genome.genes[site] for site in in_order(genome.genes)}) for genome in genomes
    ]
    recipe = {"control": name, "seed": seed, "genomes": [dict(g.provenance.get("recipe", {})) for g in genomes]}
    source = genomes[0].provenance.get("source", {})
    if len(genomes) > 1:
        source = dict(source) | {"donors": [dict(g.provenance.get("source", {})) for g in genomes]}
    changed = Genome(control.apply(genomes, seed), {"recipe": recipe, "source": source})
    if control.kind == "subspace":
        return changed
    before, after = ([mask.keep for mask in _masks(genome).values()] for genome in (genomes[0], changed))
    return replace(changed, provenance={**changed.provenance, "overlap": mask_cosine(before, after)})


def is_residual(site: Site, side: Side) -> bool:
    """Whether this side of the site lies in the residual stream: V of its readers, U of its writers."""
    return site.reads_residual if side == "V" else site.writes_residual


def _map(genome: Genome, change: Callable[[Site, Side, Tensor], Tensor]) -> Genes:
    """Every side of every site through ``change(site, side, basis)``."""
    changed: Genes = {}
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        U, V = change(site, "U", gene.U), change(site, "V", gene.V)
        changed[site] = Subspace(U.to(gene.U.dtype), V.to(gene.V.dtype))
    return changed


def _fresh(seed: int, site: Site, side: Side, Q: Tensor) -> Tensor:
    d, k = Q.shape
    return haar(d, k, stream(seed, "random", site.name, side))


def random(genomes: Sequence[Genome], seed: int) -> Genes:
    """Haar directions, drawn for every site and side by themselves; ranks stay."""
    return _map(genomes[0], lambda site, side, Q: _fresh(seed, site, side, Q))


def coherent(genomes: Sequence[Genome], seed: int) -> Genes:
    """Haar directions, one nested frame for all sides on the residual stream; the others drawn by themselves."""
    largest: dict[int, int] = defaultdict(int)
    for site, gene in genomes[0].genes.items():
        assert isinstance(gene, Subspace)
        for side, Q in (("U", gene.U), ("V", gene.V)):
            if is_residual(site, side):  # type: ignore[arg-type]
                largest[len(Q)] = max(largest[len(Q)], gene.rank)
    frames = {d: haar(d, k, stream(seed, "coherent", d)) for d, k in largest.items()}
    return _map(
        genomes[0],
        lambda site, side, Q: (
            frames[len(Q)][:, : Q.shape[1]] if is_residual(site, side) else _fresh(seed, site, side, Q)
        ),
    )


def rotated(genomes: Sequence[Genome], seed: int) -> Genes:
    """One Haar rotation of the residual stream; under LayerNorm one that fixes the all-ones vector."""
    layer_norm = genomes[0].provenance.get("source", {}).get("normalisation") == "layer"
    rotations: dict[int, Tensor] = {}

    def rotate(site: Site, side: Side, Q: Tensor) -> Tensor:
        if not is_residual(site, side):
            return Q
        d = len(Q)
        if d not in rotations:
            rotations[d] = _rotation(d, stream(seed, "rotated", d), fix_ones=layer_norm)
        return rotations[d] @ Q.double()

    return _map(genomes[0], rotate)


def _rotation(d: int, generator: torch.Generator, *, fix_ones: bool) -> Tensor:
    if not fix_ones:
        return haar(d, d, generator)
    start = torch.eye(d, dtype=torch.float64)
    start[:, 0] = 1
    frame: Tensor = torch.linalg.qr(start).Q  # first column ±1/√d, the rest its complement
    inner = torch.eye(d, dtype=torch.float64)
    inner[1:, 1:] = haar(d - 1, d - 1, generator)
    return frame @ inner @ frame.T


def _keep_sides(keep: Callable[[Site, Side], bool]) -> Callable[[Sequence[Genome], int], Genes]:
    def control(genomes: Sequence[Genome], seed: int) -> Genes:
        return _map(genomes[0], lambda site, side, Q: Q if keep(site, side) else _fresh(seed, site, side, Q))

    return control


def in_subspace(genomes: Sequence[Genome], seed: int) -> Genes:
    def rotate(site: Site, side: Side, Q: Tensor) -> Tensor:
        k = Q.shape[1]
        return Q.double() @ haar(k, k, stream(seed, "in-subspace", site.name, side))

    return _map(genomes[0], rotate)


def _layers(genome: Genome) -> dict[tuple[str, tuple[int, int]], list[Site]]:
    """Sites that can exchange genes: same role, same shape."""
    groups: dict[tuple[str, tuple[int, int]], list[Site]] = defaultdict(list)
    for site in genome.genes:
        place = layer_and_role(site.name)
        if place is None:
            raise GenomeError(f"site {site.name} has no layer: this control needs canonical sites (layers.<i>.<role>)")
        groups[place[1], site.shape].append(site)
    return groups


def layer_shuffled(genomes: Sequence[Genome], seed: int) -> Genes:
    """A uniformly drawn derangement of the layers, one for each role."""
    moved: Genes = {}
    for (role, _), sites in _layers(genomes[0]).items():
        if len(sites) < 2:
            raise GenomeError(f"only one layer has {role}: genes can't be moved between layers")
        generator = stream(seed, "layer-shuffled", role)
        identity = torch.arange(len(sites))
        order = torch.randperm(len(sites), generator=generator)
        while bool((order == identity).any()):  # accepted with probability about 1/e
            order = torch.randperm(len(sites), generator=generator)
        moved |= {site: genomes[0].genes[sites[int(j)]] for site, j in zip(sites, order, strict=True)}
    return {site: moved[site] for site in genomes[0].genes}


def chimera(genomes: Sequence[Genome], seed: int) -> Genes:
    """Layer i takes all its genes from the donor i mod n, in a drawn order of donors."""
    _layers(genomes[0])
    order = torch.randperm(len(genomes), generator=stream(seed, "chimera"))
    mixed: Genes = {}
    for site in genomes[0].genes:
        place = layer_and_role(site.name)
        assert place is not None
        mixed[site] = genomes[int(order[place[0] % len(genomes)])].genes[site]
    return mixed


def half_shared(genomes: Sequence[Genome], seed: int) -> Genes:
    """Half of the sites, drawn at random, from the first donor, the others from the second."""
    sites = list(genomes[0].genes)
    own = set(torch.randperm(len(sites), generator=stream(seed, "half-shared"))[: len(sites) // 2].tolist())
    return {site: genomes[0 if index in own else 1].genes[site] for index, site in enumerate(sites)}


def _combine(genomes: Sequence[Genome], leading: Callable[[list[Tensor], int], Tensor]) -> Genes:
    """At every site and side ``leading(the donors' bases in float64, the first one's rank)``."""
    combined: Genes = {}
    for site, gene in genomes[0].genes.items():
        assert isinstance(gene, Subspace)
        sides = ([getattr(genome.genes[site], side).double() for genome in genomes] for side in ("U", "V"))
        try:
            combined[site] = Subspace(*(leading(bases, gene.rank).to(gene.U.dtype) for bases in sides))
        except InputError as error:
            raise InputError(f"site {site.name}: {error}") from None
    return combined


def mean_only(genomes: Sequence[Genome], seed: int) -> Genes:
    """Leading directions of the average projector: left singular vectors of the donors' bases side by side."""

    def leading(bases: list[Tensor], rank: int) -> Tensor:
        U: Tensor = torch.linalg.svd(torch.cat(bases, dim=1), full_matrices=False).U
        return U[:, :rank]

    return _combine(genomes, leading)


def corpus_specific(genomes: Sequence[Genome], seed: int) -> Genes:
    """Leading directions of the first half's average projector minus the second half's."""
    if len(genomes) % 2:
        raise InputError(f"control corpus-specific needs as many genomes of either corpus, found {len(genomes)} in all")
    return _combine(genomes, _difference)


def _difference(bases: list[Tensor], rank: int) -> Tensor:
    """The ``rank`` leading eigenvectors of Σ QQᵀ over the first half − over the second, found in the span of all Q."""
    span: Tensor = torch.linalg.qr(torch.cat(bases, dim=1)).Q
    inside, half = [span.T @ Q for Q in bases], len(bases) // 2
    first, second = (torch.cat(part, dim=1) for part in (inside[:half], inside[half:]))
    values, vectors = torch.linalg.eigh(first @ first.T - second @ second.T)  # ascending
    if (found := int((values > SHARED).sum())) < rank:
        raise InputError(
            f"{found} directions are more the first corpus's than the second's, expected the rank {rank}: "
            "give genomes of a lower rank, or donors of two corpora"
        )
    leading: Tensor = span @ vectors[:, -rank:].flip(1)
    return leading


def _masks(genome: Genome) -> Mapping[Site, Mask]:
    return {site: gene for site, gene in genome.genes.items() if isinstance(gene, Mask)}


def _uniform(shape: tuple[int, int], kept: int, generator: torch.Generator) -> Mask:
    keep = torch.zeros(shape[0] * shape[1], dtype=torch.bool)
    keep[torch.randperm(len(keep), generator=generator)[:kept]] = True
    return Mask(keep.view(shape))


def mask_random(genomes: Sequence[Genome], seed: int) -> Genes:
    masks = _masks(genomes[0])
    total = sum(mask.keep.numel() for mask in masks.values())
    everywhere = _uniform((1, total), sum(int(m.keep.sum()) for m in masks.values()), stream(seed, "mask-random")).keep[
        0
    ]
    parts = everywhere.split([mask.keep.numel() for mask in masks.values()])
    return {site: Mask(part.view(site.shape).clone()) for site, part in zip(masks, parts, strict=True)}


def mask_layer_density(genomes: Sequence[Genome], seed: int) -> Genes:
    return {
        site: _uniform(site.shape, int(mask.keep.sum()), stream(seed, "mask-layer-density", site.name))
        for site, mask in _masks(genomes[0]).items()
    }


def mask_erk(genomes: Sequence[Genome], seed: int) -> Genes:
    masks = _masks(genomes[0])
    counts = erdos_renyi_counts([site.shape for site in masks], sum(int(m.keep.sum()) for m in masks.values()))
    return {
        site: _uniform(site.shape, count, stream(seed, "mask-erk", site.name))
        for site, count in zip(masks, counts, strict=True)
    }


def mask_degree(genomes: Sequence[Genome], seed: int) -> Genes:
    return {
        site: Mask(rewire(mask.keep, numpy_stream(seed, "mask-degree", site.name)))
        for site, mask in _masks(genomes[0]).items()
    }


def mask_permuted(genomes: Sequence[Genome], seed: int) -> Genes:
    permuted: Genes = {}
    for site, mask in _masks(genomes[0]).items():
        generator = stream(seed, "mask-permuted", site.name)
        rows, columns = (torch.randperm(n, generator=generator) for n in site.shape)
        permuted[site] = Mask(mask.keep[rows][:, columns])
    return permuted


_ALL = ("residual", "internal", "left", "right", "coherence")

CONTROLS: dict[str, Control] = {
    "random": Control(
        random, "independent Haar-random U and V at every site", ("rank",), ("residual", "internal", "coherence")
    ),
    "coherent": Control(
        coherent,
        "Haar-random, but one residual-stream frame shared by every site that reads or writes it",
        ("rank", "shared-frame"),
        ("residual", "internal"),
    ),
    "rotated": Control(
        rotated,
        "one Haar rotation of the donor's residual stream: geometry between layers kept, coordinates lost",
        ("rank", "internal", "coherence"),
        ("residual",),
    ),
    "chimera": Control(
        chimera, "each layer's genes from a different donor", ("genes-of-some-donor",), ("coherence",), donors=2
    ),
    "half-shared": Control(
        half_shared,
        "half of the sites from one donor, half from another: what fraternal twins share",
        ("half-of-each",),
        (),  # of the coherence between sites a half stays
        donors=2,
    ),
    "layer-shuffled": Control(
        layer_shuffled, "genes moved between layers, roles kept", ("genes-of-role",), ("residual", "internal")
    ),
    "residual-only": Control(
        _keep_sides(is_residual),
        "donor's residual-stream sides, the others random",
        ("rank", "residual", "coherence"),
        ("internal",),
    ),
    "internal-only": Control(
        _keep_sides(lambda site, side: not is_residual(site, side)),
        "donor's internal sides, the residual stream's random",
        ("rank", "internal"),
        ("residual", "coherence"),
    ),
    "left-only": Control(
        _keep_sides(lambda site, side: side == "U"), "donor's U, random V", ("rank", "left"), ("right", "coherence")
    ),
    "right-only": Control(
        _keep_sides(lambda site, side: side == "V"), "donor's V, random U", ("rank", "right"), ("left", "coherence")
    ),
    "in-subspace": Control(
        in_subspace, "U·R and V·R' inside the same spans", ("rank", *_ALL), ("basis",)
    ),
    "mean-only": Control(
        mean_only, "leading directions of the average projector over donors", ("rank",), (), donors=2
    ),
    "corpus-specific": Control(
        corpus_specific,
        "directions that the first half of the donors, of one corpus, has more of than the second half, of another",
        ("rank",),
        (),
        donors=2,
    ),
    "mask-random": Control(
        mask_random, "uniformly random mask of the same total density", ("total-density",), ("mask",), "mask"
    ),
    "mask-layer-density": Control(
        mask_layer_density,
        "random mask with every site's density",
        ("total-density", "density"),
        ("mask", "degrees"),
        "mask",
    ),
    "mask-erk": Control(
        mask_erk,
        "random mask of the same total density, each site's Erdős–Rényi: kept entries ∝ d_out + d_in",
        ("total-density", "erk-density"),
        ("mask", "degrees", "density"),
        "mask",
    ),
    "mask-degree": Control(
        mask_degree,
        "double-edge swaps: row and column degrees exact",
        ("total-density", "density", "degrees"),
        ("mask",),
        "mask",
    ),
    "mask-permuted": Control(
        mask_permuted,
        "rows and columns of every site permuted: the graph kept, its names lost",
        ("total-density", "density", "degree-sequence"),
        ("mask",),
        "mask",
    ),
}  # fmt: skip
