"""What "constrained" may mean, against explicit float64 products; and the ways out: freed and projected subspaces."""

import math
from typing import Any

import pytest
import torch
from constrained import KINDS, READ, RECIPES, allowed, assert_round_off, logits, train_five_steps
from tiny import TINY, tiny_checkpoint, tiny_model
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.extract import extract
from ontogeny.genome.genome import Gene, Genome, Mask
from ontogeny.model.constrain import (
    READINGS,
    body_parameters,
    constrain,
    effective_weights,
    free_subspaces,
    merge,
    project_weights,
    sites,
    start_cores,
)
from ontogeny.model.layers import LowRankLinear, OneSidedLinear


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("donors")
    return {name: open_checkpoint(tiny_checkpoint(name, root / name)) for name in TINY}


def expected_start(gene: Gene, W: Tensor, reading: str) -> Tensor:
    """In float64, with explicit (d_out, d_in) products: √(mn)/k · U Uᵀ W₀ V Vᵀ and so on."""
    (m, n), W = W.shape, W.double()
    if isinstance(gene, Mask):
        return W * gene.keep * math.sqrt(m * n / int(gene.keep.sum()))
    k = gene.rank
    scale = {"diagonal": math.sqrt(m * n / k), "left": math.sqrt(m / k), "right": math.sqrt(n / k)}
    held = allowed(gene.U.double(), gene.V.double(), W, "full" if reading == "start" else reading)
    return held * scale.get(reading, math.sqrt(m * n) / k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READ)
def test_every_site_starts_from_its_own_rows_of_the_dense_draw(
    donors: dict[str, Checkpoint], name: str, kind: str
) -> None:
    """Biases stay as they were."""
    recipe, reading = KINDS[kind]
    model, genome = tiny_model(name), extract(donors[name], recipe)
    bias_count = sum(p.numel() for key, p in model.named_parameters() if key.endswith("bias"))
    constrain(model, genome, reading)
    assert sum(p.numel() for key, p in model.named_parameters() if key.endswith("bias")) == bias_count
    assert all(p.requires_grad for p in model.parameters())
    fresh, found = {site.name: W for site, W in donors[name].weights()}, effective_weights(model)
    assert found.keys() == fresh.keys()
    for site, gene in genome.genes.items():
        expected = expected_start(gene, fresh[site.name], reading).float()
        torch.testing.assert_close(found[site.name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_have_the_dense_draws_norm_in_expectation(donors: dict[str, Checkpoint], kind: str) -> None:
    """Σ‖W‖²_F over all sites and 4 draws; values are independent, so its relative variance is Σ 2w²/(Σ w)², w ‖·‖²."""
    recipe, reading = KINDS[kind]
    genome = extract(donors["llama"], recipe)
    total = found = variance = 0.0
    for seed in range(4):
        model = tiny_model("llama", seed=10 + seed)
        weights = effective_weights(constrain(model, genome, reading))
        for site, gene in genome.genes.items():
            m, n = site.shape
            k = min(site.shape) if isinstance(gene, Mask) else gene.rank
            values = {"diagonal": k, "left": k * n, "right": k * m}.get(reading, k * k)
            total += m * n * 0.1**2
            found += float(weights[site.name].square().sum())
            variance += 2 * (m * n * 0.1**2) ** 2 / values
    assert abs(found - total) < 4 * variance**0.5
    assert variance**0.5 < 0.1 * total  # a wrong power of k is 40 of these away


@pytest.mark.parametrize("name", READ)
def test_a_start_is_an_ordinary_model(donors: dict[str, Checkpoint], name: str) -> None:
    plain, genome = tiny_model(name), extract(donors[name], RECIPES["subspace"])
    started = constrain(tiny_model(name), genome, "start")
    assert [type(module) for module in started.modules()] == [type(module) for module in plain.modules()]
    assert started.state_dict().keys() == plain.state_dict().keys()
    assert body_parameters(started) == body_parameters(plain)
    constrained = constrain(tiny_model(name), genome)
    assert_round_off(logits(started.double(), name), logits(constrained.double(), name))


@pytest.mark.parametrize("reading", ["diagonal", "left", "right"])
def test_masks_have_no_such_reading(donors: dict[str, Checkpoint], reading: Any) -> None:
    with pytest.raises(InputError, match=f"'{reading}' needs directions, this genome holds masks"):
        constrain(tiny_model("llama"), extract(donors["llama"], RECIPES["mask"]), reading)


@pytest.mark.usefixtures("unchecked")
def test_unknown_readings_are_refused(donors: dict[str, Checkpoint]) -> None:
    reading: Any = "half"
    with pytest.raises(InputError, match=f"^reading 'half': expected one of {', '.join(READINGS)}$"):
        constrain(tiny_model("llama"), extract(donors["llama"], RECIPES["subspace"]), reading)


def test_an_empty_mask_starts_at_zero(donors: dict[str, Checkpoint]) -> None:
    """A mask over all matrices together may leave one of them nothing."""
    genome = extract(donors["llama"], RECIPES["mask"])
    first = next(iter(genome.genes))
    empty = Genome({**genome.genes, first: Mask(torch.zeros(first.shape, dtype=torch.bool))}, {})
    assert float(effective_weights(constrain(tiny_model("llama"), empty))[first.name].abs().max()) == 0


@pytest.mark.parametrize("name", TINY)
def test_effective_weights_of_a_plain_model_are_the_checkpoints(donors: dict[str, Checkpoint], name: str) -> None:
    model = tiny_model(name)
    found = effective_weights(model)
    expected = {site.name: W for site, W in donors[name].weights()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], W) for key, W in expected.items())
    for W in found.values():  # copies
        W.zero_()
    assert all(torch.equal(W, expected[key]) for key, W in effective_weights(model).items())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][1] != "start"])
