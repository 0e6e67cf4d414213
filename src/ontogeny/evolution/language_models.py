"""Stacks of small language models trained side by side, and the axes of their matrices in the residual stream.

Their embeddings and heads are drawn at random, frozen, and the same in all that are compared: a common frame, in which
the axes of networks that share nothing else can be compared without aligning them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.dialects import LENGTH, SYMBOLS, corpus, windows
from ontogeny.evolution.networks import TUNING, Losses, fit, tensor
from ontogeny.genome.compare import overlap_null
from ontogeny.streams import numpy_stream

WIDTH, UNITS, LAYERS = 48, 96, 2  # of the residual stream; hidden units of a layer's feed-forward part; layers
ROLES = {  # of a layer's matrices -> (inputs, outputs)
    "query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH), "value": (WIDTH, WIDTH), "output": (WIDTH, WIDTH),
    "up": (WIDTH, UNITS), "down": (UNITS, WIDTH),
}  # fmt: skip
WRITERS = ("output", "down")  # the others read the residual stream
SITES = [(layer, role) for layer in range(LAYERS) for role in ROLES]
ROTARY_BASE = 100.0  # of positions, for windows of tens of symbols
BATCH = 8  # windows a step
RATES = (0.03, 0.01, 0.003, 0.001)  # of Adam, every one tried
RANK = 12  # leading axes of a matrix that are compared: a quarter of its directions

Body = list[Float[Tensor, "_ _ _"]]  # the matrices of SITES, (networks, inputs, outputs)
Windows = Int[Tensor, "networks batch _"]
Logits = Float[Tensor, "networks batch length symbols"]
Axes = Float[Tensor, "sites networks width rank"]
Hidden = Float[Tensor, "networks rows width"]


@dataclass(frozen=True)
class Shape:
    """An architecture.

    ``arrangement``: the norm before each part, one part after the other (Radford et al. 2019); both parts at once (Wang
    & Komatsuzaki 2021, GPT-J); or the norm after each part (Vaswani et al. 2017).
    """

    heads: int = 4
    arrangement: Literal["sequential", "parallel", "post"] = "sequential"
    activation: Literal["gelu", "relu", "square"] = "gelu"


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "square": lambda x: F.relu(x).square(),
}


@dataclass(frozen=True, eq=False)
class Frame:
    """Frozen embeddings and head: orthonormal rows times √width, the two drawn apart."""

    embeddings: Float[Tensor, "symbols width"]
    head: Float[Tensor, "symbols width"]


def make_frame(seed: int) -> Frame:
    """The frame of a replicate."""
    rng = numpy_stream(seed, "frame")
    bases = (np.linalg.qr(rng.normal(size=(WIDTH, SYMBOLS))).Q.T * WIDTH**0.5 for _ in range(2))
    return Frame(*map(tensor, bases))


def fresh(rng: np.random.Generator) -> Body:
    """One untrained network: N(0, 1/inputs), whose singular subspaces are uniformly random."""
    return [tensor(rng.normal(0, ROLES[role][0] ** -0.5, (1, *ROLES[role]))) for _, role in SITES]


def together(bodies: Sequence[Body]) -> Body:
    """One stack of several, copied."""
    return [torch.cat(parts) for parts in zip(*bodies, strict=True)]


def one_of(body: Body, networks: Sequence[int]) -> Body:
    """Some networks of a stack, copied."""
    return [part[list(networks)].clone() for part in body]


def logits(body: Body, symbols: Windows, frame: Frame, shape: Shape) -> Logits:
    """Every network's logits for the symbol after each of its own windows' symbols."""
    _, batch, length = symbols.shape
    x = frame.embeddings[symbols].flatten(1, 2)  # (networks, batch · length, width)
    for layer in range(LAYERS):
        attention, feed_forward = body[6 * layer : 6 * layer + 4], body[6 * layer + 4 : 6 * layer + 6]
        if shape.arrangement == "parallel":
            h = _norm(x)
            x = x + _attend(h, attention, shape.heads, length) + _feed(h, feed_forward, shape)
        elif shape.arrangement == "post":
            x = _norm(x + _attend(x, attention, shape.heads, length))
            x = _norm(x + _feed(x, feed_forward, shape))
        else:
            x = x + _attend(_norm(x), attention, shape.heads, length)
            x = x + _feed(_norm(x), feed_forward, shape)
    found: Tensor = (_norm(x) @ frame.head.T / WIDTH**0.5).unflatten(1, (batch, length))
    return found


def next_symbol_losses(body: Body, symbols: Windows, frame: Frame, shape: Shape) -> Losses:
    """Mean cross-entropy (nats a symbol) of predicting each window's symbols from those before, for every network."""
    found = logits(body, symbols[..., :-1], frame, shape)
    each = F.cross_entropy(found.flatten(0, 2), symbols[..., 1:].flatten(), reduction="none")
    return each.view(len(symbols), -1).mean(1)


