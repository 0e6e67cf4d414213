"""Where each architecture keeps its linear maps. Only this file knows that models differ.

An architecture is a row of ``ARCHITECTURES``: data, not code. To add one, see docs/how-to-add-an-architecture.md.
Everything else sees canonical site names and (d_out, d_in) matrices.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ontogeny.errors import CheckpointError

READERS = ("attention.query", "attention.key", "attention.value", "mlp.gate", "mlp.up")
WRITERS = ("attention.output", "mlp.down")


@dataclass(frozen=True)
class Site:
    """One linear map under its canonical name, e.g. ``layers.3.attention.query``; always (d_out, d_in)."""

    name: str
    shape: tuple[int, int]
    reads_residual: bool = False
    writes_residual: bool = False


@dataclass(frozen=True)
class Linear:
    """One stored weight matrix.

    ``names`` are its module names on disk or in memory (they changed between transformers releases);
    ``roles`` the sites its output rows hold, in order; ``norm`` the module whose gain scales its input.
    ``transposed``: stored (d_in, d_out), GPT-2's Conv1D. ``per_head``: rows interleave the roles head by head.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    norm: tuple[str, ...] = ()
    transposed: bool = False
    per_head: bool = False


@dataclass(frozen=True)
class Architecture:
    """The names of one model type. ``{i}`` is the layer; ``prefixes`` are where the body may hang."""

    prefixes: tuple[str, ...]
    linears: tuple[Linear, ...]
    normalisation: Literal["rms", "layer"]
    final_norm: tuple[str, ...]
    embeddings: tuple[tuple[str, ...], ...]  # per tensor, the names it may have; a missing head is tied
    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"


def _llama(linears: tuple[Linear, ...]) -> Architecture:
    return Architecture(
        prefixes=("model.", ""),
        linears=linears,
        normalisation="rms",
        final_norm=("norm",),
        embeddings=(("embed_tokens.weight",), ("/lm_head.weight",)),
    )


_LLAMA_ATTENTION_NORM = ("layers.{i}.input_layernorm",)
_LLAMA_MLP_NORM = ("layers.{i}.post_attention_layernorm",)
_LLAMA_WRITERS = (
    Linear(("layers.{i}.self_attn.o_proj",), ("attention.output",)),
    Linear(("layers.{i}.mlp.down_proj",), ("mlp.down",)),
)
_LLAMA = _llama(
    (
        Linear(("layers.{i}.self_attn.q_proj",), ("attention.query",), _LLAMA_ATTENTION_NORM),
        Linear(("layers.{i}.self_attn.k_proj",), ("attention.key",), _LLAMA_ATTENTION_NORM),
        Linear(("layers.{i}.self_attn.v_proj",), ("attention.value",), _LLAMA_ATTENTION_NORM),
        Linear(("layers.{i}.mlp.gate_proj",), ("mlp.gate",), _LLAMA_MLP_NORM),
        Linear(("layers.{i}.mlp.up_proj",), ("mlp.up",), _LLAMA_MLP_NORM),
        *_LLAMA_WRITERS,
    )
)
_QKV = ("attention.query", "attention.key", "attention.value")
_VIT_BEFORE = ("encoder.layer.{i}.layernorm_before", "layers.{i}.layernorm_before")
_VIT_AFTER = ("encoder.layer.{i}.layernorm_after", "layers.{i}.layernorm_after")


def _vit_attention(old: str, new: str, role: str) -> Linear:
    names = (f"encoder.layer.{{i}}.attention.{old}", f"layers.{{i}}.attention.{new}")
    return Linear(names, (role,), _VIT_BEFORE if role in READERS else ())


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _llama(
        (
            Linear(("layers.{i}.self_attn.qkv_proj",), _QKV, _LLAMA_ATTENTION_NORM),
            Linear(("layers.{i}.mlp.gate_up_proj",), ("mlp.gate", "mlp.up"), _LLAMA_MLP_NORM),
            *_LLAMA_WRITERS,
        )
    ),
    "gpt_neox": Architecture(
        prefixes=("gpt_neox.", ""),
        linears=(
            Linear(("layers.{i}.attention.query_key_value",), _QKV, ("layers.{i}.input_layernorm",), per_head=True),
            Linear(("layers.{i}.attention.dense",), ("attention.output",)),
            Linear(("layers.{i}.mlp.dense_h_to_4h",), ("mlp.up",), ("layers.{i}.post_attention_layernorm",)),
            Linear(("layers.{i}.mlp.dense_4h_to_h",), ("mlp.down",)),
        ),
        normalisation="layer",
        final_norm=("final_layer_norm",),
        embeddings=(("embed_in.weight",), ("/embed_out.weight", "/lm_head.weight")),
    ),
    "gpt2": Architecture(
        prefixes=("transformer.", ""),
        linears=(
            Linear(("h.{i}.attn.c_attn",), _QKV, ("h.{i}.ln_1",), transposed=True),
            Linear(("h.{i}.attn.c_proj",), ("attention.output",), transposed=True),
            Linear(("h.{i}.mlp.c_fc",), ("mlp.up",), ("h.{i}.ln_2",), transposed=True),
            Linear(("h.{i}.mlp.c_proj",), ("mlp.down",), transposed=True),
        ),
        normalisation="layer",
        final_norm=("ln_f",),
        embeddings=(("wte.weight",), ("wpe.weight",), ("/lm_head.weight",)),
        layers_key="n_layer",
        heads_key="n_head",
    ),
    "vit": Architecture(
        prefixes=("vit.", ""),
        linears=(
            _vit_attention("attention.query", "q_proj", "attention.query"),
            _vit_attention("attention.key", "k_proj", "attention.key"),
            _vit_attention("attention.value", "v_proj", "attention.value"),
            _vit_attention("output.dense", "o_proj", "attention.output"),
            Linear(("encoder.layer.{i}.intermediate.dense", "layers.{i}.mlp.fc1"), ("mlp.up",), _VIT_AFTER),
            Linear(("encoder.layer.{i}.output.dense", "layers.{i}.mlp.fc2"), ("mlp.down",)),
        ),
        normalisation="layer",
        final_norm=("layernorm",),
        embeddings=(
            ("embeddings.cls_token",),
            ("embeddings.position_embeddings",),
            ("embeddings.patch_embeddings.projection.weight",),
            ("embeddings.patch_embeddings.projection.bias",),
        ),
    ),
}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The table's row for a model configuration; CheckpointError names the table if there is none."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"no architecture {model_type!r}: known are {', '.join(ARCHITECTURES)}. Add a row to ARCHITECTURES in "
            "ontogeny/genome/sites.py (docs/how-to-add-an-architecture.md), or take matrices by --pattern REGEX"
        )
    return ARCHITECTURES[model_type]


