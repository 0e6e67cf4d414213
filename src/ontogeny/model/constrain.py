"""Put a genome into a fresh Hugging Face model, and merge it back into plain weights."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.genome import Gene, Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Place, places
from ontogeny.model.layers import Constrained, FusedLinear, LowRankLinear, MaskedLinear, SubspaceLinear
from ontogeny.streams import stream

Build = Callable[[str, Tensor, Tensor | None], nn.Module]  # site name, dense draw (d_out, d_in), bias -> layer


def constrain(model: nn.Module, genome: Genome) -> nn.Module:
    """Replace, in place, every linear map that has a gene by a constrained layer; the model is returned.

    The model's own weights are the dense draw W₀ that all arms of a replicate share: a subspace starts at
    C = √(d_out·d_in)/k · Uᵀ W₀ V, a mask at W₀·√(d_out·d_in/kept) where kept; both have ‖W₀‖_F in expectation.

    Raises InputError for a genome whose sites or shapes are not the model's.
    """
    genes = {site.name: gene for site, gene in genome.genes.items()}
    shapes = {site.name: site.shape for site in genome.genes}
    found = site_shapes(model)
    for name, shape in shapes.items():
        if found.get(name) != shape:
            raise InputError(
                f"site {name}: the genome has the shape {shape}, the model {found.get(name, 'no such site')}: "
                "a genome fits models of its donor's architecture and size"
            )

    def build(name: str, W: Tensor, bias: Tensor | None) -> nn.Module:
        return _linear(W, bias) if name not in genes else _layer(genes[name], W, bias)

    return _replace(model, build)


def low_rank(model: nn.Module, ranks: dict[str, int], *, seed: int) -> nn.Module:
    """Replace, in place, every site in ``ranks`` by a trainable ``A Bᵀ`` that starts where a random genome would."""

    def build(name: str, W: Tensor, bias: Tensor | None) -> nn.Module:
        if name not in ranks:
            return _linear(W, bias)
        U, V = (haar(d, ranks[name], stream(seed, "random", name, side)) for side, d in zip("UV", W.shape, strict=True))
        start = _layer(Subspace(U.to(W.dtype), V.to(W.dtype)), W, bias)
        assert isinstance(start, SubspaceLinear)
        return LowRankLinear((start.U @ start.core).detach(), start.V, bias)

    return _replace(model, build)


CoreStart = Literal["values", "signs-flipped", "permuted"]


@torch.no_grad()
def start_cores(model: nn.Module, checkpoint: Checkpoint, start: CoreStart, *, seed: int) -> nn.Module:
    """Start a constrained model's cores from the checkpoint's values: C = Uᵀ W V = P diag(s) Qᵀ.

    ``signs-flipped`` draws a sign for every s, ``permuted`` a new order: the values' controls.
    """
    cores = {name: layer for name, layer in sites(model) if isinstance(layer, SubspaceLinear)}
    for site, W in checkpoint.weights():
        if site.name not in cores:
            continue
        layer = cores[site.name]
        P, s, Qt = torch.linalg.svd(layer.U.double().T @ W.double() @ layer.V.double())
        generator = stream(seed, "core", start, site.name)
        if start == "signs-flipped":
            s = s * (torch.randint(0, 2, s.shape, generator=generator) * 2 - 1)
        elif start == "permuted":
            s = s[torch.randperm(len(s), generator=generator)]
        layer.core.copy_((P * s) @ Qt)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Replace, in place, every constrained layer by a plain one with the same weight; the model is returned.

    What comes out is an ordinary Hugging Face model: ``save_pretrained`` writes a standard checkpoint.
    """
    outermost = [name for name, module in model.named_modules() if isinstance(module, Constrained)]
    for name in outermost:
        if ".parts." not in name:
            model.set_submodule(name, model.get_submodule(name).plain())  # type: ignore[operator]
    return model


def sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(site name, the layer that holds it) of a constrained model; only sites that stand as a layer of their own."""
    for place in model_places(model):
        module = model.get_submodule(place.name)
        parts = list(module.parts.values()) if isinstance(module, FusedLinear) else [module]
        if len(parts) == len(place.rows):
            yield from zip(place.rows, parts, strict=True)


def body_parameters(model: nn.Module) -> set[str]:
    """Names of the layer matrices' parameters (weights, cores, masked weights): what the *body* rate trains."""
    return {
        f"{place.name}.{name}"
        for place in model_places(model)
        for name, _ in model.get_submodule(place.name).named_parameters()
        if not name.endswith("bias")
    }


def site_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Site name -> (d_out, d_in) of every site of a plain model."""
    return {
        name: (len(rows), _oriented(model, place).shape[1])
        for place in model_places(model)
        for name, rows in place.rows.items()
    }


def model_places(model: nn.Module) -> list[Place]:
    """Where a Hugging Face model in memory, plain or constrained, keeps its linear maps, by layer."""
    modules = dict(model.named_modules())

    def shape_of(name: str) -> tuple[int, ...] | None:
        module = modules.get(name)
        if module is None or not hasattr(module, "weight"):
            return None
        shape = tuple(module.weight.shape)
        return shape[::-1] if isinstance(module, Constrained) and module.transposed else shape

    return places(model.config.to_dict(), shape_of)  # type: ignore[operator, union-attr]


def _oriented(model: nn.Module, place: Place) -> Tensor:
    W = model.get_submodule(place.name).weight
    assert isinstance(W, Tensor)
    return W.detach().T if place.linear.transposed else W.detach()


def _replace(model: nn.Module, build: Build) -> nn.Module:
    for place in model_places(model):
        module = model.get_submodule(place.name)
        if isinstance(module, Constrained):
            raise InputError(f"{place.name} is already constrained: start from a plain model, or merge this one first")
        W, bias = _oriented(model, place), module.bias
        assert bias is None or isinstance(bias, Tensor)
        parts = {
            name: build(name, W[rows], None if bias is None else bias.detach()[rows])
            for name, rows in place.rows.items()
        }
        if not any(isinstance(part, Constrained) for part in parts.values()):
            continue
        if len(parts) == 1:
            layer = next(iter(parts.values()))
            layer.transposed = place.linear.transposed  # type: ignore[assignment]
        else:
            rows = torch.cat(list(place.rows.values()))
            order = None if bool((rows.diff() == 1).all()) else rows.argsort()
            names = {name.split(".", 2)[-1]: part for name, part in parts.items()}
            layer = FusedLinear(names, order, place.linear.transposed)
        model.set_submodule(place.name, layer.to(W.device))
    return model


def _layer(gene: Gene, W: Tensor, bias: Tensor | None) -> nn.Module:
    m, n = W.shape
    if isinstance(gene, Subspace):
        U, V = gene.U.to(W), gene.V.to(W)
        return SubspaceLinear(U, V, (m * n) ** 0.5 / gene.rank * (U.T @ W @ V), bias)
    keep = gene.keep.to(W.device)
    return MaskedLinear(W * (m * n / int(keep.sum())) ** 0.5, keep, bias)


def _linear(W: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(W.shape[1], W.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(W.clone())
    layer.bias = None if bias is None else nn.Parameter(bias.clone())  # type: ignore[assignment]
    return layer
