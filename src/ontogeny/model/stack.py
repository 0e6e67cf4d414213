"""Networks of one structure side by side, as one network whose products are batched over them."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.model.layers import LowRankLinear, MaskedLinear, OneSidedLinear, SubspaceLinear

Rows = Float[Tensor, "members batch *length _"]


def structure(model: nn.Module) -> str | None:
    """What networks must have alike to stand side by side; None where a network has a layer of no kind known here.

    Also None for positions that are learnt (GPT-2), since all sequences share their rows, and for directions that have
    been pruned.
    """
    found = [model.config.to_json_string()]  # type: ignore[operator, union-attr]
    for name, module in model.named_modules():
        tensors = [(key, p.shape, p.requires_grad) for key, p in module.named_parameters(recurse=False)]
        tensors += [(key, buffer.shape, False) for key, buffer in module.named_buffers(recurse=False)]
        learnt = name.endswith("wpe") or getattr(module, "alive", None) is not None
        if learnt or (module._parameters and _kind(module) is None):
            return None
        found.append(f"{name} {type(module).__name__} {getattr(module, 'side', '')} {tensors}")
    return "\n".join(found)


@torch.no_grad()
def stack(models: Sequence[nn.Module]) -> nn.Module:
    """One network for inputs (members · batch, …), where each member's rows pass through that member's weights.

    The members stay networks of their own, and their parameters lie in the stack's memory from now on: what changes
    one changes the other. Gradients come to the stack's parameters, (members, …) each. InputError where the members'
    ``structure`` isn't one that can be stacked, or not the same.
    """
    if None in (kinds := {structure(model) for model in models}) or len(kinds) != 1:
        raise InputError("stack: expected networks of one structure, of layers that can be stacked")
    whole = copy.deepcopy(models[0])
    shared: dict[int, nn.Parameter] = {}  # a tied head is its embedding
    for name, module in models[0].named_modules():
        if module._parameters:
            layers = [model.get_submodule(name) for model in models]
            whole.set_submodule(name, StackedLayer(layers, shared))
    return whole


class StackedLayer(nn.Module):
    """The layers of all members at one place: their parameters and buffers under the same names, (members, …) each."""

    def __init__(self, layers: Sequence[nn.Module], shared: dict[int, nn.Parameter]) -> None:
        super().__init__()
        self.like = [layers[0]]  # in a list, so that it isn't a submodule
        own: list[Any]
        for name in layers[0]._parameters:
            own = [getattr(layer, name) for layer in layers]
            self.register_parameter(name, None if own[0] is None else _together(own, shared))
        for name in layers[0]._buffers:
            own = [getattr(layer, name) for layer in layers]
            self.register_buffer(name, None if own[0] is None else torch.stack(own))

    def forward(self, x: Shaped[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        compute = _kind(self.like[0])
        assert compute is not None
        members = len(next(self.parameters()))
        return compute(self, x.unflatten(0, (members, -1))).flatten(0, 1)


def _together(own: Sequence[nn.Parameter], shared: dict[int, nn.Parameter]) -> nn.Parameter:
    if id(own[0]) not in shared:
        whole = nn.Parameter(torch.stack([p.detach() for p in own]), requires_grad=own[0].requires_grad)
        for parameter, part in zip(own, whole.detach(), strict=True):
            parameter.data = part
        shared[id(own[0])] = whole
    return shared[id(own[0])]


@torch.no_grad()
def give_gradients(whole: nn.Module, models: Sequence[nn.Module], largest: float) -> None:
    """Hand the gradients of a stack over to its members, none with a norm above ``largest``."""
    trained = {name: p for name, p in whole.named_parameters() if p.grad is not None}
    norms = torch.stack([p.grad.flatten(1).norm(dim=1) for p in trained.values()]).norm(dim=0)  # type: ignore[union-attr]
    factors = (largest / (norms + 1e-6)).clamp(max=1)  # (members,), as torch.nn.utils.clip_grad_norm_ has them
    for name, parameter in trained.items():
        clipped = parameter.grad * factors.view(-1, *[1] * (parameter.ndim - 1))
        for model, gradient in zip(models, clipped, strict=True):
            model.get_parameter(name).grad = gradient
        parameter.grad = None


# What each kind of layer does to (members, batch, …, inputs), its tensors being (members, …) -------------------


def _product(x: Rows, W: Float[Tensor, "members inputs outputs"], layer: nn.Module | None = None) -> Rows:
    """x W for every member, plus the bias of the layer, where it is given and has one."""
    flat = x.flatten(1, -2)
    bias: Tensor | None = getattr(layer, "bias", None)
    y = torch.bmm(flat, W) if bias is None else torch.baddbmm(bias[:, None], flat, W)
    found: Tensor = y.unflatten(1, x.shape[1:-1])
    return found


def _along(vector: Float[Tensor, "members outputs"], x: Rows) -> Tensor:
    """A vector of each member, shaped to multiply or add to its rows."""
    return vector.view(len(vector), *[1] * (x.ndim - 2), -1)


def _embedding(layer: Any, ids: Tensor) -> Tensor:
    first = torch.arange(len(layer.weight), device=ids.device) * layer.weight.shape[1]
    x, padding = F.embedding(ids + first.view(-1, 1, 1), layer.weight.flatten(0, 1)), layer.like[0].padding_idx
    return x if padding is None else torch.where((ids == padding)[..., None], x.detach(), x)  # it has no gradient


def _linear(layer: Any, x: Rows) -> Rows:
    return _product(x, layer.weight.mT, layer)


def _layer_norm(layer: Any, x: Rows) -> Rows:
    like = layer.like[0]
    x = F.layer_norm(x, like.normalized_shape, eps=like.eps) * _along(layer.weight, x)
    return x if layer.bias is None else x + _along(layer.bias, x)


def _rms_norm(layer: Any, x: Rows) -> Rows:
    normal = F.rms_norm(x.float(), (x.shape[-1],), eps=layer.like[0].variance_epsilon)
    return _along(layer.weight, x) * normal.to(x.dtype)


def _subspace(layer: Any, x: Rows) -> Rows:
    z = _product(x, layer.V)
    z = _product(z, layer.core.mT) if layer.core.ndim == 3 else z * _along(layer.core, z)
    return _product(z, layer.U.mT, layer)


def _one_sided(layer: Any, x: Rows) -> Rows:
    if layer.like[0].side == "left":
        return _product(_product(x, layer.factor.mT), layer.basis.mT, layer)
    return _product(_product(x, layer.basis), layer.factor.mT, layer)


def _low_rank(layer: Any, x: Rows) -> Rows:
    return _product(_product(x, layer.B), layer.A.mT, layer)


def _masked(layer: Any, x: Rows) -> Rows:
    zeros = layer.kept.new_zeros(len(layer.kept), layer.keep[0].numel())
    return _product(x, zeros.scatter(1, layer.places, layer.kept).view(layer.keep.shape).mT, layer)


KINDS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Embedding: _embedding,
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    SubspaceLinear: _subspace,
    OneSidedLinear: _one_sided,
    LowRankLinear: _low_rank,
    MaskedLinear: _masked,
}


def _kind(module: nn.Module) -> Callable[[Any, Tensor], Tensor] | None:
    if type(module).__name__.endswith("RMSNorm"):  # every model type has its own, all alike
        return _rms_norm
    return KINDS.get(type(module))
