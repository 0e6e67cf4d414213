"""How much of what is needed is written in the genome, and how much is left to be learnt (Hinton & Nowlan 1987).

A genome of ``LENGTH`` loci says what is right at a locus, or what is wrong, or leaves it to learning, which guesses all
that is left open anew at every trial. Reproduction is asexual here; what is right changes from time to time.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from ontogeny.streams import numpy_stream

Shares = Float[np.ndarray, " settings"]
LENGTH = 20
TRIALS, BEST = 1000, 20.0  # guesses in a life; fitness of who is right at birth, where one never right has 1
WRONG, RIGHT, OPEN = 0, 1, 2
FIRST = (0.25, 0.25, 0.5)  # shares of wrong, right and open in the first generation
FREE = 2  # populations whose share evolves are so many times as large


def payoff(open_loci: Int[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Expected fitness with nothing wrong and so many loci open, in closed form: 1 + 19 × the share of trials left.

    A trial is right with probability p = 2^−open, and of T trials T − (1−p)(1−(1−p)^T)/p are left on average.
    """
    p = 2.0 ** -np.asarray(open_loci)
    left = TRIALS - (1 - p) * (1 - (1 - p) ** TRIALS) / p
    return np.asarray(1 + (BEST - 1) * left / TRIALS)


def still_optimum(mutation: float) -> float:
    """The innate share of highest fitness where nothing changes, in closed form.

    Of an infinite population the mean fitness is payoff × (1 − mutation)^innate loci, Eigen's σQ, or 1 where that is
    less.
    """
    loci = np.arange(LENGTH + 1)
    return float(1 - np.argmax(np.maximum(1.0, payoff(loci) * (1 - mutation) ** (LENGTH - loci))) / LENGTH)


def imposed(change: float, mutation: float, population: int, generations: int, seed: int) -> Shares:
    """Mean log fitness over the second half of generations, by number of open loci, 0 to ``LENGTH``.

    Open loci stay open; the others mutate, right ↔ wrong. ``change``: the probability that what is right changes at a
    locus in a generation, the same changes for every population. All start right.
    """
    rng, turns = numpy_stream(seed, "imposed"), numpy_stream(seed, "change")
    settings = np.arange(LENGTH + 1)
    written = np.arange(LENGTH) >= settings[:, None]  # (settings, loci)
    wrong: Bool[np.ndarray, "settings population loci"] = np.zeros((len(settings), population, LENGTH), dtype=bool)
    gain, total = payoff(settings), np.zeros(len(settings))
    for generation in range(generations):
        wrong ^= ((turns.random(LENGTH) < change) & written)[:, None]
        fitness = np.where(wrong.any(-1), 1.0, gain[:, None])
        if generation >= generations // 2:
            total += np.log(fitness.mean(1))
        for setting, weights in enumerate(fitness.cumsum(1)):
            parents = np.searchsorted(weights, rng.random(population) * weights[-1], side="right")
            wrong[setting] = wrong[setting, np.minimum(parents, population - 1)]
        wrong ^= (rng.random(wrong.shape, dtype=np.float32) < mutation) & written[:, None]
    return np.asarray(total / (generations - generations // 2))


def evolved(
    change: float, mutation: float, population: int, generations: int, seed: int, *, selected: bool = True
) -> float:
    """The share of loci that a population keeps written, right or wrong, over the second half of generations.

    A locus mutates to either of its two other states. Unless ``selected``, fitness is dealt out at random: then
    mutation alone brings it to 2/3.
    """
    rng, turns = numpy_stream(seed, "evolved", str(selected)), numpy_stream(seed, "change")
    genes = rng.choice(3, (population, LENGTH), p=FIRST)
    kept = []
    for generation in range(generations):
        turned = (turns.random(LENGTH) < change) & (genes != OPEN)
        genes = np.where(turned, 1 - genes, genes)
        fitness = np.where((genes == WRONG).any(1), 1.0, payoff((genes == OPEN).sum(1)))
        fitness = fitness if selected else rng.permutation(fitness)
        if generation >= generations // 2:
            kept.append((genes != OPEN).mean())
        genes = genes[rng.choice(population, population, p=fitness / fitness.sum())]
        mutated = rng.random(genes.shape) < mutation
        genes = np.where(mutated, (genes + rng.integers(1, 3, genes.shape)) % 3, genes)
    return float(np.mean(kept))


def innate_share(
    change: float, mutation: float, population: int, generations: int, seed: int
) -> dict[str, float | list[float]]:
    """``optimum``: the imposed innate share of highest fitness; ``evolved`` by selection, and where it is ``shuffled``.

    ``closed form``: the optimum where nothing changes. ``log fitness`` by number of open loci.
    """
    fitness = imposed(change, mutation, population, generations, seed)
    many = FREE * population
    return {
        "optimum": 1 - int(fitness.argmax()) / LENGTH,
        "closed form": still_optimum(mutation),
        "evolved": evolved(change, mutation, many, generations, seed),
        "shuffled": evolved(change, mutation, many, generations, seed, selected=False),
        "log fitness": fitness.tolist(),
    }
