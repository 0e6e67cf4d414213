"""Constrained layers: closed-form gradients, what is kept for backward, exact zeros under every optimiser."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from ontogeny.genome.linalg import haar
from ontogeny.model.layers import FusedLinear, LowRankLinear, MaskedLinear, SubspaceLinear, enforce_masks
from ontogeny.streams import stream


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "test", *shape), dtype=torch.float64)


def subspace_linear(m: int, n: int, k: int) -> SubspaceLinear:
    U, V = (haar(d, k, stream(0, name)) for name, d in (("U", m), ("V", n)))
    return SubspaceLinear(U, V, normal(k, k), normal(m))


def masked_linear(m: int, n: int, share: float = 0.3) -> MaskedLinear:
    keep = torch.rand(m, n, generator=stream(0, "keep")) < share
    return MaskedLinear(normal(m, n), keep, normal(m))


@given(m=st.integers(1, 12), n=st.integers(1, 12), data=st.data())
def test_core_gradient_is_the_projected_weight_gradient(m: int, n: int, data: st.DataObject) -> None:
    """dL/dC = Uᵀ G V, G = Σ_t δ_t x_tᵀ the gradient of the plain layer; dL/dx = δ W; dL/db = Σ_t δ_t."""
    k = data.draw(st.integers(1, min(m, n)))
    layer = subspace_linear(m, n, k)
    x, delta = normal(2, 3, n).requires_grad_(), normal(2, 3, m, seed=1)
    layer(x).backward(delta)
    G = delta.flatten(0, 1).T @ x.detach().flatten(0, 1)
    assert layer.bias is not None
    torch.testing.assert_close(layer.core.grad, layer.U.T @ G @ layer.V)
    torch.testing.assert_close(layer.bias.grad, delta.sum((0, 1)))
    torch.testing.assert_close(x.grad, delta @ layer.weight.detach())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "subspace": lambda: subspace_linear(5, 4, 3),
    "low-rank": lambda: LowRankLinear(normal(5, 3), normal(4, 3), normal(5)),
    "masked": lambda: masked_linear(5, 4),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_by_finite_differences_and_outputs_by_weight(kind: str) -> None:
    layer = LAYERS[kind]()
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return output

    x = normal(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LAYERS)
def test_plain_layer_computes_the_same(kind: str) -> None:
    layer = LAYERS[kind]()
    x = normal(2, 3, 4)
    plain = layer.plain()  # type: ignore[operator]
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain(x), layer(x))
    layer.transposed = True  # type: ignore[assignment]
    conv = layer.plain()  # type: ignore[operator]
    assert type(conv) is Conv1D
    assert conv.weight.shape == (4, 5)
    torch.testing.assert_close(conv(x), layer(x))


def test_plain_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    layer = subspace_linear(5, 4, 3)
    layer.plain()
    layer.transposed = True
    layer.plain()
    assert torch.equal(before, torch.get_rng_state())


def test_bases_are_neither_parameters_nor_differentiated() -> None:
    layer = subspace_linear(20, 30, 4)
    assert {name for name, _ in layer.named_parameters()} == {"core", "bias"}
    assert {name for name, _ in layer.named_buffers()} == {"U", "V"}
    layer(normal(7, 30)).sum().backward()
    assert layer.U.grad is None
    assert layer.V.grad is None
    assert not layer.U.requires_grad


def test_the_product_is_never_formed() -> None:
    """No (d_out, d_in) tensor appears in forward or backward; x isn't kept, only its k coordinates are."""
    m, n, k, tokens = 40, 50, 4, 7
    layer = subspace_linear(m, n, k)
    kept: list[Tensor] = []
    seen: list[tuple[int, ...]] = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            seen.extend(tuple(t.shape) for t in tree_leaves(result) if torch.is_tensor(t))
            return result

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    shapes: Any = Shapes
    with shapes(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(normal(tokens, n).requires_grad_()).sum().backward()
    assert (tokens, k) in seen  # the recorder works
    assert not {(m, n), (n, m)} & set(seen)
    bases = {layer.U.data_ptr(), layer.V.data_ptr()}
    assert max(t.numel() for t in kept if t.data_ptr() not in bases) <= tokens * k


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1),
    "adamw-fused": lambda p: AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.1, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": lambda p: Adagrad(p, lr=0.1, weight_decay=0.1, initial_accumulator_value=0.1),
    "muon": lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_weights_and_their_optimiser_state_stay_exactly_zero(name: str) -> None:
    """Even when a step revives them: Muon's orthogonalisation does, and so does a state loaded from before."""
    layer = masked_linear(8, 6).float()
    optimizer = OPTIMIZERS[name]([p for p in layer.parameters() if p.ndim == 2])
    enforce_masks(nn.Sequential(layer), optimizer)
    dead, start = ~layer.keep, layer.kept.detach().clone()
    for step in range(4):
        x = normal(16, 6, seed=step).float()
        (layer(x) - 3 * x.sum(-1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.count_nonzero(layer.kept[dead]) == 0
        states = [s for s in optimizer.state[layer.kept].values() if torch.is_tensor(s) and s.ndim == 2]
        assert states
        assert all(torch.count_nonzero(s[dead]) == 0 for s in states)
    assert (layer.kept != start)[layer.keep].all()  # the rest did learn


def test_revived_momentum_is_cleared() -> None:
    """A state that holds momentum for dead weights (a pruned dense run's) moves none of them."""
    layer = masked_linear(8, 6)
    optimizer = SGD([layer.kept], lr=0.1, momentum=0.9)
    enforce_masks(layer, optimizer)
    optimizer.state[layer.kept]["momentum_buffer"] = torch.ones_like(layer.kept)
    for _ in range(2):
        layer(normal(4, 6)).square().sum().backward()
        optimizer.step()
        assert torch.count_nonzero(layer.kept[~layer.keep]) == 0
        assert torch.count_nonzero(optimizer.state[layer.kept]["momentum_buffer"][~layer.keep]) == 0


def test_a_masked_layer_trains_like_one_that_has_only_the_kept_weights() -> None:
    """With clipping too: what isn't there adds nothing to the gradient's norm."""
    layer = masked_linear(8, 6, share=0.2)
    values = nn.Parameter(layer.kept.detach()[layer.keep])
    optimizers = [Adam([layer.kept], lr=0.1), Adam([values], lr=0.1)]
    enforce_masks(layer, optimizers[0])
    for step in range(5):
        x, target = normal(16, 6, seed=step), normal(16, 8, seed=step) * 10 ** (step - 2)
        W = torch.zeros_like(layer.kept).masked_scatter(layer.keep, values)
        (layer(x) - target).square().sum().backward()
        (F.linear(x, W, layer.bias) - target).square().sum().backward()
        norms = [nn.utils.clip_grad_norm_(p, 1.0) for p in (layer.kept, values)]
        torch.testing.assert_close(*norms)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(layer.kept[layer.keep], values)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_fused_rows_lie_as_stored(interleaved: bool, transposed: bool) -> None:
    """Stored row r of the fused weight is the row of the part that owns it (GPT-NeoX interleaves by head)."""
    parts: dict[str, nn.Module] = {"q.x": subspace_linear(4, 6, 2), "k.x": masked_linear(4, 6)}
    rows = {"q.x": [0, 1, 4, 5], "k.x": [2, 3, 6, 7]} if interleaved else {"q.x": [0, 1, 2, 3], "k.x": [4, 5, 6, 7]}
    order = torch.tensor([*rows["q.x"], *rows["k.x"]]).argsort() if interleaved else None
    fused = FusedLinear(parts, order, transposed)
    W, b = torch.empty(8, 6, dtype=torch.float64), torch.empty(8, dtype=torch.float64)
    for name, index in rows.items():
        W[index], b[index] = parts[name].weight.detach(), parts[name].bias.detach()  # type: ignore[operator]
    x = normal(3, 6)
    assert torch.equal(fused.weight, W)
    assert fused.bias is not None
    assert torch.equal(fused.bias, b)
    torch.testing.assert_close(fused(x), F.linear(x, W, b))
    plain = fused.plain()
    assert isinstance(plain, Conv1D if transposed else nn.Linear)
    torch.testing.assert_close(plain(x), F.linear(x, W, b))