@dataclass(frozen=True)
class Place:
    """A weight matrix found under one of its names: ``name`` is the module, ``rows`` each site's output rows."""

    name: str
    linear: Linear
    rows: Mapping[str, Tensor]  # site name -> (rows,) of row indices in the (d_out, d_in) matrix
    norm: str | None


def find(names: tuple[str, ...], prefixes: tuple[str, ...], exists: Callable[[str], bool], i: int = 0) -> str | None:
    """The first of the alternative names that exists; a leading ``/`` means outside the body."""
    for name in names:
        for prefix in prefixes:
            full = name[1:] if name.startswith("/") else prefix + name.format(i=i)
            if exists(full):
                return full
    return None


def places(config: Mapping[str, Any], shape_of: Callable[[str], tuple[int, ...] | None]) -> list[Place]:
    """Every weight matrix of the table in a model, by layer.

    ``shape_of(module name)`` gives the stored shape of ``<module>.weight``, or None where there is none.
    Raises CheckpointError for a missing layer or matrix.
    """
    row = architecture(config)
    _, heads = (_positive(config, key) for key in (row.layers_key, row.heads_key))
    groups = heads if config.get("num_key_value_heads") is None else _positive(config, "num_key_value_heads")
    found = []
    for i in range(config[row.layers_key]):
        for linear in row.linears:
            name = find(linear.names, row.prefixes, lambda n: shape_of(n) is not None, i)
            if name is None:
                raise CheckpointError(
                    f"layer {i}: no tensor {linear.names[0].format(i=i)}.weight, which a {config['model_type']} of "
                    f"{config[row.layers_key]} layers must have: the weights and config.json don't belong together"
                )
            shape = shape_of(name)
            assert shape is not None
            if len(shape) != 2:
                raise CheckpointError(f"tensor {name}.weight: expected a matrix, found the shape {shape}")
            if min(shape) < 1:  # 0 × 10^18 takes no byte of a file
                raise CheckpointError(f"tensor {name}.weight has the shape {shape}: a matrix can't be empty")
            d_out = shape[-1] if linear.transposed else shape[0]
            norm = find(linear.norm, row.prefixes, lambda n: shape_of(n) is not None, i)
            rows = _rows(linear, d_out, heads, groups)
            found.append(Place(name, linear, {f"layers.{i}.{role}": index for role, index in rows.items()}, norm))
    return found


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:  # a bool is an int too
        raise CheckpointError(f"config.json: expected a positive whole number {key!r}, found {value!r}")
    return value


def _rows(linear: Linear, d_out: int, heads: int, groups: int) -> dict[str, Tensor]:
    """The output rows of each role in one matrix: queries have ``heads`` heads, keys and values ``groups``."""
    groups = heads if linear.per_head else groups
    per_role = {"attention.query": heads, "attention.key": groups, "attention.value": groups}
    shares = [per_role.get(role, 1) for role in linear.roles]
    unit, rest = divmod(d_out, sum(shares))
    if rest or not unit:
        raise CheckpointError(
            f"{linear.names[0]}: {d_out} rows don't divide into {', '.join(linear.roles)} of {heads} heads "
            f"({groups} of keys and values): the weights and config.json don't belong together"
        )
    index = torch.arange(d_out)
    if linear.per_head:
        blocks = index.view(heads, len(linear.roles), -1)
        return {role: blocks[:, j].flatten() for j, role in enumerate(linear.roles)}
    return dict(zip(linear.roles, index.split([unit * share for share in shares]), strict=True))


def make_site(name: str, shape: tuple[int, int]) -> Site:
    """The Site of this canonical name, its residual sides known from its role."""
    role = name.split(".", 2)[-1]
    return Site(name, shape, role in READERS, role in WRITERS)


def in_order(sites: Iterable[Site]) -> list[Site]:
    """Sites by name with numbers as numbers: layer 2 comes before layer 10."""
    return sorted(sites, key=lambda site: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", site.name)])


LAYER = re.compile(r"^layers\.(\d+)\.(.+)$")


def layer_and_role(name: str) -> tuple[int, str] | None:
    """``layers.3.mlp.up`` -> (3, "mlp.up"); None for a site taken by pattern."""
    match = LAYER.match(name)
    return (int(match[1]), match[2]) if match else None
