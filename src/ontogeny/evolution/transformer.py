"""A small transformer that reads pairs and answers queries, plain tensors by name, and one grown from its subspaces.

A token is a pair (x, y) or a query (x, no y); there are no positions, for pairs have no order. A pair sees itself and
those before it, a query sees pairs and itself.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.evolution.networks import tensor
from ontogeny.evolution.regressions import Tasks, draw
from ontogeny.streams import numpy_stream

Parameters = dict[str, Tensor]
Genome = Mapping[str, tuple[Tensor, Tensor]]  # matrix -> its left and right directions, (inputs, k) and (outputs, k)
Mask = Bool[Tensor, "tokens tokens"]

HEADS = 4
WARM_UP = 0.05  # the share of steps in which the rate rises


def shapes(dimension: int, width: int, layers: int) -> dict[str, tuple[int, int]]:
    """Every matrix (inputs, outputs). The first reads tokens, the last says one number."""
    square, wide = (width, width), (width, 2 * width)
    layer = {"query": square, "key": square, "value": square, "output": square, "up": wide, "down": wide[::-1]}
    found = {f"{number}.{name}": shape for number in range(layers) for name, shape in layer.items()}
    return {"read": (dimension + 3, width)} | found | {"head": (width, 1)}


def fresh(of: Mapping[str, tuple[int, int]], seed: int, *path: str) -> Parameters:
    """Every matrix N(0, 1/inputs) from a stream of its own."""
    return {name: tensor(numpy_stream(seed, *path, name).normal(0, s[0] ** -0.5, s)) for name, s in of.items()}


def tokens(tasks: Tasks) -> Float[Tensor, "tasks tokens features"]:
    """Pairs, then queries: x, y, and which of the two it is."""

    def each(x: np.ndarray, y: np.ndarray, pair: int) -> np.ndarray:
        flags = np.broadcast_to([pair, 1 - pair], (*y.shape, 2))
        return np.concatenate([x, y[..., None], flags], axis=2)

    pairs = each(tasks.inputs, tasks.labels, 1)
    return tensor(np.concatenate([pairs, each(tasks.queries, np.zeros_like(tasks.answers), 0)], axis=1))


def seen(pairs: int, queries: int, *, growing: bool = False, evicted: int = 0) -> Mask:
    """Which tokens (columns) a token (row) sees. ``growing``: query j sees the first j pairs; else all.

    ``evicted``: so many of the first pairs are gone before the queries come; later pairs have seen them.
    """
    total = pairs + queries
    mask = torch.eye(total, dtype=torch.bool)
    mask[:pairs, :pairs] = torch.ones(pairs, pairs, dtype=torch.bool).tril()
    mask[pairs:, evicted:pairs] = True
    if growing:
        mask[pairs:, :pairs] = torch.ones(queries, pairs, dtype=torch.bool).tril(-1)
    return mask


def forward(
    parameters: Parameters, given: Float[Tensor, "tasks tokens _"], mask: Mask, sharpness: float = 1.0
) -> Float[Tensor, "tasks tokens"]:
    """The number that every token says. ``sharpness``: 1 ÷ the temperature of attention."""
    width = parameters["read"].shape[-1]
    state = given @ parameters["read"]
    for layer in range(sum(name.endswith(".query") for name in parameters)):
        own = {part: parameters[f"{layer}.{part}"] for part in ("query", "key", "value", "output", "up", "down")}
        normed = F.layer_norm(state, (width,))
        query, key, value = (
            (normed @ own[part]).unflatten(-1, (HEADS, -1)).transpose(-2, -3) for part in ("query", "key", "value")
        )
        scores = sharpness / math.sqrt(width // HEADS) * (query @ key.transpose(-1, -2))
        mixed = scores.masked_fill(~mask, -math.inf).softmax(-1) @ value
        state = state + mixed.transpose(-2, -3).flatten(-2) @ own["output"]
        state = state + F.gelu(F.layer_norm(state, (width,)) @ own["up"]) @ own["down"]
    return (F.layer_norm(state, (width,)) @ parameters["head"])[..., 0]


@torch.no_grad()
def answers(
    parameters: Parameters, tasks: Tasks, *, growing: bool = False, evicted: int = 0, sharpness: float = 1.0
) -> Float[np.ndarray, "tasks queries"]:
    """What a network says of every query."""
    pairs, queries = tasks.labels.shape[1], tasks.answers.shape[1]
    mask = seen(pairs, queries, growing=growing, evicted=evicted)
    return forward(parameters, tokens(tasks), mask, sharpness)[:, pairs:].double().numpy()


def train(
    trained: Parameters,
    network: Callable[[Parameters], Parameters],
    rng: np.random.Generator,
    *,
    pairs: int,
    dimension: int,
    batch: int,
    rate: float,
    steps: int,
) -> list[Parameters]:
    """Adam on the squared error after every number of pairs, on new tasks in every step.

    Returns the network at half of the steps and at the end. ``network`` makes it of what is trained. The rate rises,
    then falls to 0 along a cosine.
    """
    mask, kept = seen(pairs, pairs + 1, growing=True), []
    moved = {name: part.clone().requires_grad_() for name, part in trained.items()}
    optimizer = torch.optim.Adam(moved.values(), lr=rate)
    for step in range(steps):
        tasks = draw(rng, batch, pairs, pairs + 1, dimension)
        rising = min(1.0, (step + 1) / (WARM_UP * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * rising * 0.5 * (1 + math.cos(math.pi * step / steps))
        said = forward(network(moved), tokens(tasks), mask)[:, pairs:]
        optimizer.zero_grad()
        (said - tensor(tasks.answers)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(moved.values(), 1.0)
        optimizer.step()
        if step + 1 in (max(1, steps // 2), steps):
            kept.append({name: part.detach().clone() for name, part in network(moved).items()})
    return [kept[0], kept[-1]]


def genome(parameters: Parameters, rank: int) -> Genome:
    """The leading singular subspaces of every matrix of the layers: directions alone, no value."""
    found = {}
    for name, matrix in parameters.items():
        if "." in name:
            left, _, right = torch.linalg.svd(matrix, full_matrices=False)
            found[name] = (left[:, :rank].contiguous(), right[:rank].T.contiguous())
    return found


def sprout(of: Mapping[str, tuple[int, int]], genes: Genome, seed: int, *path: str) -> Parameters:
    """What a grown network trains: a fresh core (k, k) for every gene, of the size that makes ‖W‖ a fresh matrix's."""
    start = fresh(of, seed, *path)
    for name, (left, _) in genes.items():
        k, outputs = left.shape[1], of[name][1]
        start[name] = tensor(numpy_stream(seed, *path, name, "core").normal(0, outputs**0.5 / k, (k, k)))
    return start


