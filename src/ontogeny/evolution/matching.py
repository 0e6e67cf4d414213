"""Are two networks the same but for the names of their neurons? The best permutation, and what it finds by accident.

Networks have one hidden layer, so that the best permutation is a linear assignment, found exactly (weight matching:
Ainsworth et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ontogeny.evolution.networks import Layer, resolved, tensor
from ontogeny.evolution.pruning import (
    CLASSES,
    INPUTS,
    Task,
    fresh,
    held_out,
    orders,
    prune,
    task,
    tuned_rates,
)
from ontogeny.genome.topology import rewire
from ontogeny.streams import numpy_stream

Neurons = Float[np.ndarray, "neurons wiring"]  # each row: weights from inputs, bias, weights to outputs
Naming = Int[np.ndarray, " neurons"]

POINTS = 11  # on the straight line between two networks


@dataclass(frozen=True)
class Network:
    """One hidden layer's neurons, and the outputs' biases."""

    neurons: Neurons
    biases: Float[np.ndarray, "1 outputs"]
    inputs: int

    @property
    def sides(self) -> list[Float[np.ndarray, "neurons _"]]:
        """Weights from inputs, biases, weights to outputs."""
        return list(np.split(self.neurons, [self.inputs, self.inputs + 1], axis=1))


def network(layers: Sequence[Layer], index: int) -> Network:
    """One of a stack."""
    (into, bias), (out, biases) = [[part[index].double().numpy() for part in layer] for layer in layers]
    return Network(np.concatenate([into.T, bias.T, out], axis=1), biases, len(into))


def assign(first: Neurons, second: Neurons) -> Naming:
    """For every neuron of the first the second's that it is matched with: the largest sum of inner products."""
    return np.asarray(linear_sum_assignment(first @ second.T, maximize=True)[1])


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Of two networks' weights as they stand; 0 where one has none."""
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return float((first * second).sum() / size) if size else 0.0


def best_cosine(first: Neurons, second: Neurons) -> float:
    """Under the best permutation."""
    return cosine(first, second[assign(first, second)])


def shuffle(given: Network, rng: np.random.Generator) -> Neurons:
    """Neurons that look like the network's and are not: what a match by accident is measured on.

    Every neuron keeps how many inputs it reads, how many outputs it writes and how large its weights are on either
    side; every input and output keeps how many neurons it has, and up to those sizes its values. Which neuron has
    which edge (``rewire``), and which value, is drawn.
    """
    into, bias, out = given.sides
    return np.concatenate([_deal(into, rng), rng.permutation(bias), _deal(out, rng)], axis=1)


def _deal(side: Float[np.ndarray, "neurons others"], rng: np.random.Generator) -> Float[np.ndarray, "neurons others"]:
    keep, dealt = side != 0, np.zeros_like(side)
    drawn = rewire(torch.from_numpy(keep), rng).numpy()
    for column in range(side.shape[1]):
        dealt[drawn[:, column], column] = rng.permutation(side[keep[:, column], column])
    old, new = (np.linalg.norm(values, axis=1, keepdims=True) for values in (side, dealt))
    return np.asarray(dealt * np.divide(old, new, out=np.zeros_like(old), where=new > 0))


def plant(given: Network, rng: np.random.Generator) -> Neurons:
    """A network that shares half its neurons with this one, under other names; the rest are ``shuffle``'s."""
    count = len(given.neurons)
    shared = rng.permutation(count) < count // 2
    return rng.permutation(np.where(shared[:, None], given.neurons, shuffle(given, rng)))


def barrier(first: Network, second: Network, naming: Naming, given: Task) -> float:
    """By how much the held-out loss on the straight line exceeds its ends' (Entezari et al. 2022), nats; at least 0.

    The largest excess at 11 points over the straight line between the two losses, the second's neurons renamed.
    """
    along = np.linspace(0, 1, POINTS)[:, None, None]
    neurons = (1 - along) * first.neurons + along * second.neurons[naming]
    biases = tensor((1 - along) * first.biases + along * second.biases)
    into, bias, out = np.split(neurons, [first.inputs, first.inputs + 1], axis=2)
    layers = [(tensor(into).mT, tensor(bias).mT), (tensor(out), biases)]
    losses = held_out(layers, given).double().numpy()
    return float((losses - np.linspace(losses[0], losses[-1], POINTS)).max())


