"""The fast forward and loss: what transformers and PyTorch give, in values, gradients and under autocast."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import FFN, TINY, VOCABULARY, D, tiny_model
from torch import Tensor, nn

from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import make_site
from ontogeny.model import fast
from ontogeny.model.constrain import constrain, site_shapes
from ontogeny.model.fast import LLAMAS, head_loss, hidden_states, next_token_loss
from ontogeny.streams import stream

WINDOWS = torch.randint(0, VOCABULARY, (3, 18), generator=stream(0, "windows"))
LANGUAGE = [name for name, (kind, _) in TINY.items() if kind != "vit"]


def stock_loss(model: nn.Module, windows: Tensor) -> Tensor:
    """As transformers computes it, all logits at once."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def undropped(name: str) -> Any:
    """A tiny model as it trains, without dropout."""
    model = tiny_model(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def gradients(model: nn.Module, loss: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss(model, WINDOWS).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LANGUAGE)
def test_losses_and_gradients_are_those_of_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fast.ENTRIES, "cpu", 7 * VOCABULARY)  # parts of 7 rows, the last one smaller
    model = undropped(name)
    found, expected = gradients(model, next_token_loss), gradients(model, stock_loss)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6, msg=key)
    torch.testing.assert_close(next_token_loss(model, WINDOWS), stock_loss(model, WINDOWS))
    with torch.no_grad():
        torch.testing.assert_close(next_token_loss(model, WINDOWS), stock_loss(model, WINDOWS))


@pytest.mark.parametrize("name", LLAMAS)
def test_autocast_rounds_as_transformers_does(name: str) -> None:
    model = tiny_model(name).train()
    exact = gradients(model, stock_loss)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = next_token_loss(model, WINDOWS), stock_loss(model, WINDOWS)
        ours, theirs = gradients(model, next_token_loss), gradients(model, stock_loss)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    off = [sum((it[key] - exact[key]).square().sum() for key in exact) for it in (ours, theirs)]
    assert off[0] < 1.2 * off[1]


def test_the_head_gets_no_gradient_where_it_is_frozen() -> None:
    model = tiny_model("llama").train()
    model.lm_head.requires_grad_(False)
    assert "lm_head.weight" not in gradients(model, next_token_loss)


def test_the_loss_of_a_certain_mistake_is_finite() -> None:
    h = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = head_loss(h, torch.eye(2), torch.tensor([1]))
    assert loss.item() == 400
    loss.backward()
    assert h.grad is not None
    assert h.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("change", [{"attn": "eager"}, {"window": 16}, {"dropout": 0.5}])
def test_what_it_does_not_know_is_left_to_transformers(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("mistral").train()
    model.config.sliding_window = change.get("window")
    model.config.attention_dropout = change.get("dropout", 0.0)
    model.set_attn_implementation(change.get("attn", "sdpa"))
    monkeypatch.setattr(fast, "_llama", None)  # calling it would fail
    assert hidden_states(model, WINDOWS[:, :-1]).shape == (3, 17, 32)


def test_a_feed_forward_block_in_subspaces_keeps_none_of_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fast.ENTRIES, "cpu", 7 * FFN)  # parts of 7 tokens, the last one smaller
    model = tiny_model("llama").train()
    genes = {make_site(name, shape): subspace(name, shape) for name, shape in site_shapes(model).items()}
    constrain(model, Genome(genes, {}))
    found, expected = gradients(model, next_token_loss), gradients(model, stock_loss)
    assert sum("core" in key for key in found) == 14
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6, msg=key)
    widths = []

    def note(kept: Tensor) -> Tensor:
        widths.append(kept.shape[-1])
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        x = torch.randn(2, 9, D, requires_grad=True)
        fast._feed_forward(model.model.layers[0].mlp, x)
    assert FFN not in widths
    assert len(widths) > 5


def subspace(name: str, shape: tuple[int, int]) -> Subspace:
    U, V = (haar(d, 5, stream(0, name, side)).float() for side, d in zip("UV", shape, strict=True))
    return Subspace(U, V)
