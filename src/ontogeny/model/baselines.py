"""What a user would do instead of growing from a genome: mimetic starts, and smaller models that keep donor values."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.genome import Genome
from ontogeny.genome.sites import WRITERS, Place, architecture, find, make_site
from ontogeny.model.constrain import model_places, site_shapes
from ontogeny.model.grow import (
    Shape,
    check_config,
    head_size,
    inherited_layers,
    inherited_units,
    residual_map,
    shape_of,
    spelled,
)
from ontogeny.model.layers import Constrained
from ontogeny.streams import stream

ROLES = ("query", "key", "value", "output")
QUERY_KEY = (0.7, 0.7)  # weights of Z and of I in W_Qᵀ W_K: the method's for vision transformers
VALUE_OUTPUT = (0.4, -0.4)  # and in W_O W_V


@torch.no_grad()
def mimetic(model: nn.Module, seed: int) -> nn.Module:
    """Mimetic initialisation of a plain model's attention, in place (Trockman & Kolter 2023, arXiv:2305.09828).

    In every layer W_Qᵀ W_K ≈ 0.7 Z + 0.7 I for each head, cut to the head's rank by SVD, and
    W_O W_V ≈ 0.4 Z − 0.4 I over all heads. Matrices are (d_out, d_in); entries of Z are N(0, 1/d), drawn anew for each.
    MLP, norms, biases and embeddings stay. The norms are the method's own: not matched to the N(0, 0.02²) draw, and
    far above it.

    Grouped queries: the heads of a group share a key, which comes from the first head's product; each query is then the
    one that brings its own product nearest. A group's heads share a value, so each gets an equal part of the output:
    heads that attend alike add up to the published product. With rotary positions (and norms of queries and keys) the
    product holds at distance 0 and turns away with distance.

    Raises InputError for a constrained model, and where the values of all heads are wider than the residual stream.
    """
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    row = architecture(config)
    heads = config[row.heads_key]
    groups = config.get("num_key_value_heads") or heads
    shapes = site_shapes(model)
    weights: dict[str, Tensor] = {}
    for i in range(config[row.layers_key]):
        name = f"layers.{i}.attention"
        keys, d = shapes[f"{name}.key"]
        if keys > d:
            raise InputError(f"{name}: keys and values of {keys} dimensions for a width of {d}: no mimetic weights")
        query, key = _query_key(d, keys // groups, heads, groups, seed, name)
        value, output = _value_output(d, keys, heads, groups, seed, name)
        weights |= {f"{name}.{role}": W for role, W in zip(ROLES, (query, key, value, output), strict=True)}
    _write(model, weights)
    return model


def _product(d: int, constants: tuple[float, float], seed: int, *path: str | int) -> Float[Tensor, "d d"]:
    alpha, beta = constants
    Z = torch.randn(d, d, generator=stream(seed, "mimetic", *path)) / d**0.5
    product: Tensor = alpha * Z + beta * torch.eye(d)
    return product


def _query_key(
    d: int, size: int, heads: int, groups: int, seed: int, name: str
) -> tuple[Float[Tensor, "queries d"], Float[Tensor, "keys d"]]:
    """Per group: K = √S Vᵀ of the first head's product, and for each head's product M the nearest Qᵀ K = M V Vᵀ."""
    queries, keys = [], []
    for group in range(groups):
        members = range(group * heads // groups, (group + 1) * heads // groups)
        products = [_product(d, QUERY_KEY, seed, name, "query-key", head) for head in members]
        _, S, Vt = torch.linalg.svd(products[0])
        root, Vt = S[:size, None].sqrt(), Vt[:size]
        keys.append(root * Vt)
        queries += [Vt @ M.T / root for M in products]  # the first is √S Uᵀ, as published
    return torch.cat(queries), torch.cat(keys)


def _value_output(
    d: int, values: int, heads: int, groups: int, seed: int, name: str
) -> tuple[Float[Tensor, "values d"], Float[Tensor, "d queries"]]:
    """V = √S Vᵀ, cut to the rank there is, and O = U √S, a group's columns divided among its heads."""
    shared = heads // groups
    U, S, Vt = torch.linalg.svd(_product(d, VALUE_OUTPUT, seed, name, "value-output"))
    root = S[:values].sqrt()
    output = (U[:, :values] * root / shared).view(d, groups, 1, -1).expand(-1, -1, shared, -1)
    return root[:, None] * Vt[:values], output.reshape(d, -1)


