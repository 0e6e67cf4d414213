"""Networks that use their largest feed-forward units alone, against NumPy; and how few units do most of the work."""

import numpy as np
import pytest
import torch
from tiny import FFN, TINY, VOCABULARY, tiny_model
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.model.topk import busy_share, carriers, use_top

TOKENS = torch.arange(12)[None] % VOCABULARY
LANGUAGE = [name for name in TINY if name != "vit"]


def entering(name: str, share: float) -> list[Tensor]:
    """What enters every layer's last feed-forward matrix."""
    model, found = tiny_model(name), []
    for module in model.modules():
        for child in ("down_proj", "dense_4h_to_h") + (("c_proj",) if hasattr(module, "c_fc") else ()):
            if hasattr(module, child):
                getattr(module, child).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
    use_top(model, share)(input_ids=TOKENS)
    return found


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_architecture_uses_so_many_units(name: str) -> None:
    layers = entering(name, 0.25)
    assert len(layers) == 2
    for h in layers:
        assert h.shape[-1] == FFN
        assert (h.count_nonzero(dim=-1) == FFN // 4).all()
    assert all((h.count_nonzero(dim=-1) > FFN // 2).all() for h in entering(name, 1.0))


def test_output_and_gradient_in_closed_form() -> None:
    """One Llama feed-forward block in NumPy: units by |silu(gate)|, gradients through the kept ones alone."""
    model = use_top(tiny_model("llama"), 0.25)
    mlp = model.get_submodule("model.layers.0.mlp")
    x = torch.linspace(-1, 1, 3 * 32).view(3, 32).requires_grad_()
    y = mlp(x)
    y.sum().backward()
    G, U, D = (getattr(mlp, f"{kind}_proj").weight.detach().double().numpy() for kind in ("gate", "up", "down"))
    X = x.detach().double().numpy()
    z, u = X @ G.T, X @ U.T
    sigmoid = 1 / (1 + np.exp(-z))
    act = z * sigmoid
    keep = np.abs(act) >= np.sort(np.abs(act), axis=1)[:, [-FFN // 4]]
    assert np.allclose(y.detach().numpy(), (keep * act * u) @ D.T, atol=1e-5)
    into = D.sum(0) * keep  # the gradient of the sum at the kept units
    slope = sigmoid * (1 + z * (1 - sigmoid))
    expected = (into * u * slope) @ G + (into * act) @ U
    assert np.allclose(x.grad.numpy(), expected, atol=1e-4)  # type: ignore[union-attr]


def test_all_units_is_the_plain_network() -> None:
    plain, topped = (tiny_model("gpt2")(input_ids=TOKENS).logits, use_top(tiny_model("gpt2"), 1.0)(TOKENS).logits)
    assert torch.equal(plain, topped)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_cant_be(share: float) -> None:
    with pytest.raises(InputError, match="share of units"):
        use_top(tiny_model("llama"), share)


def test_carriers_in_closed_form() -> None:
    rows = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [3, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, 1]])
    assert carriers(rows).tolist() == [0.25, 1.0, 0.25, 0.0, 0.75]


def test_a_network_that_uses_few_units_is_less_busy() -> None:
    plain, topped = tiny_model("llama"), use_top(tiny_model("llama"), 0.25)
    assert 0 < busy_share(topped, TOKENS) <= 0.25 < busy_share(plain, TOKENS) < 1
    plain.train()
    busy_share(plain, TOKENS)
    assert plain.training
    assert not any(module._forward_pre_hooks for module in plain.modules()), "nothing stays behind"
