"""One task found by gradients, by an evolution strategy and by a genetic algorithm, each stopped at the same loss.

Problems are solved side by side: every one has a start, data and a rate of its own. Networks are points, as
searchers see them.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.digit_networks import CLASSES, digits
from ontogeny.evolution.networks import DECAYS, RATES, SLOPE, TUNING, batches, he_normal, tensor
from ontogeny.evolution.similarity import centred_kernel, neighbours, variance_shares
from ontogeny.streams import numpy_stream

Points = Float[Tensor, "problems d"]
Members = Float[Tensor, "problems members d"]
MemberLosses = Float[Tensor, "problems members"]
Losses = Callable[[int, Members], MemberLosses]  # of a step's batch
Rates = Float[Tensor, " problems"]
Inputs = Float[Tensor, "problems rows inputs"]
Search = Callable[[Points, Losses, Rates, np.random.Generator], Iterator[Points]]

SIDE = 4  # of an image, its pixels' means
INPUTS = SIDE**2
SHARED = CLASSES // 2  # classes of one half of the digits: what one world holds
ARCHITECTURES = {"one": (INPUTS, 12, SHARED), "two": (INPUTS, 10, 10, SHARED)}  # hidden layers
DECAY = 0.01  # of weights by AdamW, times its rate
SAFE = 1 / 3  # of the fastest rate, the grid's next one
OFFSPRING = 32  # of the evolution strategy, in antithetic pairs
SIGMA = 0.05  # of its mutations
POPULATION = 64  # of the genetic algorithm
PARENTS = 16  # of them, the best
AXES = 4  # leading directions of the first layer, in input space
NEAREST = 10  # neighbours
MEASURES = ("axes", "cka", "neighbours")
FACTORS = ("searcher", "data", "architecture", "seed")


def sgd(start: Points, losses: Losses, rates: Rates, rng: np.random.Generator) -> Iterator[Points]:
    """Stochastic gradient descent."""
    point = start
    for step in count():
        point = point - rates[:, None] * _gradient(losses, step, point)
        yield point


def adamw(start: Points, losses: Losses, rates: Rates, rng: np.random.Generator) -> Iterator[Points]:
    """AdamW (Loshchilov & Hutter 2019) at a constant rate."""
    point, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in count():
        gradient = _gradient(losses, step, point)
        mean = mean.lerp(gradient, 1 - DECAYS[0])
        square = square.lerp(gradient**2, 1 - DECAYS[1])
        corrected = math.sqrt(1 - DECAYS[1] ** (step + 1)) / (1 - DECAYS[0] ** (step + 1))
        point = point - rates[:, None] * (DECAY * point + corrected * mean / (square.sqrt() + 1e-8))
        yield point


def _gradient(losses: Losses, step: int, point: Points) -> Points:
    here = point.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(step, here[:, None]).sum(), here)
    return gradient


def evolution_strategy(start: Points, losses: Losses, rates: Rates, rng: np.random.Generator) -> Iterator[Points]:
    """A mean that goes down its estimate of the smoothed loss's gradient (Salimans et al. 2017)."""
    point, (problems, d) = start, start.shape
    for step in count():
        half = tensor(rng.standard_normal((problems, OFFSPRING // 2, d), dtype=np.float32))
        drawn = torch.cat([half, -half], 1)
        told = losses(step, point[:, None] + SIGMA * drawn)
        point = point - rates[:, None] * torch.einsum("pm,pmd->pd", told, drawn) / (OFFSPRING * SIGMA)
        yield point


def genetic_algorithm(start: Points, losses: Losses, rates: Rates, rng: np.random.Generator) -> Iterator[Points]:
    """Truncation selection, uniform crossover, mutations N(0, rate²); the best of every generation, which lives on.

    As in Such et al. 2017, with crossover.
    """
    problems, d = start.shape
    own, sigma = torch.arange(problems)[:, None], rates[:, None, None]
    first = tensor(rng.standard_normal((problems, POPULATION, d), dtype=np.float32))
    members = start[:, None] + sigma * first
    for step in count():
        best = losses(step, members).argsort(1)[:, :PARENTS]
        parents = members[own, best]
        yield parents[:, 0]
        pair = torch.from_numpy(rng.integers(PARENTS, size=(2, problems, POPULATION - 1)))
        mothers, fathers = (parents[own, one] for one in pair)
        chosen = torch.from_numpy(rng.random((problems, POPULATION - 1, d), dtype=np.float32)) < 0.5
        mutations = tensor(rng.standard_normal((problems, POPULATION - 1, d), dtype=np.float32))
        members = torch.cat([parents[:, :1], torch.where(chosen, mothers, fathers) + sigma * mutations], 1)


SEARCHERS: dict[str, tuple[Search, float]] = {  # and by how much its rates are above ``RATES``
    "SGD": (sgd, 10.0),
    "AdamW": (adamw, 1.0),
    "evolution strategy": (evolution_strategy, 10.0),
    "genetic algorithm": (genetic_algorithm, 1.0),
}


def layers(points: Members, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Weights (…, inputs, outputs) and biases of the networks that points are."""
    parts, at = [], 0
    for i, o in pairwise(sizes):
        weights = points[..., at : at + i * o].unflatten(-1, (i, o))
        parts.append((weights, points[..., None, at + i * o : at + i * o + o]))
        at += i * o + o
    return parts


def hidden_and_said(points: Members, inputs: Inputs, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of every member the last hidden layer and the logits, (problems, members, rows, _)."""
    hidden, *parts = inputs[:, None], *layers(points, sizes)
    for weights, biases in parts[:-1]:
        hidden = F.leaky_relu(hidden @ weights + biases, SLOPE)
    return hidden, hidden @ parts[-1][0] + parts[-1][1]


def cross_entropy(
    points: Members, inputs: Inputs, labels: Int[Tensor, "problems rows"], sizes: Sequence[int]
) -> MemberLosses:
    """The mean over rows, nats."""
    said = hidden_and_said(points, inputs, sizes)[1].log_softmax(-1)
    wanted = labels[:, None, :, None].expand(-1, said.shape[1], -1, -1)
    return -said.gather(-1, wanted).mean((2, 3))


@dataclass(frozen=True)
class Problems:
    """Networks to find, side by side: what each starts from, learns from, and is shown at every step."""

    start: Points
    inputs: Inputs
    labels: Int[Tensor, "problems rows"]
    shown: Int[Tensor, "problems steps size"]


@dataclass(frozen=True)
class Found:
    """Of every problem the first network at the target, its loss on all rows and the steps to it; else the last one's.

    ``steps`` is infinite where the target was not reached; what diverged is kept as it was before.
    """

    points: Points
    losses: Rates
    steps: Rates


def search_to(
    searcher: str,
    sizes: Sequence[int],
    problems: Problems,
    rates: Rates,
    target: float,
    rng: np.random.Generator,
    *,
    first: bool = False,
) -> Found:
    """Search until every problem's loss on all its rows is at most the target; with ``first`` until one's is."""
    own = torch.arange(len(rates))[:, None]

    def losses(step: int, points: Members) -> MemberLosses:
        rows = problems.shown[:, step]
        return cross_entropy(points, problems.inputs[own, rows], problems.labels[own, rows], sizes)

    points = problems.start.clone()
    reached = cross_entropy(points[:, None], problems.inputs, problems.labels, sizes)[:, 0]
    steps = torch.full((len(rates),), math.inf)
    candidates = SEARCHERS[searcher][0](problems.start, losses, rates, rng)
    for step, candidate in enumerate(islice(candidates, problems.shown.shape[1]), start=1):
        loss = cross_entropy(candidate[:, None], problems.inputs, problems.labels, sizes)[:, 0]
        running = steps.isinf() & loss.isfinite()  # what diverges stays at its last finite loss
        points = torch.where(running[:, None], candidate, points)
        reached = torch.where(running, loss, reached)
        steps = torch.where(running & (loss <= target), float(step), steps)
        done = steps.isfinite()
        if bool(done.any() if first else done.all()):
            break
    return Found(points, reached, steps)


def worlds(seed: int, rows: int, probes: int) -> tuple[Tensor, Tensor, Float[np.ndarray, "probes inputs"]]:
    """Inputs (2, rows, 16) and labels (2, rows) of two worlds of five digits each, and images of all ten to probe with.

    Which digits a world has is drawn; no image is in two of the three.
    """
    pixels, classes = digits()
    means = pixels.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(-1, INPUTS)
    means = (means - means.mean()) / means.std()
    rng = numpy_stream(seed, "worlds")
    order, named = rng.permutation(len(classes)), rng.permutation(CLASSES)
    held, rest = order[:probes], order[probes:]
    place = np.argsort(named)[classes]  # of a digit: 0 … 4 in the first world, 5 … 9 in the second
    chosen = np.stack([rest[place[rest] // SHARED == world][:rows] for world in (0, 1)])
    return tensor(means[chosen]), torch.from_numpy(place[chosen] % SHARED), means[held]


def flat(sizes: Sequence[int], rng: np.random.Generator) -> Float[np.ndarray, " d"]:
    """A fresh network as a point: weights N(0, 2/inputs), biases 0."""
    parts = [np.concatenate([w.ravel(), np.zeros(w.shape[1])]) for w in he_normal(sizes, rng)]
    return np.concatenate(parts)


@functools.cache
def tuned(searcher: str, architecture: str, rows: int, batch: int, limit: int, target: float) -> tuple[float, bool]:
    """A third of the rate that reaches the target first, and whether that is inside the grid; on the tuning seed.

    The fastest rate is at the edge: of other starts some don't get there.
    """
    sizes, n = ARCHITECTURES[architecture], len(RATES)
    inputs, labels, _ = worlds(TUNING, rows, 0)
    problems = Problems(
        tensor(flat(sizes, numpy_stream(TUNING, "start"))).expand(n, -1),
        inputs[:1].expand(n, -1, -1),
        labels[:1].expand(n, -1),
        batches(numpy_stream(TUNING, "batches"), rows, batch, limit).expand(n, -1, -1),
    )
    rates = torch.tensor(RATES) * SEARCHERS[searcher][1]
    found = search_to(searcher, sizes, problems, rates, target, numpy_stream(TUNING, searcher), first=True)
    at = int(np.lexsort((rates.numpy(), found.losses.numpy(), found.steps.numpy()))[0])
    return SAFE * float(rates[at]), bool(found.steps[at].isfinite()) and 0 < at < n - 1


def interchangeable(*, rows: int, probes: int, batch: int, limit: int, target: float, seed: int) -> dict[str, Any]:
    """Searchers × worlds × architectures × seeds, all at the same loss: how alike networks are, by what they share.

    Of every measure M "M within": two seeds of one searcher in one world; "M between": two searchers; "M other": one
    searcher in two worlds. All pairs are of one architecture and of two seeds. "M pairs": the means of searchers
    against each other, row by row. "M share F": of the variance over networks.
    """
    inputs, labels, held = worlds(seed, rows, probes)
    cells, told = [], []
    gates: dict[str, Any] = {}
    for architecture, sizes in ARCHITECTURES.items():
        starts = [flat(sizes, numpy_stream(seed, "start", architecture, twin)) for twin in range(2)]
        cases = [(world, twin) for world in range(2) for twin in range(2)]
        problems = Problems(
            tensor(np.stack([starts[twin] for _, twin in cases])),
            inputs[[world for world, _ in cases]],
            labels[[world for world, _ in cases]],
            torch.stack([batches(numpy_stream(seed, "batches", *case), rows, batch, limit) for case in cases]),
        )
        for name in SEARCHERS:
            rate, resolved = tuned(name, architecture, rows, batch, limit, target)
            rng = numpy_stream(seed, "search", architecture, name)
            found = search_to(name, sizes, problems, torch.full((len(cases),), rate), target, rng)
            gates |= {f"{name} {architecture} {key}": value for key, value in _reached(found, resolved, target).items()}
            cells += [(list(SEARCHERS).index(name), world, architecture == "two", twin) for world, twin in cases]
            told += _features(found.points, tensor(held), sizes)
    return gates | _compared(np.array(cells, dtype=int), told)


def _reached(found: Found, resolved: bool, target: float) -> dict[str, float]:
    reached = found.steps.isfinite().float().mean()
    return {"reached": float(reached), "loss": float(found.losses.mean() / target), "resolved": float(resolved)}


def _features(points: Points, held: Tensor, sizes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Of every network a vector of length 1 for each measure."""
    hidden = hidden_and_said(points[:, None], held.expand(len(points), -1, -1), sizes)[0][:, 0].double().numpy()
    first = layers(points[:, None], sizes)[0][0][:, 0].double().numpy()
    axes = np.linalg.svd(first)[0][:, :, :AXES]
    return [
        {"axes": u @ u.T / AXES**0.5, "cka": centred_kernel(h), "neighbours": neighbours(h, NEAREST)}
        for u, h in zip(axes, hidden, strict=True)
    ]


def _compared(cells: Int[np.ndarray, "networks 4"], told: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    same = {name: np.equal.outer(levels, levels) for name, levels in zip(FACTORS, cells.T, strict=True)}
    fair = same["architecture"] & ~same["seed"]
    kinds = {
        "within": fair & same["searcher"] & same["data"],
        "between": fair & ~same["searcher"] & same["data"],
        "other": fair & same["searcher"] & ~same["data"],
    }
    found: dict[str, Any] = {}
    levels = {name: column.tolist() for name, column in zip(FACTORS, cells.T, strict=True)}
    for measure in MEASURES:
        vectors = np.stack([one[measure].ravel() for one in told])
        gram = vectors @ vectors.T
        found |= {f"{measure} {kind}": float(gram[pairs].mean()) for kind, pairs in kinds.items()}
        found |= {f"{measure} share {name}": share for name, share in variance_shares(gram, levels).items()}
        beside = fair & same["data"]
        searchers = range(len(SEARCHERS))
        pairs = [beside & np.outer(cells[:, 0] == a, cells[:, 0] == b) for a in searchers for b in searchers]
        found[f"{measure} pairs"] = [float(gram[pair].mean()) for pair in pairs]
    return found
