"""Constrained layers: closed-form gradients, what is kept for backward, exact zeros under every optimiser."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
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
from ontogeny.model.layers import (
    Constrained,
    FusedLinear,
    LowRankLinear,
    MaskedLinear,
    OneSidedLinear,
    SharedInput,
    SubspaceLinear,
)
from ontogeny.streams import stream


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "test", *shape), dtype=torch.float64)


def bases(m: int, n: int, k: int) -> tuple[Tensor, Tensor]:
    return haar(m, k, stream(0, "U")), haar(n, k, stream(0, "V"))


def subspace_linear(m: int, n: int, k: int) -> SubspaceLinear:
    return SubspaceLinear(*bases(m, n, k), normal(k, k), normal(m))


def diagonal_linear(m: int, n: int, k: int) -> SubspaceLinear:
    return SubspaceLinear(*bases(m, n, k), normal(k), normal(m))


def left_linear(m: int, n: int, k: int) -> OneSidedLinear:
    return OneSidedLinear(bases(m, n, k)[0], normal(k, n), normal(m), side="left")


def right_linear(m: int, n: int, k: int) -> OneSidedLinear:
    return OneSidedLinear(bases(m, n, k)[1], normal(m, k), normal(m), side="right")


FIXED: dict[str, Callable[[int, int, int], Any]] = {
    "subspace": subspace_linear,
    "diagonal": diagonal_linear,
    "left": left_linear,
    "right": right_linear,
}
TRAINED = {"subspace": "core", "diagonal": "core", "left": "factor", "right": "factor"}


def masked_linear(m: int, n: int, share: float = 0.3) -> MaskedLinear:
    keep = torch.rand(m, n, generator=stream(0, "keep")) < share
    return MaskedLinear(normal(m, n), keep, normal(m))


@pytest.mark.parametrize("kind", FIXED)
@given(m=st.integers(1, 12), n=st.integers(1, 12), data=st.data())
def test_gradients_are_projections_of_the_plain_layers(kind: str, m: int, n: int, data: st.DataObject) -> None:
    """dL/dC = Uᵀ G V or its diagonal, dL/dA = Uᵀ G or G V, G = Σ_t δ_t x_tᵀ; dL/dx = δ W; dL/db = Σ_t δ_t."""
    k = data.draw(st.integers(1, min(m, n)))
    layer, (U, V) = FIXED[kind](m, n, k), bases(m, n, k)
    x, delta = normal(2, 3, n).requires_grad_(), normal(2, 3, m, seed=1)
    layer(x).backward(delta)
    G = delta.flatten(0, 1).T @ x.detach().flatten(0, 1)
    expected = {"subspace": U.T @ G @ V, "diagonal": (U.T @ G @ V).diagonal(), "left": U.T @ G, "right": G @ V}
    torch.testing.assert_close(getattr(layer, TRAINED[kind]).grad, expected[kind])
    torch.testing.assert_close(layer.bias.grad, delta.sum((0, 1)))
    torch.testing.assert_close(x.grad, delta @ layer.weight.detach())


def sharing(*layers: SubspaceLinear) -> SharedInput:
    shared = SharedInput(layers)
    for layer in layers:
        layer.shared = shared
    return shared


@given(ranks=st.lists(st.integers(1, 9), min_size=2, max_size=4), diagonal=st.booleans())
def test_a_shared_product_is_each_layers_own(ranks: list[int], diagonal: bool) -> None:
    """Outputs, and the gradients of cores, biases and the input, are those of layers by themselves."""
    build = diagonal_linear if diagonal else subspace_linear
    alone, together = ([build(10 + k, 9, k) for k in ranks] for _ in range(2))
    shared = sharing(*together)
    outputs, gradients = [], []
    for layers in (alone, together):
        x = normal(2, 3, 9).requires_grad_()
        outputs.append([layer(x) for layer in layers])
        sum(((i + 1) * y.square()).sum() for i, y in enumerate(outputs[-1])).backward()
        gradients.append([x.grad, *(p.grad for layer in layers for p in layer.parameters())])
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert (shared.of, shared.waiting) == ((), {})


def test_a_shared_product_is_of_the_input_and_mode_asked_for() -> None:
    """In any order, again, of another input, after one of them was called without gradients, in another precision."""
    first, second = subspace_linear(5, 4, 3), subspace_linear(6, 4, 2)
    sharing(first, second)
    x = normal(3, 4).requires_grad_()
    other = x.detach() + 1
    for layer, given_x in ((second, x), (second, x), (first, other), (second, x), (first, x), (first, other)):
        torch.testing.assert_close(layer(given_x), F.linear(given_x, layer.weight, layer.bias))
    with torch.no_grad():
        first(x)
    second(x).sum().backward()
    torch.testing.assert_close(x.grad, second.weight.detach().sum(0).expand(3, 4))
    single, x = [layer.float() for layer in (first, second)], normal(3, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert single[0](x).dtype == torch.bfloat16
    assert single[1](x).dtype == torch.float32


LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{kind: partial(build, 5, 4, 3) for kind, build in FIXED.items()},
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
    assert layer.shape == layer.weight.shape == (5, 4)


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


@pytest.mark.parametrize("kind", FIXED)
def test_weight_is_the_product_of_the_factors(kind: str) -> None:
    layer, (U, V) = FIXED[kind](6, 5, 3), bases(6, 5, 3)
    values = getattr(layer, TRAINED[kind]).detach().numpy()
    u, v = U.numpy(), V.numpy()
    expected = {
        "subspace": lambda: u @ values @ v.T,
        "diagonal": lambda: sum(values[i] * np.outer(u[:, i], v[:, i]) for i in range(3)),
        "left": lambda: u @ values,
        "right": lambda: values @ v.T,
    }
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected[kind](), atol=1e-14)


@pytest.mark.parametrize("kind", [*FIXED, "masked"])
def test_projection_is_the_nearest_weight(kind: str) -> None:
    """By least squares over the trained values, of which the weight is a linear function."""
    layer = LAYERS[kind]()
    assert isinstance(layer, Constrained)
    name = {"masked": "kept", **TRAINED}[kind]
    values, W = getattr(layer, name), normal(5, 4, seed=2)
    shape, directions = values.shape, []
    for unit in torch.eye(values.numel(), dtype=torch.float64):
        with torch.no_grad():
            values.copy_(unit.view(shape))
            directions.append(layer.weight.flatten().numpy())
    basis = np.stack(directions, axis=1)
    nearest = basis @ np.linalg.lstsq(basis, W.flatten().numpy(), rcond=None)[0]
    layer.project_(W)  # type: ignore[operator]
    np.testing.assert_allclose(layer.weight.detach().flatten().numpy(), nearest, atol=1e-12)
    assert values.requires_grad
    assert values.grad_fn is None


@pytest.mark.parametrize("kind", FIXED)
def test_bases_are_neither_parameters_nor_differentiated(kind: str) -> None:
    layer = FIXED[kind](20, 30, 4)
    assert {name for name, _ in layer.named_parameters()} == {TRAINED[kind], "bias"}
    buffers = dict(layer.named_buffers())
    assert set(buffers) == ({"U", "V"} if TRAINED[kind] == "core" else {"basis"})
    layer(normal(7, 30)).sum().backward()
    for basis in buffers.values():
        assert basis.grad is None
        assert not basis.requires_grad
        assert basis.T.is_contiguous()  # column by column, which bf16 products want


@pytest.mark.parametrize("kind", FIXED)
def test_the_product_is_never_formed(kind: str) -> None:
    """No (d_out, d_in) tensor appears in forward or backward; a core needs x no longer, its k coordinates do."""
    m, n, k, tokens = 40, 50, 4, 7
    layer = FIXED[kind](m, n, k)
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
    weights = {t.data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    activations = [t.numel() for t in kept if t.data_ptr() not in weights]
    assert max(activations) <= tokens * (n if kind == "left" else k)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1),
    "adamw-fused": lambda p: AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.1, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": lambda p: Adagrad(p, lr=0.1, weight_decay=0.1, initial_accumulator_value=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_weights_stay_exactly_zero_and_have_no_optimiser_state(name: str) -> None:
    """Momentum and weight decay included: gradient and state are of the kept weights' number."""
    layer = masked_linear(8, 6).float()
    optimizer = OPTIMIZERS[name]([layer.kept])
    start, count = layer.kept.detach().clone(), int(layer.keep.sum())
    assert 0 < count < 48
    for step in range(4):
        x = normal(16, 6, seed=step).float()
        (layer(x) - 3 * x.sum(-1, keepdim=True)).square().mean().backward()
        assert layer.kept.grad is not None
        assert layer.kept.grad.shape == (count,)
        optimizer.step()
        optimizer.zero_grad()
        for weight in (layer.weight, layer.plain().weight):
            assert torch.count_nonzero(weight[~layer.keep]) == 0  # type: ignore[index]
        states = [s for s in optimizer.state[layer.kept].values() if torch.is_tensor(s) and s.ndim]
        assert states
        assert all(s.shape == (count,) for s in states)
    assert (layer.kept != start).all()


