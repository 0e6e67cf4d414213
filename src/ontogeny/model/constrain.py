"""Put a genome into a fresh Hugging Face model, and merge it back into plain weights."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.extract import site_weights
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace, kind
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Place, places
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

Build = Callable[[str, Tensor, Tensor | None], nn.Module]  # site name, dense draw (d_out, d_in), bias -> layer

Reading = Literal["full", "diagonal", "left", "right", "start"]
READINGS: tuple[Reading, ...] = get_args(Reading)


def constrain(model: nn.Module, genome: Genome, reading: Reading = "full") -> nn.Module:
    """Replace, in place, every linear map that has a gene by a constrained layer; the model is returned.

    The model's own weights are the dense draw W₀ that all arms of a replicate share; every start has ‖W₀‖_F in
    expectation. What "constrained" means is the ``reading``, with m = d_out, n = d_in and k the rank:

    - ``full``: U C Vᵀ, C = √(mn)/k · Uᵀ W₀ V trained; a mask starts at W₀·√(mn/kept) where kept
    - ``diagonal``: U diag(c) Vᵀ, only c = √(mn/k) · diag(Uᵀ W₀ V) trained: pairs the i-th columns of U and V, which
      only a genome in the ``singular`` basis holds
    - ``left``: U A, A = √(m/k) · Uᵀ W₀ trained; ``right``: A Vᵀ, A = √(n/k) · W₀ V trained
    - ``start``: starts as ``full`` does, then every weight is free: plain layers

    Raises InputError for a genome whose sites or shapes are not the model's, for an unknown reading, and for masks
    under a reading other than ``full`` and ``start``.
    """
    if reading not in READINGS:
        raise InputError(f"reading {reading!r}: expected one of {', '.join(READINGS)}")
    if reading == "start":
        return merge(constrain(model, genome))
    if reading != "full" and kind(genome) == "mask":
        raise InputError(f"reading {reading!r} needs directions, this genome holds masks: use full or start")
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
        return _linear(W, bias) if name not in genes else _layer(genes[name], W, bias, reading)

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
CoreGuess = Literal["scaled", "guessed"]
TRAINED_SIZE = 0.1  # root mean square of a trained matrix's entries: 0.07 to 0.18 in laptop donors of width 64


@torch.no_grad()
def start_cores(
    model: nn.Module, checkpoint: Checkpoint, start: CoreStart, *, seed: int, fold_norms: bool = False
) -> nn.Module:
    """Start a constrained model's cores from the checkpoint's values: C = Uᵀ W V = P diag(s) Qᵀ.

    ``signs-flipped`` draws a sign for every s, ``permuted`` a new order: the values' controls. A diagonal core is its
    own s. ``fold_norms``: W as it acts, W·diag(γ), as in a genome read so.
    """
    cores = {name: layer for name, layer in sites(model) if isinstance(layer, SubspaceLinear)}
    for site, W in site_weights(checkpoint, fold_norms):
        if site.name not in cores:
            continue
        layer = cores[site.name]
        C, generator = layer.projection(W), stream(seed, "core", start, site.name)
        if C.ndim == 1:
            layer.core.copy_(_redrawn(C, start, generator))
        else:
            P, s, Qt = torch.linalg.svd(C)
            layer.core.copy_((P * _redrawn(s, start, generator)) @ Qt)
    return model


@torch.no_grad()
def guess_cores(model: nn.Module, guess: CoreGuess) -> nn.Module:
    """Give a constrained model's cores a trained network's size, with nothing of the donor's values: in place.

    ``scaled``: the fresh core, larger. ``guessed``: diagonal, its values falling in a straight line, which says how the
    directions are paired: what an attacker would try who has the genome file alone.
    """
    for _, layer in sites(model):
        if not isinstance(layer, SubspaceLinear):
            continue
        if guess == "guessed":
            line = 1 - (torch.arange(layer.U.shape[1]) + 0.5) / min(layer.U.shape[0], layer.V.shape[0])
            layer.core.copy_(line if layer.core.ndim == 1 else line.diag())
        entries = layer.U.shape[0] * layer.V.shape[0]  # U and V are orthonormal: ‖U C Vᵀ‖ = ‖C‖
        layer.core.mul_(TRAINED_SIZE * entries**0.5 / layer.core.norm())
    return model


def _redrawn(s: Float[Tensor, " k"], start: CoreStart, generator: torch.Generator) -> Float[Tensor, " k"]:
    if start == "signs-flipped":
        return s * (torch.randint(0, 2, s.shape, generator=generator) * 2 - 1)
    if start == "permuted":
        return s[torch.randperm(len(s), generator=generator)]
    return s


def project_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Start a constrained model, in place, at the nearest point (Frobenius norm) to ``weights`` that it can reach.

    ``weights``: site name -> (d_out, d_in), as ``effective_weights`` gives of a trained optimum. Cores become Uᵀ W V,
    one-sided factors Uᵀ W or W V; masks keep W where kept. Nothing is rescaled, other parameters stay.

    Raises InputError for a model without such layers, and for a site whose weight is missing or of another shape.
    """
    layers = {n: m for n, m in sites(model) if isinstance(m, SubspaceLinear | OneSidedLinear | MaskedLinear)}
    if not layers:
        raise InputError("no site of the model is constrained to a genome: constrain it first, then project")
    for name, layer in layers.items():
        expected, found = tuple(layer.weight.shape), tuple(weights[name].shape) if name in weights else "none"
        if found != expected:
            raise InputError(
                f"site {name}: expected a weight of the shape {expected}, found {found}: give the effective weights "
                "of a model of the same architecture and size"
            )
    for name, layer in layers.items():
        layer.project_(weights[name])
    return model


