"""Growing: shapes within their budget, genomes in other coordinates, plain models of every architecture at the end."""

from typing import Any

import pytest
import torch
from constrained import assert_round_off, logits
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, tiny_checkpoint, tiny_masks

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import orthonormality_error
from ontogeny.model.constrain import merge, site_shapes
from ontogeny.model.grow import (
    Shape,
    budgeted,
    flops,
    grown_genome,
    grown_model,
    head_size,
    inherited_layers,
    parameters,
    residual_map,
    resized,
    shape_of,
)
from ontogeny.model.initialise import fresh_model

LANGUAGE = [name for name in TINY if name != "vit"]
DEEP = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8}
LLAMA = DEEP | {"model_type": "llama", "num_key_value_heads": 4, "vocab_size": 512, "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("donors")
    return {name: open_checkpoint(tiny_checkpoint(name, folder / name)) for name in LANGUAGE}


def read(donor: Checkpoint, rank: str = "50%") -> Genome:
    return extract(donor, Recipe(rank=rank, basis="singular"))


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
    with pytest.raises(InputError, match="found masks"):
        grown_genome(tiny_masks(), donors["llama"].config, donors["llama"].config, {}, seed=0)
