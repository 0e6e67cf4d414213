"""Mimetic initialisation against its defining products; copies of donor values against the donor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from constrained import assert_round_off, logits
from numpy.typing import NDArray
from tiny import HEADS, KV_HEADS, TINY, D, tiny_checkpoint, tiny_model
from torch import nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.sites import architecture
from ontogeny.model.baselines import mimetic, projected_weights, weight_subset
from ontogeny.model.constrain import constrain, effective_weights, model_places
from ontogeny.model.grow import budgeted, parameters
from ontogeny.model.initialise import fresh_model
from ontogeny.model.vision import fresh_classifier
from ontogeny.streams import stream

LANGUAGE = [name for name in TINY if name != "vit"]
LAYER = "layers.1.attention"


def model_of(name: str, **changes: Any) -> nn.Module:
    return fresh_model({"model_type": TINY[name][0]} | TINY[name][1] | changes, 0)


def weights(model: nn.Module) -> dict[str, NDArray[np.float64]]:
    """Site -> its (d_out, d_in) matrix."""
    found: dict[str, NDArray[np.float64]] = {}
    for place in model_places(model):
        stored = model.get_parameter(f"{place.name}.weight").detach().double()
        W = stored.T if place.linear.transposed else stored
        found |= {name: W[rows].numpy() for name, rows in place.rows.items()}
    return found


def heads(W: NDArray[np.float64], count: int) -> list[NDArray[np.float64]]:
    """The heads' rows; each key and value stands once for every head that shares it."""
    size = len(W) // count
    return [W[j * size : (j + 1) * size] for j in range(count) for _ in range(HEADS // count)]


def products(model: nn.Module, name: str) -> list[NDArray[np.float64]]:
    """W_Qᵀ W_K of each head of the second layer."""
    groups = HEADS if name in ("gpt_neox", "gpt2") else KV_HEADS
    W = weights(model)
    pairs = zip(heads(W[f"{LAYER}.query"], HEADS), heads(W[f"{LAYER}.key"], groups), strict=True)
    return [Q.T @ K for Q, K in pairs]


def asked(constants: tuple[float, float], *path: str | int) -> NDArray[np.float64]:
    """α Z + β I by its definition."""
    Z = torch.randn(D, D, generator=stream(5, "mimetic", LAYER, *path)).double().numpy() / np.sqrt(D)
    product: NDArray[np.float64] = constants[0] * Z + constants[1] * np.eye(D)
    return product


def off_diagonal(M: NDArray[np.float64]) -> NDArray[np.float64]:
    return M[~np.eye(len(M), dtype=bool)]


@pytest.mark.parametrize("name", LANGUAGE)
def test_products_are_diagonal(name: str) -> None:
    """The defining property. A fresh draw's products have diagonals like all their other entries."""
    plain, made = (products(model, name) for model in (model_of(name), mimetic(model_of(name), 5)))
    for M in made:  # of rank 8 in 32 dimensions
        assert np.diag(M).mean() > 0.15
        assert np.diag(M).mean() > 2 * np.abs(off_diagonal(M)).mean()
    for M in plain:
        assert abs(np.diag(M).mean()) < 2 * np.abs(off_diagonal(M)).mean()


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_a_head_of_its_own_has_the_published_product(name: str) -> None:
    """Cut to the head's rank, it is the nearest such matrix (Eckart & Young 1936)."""
    for head, M in enumerate(products(mimetic(model_of(name), 5), name)):
        U, S, Vt = np.linalg.svd(asked((0.7, 0.7), "query-key", head))
        np.testing.assert_allclose(M, U[:, :8] * S[:8] @ Vt[:8], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_heads_that_share_a_key_come_nearest_to_their_own_products(name: str) -> None:
    model = mimetic(model_of(name), 5)
    W = weights(model)
    for head, K in enumerate(heads(W[f"{LAYER}.key"], KV_HEADS)):
        wanted = asked((0.7, 0.7), "query-key", head)
        nearest = np.linalg.lstsq(K.T, wanted.T, rcond=None)[0]  # min ‖Kᵀ Q − Mᵀ‖ over Q
        np.testing.assert_allclose(heads(W[f"{LAYER}.query"], HEADS)[head], nearest, atol=1e-4)
    first = products(model, name)[0]
    U, S, Vt = np.linalg.svd(asked((0.7, 0.7), "query-key", 0))
    np.testing.assert_allclose(first, U[:, :8] * S[:8] @ Vt[:8], atol=1e-5)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_values_and_outputs_multiply_to_the_negative_identity(name: str) -> None:
    W = weights(mimetic(model_of(name), 5))
    M = W[f"{LAYER}.output"] @ W[f"{LAYER}.value"]
    np.testing.assert_allclose(M, asked((0.4, -0.4), "value-output"), atol=1e-5)
    assert np.diag(M).mean() == pytest.approx(-0.4, abs=5 * 0.4 / D)  # five standard errors
    assert off_diagonal(M).std() == pytest.approx(0.4 / np.sqrt(D), rel=0.1)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
def test_heads_that_share_a_value_add_up_to_the_product_of_its_rank(name: str) -> None:
    W = weights(mimetic(model_of(name), 5))
    values = heads(W[f"{LAYER}.value"], KV_HEADS)
    outputs = np.split(W[f"{LAYER}.output"], HEADS, axis=1)
    U, S, Vt = np.linalg.svd(asked((0.4, -0.4), "value-output"))
    rank = KV_HEADS * len(values[0])
    together = sum(out @ value for out, value in zip(outputs, values, strict=True))
    np.testing.assert_allclose(together, U[:, :rank] * S[:rank] @ Vt[:rank], atol=1e-5)
    assert np.diag(together).mean() < -0.15
    for out, value in zip(outputs, values, strict=True):  # none is left without a part
        assert np.linalg.norm(out @ value) > 0.1


def test_tokens_attend_to_themselves() -> None:
    """What it is for: softmax(x W_Qᵀ W_K xᵀ / √k) of 16 random tokens gives each more than twice its even share."""
    x = np.random.default_rng(0).standard_normal((16, D))
    for M in products(mimetic(model_of("llama"), 5), "llama"):
        scores = np.exp(x @ M @ x.T / np.sqrt(D // HEADS))
        assert np.diag(scores / scores.sum(1, keepdims=True)).mean() > 2 / 16


@pytest.mark.parametrize("name", LANGUAGE)
def test_all_else_stays(name: str) -> None:
    before = {key: value.clone() for key, value in model_of(name).named_parameters()}
    after = dict(mimetic(model_of(name), 5).named_parameters())
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    attention = [place.name for place in model_places(model_of(name)) if "attention" in next(iter(place.rows))]
    assert changed == {f"{module}.weight" for module in attention}


def test_seeds_layers_and_heads_have_their_own_draws() -> None:
    first, again, other = (weights(mimetic(model_of("gpt2"), seed)) for seed in (5, 5, 6))
    for name, W in first.items():
        assert np.array_equal(W, again[name])
        if "attention" in name:
            assert not np.allclose(W, other[name], atol=1e-3)
            beside = name.replace("s.0", "s.x").replace("s.1", "s.0").replace("s.x", "s.1")
            assert not np.allclose(W, first[beside], atol=1e-3)
    one, two, *_ = products(mimetic(model_of("gpt2"), 5), "gpt2")
    assert not np.allclose(one, two, atol=1e-2)


def test_an_image_classifiers_body_is_the_language_models() -> None:
    config = {"model_type": "llama"} | TINY["llama"][1]
    model = fresh_classifier(config, image_size=8, channels=3, classes=5, patch=2, attention="causal", seed=0)
    ours, theirs = weights(mimetic(model, 5)), weights(mimetic(model_of("llama"), 5))
    assert all(np.array_equal(W, theirs[name]) for name, W in ours.items())


def test_what_it_is_not_for_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path_factory.mktemp("donor")))
    with pytest.raises(InputError, match="is constrained"):
        mimetic(constrain(model_of("llama"), extract(donor, Recipe(rank="25%"))), 0)
    with pytest.raises(InputError, match="keys and values of 64 dimensions for a width of 32"):
        mimetic(model_of("qwen3", head_dim=32), 0)


# Donor values in a smaller model --------------------------------------------------------------------------------

KEEP: dict[str, Any] = {
    "subset": lambda model, donor: weight_subset(model, donor),
    "projected": lambda model, donor: projected_weights(model, donor, extract(donor, Recipe(rank="50%"))),
}


@pytest.mark.parametrize("kind", KEEP)
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_copy_of_the_same_size_is_the_donor(kind: str, name: str, tmp_path: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint(name, tmp_path))
    model = KEEP[kind](fresh_model(donor.config, 7), donor)
    expected = logits(tiny_model(name), name)
    if kind == "projected" and architecture(donor.config).normalisation == "rms":
        # The final gain stays where it is, every other one is folded: equal but for round-off.
        torch.testing.assert_close(logits(model, name), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    else:
        assert_round_off(logits(model, name), expected)


@pytest.mark.parametrize("kind", KEEP)
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_smaller_copy_holds_donor_values(kind: str, name: str, tmp_path: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint(name, tmp_path))
    config = budgeted(donor.config, 0.5, parameters)
    model = KEEP[kind](fresh_model(config, 7), donor)
    found = effective_weights(model)
    assert all(W.isfinite().all() for W in found.values())
    assert logits(model, name).isfinite().all()
    if kind == "subset":
        weights = {site.name: W for site, W in donor.weights()}
        for site, W in found.items():
            assert bool(torch.isin(W, weights[site]).all())


def test_a_copy_cannot_be_larger(tmp_path: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path))
    larger = dict(donor.config) | {"hidden_size": 64}
    with pytest.raises(InputError, match="width is larger than the donor's"):
        weight_subset(fresh_model(larger, 0), donor)
