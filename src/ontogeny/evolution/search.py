"""Searchers of one landscape, charged by the evaluation: gradient descent, evolution strategies, and between them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ontogeny.evolution.landscapes import Landscape, Point
from ontogeny.evolution.population import mutations

GRADIENT_COST = 3  # evaluations that a gradient costs: a forward pass, and a backward pass of twice its arithmetic
SIGMA = 0.02  # of mutations, where coordinates are of order 1
RATES = tuple(2.0**-power for power in range(-3, 10))  # from large to small
WORSE = 3  # rates in a row that are no better end a search for the best


@dataclass(frozen=True)
class Searcher:
    """How a step's direction is found.

    ``offspring``: of an evolution strategy's generation, in antithetic pairs; 0 for gradient descent. ``dealt``: its
    losses are dealt out at random, which takes away the credit and nothing else. ``directions``: how many exact
    directional derivatives gradient descent gets of each gradient, in random directions; 0 for all.
    """

    offspring: int = 0
    dealt: bool = False
    directions: int = 0

    @property
    def cost(self) -> int:
        """Evaluations a step."""
        return self.offspring or GRADIENT_COST

    def descent(self, landscape: Landscape, point: Point, rng: np.random.Generator) -> Point:
        """The direction it goes up along, to be taken backwards.

        The strategy's is its estimate of the smoothed loss's gradient, Σ loss(w + σε) ε / (Nσ) over antithetic pairs
        (Nesterov & Spokoiny 2017; Salimans et al. 2017).
        """
        if self.offspring:
            steps = mutations(rng, self.offspring, len(point))
            losses = landscape.loss(point + SIGMA * steps)
            losses = rng.permutation(losses) if self.dealt else losses
            return np.asarray(losses @ steps / (self.offspring * SIGMA))
        gradient = landscape.gradient(point)
        if not self.directions:
            return gradient
        known, _ = np.linalg.qr(rng.normal(size=(len(point), self.directions)))
        return np.asarray(known @ (known.T @ gradient))


GRADIENT, EVOLUTION = Searcher(), Searcher(offspring=16)
SEARCHERS = {"gradient": GRADIENT, "evolution": EVOLUTION}


@dataclass(frozen=True)
class State:
    """Where a search stands: its point, the evaluations it has used, and the step that led here."""

    point: Point
    evaluations: int
    step: Point


def search(
    landscape_at: Callable[[int], Landscape], start: Point, searcher: Searcher, rate: float, rng: np.random.Generator
) -> Iterator[State]:
    """The states of one search, without end. ``landscape_at``: the landscape at this many evaluations."""
    point, used = start, 0
    while True:
        step = -rate * searcher.descent(landscape_at(used), point, rng)
        point, used = point + step, used + searcher.cost
        yield State(point, used, step)


def evaluations_to(
    landscape: Landscape, searcher: Searcher, rate: float, rng: np.random.Generator, *, share: float, budget: float
) -> float:
    """Evaluations until the loss is this share of the start's; infinite where the budget is used up before."""
    first = float(landscape.loss(landscape.start[None])[0])
    for state in search(lambda _: landscape, landscape.start, searcher, rate, rng):
        loss = float(landscape.loss(state.point[None])[0])
        if loss <= share * first:
            return float(state.evaluations)
        if state.evaluations >= budget or not loss < 1e3 * first:
            return math.inf
    raise AssertionError("a search has no end")


@dataclass(frozen=True)
class Tuned:
    """A rate of the least cost. ``resolved``: that cost is finite, and the rate is not at an end of the grid."""

    rate: float
    cost: float

    @property
    def resolved(self) -> bool:
        return math.isfinite(self.cost) and self.rate not in (RATES[0], RATES[-1])


def best_rate(cost: Callable[[float, float], float]) -> Tuned:
    """The rate of the least cost, from large to small, until ``WORSE`` in a row are no better than the best.

    ``cost(rate, limit)`` may say infinite as soon as it passes the limit.
    """
    best, worse = Tuned(RATES[0], math.inf), 0
    for rate in RATES:
        found = cost(rate, best.cost)
        if found < best.cost:
            best, worse = Tuned(rate, found), 0
        elif math.isfinite(best.cost):
            worse += 1
        if worse == WORSE:
            break
    return best
