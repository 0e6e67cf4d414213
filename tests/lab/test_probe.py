"""The readout against least squares and closed forms; what evaluated runs measure beside their loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from ontogeny.lab.probe import PENALTIES, Probe, hidden_states, ridge, target_alignment
from ontogeny.streams import numpy_stream, stream
from ontogeny.training.text import Tokens


def example(seed: int, tokens: int = 200, d: int = 7, vocabulary: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = stream(seed, "probe")
    return (
        torch.randn(tokens, d, generator=generator, dtype=torch.float64),
        torch.randint(vocabulary, (tokens,), generator=generator),
    )


@given(seed=st.integers(0, 1000), which=st.integers(0, len(PENALTIES) - 1), scale=st.sampled_from([1e-3, 1.0, 1e3]))
@settings(deadline=None, max_examples=20)
def test_ridge_against_numpy(seed: int, which: int, scale: float) -> None:
    """Least squares with an unpenalised intercept; what it says doesn't depend on the scale of the states."""
    x, y = example(seed)
    X, Y = x.numpy() - x.numpy().mean(0), np.eye(11)[y.numpy()]
    penalty = PENALTIES[which] * np.trace(X.T @ X) / 7
    weights = np.linalg.solve(X.T @ X + penalty * np.eye(7), X.T @ (Y - Y.mean(0)))
    scores = Y.mean(0) + X @ weights
    readout = ridge(scale * x, y, 11)[which]
    assert np.allclose(readout.weights.numpy() * scale, weights, atol=1e-9)
    assert readout.error(scale * x, y) == pytest.approx(float((scores.argmax(1) != y.numpy()).mean()), abs=1e-12)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_alignment_is_cka_with_one_hot_targets(seed: int) -> None:
    """The biased estimator: ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred features."""
    x, y = example(seed)
    X, Y = (features - features.mean(0) for features in (x, torch.eye(11, dtype=torch.float64)[y]))
    expected = (X.T @ Y).square().sum() / ((X.T @ X).norm() * (Y.T @ Y).norm())
    assert target_alignment(x, y, 11) == pytest.approx(float(expected))


def test_states_that_hold_the_target_align_with_it_fully() -> None:
    _, y = example(0)
    assert target_alignment(torch.eye(11, dtype=torch.float64)[y], y, 11) == pytest.approx(1.0)


def made_up(vocabulary: int, rule: bool) -> Tokens:
    """Every token decides the next one, or nothing does."""
    rng = numpy_stream(0, "tokens")
    ids = np.zeros(30_000, np.uint16)
    draws = rng.integers(0, vocabulary, len(ids))
    for i in range(1, len(ids)):
        ids[i] = (ids[i - 1] * 5 + 3) % vocabulary if rule and i % 20 else draws[i]
    return Tokens(ids[:20_000], ids[20_000:25_000], ids[25_000:], vocabulary, "made up")


@pytest.mark.parametrize(("rule", "low", "high"), [(True, 0.0, 0.2), (False, 0.9, 1.0)])
def test_it_reads_what_is_there(rule: bool, low: float, high: float) -> None:
    """An untrained network's states hold the token that it reads, so a rule of one token can be read off them."""
    model = tiny_model("llama")
    vocabulary = model.config.vocab_size
    found = Probe(made_up(vocabulary, rule), 16, "test")(model)
    assert low <= found["probe"] <= high
    assert found["guess"] > 0.9
    assert low <= found["embedded"] <= high, "the token itself says all there is"


def test_states_are_those_that_the_head_reads() -> None:
    model = tiny_model("llama").eval()
    ids = torch.arange(32).view(4, 8)
    first, last = hidden_states(model, ids)
    assert first.shape == last.shape == (32, model.config.hidden_size)
    head, table = (m.weight.double() for m in (model.get_output_embeddings(), model.get_input_embeddings()))
    assert torch.allclose(last @ head.T, model(input_ids=ids).logits.flatten(0, 1).double(), atol=1e-5)
    assert torch.equal(first, table[ids.flatten()])


def test_it_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    model = tiny_model("llama").train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    Probe(made_up(model.config.vocab_size, True), 16, "test")(model)
    assert model.training
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
