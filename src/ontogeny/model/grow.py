"""From a genome to a network of another size: a shape within a budget, and the genome in that shape's coordinates.

Nothing of the donor's values is used: residual directions, heads, feed-forward units and layers are chosen by how much
the genome's own directions use them.
"""

import bisect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from functools import lru_cache
from itertools import accumulate
from operator import le
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.canonical import canonical_json
from ontogeny.errors import InputError
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import architecture, make_site
from ontogeny.genome.spectrum import ROUNDING
from ontogeny.model.constrain import constrain, site_shapes
from ontogeny.model.cost import flops_per_token
from ontogeny.model.initialise import fresh_model
from ontogeny.streams import stream

Cost = Callable[[Mapping[str, Any]], int]  # of a configuration: ``parameters`` or ``flops``

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


def budgeted(config: Mapping[str, Any], share: float, cost: Cost, genome: Genome | None = None) -> dict[str, Any]:
    """The largest of the donor's smaller sisters whose ``cost`` is at most ``share`` of the donor's.

    A sister of scale τ has the fewest directions of the residual stream, feed-forward units and groups of heads that
    hold a share τ of what the genome uses there, as PCA keeps a share of the variance; and the fewest layers that hold
    √τ of its ranks: a small model keeps some depth. Without a genome all use is taken for flat: width, feed-forward
    units and heads shrink alike.
    Raises InputError for a share outside (0, 1), for one below the smallest sister's, and for a genome of masks.
    """
    if not 0 < share < 1:
        raise InputError(
            f"a budget of {share:.0%}: expected a share of the donor above 0 and below 100 %; for another "
            "size give --config"
        )
    sisters = _sisters(config, genome)
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


def _sisters(config: Mapping[str, Any], genome: Genome | None) -> list[Shape]:
    """Shapes of growing scale; a genome's each hold the one before, so that cost grows with them."""
    donor = shape_of(config)
    if genome is None:
        return list(dict.fromkeys(_scaled(config, donor, i / STEPS) for i in range(1, STEPS + 1)))
    held = _held(genome, config)
    found: list[Shape] = []
    for shape in (_holding(config, donor, held, i / STEPS) for i in range(STEPS, -1, -1)):
        if not found or all(map(le, astuple(shape), astuple(found[-1]))):  # rounding to whole heads may widen one
            found.append(shape)
    return list(dict.fromkeys(reversed(found)))


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


def _held(genome: Genome, config: Mapping[str, Any]) -> dict[str, list[float]]:
    """Size -> the share of what the genome uses there that its 1, 2, … most used hold, all layers taken together.

    Of layers the share's square: where a share τ is asked for, they hold √τ.
    """
    genes, own = subspaces(genome), shape_of(config)
    units = torch.stack([_unit_use(genes, i, own) for i in range(own.layers)])
    groups = torch.stack([_group_use(genes, i, own, config) for i in range(own.layers)])
    used = {
        "width": torch.linalg.eigvalsh(residual_use(genome, own.width)).flip(0).clamp(min=0),
        "ffn": units.sort(descending=True).values.sum(0),
        "groups": groups.sort(descending=True).values.sum(0),
    }
    held: dict[str, list[float]] = {name: (use.cumsum(0) / use.sum()).tolist() for name, use in used.items()}
    ranks = _layer_ranks(genome, own.layers)
    kept = [sum(ranks[i] for i in inherited_layers(genome, own.layers, n + 1)) for n in range(own.layers)]
    return held | {"layers": [(n / sum(ranks)) ** 2 for n in accumulate(kept, max)]}


