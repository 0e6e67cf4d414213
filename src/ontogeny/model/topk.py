"""Which feed-forward units a token uses: the largest alone, or how few do most of the work."""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.model.constrain import model_places

CARRIED = 0.9  # of the squared activation


def use_top(model: nn.Module, share: float) -> nn.Module:
    """Let every token use only the units whose activations are largest in magnitude, in place: ``share`` of a layer's.

    The others are zero after the activation function, with no gradient; so their rows of a gated ``up`` and their
    columns of ``down`` are not needed for this token. As Lee et al. 2024 (CATS, arXiv:2404.08763), who cut at a
    threshold. Raises InputError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share of units to use: expected a number above 0 and at most 1, found {share}")
    for name in _downs(model):
        mlp = model.get_submodule(name.rpartition(".")[0])
        activation = next((child for key, child in mlp.named_children() if key.startswith("act")), None)
        if activation is None:
            raise InputError(f"{name}: no activation function beside it, so no units to choose from")
        activation.register_forward_hook(partial(_keep_top, share))
    return model


def top_units(share: float, units: int) -> int:
    """How many of a layer's units a token uses."""
    return max(1, round(share * units))


def _keep_top(share: float, _module: nn.Module, _inputs: object, y: Float[Tensor, "*batch units"]) -> Tensor:
    chosen = y.abs().topk(top_units(share, y.shape[-1]), dim=-1).indices
    return torch.where(torch.zeros_like(y, dtype=torch.bool).scatter(-1, chosen, True), y, 0.0)


def _downs(model: nn.Module) -> Iterator[str]:
    """The names of the modules that read the feed-forward units."""
    return (place.name for place in model_places(model) if place.linear.roles == ("mlp.down",))


@torch.no_grad()
def busy_share(model: nn.Module, windows: Int[Tensor, "count length"]) -> float:
    """The smallest share of a layer's units that carries 90 % of what enters ``down``, squared.

    The mean over tokens and layers. It is a point of the activations' Lorenz curve, the basis of the measures of
    sparsity that Hurley & Rickard 2009 (arXiv:0811.4706) compare.
    """
    found: list[float] = []

    def measure(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(float(carriers(inputs[0]).mean()))

    hooks = [model.get_submodule(name).register_forward_pre_hook(measure) for name in list(_downs(model))]
    training = model.training
    model.eval()
    try:
        model(input_ids=windows.to(next(model.parameters()).device), use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sum(found) / len(found)


def carriers(h: Float[Tensor, "*batch units"], carried: float = CARRIED) -> Float[Tensor, "*batch"]:
    """The smallest share of the entries that holds this share of their squares; of zeros none."""
    squares = h.double().square().sort(dim=-1, descending=True).values
    below = squares.cumsum(-1) < carried * squares.sum(-1, keepdim=True)
    used = below.sum(-1) + squares.any(-1)
    return used / h.shape[-1]
