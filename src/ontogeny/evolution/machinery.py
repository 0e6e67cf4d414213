"""Memory, predictor and plasticity as genes that cost: which are kept, by how fast and how predictably a world moves.

Animals guess where a moving thing is, and see it with noise afterwards. Where to look at birth is inherited, and so
evolves too (compare Stephens 1991; Botero et al. 2015). Populations of all prices and noises evolve side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import signal

from ontogeny.streams import numpy_stream

Kind = Literal["frozen", "rhythm", "smooth", "rough", "shuffled", "places"]
PerAnimal = Float[np.ndarray, "populations animals"]
PerPopulation = Float[np.ndarray, " populations"]

GENES = ("memory", "predictor", "plasticity")
LIFE = 20  # steps
COHERENCE = 16.0  # time scales over which a rhythm keeps its phase: about two and a half periods
STRENGTH = 4.0  # of selection: fitness exp(−STRENGTH × (error + prices))
FLIP, MOVE = 0.005, 0.05  # mutation a generation: of a gene; sd of a gain and of the innate guess
MEASURED, ABLATED = 0.25, 5  # the last generations, in which shares are taken, and ablations at every fifth


@dataclass(frozen=True)
class Animals:
    """``on``: which genes each has, in the order of ``GENES``; its innate guess; gains of position and velocity."""

    on: Bool[np.ndarray, "genes populations animals"]
    innate: PerAnimal
    gains: Float[np.ndarray, "gains populations animals"]

    def without(self, gene: str) -> "Animals":
        """The same without a gene."""
        on = self.on.copy()
        on[GENES.index(gene)] = False
        return replace(self, on=on)


def history(kind: Kind, scale: float, generations: int, seed: int) -> Float[np.ndarray, "generations life"]:
    """Where the thing is: variance 1; it moves by about a standard deviation in ``scale`` steps.

    ``rhythm``: a noisy oscillation of period 2π × scale (AR(2) with complex roots); ``smooth``: it has trends without
    a rhythm (AR(2) with equal roots); ``rough``: its position can be foretold, its increments can't (AR(1));
    ``shuffled``: the rhythm in random order, of which nothing can. ``frozen``, ``places``: it stays.
    """
    rng, steps = numpy_stream(seed, "history"), generations * LIFE
    if kind in ("frozen", "places"):
        return np.full((generations, LIFE), rng.normal())
    kept, turn = {"rough": (1.0, 0.0), "smooth": (1.0, 0.0)}.get(kind, (COHERENCE, 1 / scale))
    radius, before = float(np.exp(-1 / (kept * scale))), int(10 * kept * scale)
    first, second = 2 * radius * float(np.cos(turn)), -(radius**2)
    if kind == "rough":
        first, second = radius, 0.0
    variance = (1 - second) / ((1 + second) * ((1 - second) ** 2 - first**2))
    path = signal.lfilter([variance**-0.5], [1.0, -first, -second], rng.normal(size=before + steps))[before:]
    return np.asarray(rng.permutation(path) if kind == "shuffled" else path).reshape(generations, LIFE)


def live(
    animals: Animals, path: Float[np.ndarray, "life places"], noise: Float[np.ndarray, "life populations animals"]
) -> PerAnimal:
    """Mean squared error of each animal's guesses in a life; ``places``: one that all share, or one for each.

    Plasticity corrects the guess by what was seen. Memory keeps position and velocity from step to step: without it
    every step starts from the innate guess. The predictor adds the velocity to the next guess: an α–β filter.
    """
    (memory, predictor, plasticity), (gain, turn, persistence) = animals.on, animals.gains
    gain, turn = plasticity * gain, plasticity * turn
    inertia, guess = memory * persistence, animals.innate
    velocity, total = np.zeros_like(guess), np.zeros_like(guess)
    for step, (where, error) in enumerate(zip(path, noise, strict=True)):
        total += np.square(guess - where)
        base = np.where(memory, guess, animals.innate)
        surprise = where + error - base
        velocity = inertia * velocity + turn * surprise if step else velocity
        guess = base + gain * surprise + predictor * velocity
    return np.asarray(total / len(path))


def parents(loss: PerAnimal, rng: np.random.Generator) -> Int[np.ndarray, " children"]:
    """A parent for each child by fitness, within its population; counted through all populations."""
    fitness = np.exp(-STRENGTH * (loss - loss.min(1, keepdims=True)))
    upto, drawn = fitness.cumsum(1), np.sort(rng.random(loss.shape), axis=1)
    row = np.arange(len(loss))[:, None]
    return np.asarray(np.searchsorted((upto / upto[:, -1:] + row).ravel(), (drawn + row).ravel()))


def reproduce(animals: Animals, loss: PerAnimal, rng: np.random.Generator) -> Animals:
    """The next generation: parents by fitness, then mutation."""
    chosen, shape = parents(loss, rng), animals.gains.shape
    on, gains = (part.reshape(3, -1)[:, chosen].reshape(shape) for part in (animals.on, animals.gains))
    moves = MOVE * rng.normal(size=(4, *loss.shape))
    innate = animals.innate.ravel()[chosen].reshape(loss.shape) + moves[3]
    return Animals(on ^ (rng.random(shape) < FLIP), innate, np.clip(gains + moves[:3], 0, 1))


def machinery(
    kind: Kind,
    scale: float,
    prices: Sequence[float],
    noises: Sequence[float],
    animals: int,
    generations: int,
    seed: int,
) -> dict[str, list[list[float]]]:
    """Each gene's share in the last generations, and its ablation loss: the squared error that being without it adds.

    Both by noise (sd of what is seen) and by the price of a gene (in squared errors). ``places``: nothing moves, but
    every animal is born at a place of its own.
    """
    rng = numpy_stream(seed, "animals")
    price, sd = np.tile(prices, len(noises))[:, None], np.repeat(noises, len(prices))[:, None]
    shape = (len(price), animals)
    crowd = Animals(rng.random((3, *shape)) < 0.5, rng.normal(size=shape), rng.random((3, *shape)))
    shares, losses = [], []
    for generation, path in enumerate(history(kind, scale, generations, seed)):
        places = np.repeat(rng.normal(size=(1, animals)), LIFE, axis=0) if kind == "places" else path[:, None]
        noise = sd * rng.normal(size=(LIFE, 1, animals))  # one chance for all populations
        error = live(crowd, places, noise)
        if generation >= (1 - MEASURED) * generations:
            shares.append(crowd.on.mean(2))
            if generation % ABLATED == 0:
                losses.append([(live(crowd.without(gene), places, noise) - error).mean(1) for gene in GENES])
        crowd = reproduce(crowd, error + price * crowd.on.sum(0), rng)
    grid = (len(GENES), len(noises), len(prices))
    kept, ablated = (np.mean(part, axis=0).reshape(grid).tolist() for part in (shares, losses))
    named = zip((*GENES, *(f"{gene} ablated" for gene in GENES)), kept + ablated, strict=True)
    return dict(named)
