"""From a genome to a network of another size: a shape within a budget, and the genome in that shape's coordinates.

Nothing of the donor's values is used: residual directions, heads, feed-forward units and layers are chosen by how much
the genome's own directions use them.
"""

import bisect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.canonical import canonical_json
from ontogeny.errors import InputError
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import architecture, make_site
from ontogeny.model.constrain import constrain, site_shapes
from ontogeny.model.cost import flops_per_token
from ontogeny.model.initialise import fresh_model
from ontogeny.streams import stream

SPARE = 0.05  # the least norm that a direction keeps in the smaller coordinates, beside those taken before it
STEPS = 400  # sizes that a budget's search knows, from the donor's down
WITHOUT_HEAD_SIZE = ("gpt_neox", "gpt2")  # configurations in which width = heads × head size
LEAST = 4  # of the width's multiple and of feed-forward units


@dataclass(frozen=True)
class Shape:
    """The sizes of a language model; ``groups``: heads of keys and values."""

    layers: int
    width: int
    heads: int
    groups: int
    ffn: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The sizes that a configuration states. Raises InputError for one that isn't a positive whole number."""
    row = architecture(config)
    width = config.get("hidden_size", config.get("n_embd"))
    heads = config.get(row.heads_key)
    found = {
        "layers": config.get(row.layers_key),
        "width": width,
        "heads": heads,
        "groups": config.get("num_key_value_heads") or heads,
        "ffn": config.get("intermediate_size") or config.get("n_inner") or 4 * (width or 0),
    }
    for name, value in found.items():
        if type(value) is not int or value < 1:  # a bool is an int too
            raise InputError(f"configuration: expected a positive whole number of {name}, found {value!r}")
    return Shape(**found)