def near_symmetry(keep: Float[np.ndarray, "neurons wiring"]) -> float:
    """The share of edges that the best renaming which leaves no neuron its name puts where an edge was.

    ``keep`` holds 0 and 1. 1: the wiring has a symmetry that moves every neuron; without edges 1.
    """
    shared = keep @ keep.T
    np.fill_diagonal(shared, -keep.size)
    found = linear_sum_assignment(shared, maximize=True)
    return float(shared[found].sum() / keep.sum()) if keep.any() else 1.0


def edges(neurons: Neurons, inputs: int) -> Float[np.ndarray, "neurons _"]:
    """1 where a neuron is wired to an input or an output, else 0."""
    return np.asarray(np.delete(neurons, inputs, axis=1) != 0, dtype=float)


def matching(
    *, world: str, width: int, densities: Sequence[float], steps: int, size: int, draws: int, seed: int
) -> dict[str, float | list[float]]:
    """Two networks pruned apart, matched at every density: lists by density, and how well all was learnt.

    A third is trained from a start of its own in the first one's wiring. Cosines: of the two ``matched``, with the
    second ``shuffled``, ``unmatched`` (names as they are); of the first with a ``planted`` twin of half its neurons and
    with its own shuffled neurons (``planted chance``); of the first with the third, names as they are (``same
    wiring``). Barriers: under the match, under the one that the shuffled second asks for, and unmatched. ``near
    symmetry`` of the first's mask and of one of its degrees.
    """
    sizes, densities = (INPUTS, width, CLASSES), tuple(densities)
    given, rates = task(world, seed), tuned_rates(world, sizes, densities, steps, size)
    names = ("first", "second", "third")
    starts = [torch.cat(parts) for parts in zip(*(fresh(sizes, seed, name) for name in names), strict=True)]
    rows = orders(given, seed, names, size, steps)
    levels = [
        _compare(layers, given, draws, numpy_stream(seed, "matching", level))
        for level, (_, layers) in enumerate(prune(given, starts, densities, rates, rows, [0, 1, 0]))
    ]
    found: dict[str, float | list[float]] = {key: [level[key] for level in levels] for key in levels[0]}
    return found | {"reference": given.reference, "rates": list(rates), "resolved": resolved(rates)}


def _compare(layers: Sequence[Layer], given: Task, draws: int, rng: np.random.Generator) -> dict[str, float]:
    first, second, third = (network(layers, index) for index in range(3))
    naming, same = assign(first.neurons, second.neurons), np.arange(len(first.neurons))
    accidents = [shuffle(second, rng) for _ in range(draws)]
    own = [shuffle(first, rng) for _ in range(draws)]
    drawn = [barrier(first, second, assign(first.neurons, neurons), given) for neurons in accidents]
    return {
        "loss": float(held_out(layers, given).mean()),
        "matched": cosine(first.neurons, second.neurons[naming]),
        "shuffled": float(np.mean([best_cosine(first.neurons, neurons) for neurons in accidents])),
        "unmatched": cosine(first.neurons, second.neurons),
        "planted": float(np.mean([best_cosine(first.neurons, plant(first, rng)) for _ in range(draws)])),
        "planted chance": float(np.mean([best_cosine(first.neurons, neurons) for neurons in own])),
        "same wiring": cosine(first.neurons, third.neurons),
        "matched barrier": barrier(first, second, naming, given),
        "shuffled barrier": float(np.mean(drawn)),
        "unmatched barrier": barrier(first, second, same, given),
        "near symmetry": near_symmetry(edges(first.neurons, first.inputs)),
        "near symmetry by degree": float(np.mean([near_symmetry(edges(n, first.inputs)) for n in own])),
    }