@pytest.mark.parametrize("name", READ)
def test_projected_weights(donors: dict[str, Checkpoint], name: str, kind: str) -> None:
    """The nearest point of an optimum (here: other weights), at its own scale; what can be held already stays."""
    recipe, reading = KINDS[kind]
    genome = extract(donors[name], recipe)
    model, optimum = constrain(tiny_model(name), genome, reading), effective_weights(tiny_model(name, seed=3))
    rest = {key: p.detach().clone() for key, p in model.named_parameters() if key not in body_parameters(model)}
    assert project_weights(model, optimum) is model
    found = effective_weights(model)
    for site, gene in genome.genes.items():
        W = optimum[site.name].double()
        held = W * gene.keep if isinstance(gene, Mask) else allowed(gene.U.double(), gene.V.double(), W, reading)
        torch.testing.assert_close(found[site.name].double(), held, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(p, rest[key]) for key, p in model.named_parameters() if key in rest)
    again = effective_weights(project_weights(model, found))
    assert all(torch.allclose(again[key], W, atol=1e-6) for key, W in found.items())


def test_projections_that_are_refused(donors: dict[str, Checkpoint]) -> None:
    with pytest.raises(InputError, match="no site of the model is constrained"):
        project_weights(tiny_model("llama"), effective_weights(tiny_model("llama")))
    model = constrain(tiny_model("llama"), extract(donors["llama"], RECIPES["subspace"]))
    before = effective_weights(model)
    weights = effective_weights(tiny_model("llama"))
    with pytest.raises(InputError, match=r"site layers\.1\.mlp\.down: expected .*\(32, 48\), found none"):
        project_weights(model, {key: W for key, W in weights.items() if key != "layers.1.mlp.down"})
    with pytest.raises(InputError, match=r"site layers\.1\.mlp\.down: expected .*\(32, 48\), found \(48, 32\)"):
        project_weights(model, weights | {"layers.1.mlp.down": weights["layers.1.mlp.down"].T})
    assert all(torch.equal(W, before[key]) for key, W in effective_weights(model).items())  # none moved


