"""Small classifiers made sparse: what they learn, masked training side by side, iterative magnitude pruning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    TUNING,
    Layer,
    Losses,
    batches,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    tensor,
)
from ontogeny.streams import numpy_stream

Weights = list[Float[Tensor, "networks _ _"]]  # one a matrix, (inputs, outputs) each
Masks = list[Bool[Tensor, "networks _ _"]]
Rows = Int[Tensor, "steps networks size"]

INPUTS, CLASSES = 64, 10  # of both worlds
DIGITS_LEARNT = 1297  # of 1,797 images; the other 500 are held out
PARTS_LEARNT, PARTS_HELD = 19_000, 1000
PARTS, EACH = 16, 4  # parts of the made-up world, and the inputs that each reads


@dataclass(frozen=True)
class Task:
    """Labelled rows to learn from, and others to be judged on."""

    inputs: Float[Tensor, "rows inputs"]
    labels: Int[Tensor, " rows"]
    held_inputs: Float[Tensor, "held inputs"]
    held_labels: Int[Tensor, " held"]

    @property
    def reference(self) -> float:
        """Cross-entropy of the held-out labels under the learnt ones' frequencies, nats."""
        counts = torch.bincount(self.labels, minlength=CLASSES) + 1.0
        return -float((counts / counts.sum()).log()[self.held_labels].mean())


def task(world: str, seed: int) -> Task:
    """``digits``: 8 × 8 images, split anew; ``parts``: a drawn world. 64 inputs and 10 classes, both."""
    rng = numpy_stream(seed, "task", world)
    inputs, labels, learnt = WORLDS[world](rng)
    x, y = tensor(inputs), torch.from_numpy(labels.astype(np.int64))
    return Task(x[:learnt], y[:learnt], x[learnt:], y[learnt:])


Drawn = tuple[np.ndarray, np.ndarray, int]  # inputs, labels, how many of them are learnt


def _digits(rng: np.random.Generator) -> Drawn:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = rng.permutation(len(data.target))
    return data.data[order] / 16, data.target[order], DIGITS_LEARNT


def _parts(rng: np.random.Generator) -> Drawn:
    """Normal inputs; each of 16 rectified parts reads four of them; the class is the largest of ten sums of parts."""
    inputs = rng.normal(size=(PARTS_LEARNT + PARTS_HELD, INPUTS))
    read = np.zeros((INPUTS, PARTS))
    read[rng.permutation(INPUTS), np.repeat(np.arange(PARTS), EACH)] = rng.normal(0, EACH**-0.5, INPUTS)
    parts = np.maximum(inputs @ read, 0)
    parts = (parts - parts.mean(0)) / parts.std(0)
    return inputs, (parts @ rng.normal(size=(PARTS, CLASSES))).argmax(1), PARTS_LEARNT


WORLDS: dict[str, Callable[[np.random.Generator], Drawn]] = {"digits": _digits, "parts": _parts}


def cross_entropy(logits: Float[Tensor, "networks rows classes"], labels: Int[Tensor, "networks rows"]) -> Losses:
    """Every network's mean over its rows, nats."""
    return -logits.log_softmax(-1).gather(-1, labels[..., None]).mean((1, 2))


def held_out(layers: Sequence[Layer], given: Task) -> Losses:
    """Every network's cross-entropy on the rows held out, nats."""
    networks = len(layers[0][0])
    logits = outputs(layers, given.held_inputs.expand(networks, -1, -1))
    return cross_entropy(logits, given.held_labels.expand(networks, -1))


def fresh(sizes: Sequence[int], seed: int, name: str) -> Weights:
    """One network's start (``he_normal``), as a stack of one."""
    return [tensor(weights)[None] for weights in he_normal(sizes, numpy_stream(seed, "start", name))]


def orders(given: Task, seed: int, names: Sequence[str], size: int, steps: int) -> Rows:
    """Batches, an order of its own for every network."""
    streams = [numpy_stream(seed, "batches", name) for name in names]
    return torch.stack([batches(rng, len(given.labels), size, steps) for rng in streams], 1)


def train(starts: Weights, masks: Masks, given: Task, rates: Losses, rows: Rows) -> list[Layer]:
    """Networks trained from these weights inside their masks, biases from 0; masked weights are 0 before and after.

    A masked weight has no gradient, so Adam leaves it where it starts.
    """
    layers = [(w * m, torch.zeros(len(w), 1, w.shape[2])) for w, m in zip(starts, masks, strict=True)]

    def losses(step: int) -> Losses:
        masked = [(weights * mask, biases) for (weights, biases), mask in zip(layers, masks, strict=True)]
        return cross_entropy(outputs(masked, given.inputs[rows[step]]), given.labels[rows[step]])

    fit(parameters(layers), losses, rates, len(rows))
    return layers


def magnitude_masks(weights: Weights, density: float) -> Masks:
    """Of every network the entries of largest magnitude, over all its matrices together; at least one."""
    flat = torch.cat([w.flatten(1).abs() for w in weights], 1)
    largest = flat.topk(max(1, round(density * flat.shape[1])), dim=1).indices
    keep = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, largest, True)
    parts = keep.split([w[0].numel() for w in weights], dim=1)
    return [part.reshape(w.shape) for part, w in zip(parts, weights, strict=True)]


def prune(
    given: Task, starts: Weights, densities: Sequence[float], rates: Sequence[float], rows: Rows, leaders: list[int]
) -> Iterator[tuple[Masks, list[Layer]]]:
    """Density by density: masks, and networks trained in them from their starts again (Frankle & Carbin 2019).

    A mask keeps the largest weights of the network that the last density left. Network i gets the mask of network
    leaders[i]; batches come in the same order at every density.
    """
    weights = starts
    for density, rate in zip(densities, rates, strict=True):
        masks = [mask[leaders] for mask in magnitude_masks(weights, density)]
        layers = train(starts, masks, given, torch.full((len(leaders),), rate), rows)
        yield masks, layers
        weights = [layer[0] for layer in layers]


@cache
def tuned_rates(
    world: str, sizes: tuple[int, ...], densities: tuple[float, ...], steps: int, size: int
) -> tuple[float, ...]:
    """The best rate at every density, by the loss held out, on a seed that no replicate has.

    At every density a network for each rate goes on from the mask of the last density's best.
    """
    given, chosen = task(world, TUNING), list[float]()
    starts = [w.expand(len(RATES), -1, -1) for w in fresh(sizes, TUNING, "tuned")]
    rows = orders(given, TUNING, ["tuned"], size, steps).expand(-1, len(RATES), -1)
    weights = starts
    for density in densities:
        layers = train(starts, magnitude_masks(weights, density), given, torch.tensor(RATES), rows)
        chosen.append(best_rate(held_out(layers, given)))
        best = RATES.index(chosen[-1])
        weights = [layer[0][best : best + 1].expand(len(RATES), -1, -1) for layer in layers]
    return tuple(chosen)
