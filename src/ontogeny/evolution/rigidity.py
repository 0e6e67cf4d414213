"""What training on a world that stands still leaves of the ability to learn another: steps, and dormant units."""

from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.landscapes import INPUTS, network, network_point
from ontogeny.evolution.search import RATES
from ontogeny.streams import numpy_stream

World = Literal["instant", "law", "drifting", "mixture", "none"]
Weights = list[np.ndarray]  # of many networks: (nets, in, out) and (nets, 1, out), layer by layer
Inputs = Float[np.ndarray, "steps batch inputs"]
Targets = Float[np.ndarray, "steps batch"]

WIDTH = 32  # of both hidden layers, rectified linear
BATCH, DATA = 32, 128  # inputs a step; inputs of the frozen instant
TURNS = 4  # full turns of a drifting world: it ends where it began
GOAL = 0.05  # of the new world's variance: re-adapted; what a linear network would leave is about 0.1
EVERY = 10  # steps between tests
DORMANT = 0.1  # of a layer's mean activity (Sokar et al. 2023)


def fresh(seed: int) -> Weights:
    """One network: weights N(0, 2/inputs) (He et al. 2015), biases 0."""
    rng, sizes = numpy_stream(seed, "rectified"), (INPUTS, WIDTH, WIDTH, 1)
    layers = [
        (rng.normal(0, (2 / before) ** 0.5, (1, before, after)), np.zeros((1, 1, after)))
        for before, after in pairwise(sizes)
    ]
    return [part for layer in layers for part in layer]


def forward(nets: Weights, inputs: Float[np.ndarray, "batch inputs"]) -> list[np.ndarray]:
    """Activities of both hidden layers (nets, batch, width) and the outputs (nets, batch, 1)."""
    first = np.maximum(inputs @ nets[0] + nets[1], 0)
    second = np.maximum(first @ nets[2] + nets[3], 0)
    return [first, second, second @ nets[4] + nets[5]]


def gradients(
    nets: Weights, inputs: Float[np.ndarray, "batch inputs"], targets: Float[np.ndarray, " batch"]
) -> tuple[Weights, Float[np.ndarray, " nets"]]:
    """Gradients of half the mean squared error, and the mean squared error itself."""
    first, second, outputs = forward(nets, inputs)
    error = outputs - targets[:, None]
    back = error / len(targets)
    back2 = (back @ nets[4].swapaxes(1, 2)) * (second > 0)
    back1 = (back2 @ nets[2].swapaxes(1, 2)) * (first > 0)
    parts = ((inputs.T, back1), (first.swapaxes(1, 2), back2), (second.swapaxes(1, 2), back))
    found = [part for before, b in parts for part in (before @ b, b.sum(1, keepdims=True))]
    return found, np.square(error).mean((1, 2))