@pytest.mark.parametrize("kind", ["subspace", "diagonal"])
@pytest.mark.parametrize("name", READ)
def test_freed_subspaces(donors: dict[str, Checkpoint], name: str, kind: str) -> None:
    """The same weights, balanced: AᵀA = BᵀB = diag(s), s the singular values of W; U and V can learn now."""
    recipe, reading = KINDS[kind]
    model = constrain(tiny_model(name).double(), extract(donors[name], recipe), reading)
    before, expected = effective_weights(model), logits(model, name)
    assert free_subspaces(model) is model
    freed = {key: layer for key, layer in sites(model) if isinstance(layer, LowRankLinear)}
    assert freed.keys() == before.keys()
    for key, W in effective_weights(model).items():
        assert float((W - before[key]).norm() / W.norm()) <= 1e-12
        s = torch.linalg.svdvals(before[key])[: freed[key].A.shape[1]]
        for factor in (freed[key].A, freed[key].B):
            torch.testing.assert_close((factor.T @ factor).detach(), s.diag(), rtol=1e-5, atol=1e-5)
    assert_round_off(logits(model, name), expected)
    assert {key.rsplit(".", 1)[-1] for key in body_parameters(model)} == {"A", "B"}
    train_five_steps(model.train(), name)
    moved = effective_weights(model)
    assert all(not torch.allclose(moved[key], W, rtol=0.01) for key, W in before.items())
    after = logits(model, name)
    assert_round_off(logits(merge(model), name), after)


def test_freed_subspaces_in_single_precision(donors: dict[str, Checkpoint]) -> None:
    model = constrain(tiny_model("gpt_neox"), extract(donors["gpt_neox"], RECIPES["subspace"]))
    before = effective_weights(model)
    for key, W in effective_weights(free_subspaces(model)).items():
        assert W.dtype == torch.float32
        assert float((W - before[key]).norm() / W.norm()) <= 1e-6


def test_only_cores_can_be_freed(donors: dict[str, Checkpoint]) -> None:
    genome = extract(donors["llama"], RECIPES["subspace"])
    left = constrain(tiny_model("llama"), genome, "left")
    assert all(isinstance(layer, OneSidedLinear) for _, layer in sites(left))
    for model in (left, tiny_model("llama"), constrain(tiny_model("llama"), extract(donors["llama"], RECIPES["mask"]))):
        with pytest.raises(InputError, match="no layer of the model has a core"):
            free_subspaces(model)


@pytest.mark.parametrize("start", ["values", "signs-flipped", "permuted"])
def test_diagonal_cores_start_at_the_singular_values(donors: dict[str, Checkpoint], start: Any) -> None:
    """In the singular basis diag(Uᵀ W V) = s: kept, with other signs, in another order."""
    model = constrain(tiny_model("llama"), extract(donors["llama"], KINDS["diagonal"][0]), "diagonal")
    layers = dict(sites(start_cores(model, donors["llama"], start, seed=3)))
    moved = 0
    for site, W in donors["llama"].weights():
        core = layers[site.name].core.detach().double()  # type: ignore[operator]
        s = torch.linalg.svdvals(W.double())[: len(core)]
        torch.testing.assert_close(core.abs().sort(descending=True).values, s, rtol=1e-5, atol=1e-6)
        moved += int(((core - s).abs() > 1e-4).sum())
        assert start == "signs-flipped" or bool((core > 0).all())
    assert (moved > 0) == (start != "values")


@pytest.mark.parametrize("kind", ["diagonal", "left", "right"])
@pytest.mark.parametrize("name", READ)
def test_body_parameters_of_the_readings(donors: dict[str, Checkpoint], name: str, kind: str) -> None:
    recipe, reading = KINDS[kind]
    model = constrain(tiny_model(name), extract(donors[name], recipe), reading)
    named = dict(model.named_parameters())
    sizes = [(*site.shape, min(site.shape) // 4) for site in donors[name].sites]
    expected = sum({"diagonal": k, "left": k * n, "right": k * m}[kind] for m, n, k in sizes)
    assert sum(named[key].numel() for key in body_parameters(model)) == expected