def _holding(config: Mapping[str, Any], donor: Shape, held: Mapping[str, list[float]], scale: float) -> Shape:
    """The smallest valid sizes that hold this share."""
    least = {name: bisect.bisect_left(shares, scale * (1 - ROUNDING)) + 1 for name, shares in held.items()}
    layers, width, groups, ffn = (min(least[name], vars(donor)[name]) for name in ("layers", "width", "groups", "ffn"))
    repeat, size = donor.heads // donor.groups, head_size(config)
    if config["model_type"] in WITHOUT_HEAD_SIZE:
        groups = max(groups, math.ceil(width / size))
        width = groups * size
    else:  # a multiple of the heads: of more of them where none lies within the donor's width
        units = {n: math.lcm(n * repeat, LEAST) for n in range(groups, donor.groups + 1)}
        pairs = ((n, math.ceil(width / unit) * unit) for n, unit in units.items())
        groups, width = next((pair for pair in pairs if pair[1] <= donor.width), (donor.groups, donor.width))
    ffn = min(math.ceil(ffn / LEAST) * LEAST, donor.ffn)
    return Shape(layers, width, groups * repeat, groups, ffn)


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
    nothing left are skipped, pair by pair; what is missing then is drawn at random: ``drawn`` pairs, says provenance.
    """
    genes, own, shape = subspaces(genome), shape_of(donor), shape_of(config)
    residual = residual_map(genome, own.width, shape.width, seed)
    layers = inherited_layers(genome, own.layers, shape.layers)
    grown, drawn = {}, 0
    for name, (d_out, d_in) in shapes.items():
        number, role = name.split(".", 2)[1:]
        layer = layers[int(number)]
        gene = genes[f"layers.{layer}.{role}"]
        site = make_site(name, (d_out, d_in))
        units = inherited_units(genes, layer, role, own, shape, donor)
        U = residual.T @ gene.U.double() if site.writes_residual else _rows(gene.U.double(), units)
        V = residual.T @ gene.V.double() if site.reads_residual else _rows(gene.V.double(), units)
        rank = max(1, round(gene.rank / min(gene.U.shape[0], gene.V.shape[0]) * min(d_out, d_in)))
        grown[site], missing = _paired(U, V, rank, name, seed)
        drawn += missing
    recipe = {"grown from": genome.provenance.get("recipe", {}), "shape": asdict(shape), "seed": seed}
    return Genome(grown, {"recipe": recipe, "source": genome.provenance.get("source", {}), "drawn": drawn})


def subspaces(genome: Genome) -> dict[str, Subspace]:
    """Site name -> gene; InputError for a genome of masks."""
    genes = {site.name: gene for site, gene in genome.genes.items() if isinstance(gene, Subspace)}
    if len(genes) < len(genome.genes):
        raise InputError("expected a genome of subspaces, found masks: extract with --rank")
    return genes


def residual_map(genome: Genome, width: int, target: int, seed: int) -> Float[Tensor, "width target"]:
    """From the donor's residual stream to the model's.

    Columns orthonormal where it narrows: the leading eigenvectors of the mean projector of all residual sides. Rows
    orthonormal where it widens: a random isometry, since no direction of the wider stream is special.
    """
    if target >= width:
        return (
            torch.eye(width, dtype=torch.float64) if target == width else haar(target, width, stream(seed, "widen")).T
        )
    leading: Tensor = torch.linalg.eigh(residual_use(genome, width)).eigenvectors[:, -target:].flip(1)
    return leading


def residual_use(genome: Genome, width: int) -> Float[Tensor, "width width"]:
    """The sum of the projectors onto all residual sides: how much each direction of the stream is used."""
    total = torch.zeros(width, width, dtype=torch.float64)
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        Q = (gene.V if site.reads_residual else gene.U).double()
        total += Q @ Q.T
    return total


def inherited_layers(genome: Genome, own: int, layers: int) -> list[int]:
    """Which of the donor's layers each layer inherits, in order: the first and the last, and those of largest rank.

    Of equal ranks those spread evenly; where the model is deeper, neighbours inherit the same layer.
    """
    spread = [round(i * (own - 1) / max(1, layers - 1)) for i in range(layers)]
    ranks = _layer_ranks(genome, own)
    if layers >= own or len(set(ranks)) == 1:
        return spread
    inner = sorted(range(1, own - 1), key=lambda i: (-ranks[i], i not in spread, i))[: max(0, layers - 2)]
    return sorted({0, own - 1, *inner})[:layers] if layers > 1 else [max(range(own), key=ranks.__getitem__)]


def _layer_ranks(genome: Genome, layers: int) -> list[int]:
    ranks = [0] * layers
    for site, gene in genome.genes.items():
        ranks[int(site.name.split(".")[1])] += gene.rank if isinstance(gene, Subspace) else 0
    return ranks


def inherited_units(
    genes: Mapping[str, Any], layer: int, role: str, own: Shape, shape: Shape, donor: Mapping[str, Any]
) -> Int[Tensor, " rows"]:
    """Which internal rows of the donor's site stay, −1 for new ones."""
    if role.startswith("mlp"):
        return _most(_unit_use(genes, layer, own), shape.ffn)
    groups = _most(_group_use(genes, layer, own, donor), shape.groups)
    heads = groups if role in ("attention.key", "attention.value") else spelled(groups, own.heads // own.groups)
    return spelled(heads, head_size(donor))


def _unit_use(genes: Mapping[str, Any], layer: int, own: Shape) -> Float[Tensor, " ffn"]:
    return _leverage(genes, layer, {"mlp.gate": "U", "mlp.up": "U", "mlp.down": "V"}, own.ffn)


def _group_use(genes: Mapping[str, Any], layer: int, own: Shape, donor: Mapping[str, Any]) -> Float[Tensor, " groups"]:
    size = head_size(donor)
    queries = _leverage(genes, layer, {"attention.query": "U", "attention.output": "V"}, own.heads * size)
    keys = _leverage(genes, layer, {"attention.key": "U", "attention.value": "U"}, own.groups * size)
    return queries.view(own.groups, -1).sum(1) + keys.view(own.groups, -1).sum(1)


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


def _paired(U: Float[Tensor, "m k"], V: Float[Tensor, "n k"], rank: int, name: str, seed: int) -> tuple[Subspace, int]:
    """Gram–Schmidt on both sides, pair by pair in order, until ``rank`` pairs are orthonormal; how many were drawn."""
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(U.shape[1]):
        if len(kept[0]) == rank:
            break
        left = [_beside(Q[:, i], done) for Q, done in zip((U, V), kept, strict=True)]
        if all(column.norm() > SPARE for column in left):
            for column, done in zip(left, kept, strict=True):
                done.append(column / column.norm())
    sides, missing = [], rank - len(kept[0])
    for Q, done, side in zip((U, V), kept, "UV", strict=True):
        generator = stream(seed, "grow", name, side)
        while len(done) < rank:
            column = _beside(torch.randn(len(Q), generator=generator, dtype=torch.float64), done)
            done.append(column / column.norm())
        sides.append(torch.stack(done, dim=1).float())
    return Subspace(*sides), missing


def _beside(column: Float[Tensor, " d"], done: list[Tensor]) -> Float[Tensor, " d"]:
    """The part of a column that is orthogonal to those done; twice, for round-off."""
    for _ in range(2):
        if done:
            basis = torch.stack(done, dim=1)
            column = column - basis @ (basis.T @ column)
    return column