@torch.no_grad()
def held_out_losses(body: Body, held: Int[Tensor, "windows length"], frame: Frame, shape: Shape) -> list[float]:
    """The loss of every network on the same windows."""
    found = next_symbol_losses(body, held.expand(len(body[0]), -1, -1), frame, shape)
    return [float(loss) for loss in found]


@cache
def best_rate(shape: Shape, steps: int, name: str, *, decaying: bool = True) -> tuple[float, bool]:
    """The rate of the least held-out loss after so many steps on a corpus, on the tuning seed; is it inside the grid?

    One network a rate, all with the same start and batches.
    """
    rng, frame = numpy_stream(TUNING, "transformers"), make_frame(TUNING)
    held = 8 * BATCH
    read = windows(corpus(name, (steps * BATCH + held + 1) * LENGTH + 1), rng)
    body = together([fresh(rng)] * len(RATES))

    def losses(step: int) -> Losses:
        batch = read[held + step * BATCH :][:BATCH]
        return next_symbol_losses(body, batch.expand(len(RATES), -1, -1), frame, shape)

    fit(body, losses, torch.tensor(RATES), steps, decaying=decaying)
    found = np.nan_to_num(held_out_losses(body, read[:held], frame, shape), nan=np.inf)
    best = int(np.argmin(found))
    return RATES[best], 0 < best < len(RATES) - 1


@torch.no_grad()
def axes(body: Body, first: int = 0, last: int = RANK) -> Axes:
    """Every matrix's singular directions first … last − 1 on its side that faces the residual stream."""
    found = []
    for (_, role), part in zip(SITES, body, strict=True):
        U, _, Vh = torch.linalg.svd(part.double(), full_matrices=False)
        found.append(Vh.mT[..., first:last] if role in WRITERS else U[..., first:last])
    return torch.stack(found)


def agreement(one: Axes, other: Float[Tensor, "sites others width rank"]) -> Float[np.ndarray, "sites networks others"]:
    """Overlap of every network's axes with every other's beyond chance: 0 as for random subspaces, 1 for equal ones."""
    rank = one.shape[-1]
    chance = overlap_null(WIDTH, rank, rank).mean
    squares = torch.einsum("sndk,smdl->snmkl", one, other).square().sum((-1, -2))
    return np.asarray((squares / rank - chance) / (1 - chance))


def _attend(h: Hidden, matrices: Sequence[Tensor], heads: int, length: int) -> Hidden:
    query, key, value, output = matrices
    q, k, v = (
        torch.bmm(h, W).view(-1, length, heads, WIDTH // heads).transpose(1, 2) for W in (query, key, value)
    )  # (networks · batch, heads, length, size)
    turned = _rotation(length, WIDTH // heads)
    scores = _rotate(q, turned) @ _rotate(k, turned).mT / (WIDTH // heads) ** 0.5
    mixed = (scores + _future(length)).softmax(-1) @ v
    return torch.bmm(mixed.transpose(1, 2).reshape(h.shape), output)


def _feed(h: Hidden, matrices: Sequence[Tensor], shape: Shape) -> Hidden:
    up, down = matrices
    return torch.bmm(ACTIVATIONS[shape.activation](torch.bmm(h, up)), down)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (WIDTH,))


@cache
def _future(length: int) -> Tensor:
    """−∞ above the diagonal: no symbol attends to a later one."""
    return torch.full((length, length), -torch.inf).triu(1)


@cache
def _rotation(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al. 2021), length × size/2."""
    angles = torch.arange(length)[:, None] * ROTARY_BASE ** (-torch.arange(0, size, 2) / size)
    return angles.cos(), angles.sin()


def _rotate(x: Float[Tensor, "rows heads length size"], turned: tuple[Tensor, Tensor]) -> Tensor:
    (cos, sin), (first, second) = turned, x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