@torch.no_grad()
def free_subspaces(model: nn.Module) -> nn.Module:
    """Replace, in place, every ``SubspaceLinear`` by a ``LowRankLinear`` of the same weight: U and V are free now.

    C = P diag(s) Qᵀ is shared out evenly: A = U P √s, B = V Q √s. Raises InputError for a model without cores.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SubspaceLinear)}
    if not layers:
        raise InputError(
            "no layer of the model has a core: only the readings full and diagonal of a subspace can be freed"
        )
    for name, layer in layers.items():
        P, s, Qt = torch.linalg.svd(layer.core_matrix.double())
        A, B = layer.U.double() @ P * s.sqrt(), layer.V.double() @ Qt.T * s.sqrt()
        free = LowRankLinear(A.to(layer.U.dtype), B.to(layer.V.dtype), layer.bias)
        free.transposed = layer.transposed
        model.set_submodule(name, free.train(layer.training))
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


def effective_weights(model: nn.Module) -> dict[str, Tensor]:
    """Site name -> a copy of its (d_out, d_in) weight; of a plain or constrained model, fused projections split."""
    weights: dict[str, Tensor] = {}
    for place in model_places(model):
        W = _oriented(model, place)
        weights |= {name: W[rows] for name, rows in place.rows.items()}
    return weights


def model_places(model: nn.Module) -> list[Place]:
    """Where a Hugging Face model in memory, plain or constrained, keeps its linear maps, by layer."""
    shapes = {name: _stored_shape(module) for name, module in model.named_modules()}
    return places(model.config.to_dict(), shapes.get)  # type: ignore[operator, union-attr]


def _stored_shape(module: nn.Module) -> tuple[int, ...] | None:
    if isinstance(module, Constrained):
        return module.shape[::-1] if module.transposed else module.shape
    weight = getattr(module, "weight", None)
    return None if weight is None else tuple(weight.shape)


def _oriented(model: nn.Module, place: Place) -> Tensor:
    module = model.get_submodule(place.name)
    W = module.weight
    assert isinstance(W, Tensor)
    return W.detach().T if place.linear.transposed and not isinstance(module, Constrained) else W.detach()


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
    share_inputs(model)
    return model


def share_inputs(model: nn.Module) -> None:
    """Let the ``SubspaceLinear`` layers that read the same normalised input compute their products with V as one."""
    readers: dict[str, list[SubspaceLinear]] = {}
    for place in model_places(model):
        if place.norm:
            parts = model.get_submodule(place.name).modules()
            readers.setdefault(place.norm, []).extend(m for m in parts if isinstance(m, SubspaceLinear))
    for layers in readers.values():
        shared = SharedInput(layers) if len(layers) > 1 else None
        for layer in layers:
            layer.shared = shared


def _layer(gene: Gene, W: Tensor, bias: Tensor | None, reading: Reading = "full") -> nn.Module:
    m, n = W.shape
    if isinstance(gene, Mask):
        keep = gene.keep.to(W.device)
        return MaskedLinear(W * (m * n / max(1, int(keep.sum()))) ** 0.5, keep, bias)
    U, V, k = gene.U.to(W), gene.V.to(W), gene.rank
    if reading == "left":
        return OneSidedLinear(U, (m / k) ** 0.5 * (U.T @ W), bias, side="left")
    if reading == "right":
        return OneSidedLinear(V, (n / k) ** 0.5 * (W @ V), bias, side="right")
    C = U.T @ W @ V
    core = (m * n / k) ** 0.5 * C.diagonal() if reading == "diagonal" else (m * n) ** 0.5 / k * C
    return SubspaceLinear(U, V, core, bias)


def _linear(W: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(W.shape[1], W.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(W.clone())
    layer.bias = None if bias is None else nn.Parameter(bias.clone())  # type: ignore[assignment]
    return layer
