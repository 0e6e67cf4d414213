"""Networks of two hidden layers that learn a product: as it was published, trained out, and beyond their range."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    SLOPE,
    TUNING,
    Layer,
    batches,
    best_rate,
    fit,
    outputs,
    parameters,
    resolved,
    stack,
    tensor,
)
from ontogeny.streams import numpy_stream

Pairs = Float[np.ndarray, "pairs 2"]
Column = Float[np.ndarray, "pairs 1"]

SAMPLES, TRAINED = 1000, 700  # pairs (m, a), and how many of them are learnt
RANGE, OUTSIDE, FAR = (1.0, 10.0), (10.0, 20.0), (20.0, 40.0)  # of m and a
SECOND, WIDEST = 64, 128  # units of the second hidden layer; the most that a nested draw has in the first
RATE = 1e-5  # of the published gradient descent
BATCH = 100  # of the longer training
DIVERGED = 1e9  # in place of a cost that is larger, or not a number


def _identity(x: np.ndarray) -> np.ndarray:
    return x


# task -> what the network is shown of m and a, the number it is asked for, and what it says in that number's terms
Task = tuple[Callable[[Any], Any], Callable[[Pairs], Column], Callable[[Any], Any]]
TASKS: Mapping[str, Task] = {
    "multiplication": (_identity, lambda x: x.prod(1, keepdims=True), _identity),
    "addition": (_identity, lambda x: x.sum(1, keepdims=True), _identity),
    "logarithms": (np.log, lambda x: x.prod(1, keepdims=True), np.log),  # of a product: an addition of logarithms
}


def pairs(seed: int, path: str, bounds: tuple[float, float], count: int = SAMPLES) -> Pairs:
    """(m, a), both uniform and independent."""
    return numpy_stream(seed, "pairs", path).uniform(*bounds, (count, 2))


def nested_weights(width: int, seed: int) -> list[np.ndarray]:
    """He-normal weights of [2, width, 64, 1]; a wider network holds the narrower one's, but for the second scale.

    That scale is √(2/width), so that the second layer starts as large at every width.
    """
    rng = numpy_stream(seed, "nested")
    first, second, last = rng.normal(size=(WIDEST, 2)), rng.normal(size=(WIDEST, SECOND)), rng.normal(size=(SECOND, 1))
    return [first[:width].T, second[:width] * (2 / width) ** 0.5, last * (2 / SECOND) ** 0.5]


def descend(
    weights: list[np.ndarray], x: Pairs, y: Column, epochs: int, *, factor: float = 2.0, leaky_output: bool = False
) -> tuple[list[Layer], float]:
    """The published training, full-batch gradient descent, and its cost: the mean squared error on what was learnt.

    ``factor`` 2: the gradient is the cost's; 1: the derivative's 2 is left out. ``leaky_output``: a leaky ReLU after
    the last layer too.
    """
    layers, inputs, target = stack(weights, 1), tensor(x)[None], tensor(y)[None]
    trained = parameters(layers)

    def cost() -> Tensor:
        said = outputs(layers, inputs)
        return ((torch.nn.functional.leaky_relu(said, SLOPE) if leaky_output else said) - target).square().mean()

    for part in trained:
        part.requires_grad_()
    for _ in range(epochs):
        gradients = torch.autograd.grad(cost(), trained)
        with torch.no_grad():
            for part, gradient in zip(trained, gradients, strict=True):
                part.sub_(RATE * factor / 2 * gradient)
    for part in trained:
        part.requires_grad_(False)
    found = float(cost())
    return layers, found if found < DIVERGED else DIVERGED


def line_cost(x: Pairs, y: Column) -> float:
    """The mean squared error of the best multiple of m + a: 137.4 in the mean over infinitely many pairs.

    It is what a network without biases says that treats all directions alike: E[y²] − E[y(m+a)]²/E[(m+a)²].
    """
    total = x.sum(1, keepdims=True)
    return float(np.square(y - total * (y * total).mean() / np.square(total).mean()).mean())


def learn(task: str, width: int, steps: int, epochs: int, seed: int) -> dict[str, float]:
    """One nested width trained as published and trained out: by Adam on batches, the rate tuned on another seed.

    ``cost``: log₁₀ of the mean squared error on the 300 pairs that were not learnt, as a share of the target's
    variance; ``inside``, ``outside``, ``far``: the root mean squared error ÷ the target's root mean square on those
    and on pairs in [10, 20] and [20, 40]. With ``published`` before them: after the published training.
    """
    rate = _tuned(task, width, steps)
    published = _published(task, width, epochs, seed)
    x = pairs(seed, "learnt", RANGE)
    layers, unit = _train_out(task, width, torch.tensor([rate]), steps, seed)
    found = _errors(task, layers, unit, x[TRAINED:], seed)
    return (
        found
        | {f"published {name}": value for name, value in published.items()}
        | {"rate": rate, "resolved": resolved([rate])}
    )


def _published(task: str, width: int, epochs: int, seed: int) -> dict[str, float]:
    shown, asked, said = TASKS[task]
    x = pairs(seed, "learnt", RANGE)
    layers, cost = descend(nested_weights(width, seed), shown(x[:TRAINED]), said(asked(x[:TRAINED])), epochs)
    found = _errors(task, layers, 1.0, x[TRAINED:], seed)
    return found | {"training cost": cost}


def _train_out(task: str, width: int, rates: Tensor, steps: int, seed: int) -> tuple[list[Layer], float]:
    """A stack of networks, one a rate, and the unit of their targets: the root mean square of what they learnt."""
    shown, asked, said = TASKS[task]
    x = pairs(seed, "learnt", RANGE)[:TRAINED]
    goal = said(asked(x))
    unit = float(np.sqrt(np.square(goal).mean()))
    inputs, target = tensor(shown(x)), tensor(goal / unit)
    layers = stack(nested_weights(width, seed), len(rates))
    rows = batches(numpy_stream(seed, "batches"), TRAINED, BATCH, steps)

    def losses(step: int) -> Tensor:
        batch = rows[step]
        said = outputs(layers, inputs[batch].expand(len(rates), -1, -1))
        return (said - target[batch]).square().mean((1, 2))

    fit(parameters(layers), losses, rates, steps)
    return layers, unit


@cache
def _tuned(task: str, width: int, steps: int) -> float:
    """The rate of the least error on pairs that were not learnt, of another draw."""
    shown, asked, said = TASKS[task]
    layers, unit = _train_out(task, width, torch.tensor(RATES), steps, TUNING)
    x = pairs(TUNING, "learnt", RANGE)[TRAINED:]
    told = outputs(layers, tensor(shown(x)).expand(len(RATES), -1, -1)) * unit
    return best_rate((told - tensor(said(asked(x)))).square().mean((1, 2)))


def _errors(task: str, layers: list[Layer], unit: float, kept: Pairs, seed: int) -> dict[str, float]:
    shown, asked, said = TASKS[task]
    found = {}
    for name, x in {"inside": kept, "outside": pairs(seed, "outside", OUTSIDE), "far": pairs(seed, "far", FAR)}.items():
        told = unit * outputs(layers, tensor(shown(x))[None])[0].double().numpy()
        told = np.exp(np.minimum(told, 50)) if said is np.log else told
        found[name] = float(np.sqrt(np.square(told - asked(x)).mean() / np.square(asked(x)).mean()))
        if name == "inside":
            found["cost"] = math.log10(float(np.square(told - asked(x)).mean() / asked(x).var()))
    return found