def test_a_mask_may_keep_nothing() -> None:
    layer = MaskedLinear(normal(4, 3), torch.zeros(4, 3, dtype=torch.bool), normal(4))
    optimizer = AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(normal(5, 3)).square().sum().backward()
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    assert torch.count_nonzero(layer.weight) == 0


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_a_masked_layer_trains_like_a_matrix_whose_gradient_is_masked(share: float) -> None:
    """The full state's way: AdamW leaves what starts at zero, with no gradient, at zero. Clipping's norm is equal."""
    layer = masked_linear(24, 16, share=share).float()
    keep, whole = layer.keep, nn.Parameter(layer.weight.detach().clone())
    whole.register_hook(lambda gradient: gradient * keep)
    optimizers = [AdamW([p], lr=0.1, weight_decay=0.1, fused=True) for p in (layer.kept, whole)]
    for step in range(5):
        x, target = normal(16, 16, seed=step).float(), normal(16, 24, seed=step).float() * 10 ** (step - 2)
        (layer(x) - target).square().mean().backward()
        (F.linear(x, whole, layer.bias) - target).square().mean().backward()
        norms = [nn.utils.clip_grad_norm_(p, 1.0) for p in (layer.kept, whole)]
        torch.testing.assert_close(*norms)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(layer.weight, whole)
    states = [optimizer.state[p] for optimizer, p in zip(optimizers, (layer.kept, whole), strict=True)]
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(states[0][key], states[1][key][keep])
        assert torch.count_nonzero(states[1][key][~keep]) == 0
    assert torch.count_nonzero(whole[~keep]) == 0


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
    assert fused.shape == (8, 6)
    assert fused.bias is not None
    assert torch.equal(fused.bias, b)
    torch.testing.assert_close(fused(x), F.linear(x, W, b))
    plain = fused.plain()
    assert isinstance(plain, Conv1D if transposed else nn.Linear)
    torch.testing.assert_close(plain(x), F.linear(x, W, b))
