"""Which directions of a constrained model live: scores of directions, and what a round of pruning leaves.

A direction is a pair of columns of U and V with its row and column of the core: i-th of U with i-th of V, which the
``singular`` basis holds. A dead one has no effect, no gradient, and no optimiser state (``enforce_masks``).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.model.constrain import sites
from ontogeny.model.layers import SubspaceLinear

Alive = Mapping[str, Bool[Tensor, " k"]]  # site -> which of its directions live
Scope = Literal["matrix", "role", "global"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# Importance of a core's entries from a step's gradient and the core; summed over the steps of a round.
GRADIENT_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient": lambda g, core: g.abs(),  # the published one
    "gradient-weight": lambda g, core: (g * core).abs(),  # Molchanov et al. 2017, arXiv:1611.06440
    "fisher": lambda g, core: g.square(),  # diagonal of the empirical Fisher information
}
STATE = ("alive", "lived", "score")  # buffers of a layer that development changes
SCORES = (*GRADIENT_SCORES, "singular-value", "random")


def prunable(model: nn.Module) -> dict[str, SubspaceLinear]:
    """Site -> its layer, of every core in the model. Raises InputError where there is none."""
    found = {name: layer for name, layer in sites(model) if isinstance(layer, SubspaceLinear)}
    if not found:
        raise InputError("no site of the model has a core: constrain it to a subspace genome first")
    return found


@torch.no_grad()
def set_alive(model: nn.Module, living: Alive) -> nn.Module:
    """Let these directions live and no others, in place; the core's dead entries become exactly zero.

    Raises InputError for a site that the model hasn't, another number of directions, and a site left with none.
    """
    layers = prunable(model)
    for name, mask in living.items():
        k = layers[name].U.shape[1] if name in layers else 0
        if tuple(mask.shape) != (k,) or not mask.any():
            raise InputError(
                f"site {name}: expected which of its {k} directions live, at least one; found {int(mask.sum())} of "
                f"{tuple(mask.shape)}"
            )
    for name, mask in living.items():
        layer = layers[name]
        if layer.alive is None:
            layer.alive = mask.to(layer.U.device, copy=True)
        else:
            layer.alive.copy_(mask)
        dead = layer.dead
        assert dead is not None
        layer.core.masked_fill_(dead, 0)
    return model


def direction_scores(
    entries: Float[Tensor, "k k"] | Float[Tensor, " k"], living: Bool[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """A direction's score: the mean over the living entries of its row and its column; −∞ where it is dead."""
    if entries.ndim == 1:
        found = entries
    else:
        used = entries * living * living[:, None]
        found = (used.sum(0) + used.sum(1) - used.diagonal()) / (2 * int(living.sum()) - 1)
    return torch.where(living, found, -torch.inf)


def select(scores: Mapping[str, Float[Tensor, " k"]], share: float, scope: Scope = "matrix") -> dict[str, Tensor]:
    """The directions with the highest scores: ``share`` of every matrix's, of all matrices' of a role, or of all.

    By role, layers compete and kinds of matrices, whose gradients differ in scale, don't. Every site keeps at least
    one; a dead direction (−∞) never returns. Of equal scores the earlier one stays.
    Raises InputError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share of directions to keep: expected a number above 0 and at most 1, found {share}")
    if scope == "matrix":
        return {name: _top(s, max(1, round(share * len(s)))) for name, s in scores.items()}
    raised = {name: s.index_fill(0, s.argmax(), torch.inf) for name, s in scores.items()}  # each site's best stays
    roles: dict[str, list[str]] = {}
    for name in scores:
        roles.setdefault(name.split(".", 2)[2] if scope == "role" else "", []).append(name)
    found: dict[str, Tensor] = {}
    for names in roles.values():
        sizes = [len(raised[name]) for name in names]
        total = max(len(names), round(share * sum(sizes)))
        chosen = _top(torch.cat([raised[name] for name in names]), total).split(sizes)
        found |= dict(zip(names, chosen, strict=True))
    return {name: found[name] for name in scores}


def _top(scores: Float[Tensor, " k"], count: int) -> Bool[Tensor, " k"]:
    order = scores.argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[order] = True
    return chosen & (scores > -torch.inf)


@torch.no_grad()
def compact(model: nn.Module) -> nn.Module:
    """Leave dead directions out of U, V and the core, in place: the same network, smaller and faster."""
    pruned = {name: m for name, m in model.named_modules() if isinstance(m, SubspaceLinear) and m.alive is not None}
    for name, layer in pruned.items():
        living = layer.alive
        core = layer.core[living] if layer.core.ndim == 1 else layer.core[living][:, living]
        small = SubspaceLinear(layer.U[:, living], layer.V[:, living], core, layer.bias)
        small.transposed = layer.transposed
        model.set_submodule(name, small.train(layer.training))
    return model


def surviving(genome: Genome, survivors: Alive) -> Genome:
    """The genome of subspaces with the directions that live alone, in their order; its provenance stays."""
    genes = {}
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        living = survivors[site.name]
        genes[site] = Subspace(gene.U[:, living], gene.V[:, living])
    return Genome(genes, genome.provenance)


def development_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every buffer that development changes: part of a run's state beside its parameters."""
    for name, module in model.named_modules():
        if isinstance(module, SubspaceLinear):
            for kind in STATE:
                if (buffer := getattr(module, kind, None)) is not None:
                    yield f"{name}.{kind}", buffer
