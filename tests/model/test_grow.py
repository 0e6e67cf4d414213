"""Growing: shapes within their budget, genomes in other coordinates, plain models of every architecture at the end."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
import torch
from constrained import assert_round_off, logits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from tiny import TINY, tiny_checkpoint, tiny_masks

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar, orthonormality_error
from ontogeny.genome.sites import make_site
from ontogeny.model.constrain import merge, site_shapes
from ontogeny.model.grow import (
    Shape,
    budgeted,
    check_config,
    flops,
    grown_genome,
    grown_model,
    head_size,
    inherited_layers,
    inherited_units,
    layer_shapes,
    parameters,
    residual_map,
    resized,
    shape_of,
)
from ontogeny.model.initialise import fresh_model
from ontogeny.streams import stream

LANGUAGE = [name for name in TINY if name != "vit"]
DEEP = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8}
LLAMA = DEEP | {"model_type": "llama", "num_key_value_heads": 4, "vocab_size": 512, "tie_word_embeddings": True}
NEOX = DEEP | {"model_type": "gpt_neox", "vocab_size": 512}
SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("donors")
    return {name: open_checkpoint(tiny_checkpoint(name, folder / name)) for name in LANGUAGE}


def read(donor: Checkpoint, rank: str = "50%") -> Genome:
    return extract(donor, Recipe(rank=rank, basis="singular"))


def planted(
    config: dict[str, Any],
    seed: int = 0,
    *,
    width: int = 0,
    units: int = 0,
    rows: int = 0,
    rank: Callable[[int], int] = lambda layer: 8,
) -> Genome:
    """Haar-random subspaces; residual sides in ``width`` shared directions, inner ones on the last units or rows."""
    d, genes = shape_of(config).width, {}
    shared = haar(d, width or d, stream(seed, "shared"))

    def side(name: str, dim: int, residual: bool, k: int) -> torch.Tensor:
        inner = (width if residual else units if ".mlp." in name else rows) or dim
        Q = haar(inner, k, stream(seed, name, residual))
        return (shared @ Q if residual else torch.cat([torch.zeros(dim - inner, k, dtype=Q.dtype), Q])).float()

    for name, (m, n) in layer_shapes(config).items():
        site, k = make_site(name, (m, n)), rank(int(name.split(".")[1]))
        genes[site] = Subspace(side(name, m, site.writes_residual, k), side(name, n, site.reads_residual, k))
    return Genome(genes, {})


def entries(config: Any) -> int:
    """About the parameters, without building a model: of the layers' matrices and the embeddings."""
    shape = shape_of(config)
    attention, matrices = 2 * head_size(config) * (shape.heads + shape.groups), 3 if "llama" in config.values() else 2
    return shape.width * (shape.layers * (attention + matrices * shape.ffn) + int(config["vocab_size"]))


def sized(config: dict[str, Any], share: float, genome: Genome | None = None) -> Shape:
    return shape_of(budgeted(config, share, entries, genome))


PLANTED = [
    (config, planted(config, width=width, units=units, rank=lambda layer: 1 + layer))
    for config in (LLAMA, NEOX, LLAMA | {"num_attention_heads": 4}, LLAMA | {"head_dim": 12})
    for width, units in ((0, 0), (12, 30), (40, 0))
]


@settings(max_examples=15)
@given(share=st.floats(0.12, 0.99), cost=st.sampled_from([parameters, flops]))
def test_a_budget_is_kept_and_used(share: float, cost: Any) -> None:
    found = budgeted(LLAMA, share, cost)
    assert cost(found) <= share * cost(LLAMA)
    assert cost(found) >= 0.5 * share * cost(LLAMA)
    shape = shape_of(found)
    assert shape.width % shape.heads == 0
    assert shape.heads == 2 * shape.groups
    assert head_size(found) == head_size(LLAMA)


def test_budgets_that_cannot_be_kept() -> None:
    for share in (0.0, 1.0, 1.5, -1.0):
        with pytest.raises(InputError, match="give --config"):
            budgeted(LLAMA, share, parameters)
    with pytest.raises(InputError, match="smallest valid sister has"):
        budgeted(LLAMA, 0.001, parameters)


