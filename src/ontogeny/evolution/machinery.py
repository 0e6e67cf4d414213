"""Memory, predictor and plasticity as genes that cost: which are kept, by how fast and how predictably a world moves.

Animals guess where a moving thing is, and see it with noise afterwards. Where to look at birth is inherited, and so
evolves too (compare Stephens 1991; Botero et al. 2015).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import signal

from ontogeny.evolution.population import reproduction
from ontogeny.streams import numpy_stream

Kind = Literal["frozen", "rhythm", "rough", "shuffled", "places"]
PerAnimal = Float[np.ndarray, " animals"]

GENES = ("memory", "predictor", "plasticity")
LIFE = 20  # steps
COHERENCE = 16.0  # time scales over which a rhythm keeps its phase: about five half periods
COST = 0.01  # of a gene, in squared errors; the world's variance is 1
NOISE = 0.2  # sd of what is seen
STRENGTH = 4.0  # of selection: fitness exp(−STRENGTH × (error + costs))
FLIP, MOVE = 0.005, 0.05  # mutation: of a gene a generation; sd of a gain
MOVE_INNATE = 0.02  # sd of the innate guess's: copying errors alone then cost less than a gene that corrects them
MEASURED, ABLATED = 0.25, 5  # the last generations, in which shares are taken, and ablations at every fifth


@dataclass(frozen=True)
class Animals:
    """``on``: which genes each has, in the order of ``GENES``; its innate guess; gains of position and velocity."""

    on: Bool[np.ndarray, "animals genes"]
    innate: PerAnimal
    gains: Float[np.ndarray, "animals gains"]

    def without(self, gene: str) -> "Animals":
        """The same without a gene."""
        on = self.on.copy()
        on[:, GENES.index(gene)] = False
        return Animals(on, self.innate, self.gains)


def history(kind: Kind, scale: float, generations: int, seed: int) -> Float[np.ndarray, "generations life"]:
    """Where the thing is: variance 1; it moves by about a standard deviation in ``scale`` steps.

    ``rhythm``: a noisy oscillation of period 2π × scale, whose trends can be foretold (AR(2) with complex roots);
    ``rough``: increments can't be (AR(1)); ``shuffled``: the rhythm in random order, of which nothing can. ``frozen``:
    it stays.
    """
    rng, steps = numpy_stream(seed, "history"), generations * LIFE
    if kind == "frozen":
        return np.full((generations, LIFE), rng.normal())
    if kind == "rough":
        keep = float(np.exp(-1 / scale))
        denominator, variance, before = [1.0, -keep], 1 / (1 - keep**2), int(10 * scale)
    else:
        radius = float(np.exp(-1 / (COHERENCE * scale)))
        first, second = 2 * radius * float(np.cos(1 / scale)), -(radius**2)
        denominator, before = [1.0, -first, -second], int(10 * COHERENCE * scale)
        variance = (1 - second) / ((1 + second) * ((1 - second) ** 2 - first**2))
    path = signal.lfilter([variance**-0.5], denominator, rng.normal(size=before + steps))[before:]
    return np.asarray(rng.permutation(path) if kind == "shuffled" else path).reshape(generations, LIFE)


def live(
    animals: Animals, path: Float[np.ndarray, "life places"], noise: Float[np.ndarray, "life animals"]
) -> PerAnimal:
    """Mean squared error of each animal's guesses in a life; ``places``: one that all share, or one for each.

    Plasticity corrects the guess by what was seen. Memory keeps position and velocity from step to step: without it
    every step starts from the innate guess. The predictor adds the velocity to the next guess: an α–β filter.
    """
    memory, predictor, plasticity = animals.on.T
    gain, turn, persistence = animals.gains.T
    guess, velocity, total = animals.innate, np.zeros(len(memory)), np.zeros(len(memory))
    for step, (where, error) in enumerate(zip(path, noise, strict=True)):
        total += np.square(guess - where)
        base = np.where(memory, guess, animals.innate)
        surprise = plasticity * (where + error - base)
        velocity = memory * persistence * velocity + (step > 0) * turn * surprise
        guess = base + gain * surprise + predictor * velocity
    return np.asarray(total / len(path))


def reproduce(animals: Animals, loss: PerAnimal, rng: np.random.Generator) -> Animals:
    """The next generation: parents by fitness, then mutation."""
    count = len(loss)
    parents = rng.choice(count, count, p=reproduction(STRENGTH * loss, "proportional"))
    flips = rng.random(animals.on.shape) < FLIP
    gains = np.clip(animals.gains[parents] + MOVE * rng.normal(size=animals.gains.shape), 0, 1)
    return Animals(animals.on[parents] ^ flips, animals.innate[parents] + MOVE_INNATE * rng.normal(size=count), gains)


def machinery(kind: Kind, scale: float, population: int, generations: int, seed: int) -> dict[str, float]:
    """Each gene's share in the last generations, and its ablation loss: the squared error that being without it adds.

    ``places``: nothing moves, but every animal is born at a place of its own. ``error``: of the whole animals.
    """
    rng = numpy_stream(seed, "animals")
    animals = Animals(
        rng.random((population, len(GENES))) < 0.5, rng.normal(size=population), rng.random((population, 3))
    )
    paths = history("frozen" if kind == "places" else kind, scale, generations, seed)
    shares, errors, losses = [], [], []
    for generation, path in enumerate(paths):
        places = np.repeat(rng.normal(size=(1, population)), LIFE, axis=0) if kind == "places" else path[:, None]
        noise = NOISE * rng.normal(size=(LIFE, population))
        error = live(animals, places, noise)
        if generation >= (1 - MEASURED) * generations:
            shares.append(animals.on.mean(0))
            errors.append(error.mean())
            if generation % ABLATED == 0:
                losses.append([(live(animals.without(gene), places, noise) - error).mean() for gene in GENES])
        animals = reproduce(animals, error + COST * animals.on.sum(1), rng)
    kept = dict(zip(GENES, np.mean(shares, axis=0).tolist(), strict=True))
    ablated = dict(zip((f"{gene} ablated" for gene in GENES), np.mean(losses, axis=0).tolist(), strict=True))
    return kept | ablated | {"error": float(np.mean(errors))}