def grown(trained: Parameters, genes: Genome) -> Parameters:
    """The network of fixed directions and trained cores."""
    return trained | {name: left @ trained[name] @ right.T for name, (left, right) in genes.items()}


def lesson(parameters: Parameters, tasks: Tasks, rate: float, steps: int) -> Parameters:
    """One twin a task, fine-tuned on its task's pairs without a context: Adam on all of them in every step.

    Every matrix of what comes back has the tasks as its first axis.
    """
    count = len(tasks.labels)
    twins = {name: p.expand(count, *p.shape).clone().requires_grad_() for name, p in parameters.items()}
    taught, asked = tensor(tasks.labels), _alone(tasks.inputs)
    optimizer = torch.optim.Adam(twins.values(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (_each(twins, asked) - taught).square().mean(1).sum().backward()
        optimizer.step()
    return {name: part.detach() for name, part in twins.items()}


@torch.no_grad()
def recall(twins: Parameters, tasks: Tasks) -> Float[np.ndarray, "tasks queries"]:
    """What every task's twin says of its queries without a context."""
    return _each(twins, _alone(tasks.queries)).double().numpy()


def _alone(inputs: Float[np.ndarray, "tasks queries d"]) -> Float[Tensor, "tasks queries 1 features"]:
    """Every query as a sequence of its own."""
    said = np.zeros(inputs.shape[:2])
    bare = Tasks(inputs[:, :0], said[:, :0], inputs, said)
    return tokens(bare)[:, :, None]


def _each(twins: Parameters, asked: Float[Tensor, "tasks queries 1 _"]) -> Float[Tensor, "tasks queries"]:
    mask = seen(0, 1)
    said: Tensor = torch.vmap(lambda twin, x: forward(twin, x, mask)[:, 0])(twins, asked)
    return said