@pytest.mark.parametrize(
    ("config", "cost", "share", "expected"),
    [
        (LLAMA, parameters, 0.15, (4, 24, 4, 2, 72)),
        (LLAMA, flops, 0.15, (4, 20, 2, 1, 64)),
        (LLAMA, parameters, 0.3, (5, 36, 4, 2, 100)),
        (LLAMA, parameters, 0.6, (5, 48, 6, 3, 144)),
        (LLAMA, flops, 0.9, (6, 56, 8, 4, 168)),
        (NEOX, parameters, 0.15, (3, 24, 3, 3, 56)),
        (NEOX, flops, 0.3, (4, 32, 4, 4, 96)),
        (NEOX, parameters, 0.9, (6, 56, 7, 7, 160)),
    ],
)
def test_without_a_genome_sizes_never_change(
    config: dict[str, Any], cost: Any, share: float, expected: tuple[int, ...]
) -> None:
    """Ids of experiments hold them: as they were before genomes had a say."""
    assert astuple(shape_of(budgeted(config, share, cost))) == expected


@settings(max_examples=30)
@given(share=st.floats(0.05, 0.99), case=st.sampled_from(range(len(PLANTED))))
def test_a_genomes_sizes_keep_every_budget(share: float, case: int) -> None:
    """They are valid, within the donor's, and none falls where the budget rises."""
    config, genome = PLANTED[case]
    found = budgeted(config, share, entries, genome)
    assert entries(found) <= share * entries(config)
    check_config(config, found)
    shape, larger = shape_of(found), sized(config, share + (1 - share) / 2, genome)
    assert shape.width % shape.heads == 0
    assert all(a <= b <= c for a, b, c in zip(*map(astuple, (shape, larger, shape_of(config))), strict=True))


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_architecture_takes_its_sizes_from_a_genome(name: str, donors: dict[str, Checkpoint]) -> None:
    donor = donors[name]
    genome = read(donor)
    found = budgeted(donor.config, 0.6, parameters, genome)
    assert parameters(found) <= 0.6 * parameters(donor.config)
    grown_model(genome, donor.config, found, seed=0)


def test_a_narrow_stream_makes_a_narrow_model() -> None:
    """With more feed-forward units for the same budget."""
    narrow, random = planted(LLAMA, width=16), planted(LLAMA)
    for share in SHARES[:4]:
        found, other = sized(LLAMA, share, narrow), sized(LLAMA, share, random)
        assert found.width < other.width
        assert found.ffn > other.ffn


def test_width_and_heads_are_one_number_in_neox() -> None:
    """The larger demand of the two: a narrow stream doesn't make it small alone, nor do few used heads."""
    assert sized(NEOX, 0.5, planted(NEOX, width=16)).width > 16
    assert sized(NEOX, 0.5, planted(NEOX, rows=16)).heads > 2
    both = sized(NEOX, 0.5, planted(NEOX, width=16, rows=16))
    assert (both.width, both.heads) == (16, 2)


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "gpt_neox"])
def test_few_used_units_make_a_small_feed_forward_network(config: dict[str, Any]) -> None:
    few, random = planted(config, units=24), planted(config)
    for share in SHARES:
        assert sized(config, share, few).ffn <= min(24, sized(config, share, random).ffn - 4)
    units = inherited_units({s.name: g for s, g in few.genes.items()}, 0, "mlp.up", shape_of(config),
                            Shape(1, 8, 1, 1, 24), config)  # fmt: skip
    assert units.tolist() == list(range(148, 172))


def test_ranks_in_few_layers_make_a_shallow_model() -> None:
    deep = planted(LLAMA, rank=lambda layer: 12 if layer in (1, 4) else 1)
    even = planted(LLAMA, rank=lambda layer: 4)
    assert (sized(LLAMA, 0.5, deep).layers, sized(LLAMA, 0.5, even).layers) == (4, 6)
    assert inherited_layers(deep, 6, 4) == [0, 1, 4, 5]


