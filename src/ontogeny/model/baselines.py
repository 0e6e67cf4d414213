"""What a user would do instead of taking a genome: initialisations that need no donor."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.sites import architecture
from ontogeny.model.constrain import model_places, site_shapes
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