def descend(nets: Weights, rates: Float[np.ndarray, " nets"], inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """One step of gradient descent of every network at its rate, in place; the losses before it."""
    found, losses = gradients(nets, inputs, targets)
    for weights, gradient in zip(nets, found, strict=True):
        weights -= rates[:, None, None] * gradient
    return losses


def teach(name: str, inputs: Float[np.ndarray, "... inputs"], seed: int) -> Float[np.ndarray, "..."]:
    """What a random teacher of width 4 says, with mean 0 and variance 1 over inputs N(0, 1)."""
    point = network_point(4, seed, "teacher", name)[None]
    reference = network(point, numpy_stream(seed, "reference").normal(size=(4096, INPUTS)))[0]
    said = network(point, inputs.reshape(-1, INPUTS))[0].reshape(inputs.shape[:-1])
    return np.asarray((said - reference.mean()) / reference.std())


def lessons(world: World, steps: int, seed: int) -> tuple[Inputs, Targets]:
    """The inputs and targets of every step.

    ``instant``: a few inputs again and again; ``law``: new ones, of a teacher that stays; ``drifting``: of a teacher
    that turns; ``mixture``: of teachers of that turn in random order, so that nothing can be followed. ``none``: none.
    """
    rng = numpy_stream(seed, "lessons", world)
    steps = 0 if world == "none" else steps
    inputs = rng.normal(size=(steps, BATCH, INPUTS))
    if world == "instant":
        inputs = rng.normal(size=(DATA, INPUTS))[rng.integers(0, DATA, (steps, BATCH))]
    angles = 2 * np.pi * TURNS * np.arange(steps) / max(1, steps)
    angles = {"drifting": angles, "mixture": rng.permutation(angles)}.get(world, np.zeros(steps))
    parts = (teach(name, inputs, seed) for name in ("first", "second"))
    return inputs, sum(f(angles)[:, None] * said for f, said in zip((np.cos, np.sin), parts, strict=True))


def train(nets: Weights, rates: Float[np.ndarray, " nets"], lesson: tuple[Inputs, Targets]) -> np.ndarray:
    """Train in place; each network's mean loss on the batches of the last tenth of steps, infinite if it diverged."""
    late: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        for step, (inputs, targets) in enumerate(zip(*lesson, strict=True)):
            losses = descend(nets, rates, inputs, targets)
            if step >= 0.9 * len(lesson[0]):
                late.append(losses)
    means = np.mean(late, axis=0) if late else np.ones(len(rates))
    return np.asarray(np.where(np.isfinite(means), means, np.inf))


def readapt(nets: Weights, rates: Float[np.ndarray, " nets"], budget: int, seed: int) -> Float[np.ndarray, " nets"]:
    """Steps until the loss on a new teacher is ``GOAL`` of its variance; the budget where it never is."""
    rng = numpy_stream(seed, "another world")
    test = rng.normal(size=(512, INPUTS))
    expected = teach("new", test, seed)
    inputs = rng.normal(size=(budget, BATCH, INPUTS))
    targets = teach("new", inputs, seed)
    needed = np.full(len(rates), float(budget))
    with np.errstate(all="ignore"):
        for step in range(budget):
            if step % EVERY == 0:
                losses = np.square(forward(nets, test)[2][..., 0] - expected).mean(1)
                needed = np.where(losses <= GOAL, np.minimum(needed, step), needed)
                if (needed < budget).all():
                    break
            descend(nets, rates, inputs[step], targets[step])
    return needed


def dormant_share(nets: Weights, seed: int) -> float:
    """The share of hidden units whose mean activity is at most ``DORMANT`` of their layer's mean."""
    inputs = numpy_stream(seed, "dormancy").normal(size=(1024, INPUTS))
    activity = np.stack([layer[0].mean(0) for layer in forward(nets, inputs)[:2]])  # (layers, units)
    return float((activity <= DORMANT * activity.mean(1, keepdims=True)).mean())


def rigidity(world: World, steps: int, budget: int, seed: int) -> dict[str, float]:
    """``steps`` to re-adapt to a new world after training on one, and the share of ``dormant`` units before that.

    Both rates are tuned on another seed: of training by its own loss in the end, of re-adapting by its steps. ``own``:
    the loss in the end on what is trained on. ``reached``: whether the new world is learnt within the budget.
    """
    rates = np.array(RATES)
    many = [np.repeat(part, len(rates), axis=0) for part in fresh(seed + 1)]
    first = int(train(many, rates, lessons(world, steps, seed + 1)).argmin())
    tried = [np.repeat(part[first : first + 1], len(rates), axis=0) for part in many]
    second = int(readapt(tried, rates, budget, seed + 1).argmin())

    net = fresh(seed)
    own = train(net, rates[first : first + 1], lessons(world, steps, seed))
    dormant = dormant_share(net, seed)
    needed = float(readapt(net, rates[second : second + 1], budget, seed)[0])
    return {
        "steps": needed,
        "dormant": dormant,
        "own": float(min(own[0], 1.0)),
        "reached": float(needed < budget),
        "rate": float(rates[first]),
        "rate of re-adapting": float(rates[second]),
    }
