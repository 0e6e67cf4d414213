"""Do evolved networks come in modules where every intermediate has to live? Modularity with and without a threshold.

Networks of threshold units with weights −1, 0 and 1 evolve on goals that are made of two halves (Kashtan & Alon 2005):
(a ≠ b) and (c ≠ d), or (a ≠ b) or (c ≠ d).
"""

from itertools import pairwise, product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ontogeny.evolution.modularity import modularity
from ontogeny.genome.topology import rewire
from ontogeny.streams import numpy_stream

SIZES = (4, 8, 4, 1)
THRESHOLDS = (-1.5, -0.5, 0.5, 1.5)  # of units
PERIOD = 20  # generations between two goals that vary
SEEN = 20  # generations between two looks, in the second half
REWIRED = 4  # networks behind a look's null
GRAIN = 24  # fitness comes in steps of 1/24

Genes = Int[np.ndarray, "population genes"]
Fitness = Float[np.ndarray, " population"]
Mask = Bool[np.ndarray, "_ _"]  # inputs × outputs

INPUTS = np.array(list(product((0, 1), repeat=SIZES[0])))  # (16, 4)
HALVES = INPUTS[:, 0] != INPUTS[:, 1], INPUTS[:, 2] != INPUTS[:, 3]
GOALS = (HALVES[0] & HALVES[1], HALVES[0] | HALVES[1])
WEIGHTS = [a * b for a, b in pairwise(SIZES)]
GENES = sum(WEIGHTS) + sum(SIZES[1:])  # weights, then thresholds


def modules(
    population: int, generations: int, populations: int, varying: bool, lethal: bool, seed: int
) -> dict[str, list[float]]:
    """Modularity of the best network beyond its rewired self's, by its fitness, over some populations.

    ``excess``, ``modularity`` and ``looks``: lists over fitness k/24, k = 0 … 24, of the second half of the
    generations; 0 where nothing was seen. Parents are the better of two drawn at random. ``lethal``: an offspring less
    fit than its parent dies, and the parent stays in its place (Maynard Smith 1970: a path leads through what works
    alone). The best one is always kept, in both kinds. ``varying``: the goal changes every 20 generations.
    """
    excess, raw, looks = (np.zeros(GRAIN + 1) for _ in range(3))
    for number in range(populations):
        rng = numpy_stream(seed, "modules", number)
        genes = founders(population, rng)
        for generation in range(generations):
            goal = GOALS[generation // PERIOD % 2 if varying else 0]
            genes, best, found = next_generation(genes, goal, lethal, rng)
            if generation >= generations / 2 and generation % SEEN == SEEN - 1:
                place = round(found * GRAIN)
                masks = connections(best)
                own = modularity(masks)
                null = np.mean([modularity(_rewired(masks, rng)) for _ in range(REWIRED)])
                looks[place] += 1
                raw[place] += own
                excess[place] += own - null
    each = np.maximum(looks, 1)
    return {"excess": (excess / each).tolist(), "modularity": (raw / each).tolist(), "looks": looks.tolist()}


def founders(population: int, rng: np.random.Generator) -> Genes:
    """Half of the connections absent, signs and thresholds drawn."""
    return _drawn((population, GENES), rng)


def next_generation(
    genes: Genes, goal: Bool[np.ndarray, " patterns"], lethal: bool, rng: np.random.Generator
) -> tuple[Genes, Int[np.ndarray, " genes"], float]:
    """The offspring; and the best of their parents, which is among them unchanged, with its fitness."""
    fit = fitness(genes, goal)
    pairs = rng.integers(len(genes), size=(len(genes), 2))
    parents = np.where(fit[pairs[:, 0]] >= fit[pairs[:, 1]], *pairs.T)
    best = int(np.argmax(fit + 1e-9 * rng.random(len(fit))))
    changed = rng.random(genes.shape) < 1 / GENES
    young = np.where(changed, _drawn(genes.shape, rng), genes[parents])
    if lethal:
        dead = fitness(young, goal) < fit[parents]
        young[dead] = genes[parents[dead]]
    young[0] = genes[best]
    return young, genes[best], float(fit[best])


def fitness(genes: Genes, goal: Bool[np.ndarray, " patterns"]) -> Fitness:
    """Mean of the shares of the goal's true and false patterns that come out right."""
    said = answers(genes)
    return np.asarray((said[:, goal].mean(1) + (~said[:, ~goal]).mean(1)) / 2)


def answers(genes: Genes) -> Bool[np.ndarray, "population patterns"]:
    """What every network says of the 16 patterns."""
    active = np.broadcast_to(INPUTS.astype(np.float32), (len(genes), *INPUTS.shape))
    thresholds = np.array(THRESHOLDS, dtype=np.float32)[genes[:, sum(WEIGHTS) :]]
    start = first = 0
    for (inputs, outputs), size in zip(pairwise(SIZES), WEIGHTS, strict=True):
        weights = genes[:, start : start + size].reshape(-1, inputs, outputs).astype(np.float32)
        active = (active @ weights > thresholds[:, None, first : first + outputs]).astype(np.float32)
        start, first = start + size, first + outputs
    return active[:, :, 0] > 0


def connections(genes: Int[np.ndarray, " genes"]) -> list[Mask]:
    """Which units are connected, layer by layer."""
    ends = np.cumsum([0, *WEIGHTS])
    return [
        genes[first:last].reshape(shape) != 0
        for (first, last), shape in zip(pairwise(ends), pairwise(SIZES), strict=True)
    ]


def _rewired(masks: list[Mask], rng: np.random.Generator) -> list[Mask]:
    """Every layer with the same degrees."""
    return [rewire(torch.from_numpy(mask), rng, 2).numpy() for mask in masks]


def _drawn(shape: tuple[int, int], rng: np.random.Generator) -> Genes:
    weights = rng.integers(4, size=shape) - 1
    weights[weights == 2] = 0  # −1, 0, 0, 1
    weights[:, sum(WEIGHTS) :] = rng.integers(len(THRESHOLDS), size=(shape[0], sum(SIZES[1:])))
    return weights
