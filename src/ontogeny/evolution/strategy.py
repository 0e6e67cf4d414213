"""Outer loops over a handful of continuous genes: CMA-ES, random search, and selection that sees nothing."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Genes = Float[np.ndarray, " genes"]
Generation = Float[np.ndarray, "offspring genes"]
Fitness = Callable[[int, Generation], Float[np.ndarray, " offspring"]]  # generation, genomes -> what is minimised

AGAIN = 5  # of random search's batches, one is kept for trying its best once more


def evolve(fitness: Fitness, start: Genes, spread: float, sizes: tuple[int, int], rng: np.random.Generator) -> Genes:
    """The mean of the last generation's distribution under CMA-ES (Hansen & Ostermeier 2001).

    ``spread``: the first generation's standard deviation. ``sizes``: generations and offspring of each. The package
    draws from ``rng`` alone.
    """
    import cma  # slow to import

    options = {"popsize": sizes[1], "randn": lambda *shape: rng.standard_normal(shape), "seed": math.nan, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy(start, spread, options)
    for generation in range(sizes[0]):
        offspring = strategy.ask()
        strategy.tell(offspring, fitness(generation, np.array(offspring)).tolist())
    return np.array(strategy.result.xfavorite)


def random_search(
    fitness: Fitness, start: Genes, spread: float, sizes: tuple[int, int], rng: np.random.Generator
) -> Genes:
    """The best of as many draws from the first generation's distribution.

    Every fifth batch is spent on the best of the draws once more, each time on new tasks, so that luck isn't chosen.
    """
    batches, offspring = sizes
    again = max(1, batches // AGAIN)
    drawn = start + spread * rng.standard_normal((max(1, batches - again), offspring, len(start)))
    losses = np.array([fitness(batch, some) for batch, some in enumerate(drawn)])
    best = drawn.reshape(-1, len(start))[np.argsort(losses, axis=None, kind="stable")[:offspring]]
    tried = [fitness(len(drawn) + batch, best) for batch in range(batches - len(drawn))]
    return np.array(best[int(np.argmin(np.mean(tried, axis=0)))] if tried else best[0])


def blind(fitness: Fitness, start: Genes, spread: float, sizes: tuple[int, int], rng: np.random.Generator) -> Genes:
    """The same strategy with losses dealt out at random.

    It looks at ranks alone, and ranks of dealt losses are those of any random numbers: nothing has to be trained.
    """
    del fitness
    return evolve(lambda _, offspring: rng.random(len(offspring)), start, spread, sizes, rng)


def nothing(fitness: Fitness, start: Genes, spread: float, sizes: tuple[int, int], rng: np.random.Generator) -> Genes:
    """No search: the genes it would have started from."""
    del fitness, spread, sizes, rng
    return start


SEARCHES = {"default": nothing, "evolved": evolve, "random search": random_search, "dealt": blind}
