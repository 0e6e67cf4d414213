"""Two searchers of one landscape, charged by the evaluation: gradient descent, and an evolution strategy."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ontogeny.evolution.landscapes import Landscape, Point
from ontogeny.evolution.population import mutations

Searcher = Literal["gradient", "evolution"]
GRADIENT_COST = 3  # evaluations that a gradient costs: a forward pass, and a backward pass of twice its arithmetic
OFFSPRING = 16  # of one generation
SIGMA = 0.02  # of mutations, where coordinates are of order 1
RATES = tuple(2.0**-power for power in range(-2, 9))  # from large to small, every one tried
COST = {"gradient": GRADIENT_COST, "evolution": OFFSPRING}


@dataclass(frozen=True)
class State:
    """Where a search stands: its point, the evaluations it has used, and the step that led here."""

    point: Point
    evaluations: int
    step: Point


def search(
    landscape_at: Callable[[int], Landscape], start: Point, searcher: Searcher, rate: float, rng: np.random.Generator
) -> Iterator[State]:
    """The states of one search, without end. ``landscape_at``: the landscape at this many evaluations.

    The evolution strategy descends its estimate of the smoothed loss's gradient, Σ loss(w + σε) ε / (Nσ) over
    antithetic pairs (Nesterov & Spokoiny 2017; Salimans et al. 2017).
    """
    point, used = start, 0
    while True:
        here = landscape_at(used)
        step = -rate * (here.gradient(point) if searcher == "gradient" else estimate(here, point, rng))
        point, used = point + step, used + COST[searcher]
        yield State(point, used, step)


def estimate(landscape: Landscape, point: Point, rng: np.random.Generator) -> Point:
    """An evolution strategy's estimate of the gradient from one generation."""
    steps = mutations(rng, OFFSPRING, len(point))
    return np.asarray(landscape.loss(point + SIGMA * steps) @ steps / (OFFSPRING * SIGMA))


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


def best_rate(cost: Callable[[float, float], float]) -> tuple[float, float]:
    """The rate of the least cost, and that cost. ``cost(rate, limit)`` may say infinite as soon as it passes limit."""
    best, least = RATES[0], math.inf
    for rate in RATES:
        found = cost(rate, least)
        if found < least:
            best, least = rate, found
    return best, least