def test_flat_use_gives_about_the_sizes_without_a_genome() -> None:
    """All directions and units used alike: columns of a Hadamard matrix. With one head, so that sizes are fine."""
    config = LLAMA | {"intermediate_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1}
    columns = torch.from_numpy(hadamard(128)[:, :64] / 128**0.5).float()
    genes = {
        make_site(name, shape): Subspace(*(torch.eye(64) if d == 64 else columns for d in shape))
        for name, shape in layer_shapes(config).items()
    }
    for share in SHARES:
        found, expected = sized(config, share, Genome(genes, {})), sized(config, share)
        assert abs(found.layers - expected.layers) <= 1
        assert abs(found.width - expected.width) <= 4
        assert abs(found.ffn - expected.ffn) <= 8


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize("share", [0.4, 1.0, 2.0])
def test_every_architecture_grows_smaller_equal_and_larger(
    name: str, share: float, donors: dict[str, Checkpoint]
) -> None:
    """Its sites fit, its bases are orthonormal, and merged it is the same plain model."""
    donor = donors[name]
    shape = shape_of(donor.config)
    if share < 1:
        config = budgeted(donor.config, 0.6, parameters)
    elif share > 1:
        double = Shape(shape.layers + 1, 2 * shape.width, 2 * shape.heads, 2 * shape.groups, shape.ffn + 8)
        config = resized(donor.config, double)
    else:
        config = dict(donor.config)
    model, genome = grown_model(read(donor), donor.config, config, seed=3)
    assert {site.name: site.shape for site in genome.genes} == site_shapes(fresh_model(config, 0))
    for gene in genome.genes.values():
        assert isinstance(gene, Subspace)
        assert max(orthonormality_error(gene.U), orthonormality_error(gene.V)) < 1e-5
    before = logits(model, name)
    assert_round_off(logits(merge(model), name), before)
    assert sum(p.numel() for p in model.parameters()) == parameters(config)


def test_a_model_of_the_same_size_has_the_donors_subspaces(donors: dict[str, Checkpoint]) -> None:
    donor = donors["llama"]
    genome = read(donor)
    _, grown = grown_model(genome, donor.config, donor.config, seed=0)
    for site, gene in grown.genes.items():
        own = genome.genes[site]
        assert isinstance(own, Subspace)
        assert isinstance(gene, Subspace)
        for found, expected in ((gene.U, own.U), (gene.V, own.V)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_grown_genome_is_contained_in_its_parent(share: float, donors: dict[str, Checkpoint]) -> None:
    """Every direction is a parent's, mapped: R'Q of the residual stream, or rows of internal sides."""
    donor = donors["llama"]
    genome = read(donor, "75%")
    config = budgeted(donor.config, share, parameters)
    shape = shape_of(config)
    grown = grown_genome(genome, donor.config, config, site_shapes(fresh_model(config, 0)), seed=0)
    R = residual_map(genome, shape_of(donor.config).width, shape.width, 0)
    layers = inherited_layers(genome, 2, shape.layers)
    genes = {site.name: gene for site, gene in genome.genes.items()}
    for site, gene in grown.genes.items():
        _, number, role = site.name.split(".", 2)
        parent = genes[f"layers.{layers[int(number)]}.{role}"]
        assert isinstance(gene, Subspace)
        assert isinstance(parent, Subspace)
        Q, own = (gene.V, parent.V) if site.reads_residual else (gene.U, parent.U)
        span = torch.linalg.svd(R.T @ own.double(), full_matrices=False).U
        kept = (span @ (span.T @ Q.double()) - Q.double()).norm(dim=0)
        assert int((kept < 1e-5).sum()) >= min(gene.rank, parent.rank // 2)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_both_sides_lie_in_what_is_left_of_the_parents(name: str, donors: dict[str, Checkpoint]) -> None:
    """Of few directions, so that their spans are not the whole space, and another genome's are not in them."""
    donor = donors[name]
    config = resized(donor.config, Shape(2, 24, 3, 3, 36) if name == "gpt_neox" else Shape(2, 24, 2, 1, 36))
    own, shape, shapes = shape_of(donor.config), shape_of(config), layer_shapes(config)
    genome, other = read(donor, "12.5%"), planted(dict(donor.config), rank=lambda layer: 2)
    R = residual_map(genome, own.width, shape.width, 0)
    genes = {site.name: gene for site, gene in genome.genes.items() if isinstance(gene, Subspace)}

    def outside(grown: Genome) -> list[float]:
        """Of each side, the largest part of a direction that isn't in the parent's span, itself not the whole space."""
        found = []
        for site, gene in grown.genes.items():
            _, layer, role = site.name.split(".", 2)
            rows = inherited_units(genes, int(layer), role, own, shape, donor.config)
            parent = genes[site.name]
            assert isinstance(gene, Subspace)
            pairs = ((gene.U, parent.U, site.writes_residual), (gene.V, parent.V, site.reads_residual))
            for Q, P, residual in pairs:
                span = torch.linalg.qr(R.T @ P.double() if residual else P[rows].double())[0]
                assert span.shape[1] < span.shape[0]
                found.append(float((Q.double() - span @ (span.T @ Q.double())).norm(dim=0).max()))
        return found

    grown = grown_genome(genome, donor.config, config, shapes, seed=0)
    assert grown.provenance["drawn"] == 0
    assert max(outside(grown)) < 1e-5
    assert min(outside(grown_genome(other, donor.config, config, shapes, seed=0))) > 0.1


def test_what_is_drawn_at_random_is_counted(donors: dict[str, Checkpoint]) -> None:
    """A wider model has rank shares that its parent's directions can't fill."""
    donor = donors["llama"]
    shape = shape_of(donor.config)
    wide = resized(donor.config, Shape(2, 2 * shape.width, 2 * shape.heads, 2 * shape.groups, 2 * shape.ffn))
    genome = read(donor)
    grown = grown_genome(genome, donor.config, wide, layer_shapes(wide), seed=0)
    assert grown.provenance["drawn"] == sum(
        gene.rank - parent.rank
        for gene, parent in zip(grown.genes.values(), genome.genes.values(), strict=True)
        if isinstance(gene, Subspace) and isinstance(parent, Subspace)
    )


def test_the_residual_map_keeps_what_is_used(donors: dict[str, Checkpoint]) -> None:
    genome = read(donors["llama"], "25%")
    R = residual_map(genome, 32, 8, 0)
    assert orthonormality_error(R) < 1e-10

    def held(R: torch.Tensor) -> float:
        sides = [(g.V if s.reads_residual else g.U) for s, g in genome.genes.items() if isinstance(g, Subspace)]
        return sum(float((R.T @ Q.double()).square().sum()) for Q in sides)

    others = [torch.linalg.qr(torch.randn(32, 8, dtype=torch.float64))[0] for _ in range(20)]
    assert held(R) > max(map(held, others))
    wide = residual_map(genome, 32, 48, 0)
    torch.testing.assert_close(wide @ wide.T, torch.eye(32, dtype=torch.float64), atol=1e-12, rtol=0)


def test_layers_by_rank_profile(donors: dict[str, Checkpoint]) -> None:
    genome = read(donors["llama"])
    assert inherited_layers(genome, 2, 2) == [0, 1]
    assert inherited_layers(genome, 2, 4) == [0, 0, 1, 1]
    assert inherited_layers(genome, 2, 1) == [0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "qwen2"}, "expected a configuration of the donor's architecture, llama"),
        ({"num_key_value_heads": 3}, "don't divide"),
        ({"num_key_value_heads": 4}, "2 query heads a group as in the donor, found 1"),
        ({"head_dim": 4}, "heads of 8 dimensions"),
    ],
)
def test_configurations_that_dont_fit(change: dict[str, Any], expected: str, donors: dict[str, Checkpoint]) -> None:
    donor = donors["llama"]
    with pytest.raises(InputError, match=expected):
        grown_model(read(donor), donor.config, dict(donor.config) | change, seed=0)


def test_masks_are_refused(donors: dict[str, Checkpoint]) -> None:
    donor = donors["llama"].config
    with pytest.raises(InputError, match="found masks"):
        grown_genome(tiny_masks(), donor, donor, {}, seed=0)
    with pytest.raises(InputError, match="found masks"):
        budgeted(donor, 0.5, parameters, tiny_masks())