def head_size(config: Mapping[str, Any]) -> int:
    """Dimensions of a head."""
    shape = shape_of(config)
    return int(config.get("head_dim") or shape.width // shape.heads)


def resized(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """The configuration with these sizes, its heads as large as before."""
    row = architecture(config)
    gpt2 = "n_embd" in config
    sizes: dict[str, Any] = {
        row.layers_key: shape.layers,
        row.heads_key: shape.heads,
        "n_embd" if gpt2 else "hidden_size": shape.width,
        "n_inner" if gpt2 else "intermediate_size": shape.ffn,
    }
    if config["model_type"] not in WITHOUT_HEAD_SIZE:
        sizes |= {"num_key_value_heads": shape.groups, "head_dim": head_size(config)}
    kept = {key: v for key, v in config.items() if key != "layer_types" or len(v or ()) == shape.layers}
    return kept | sizes


def budgeted(config: Mapping[str, Any], share: float, cost: Callable[[Mapping[str, Any]], int]) -> dict[str, Any]:
    """The largest of the donor's smaller sisters whose ``cost`` is at most ``share`` of the donor's.

    Width, feed-forward units and heads shrink alike, layers with the square root: a small model keeps some depth.
    Raises InputError for a share outside (0, 1), and for one below the smallest sister's.
    """
    if not 0 < share < 1:
        raise InputError(
            f"a budget of {share:.0%}: expected a share of the donor above 0 and below 100 %; for another "
            "size give --config"
        )
    donor = shape_of(config)
    sisters = list(dict.fromkeys(_scaled(config, donor, i / STEPS) for i in range(1, STEPS + 1)))
    limit = share * cost(config)
    found = bisect.bisect_right(sisters, limit, key=lambda shape: cost(resized(config, shape)))
    if not found:
        least = cost(resized(config, sisters[0])) / cost(config)
        raise InputError(f"a budget of {share:.1%} of the donor: its smallest valid sister has {least:.1%}")
    return resized(config, sisters[found - 1])


def fewer_units(config: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The configuration with this share of its feed-forward units, all else as it was."""
    shape = shape_of(config)
    return resized(config, replace(shape, ffn=max(1, round(share * shape.ffn))))


def _scaled(config: Mapping[str, Any], donor: Shape, scale: float) -> Shape:
    groups = max(1, round(scale * donor.groups))
    heads = groups * (donor.heads // donor.groups)
    if config["model_type"] in WITHOUT_HEAD_SIZE:
        width = heads * head_size(config)
    else:
        unit = math.lcm(heads, LEAST)  # transformers wants the width to be a multiple of the heads
        width = max(1, math.floor(scale * donor.width / unit)) * unit
    layers = max(1, round(math.sqrt(scale) * donor.layers))
    return Shape(layers, width, heads, groups, max(LEAST, LEAST * math.floor(scale * donor.ffn / LEAST)))


def parameters(config: Mapping[str, Any]) -> int:
    """How many a plain model of this configuration has."""
    return sum(p.numel() for p in _outline(canonical_json(config)).parameters())


def flops(config: Mapping[str, Any], length: int = 128) -> int:
    """What training a plain model of this configuration costs, FLOPs a token."""
    return flops_per_token(_outline(canonical_json(config)), length)


def layer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Site -> (d_out, d_in) of a plain model of this configuration."""
    return site_shapes(_outline(canonical_json(config)))


@lru_cache(maxsize=64)
def _outline(config: str) -> nn.Module:
    """A model without values, of a configuration as JSON; a budget's search asks for the same ones again."""
    with torch.device("meta"):
        return fresh_model(json.loads(config), 0)


def grown_model(
    genome: Genome, donor: Mapping[str, Any], config: Mapping[str, Any], *, seed: int
) -> tuple[nn.Module, Genome]:
    """A fresh model of ``config``, constrained to the genome in its coordinates; and that genome.

    ``donor``: the configuration that the genome was read from. Raises InputError for a configuration that doesn't fit.
    """
    check_config(donor, config)
    model = fresh_model(config, seed)
    grown = grown_genome(genome, donor, config, site_shapes(model), seed=seed)
    return constrain(model, grown), grown


def check_config(donor: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """InputError unless a network of ``config`` can be grown from a genome of ``donor``."""
    if config.get("model_type") != donor["model_type"]:
        raise InputError(
            f"expected a configuration of the donor's architecture, {donor['model_type']}, found "
            f"{config.get('model_type')!r}"
        )
    shape, own = shape_of(config), shape_of(donor)
    if shape.heads % shape.groups:
        raise InputError(f"{shape.heads} heads don't divide into {shape.groups} groups of keys and values")
    if shape.heads // shape.groups != own.heads // own.groups:
        raise InputError(
            f"expected {own.heads // own.groups} query heads a group as in the donor, found "
            f"{shape.heads // shape.groups}: whole groups are inherited"
        )
    if config.get("vocab_size") != donor.get("vocab_size"):
        raise InputError(
            f"expected the donor's vocabulary of {donor.get('vocab_size')}, found {config.get('vocab_size')}: its "
            "tokenizer is inherited"
        )
    if head_size(config) != head_size(donor):
        raise InputError(f"expected heads of {head_size(donor)} dimensions as in the donor, found {head_size(config)}")


def grown_genome(
    genome: Genome,
    donor: Mapping[str, Any],
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, int]],
    *,
    seed: int,
) -> Genome:
    """The genome in the coordinates of a model of ``config``, whose sites have ``shapes``; rank shares stay.

    Residual sides go through one map: the directions that all readers and writers use most, or a random isometry where
    the model is wider. Of internal sides the units and heads with the largest leverage stay. Directions that have
    nothing left are skipped, pair by pair; what is missing then is drawn at random.
    """
    genes = {site.name: gene for site, gene in genome.genes.items()}
    if not all(isinstance(gene, Subspace) for gene in genes.values()):
        raise InputError("expected a genome of subspaces, found masks: extract with --rank")
    own, shape = shape_of(donor), shape_of(config)
    residual = residual_map(genome, own.width, shape.width, seed)
    layers = inherited_layers(genome, own.layers, shape.layers)
    grown = {}
    for name, (d_out, d_in) in shapes.items():
        number, role = name.split(".", 2)[1:]
        layer = layers[int(number)]
        gene = genes[f"layers.{layer}.{role}"]
        assert isinstance(gene, Subspace)
        site = make_site(name, (d_out, d_in))
        units = inherited_units(genes, layer, role, own, shape, donor)
        U = residual.T @ gene.U.double() if site.writes_residual else _rows(gene.U.double(), units)
        V = residual.T @ gene.V.double() if site.reads_residual else _rows(gene.V.double(), units)
        rank = max(1, round(gene.rank / min(gene.U.shape[0], gene.V.shape[0]) * min(d_out, d_in)))
        grown[site] = _paired(U, V, rank, name, seed)
    recipe = {"grown from": genome.provenance.get("recipe", {}), "shape": asdict(shape), "seed": seed}
    return Genome(grown, {"recipe": recipe, "source": genome.provenance.get("source", {})})


def residual_map(genome: Genome, width: int, target: int, seed: int) -> Float[Tensor, "width target"]:
    """From the donor's residual stream to the model's.

    Columns orthonormal where it narrows: the leading eigenvectors of the mean projector of all residual sides. Rows
    orthonormal where it widens: a random isometry, since no direction of the wider stream is special.
    """
    if target >= width:
        return (
            torch.eye(width, dtype=torch.float64) if target == width else haar(target, width, stream(seed, "widen")).T
        )
    total = torch.zeros(width, width, dtype=torch.float64)
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        Q = (gene.V if site.reads_residual else gene.U).double()
        total += Q @ Q.T
    leading: Tensor = torch.linalg.eigh(total).eigenvectors[:, -target:].flip(1)
    return leading


def inherited_layers(genome: Genome, own: int, layers: int) -> list[int]:
    """Which of the donor's layers each layer inherits, in order: the first and the last, and those of largest rank.

    Of equal ranks those spread evenly; where the model is deeper, neighbours inherit the same layer.
    """
    spread = [round(i * (own - 1) / max(1, layers - 1)) for i in range(layers)]
    ranks = [0] * own
    for site, gene in genome.genes.items():
        ranks[int(site.name.split(".")[1])] += gene.rank if isinstance(gene, Subspace) else 0
    if layers >= own or len(set(ranks)) == 1:
        return spread
    inner = sorted(range(1, own - 1), key=lambda i: (-ranks[i], i not in spread, i))[: max(0, layers - 2)]
    return sorted({0, own - 1, *inner})[:layers] if layers > 1 else [max(range(own), key=ranks.__getitem__)]


def inherited_units(
    genes: Mapping[str, Any], layer: int, role: str, own: Shape, shape: Shape, donor: Mapping[str, Any]
) -> Int[Tensor, " rows"]:
    """Which internal rows of the donor's site stay, −1 for new ones."""
    if role.startswith("mlp"):
        used = _leverage(genes, layer, {"mlp.gate": "U", "mlp.up": "U", "mlp.down": "V"}, own.ffn)
        return _most(used, shape.ffn)
    size, repeat = head_size(donor), own.heads // own.groups
    queries = _leverage(genes, layer, {"attention.query": "U", "attention.output": "V"}, own.heads * size)
    keys = _leverage(genes, layer, {"attention.key": "U", "attention.value": "U"}, own.groups * size)
    used = queries.view(own.groups, -1).sum(1) + keys.view(own.groups, -1).sum(1)
    groups = _most(used, shape.groups)
    heads = groups if role in ("attention.key", "attention.value") else spelled(groups, repeat)
    return spelled(heads, size)


def _leverage(genes: Mapping[str, Any], layer: int, sides: Mapping[str, str], rows: int) -> Float[Tensor, " rows"]:
    """How much of the sites' directions each internal row holds: the diagonal of the projectors' sum."""
    total = torch.zeros(rows, dtype=torch.float64)
    for role, side in sides.items():
        if (gene := genes.get(f"layers.{layer}.{role}")) is not None:
            total += getattr(gene, side).double().square().sum(1)
    return total


def _most(used: Float[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """The most used, in their own order; then −1 for those that the donor hasn't."""
    kept = used.argsort(descending=True, stable=True)[:count].sort().values
    return torch.cat([kept, torch.full((max(0, count - len(used)),), -1)])


def spelled(blocks: Int[Tensor, " n"], size: int) -> Int[Tensor, " rows"]:
    """The rows of blocks of ``size``; −1 stays −1."""
    rows = blocks[:, None] * size + torch.arange(size)
    return torch.where(blocks[:, None] < 0, -1, rows).flatten()


def _rows(Q: Float[Tensor, "d k"], units: Int[Tensor, " rows"]) -> Float[Tensor, "rows k"]:
    return torch.where(units[:, None] < 0, 0.0, Q[units.clamp(min=0)])


def _paired(U: Float[Tensor, "m k"], V: Float[Tensor, "n k"], rank: int, name: str, seed: int) -> Subspace:
    """Gram–Schmidt on both sides, pair by pair in order, until ``rank`` pairs are orthonormal."""
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(U.shape[1]):
        if len(kept[0]) == rank:
            break
        left = [_beside(Q[:, i], done) for Q, done in zip((U, V), kept, strict=True)]
        if all(column.norm() > SPARE for column in left):
            for column, done in zip(left, kept, strict=True):
                done.append(column / column.norm())
    sides = []
    for Q, done, side in zip((U, V), kept, "UV", strict=True):
        generator = stream(seed, "grow", name, side)
        while len(done) < rank:
            column = _beside(torch.randn(len(Q), generator=generator, dtype=torch.float64), done)
            done.append(column / column.norm())
        sides.append(torch.stack(done, dim=1).float())
    return Subspace(*sides)


def _beside(column: Float[Tensor, " d"], done: list[Tensor]) -> Float[Tensor, " d"]:
    """The part of a column that is orthogonal to those done; twice, for round-off."""
    for _ in range(2):
        if done:
            basis = torch.stack(done, dim=1)
            column = column - basis @ (basis.T @ column)
    return column