def _write(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for place in model_places(model):
        module = model.get_submodule(place.name)
        if isinstance(module, Constrained):
            raise InputError(f"{place.name} is constrained: mimetic initialisation is for a plain model")
        assert isinstance(module.weight, Tensor)
        W = module.weight.T if place.linear.transposed else module.weight
        for name, rows in place.rows.items():
            if name in weights:
                W[rows] = weights[name].to(W)


# Donor values in a smaller model --------------------------------------------------------------------------------


@torch.no_grad()
def weight_subset(model: nn.Module, checkpoint: Checkpoint, *, embeddings: bool = True) -> nn.Module:
    """Start a smaller model, in place, from a subset of the donor's weights (Xu et al. 2024, arXiv:2311.18823).

    The first layers, and of every dimension an evenly spaced subset; of attention whole heads, so that rotary pairs
    stay together (ours: the method is for vision transformers). Norms and biases are taken too, and ``embeddings``.
    Raises InputError where a dimension is larger than the donor's.
    """
    own, shape = _shapes(model, checkpoint)
    chosen = _spaced(own.width, shape.width)
    selection = torch.zeros(own.width, shape.width, dtype=torch.float64)
    selection[chosen, torch.arange(shape.width)] = 1

    def units(layer: int, role: str) -> Tensor:
        if role.startswith("mlp"):
            return _spaced(own.ffn, shape.ffn)
        groups, size = _spaced(own.groups, shape.groups), head_size(checkpoint.config)
        repeat = 1 if role in ("attention.key", "attention.value") else own.heads // own.groups
        return spelled(spelled(groups, repeat), size)

    source = _Source(checkpoint, selection, list(range(shape.layers)), units, fold=False)
    return _inherit(model, source, embeddings=embeddings)


@torch.no_grad()
def projected_weights(model: nn.Module, checkpoint: Checkpoint, genome: Genome) -> nn.Module:
    """Start a smaller model, in place, from the donor's weights in the coordinates that ``grow`` gives its genome.

    As SliceGPT (Ashkboos et al. 2024, arXiv:2401.15024) cuts the residual stream, but to the directions that the
    genome uses most rather than the activations' principal ones; values are kept. Gains are folded into
    what reads them and the norm's scale restored, but under LayerNorm, whose biases stand behind its gains.
    """
    own, shape = _shapes(model, checkpoint)
    residual = residual_map(genome, own.width, shape.width, 0)
    genes = {site.name: gene for site, gene in genome.genes.items()}

    def units(layer: int, role: str) -> Tensor:
        return inherited_units(genes, layer, role, own, shape, checkpoint.config)

    rms = architecture(checkpoint.config).normalisation == "rms"  # a LayerNorm's bias stands behind its gain
    layers = inherited_layers(genome, own.layers, shape.layers)
    return _inherit(model, _Source(checkpoint, residual, layers, units, fold=rms))


def _shapes(model: nn.Module, checkpoint: Checkpoint) -> tuple[Shape, Shape]:
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    check_config(checkpoint.config, config)
    own, shape = shape_of(checkpoint.config), shape_of(config)
    larger = [name for name in vars(own) if getattr(shape, name) > getattr(own, name)]
    if larger:
        raise InputError(f"the model's {larger[0]} is larger than the donor's: a copy of weights can only be smaller")
    return own, shape


def _spaced(n: int, count: int) -> Tensor:
    """``count`` of n indices, evenly spaced."""
    return torch.arange(count) * n // count


@dataclass(frozen=True)
class _Source:
    """Where a smaller model's values come from: R, the donor's layer of each layer, and a role's internal rows."""

    checkpoint: Checkpoint
    residual: Float[Tensor, "width target"]
    layers: list[int]
    units: Callable[[int, str], Tensor]
    fold: bool  # gains of norms go into their readers

    def site(self, name: str) -> tuple[int, str, str]:
        """The donor's layer, the role, and the donor's site of a site."""
        number, role = name.split(".", 2)[1:]
        layer = self.layers[int(number)]
        return layer, role, f"layers.{layer}.{role}"


def _inherit(model: nn.Module, source: _Source, *, embeddings: bool = True) -> nn.Module:
    """W' = (Rᵀ or rows) W (R or columns) at every site; other parameters likewise along the residual stream."""
    donor = {site.name: W.double() for site, W in source.checkpoint.weights()}
    weights = {}
    for name, shape in site_shapes(model).items():
        layer, role, there = source.site(name)
        site, W, rows = make_site(name, shape), donor[there], source.units(layer, role)
        if source.fold and (gain := source.checkpoint.norm_gain(there)) is not None:
            W = W * gain.double()
        W = source.residual.T @ W if site.writes_residual else W[rows]
        weights[name] = (W @ source.residual if site.reads_residual else W[:, rows]).float()
    _write(model, weights)
    places = model_places(model)
    held, norms = {f"{place.name}.weight" for place in places}, {place.norm for place in places}
    for name, parameter in model.named_parameters():
        if name not in held and (embeddings or parameter.ndim == 1):
            place = next((place for place in places if f"{place.name}.bias" == name), None)
            value = _stored(name, source)
            if place is not None:
                _write_bias(parameter, place, value, source)
            elif source.fold and name.removesuffix(".weight") in norms:
                parameter.fill_(_restored(source))
            else:
                parameter.copy_(_along(value, source, name))
    return model


def _stored(name: str, source: _Source) -> Tensor:
    """The donor's tensor for a parameter of the model."""
    row = architecture(source.checkpoint.config)
    there = re.sub(r"\.(\d+)\.", lambda found: f".{source.layers[int(found[1])]}.", name, count=1)
    names: tuple[str, ...] = (there.removeprefix(row.prefixes[0]), f"/{there}")
    for alternatives in row.embeddings:  # some have another name on disk
        if set(names) & set(alternatives):
            names = alternatives
    stored = find(names, row.prefixes, source.checkpoint.tensors.__contains__)
    if stored is None:
        raise InputError(f"{source.checkpoint.name}: no tensor {there}, which a smaller model of it has")
    return source.checkpoint.read(stored).double()


def _write_bias(parameter: Tensor, place: Place, value: Tensor, source: _Source) -> None:
    for site, rows in place.rows.items():
        layer, role, there = source.site(site)
        own = next(place.rows[there] for place in source.checkpoint.places if there in place.rows)
        kept = source.residual.T @ value[own] if role in WRITERS else value[own][source.units(layer, role)]
        parameter[rows] = kept.to(parameter)


def _along(value: Tensor, source: _Source, name: str) -> Tensor:
    """Embeddings and head by columns; the final gain by the diagonal of its image; biases of norms as the stream."""
    R = source.residual
    if value.ndim == 2:
        return value @ R
    if len(value) != len(R):  # norms inside a head
        return value
    return R.T @ value if name.endswith("bias") else _restored(source) * (R * value[:, None] * R).sum(0)


def _restored(source: _Source) -> float:
    """√(d/d'): what a norm over fewer dimensions takes from a stream that kept its length."""
    width, target = source.residual.shape
    return float((width / target) ** 0.5) if source.fold else 1.0
