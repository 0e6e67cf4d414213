"""Who is at the goal first: evaluations that searchers need, by dimension."""

import math
from itertools import islice

import numpy as np

from ontogeny.evolution.landscapes import Landscape, make_landscape
from ontogeny.evolution.search import EVOLUTION, GRADIENT, Searcher, Tuned, best_rate, evaluations_to, search
from ontogeny.streams import numpy_stream

SHARE = 0.1  # of the start's loss: the goal
PAIR = Searcher(offspring=2)
TUNED_ON = 5  # streams of mutations, the slowest of which counts: a rate has to arrive on all
NUDGE = 1e-4  # of finite differences of gradients


def race(landscape: str, size: int, budget: int, seed: int) -> dict[str, float]:
    """Evaluations until a tenth of the start's loss, each searcher at its best rate for this landscape.

    ``gradient``; ``pair``, an evolution strategy of one antithetic pair, one number a generation; ``evolution``, of 16
    offspring. The rate is tuned with other mutations than it is evaluated with, and has to arrive with all of them.
    ``… reached``: 1, or 0 where the rate is unresolved or the goal not reached, with the budget for its evaluations.
    ``dealt``: the loss, as a share of the
    start's, after as many evaluations of the same strategy with its losses dealt out at random.
    ``one``, ``root``: steps of gradient descent that gets 1, or √d, exact directional derivatives a step; ``all`` steps
    with every one. ``effective``: tr H · |g|² / gᵀHg at the start, the dimensions that count in one step's decrease.
    """
    here = make_landscape(landscape, size, seed)
    dimension = len(here.start)
    measured: dict[str, float] = {"dimension": float(dimension), "effective": effective_dimension(here)}
    for name, searcher in {"gradient": GRADIENT, "pair": PAIR, "evolution": EVOLUTION}.items():
        tuned, needed = _run(here, searcher, budget, seed)
        measured |= {
            f"{name} evaluations": min(needed, float(budget)),
            f"{name} rate": tuned.rate,
            f"{name} reached": float(tuned.resolved and math.isfinite(needed)),
        }
    known = {"one": 1, "root": max(1, round(math.sqrt(dimension))), "all": dimension}
    for name, directions in known.items():
        _, needed = _run(here, Searcher(directions=directions), budget, seed)
        measured[f"{name} steps"] = min(needed, float(budget)) / GRADIENT.cost
    return measured | {"dealt": _dealt(here, measured["evolution rate"], measured["evolution evaluations"], seed)}


def _run(here: Landscape, searcher: Searcher, budget: int, seed: int) -> tuple[Tuned, float]:
    def needed(rate: float, limit: float, *stream: str | int) -> float:
        rng = numpy_stream(seed, searcher.offspring, searcher.directions, *stream)
        return evaluations_to(here, searcher, rate, rng, share=SHARE, budget=min(limit, float(budget)))

    def slowest(rate: float, limit: float) -> float:
        tries = range(1 if searcher == GRADIENT else TUNED_ON)
        return max(needed(rate, limit, "tuning", index) for index in tries)

    tuned = best_rate(slowest)
    return tuned, needed(tuned.rate, math.inf, "race")


def _dealt(here: Landscape, rate: float, evaluations: float, seed: int) -> float:
    """Capped at 10: without credit a strategy only wanders."""
    searcher = Searcher(offspring=EVOLUTION.offspring, dealt=True)
    states = search(lambda _: here, here.start, searcher, rate, numpy_stream(seed, "dealt"))
    *_, last = islice(states, max(1, int(evaluations) // searcher.cost))
    if not np.abs(last.point).max() < 1e3:
        return 10.0
    return min(10.0, float(here.loss(last.point[None])[0] / here.loss(here.start[None])[0]))


def effective_dimension(here: Landscape) -> float:
    """tr H · |g|² / gᵀHg at the start, from central differences of the gradient; the curvature's sign left away."""
    gradient = here.gradient(here.start)
    unit = gradient / np.linalg.norm(gradient)

    def curvature(direction: np.ndarray) -> float:
        ends = [here.gradient(here.start + sign * NUDGE * direction) for sign in (1, -1)]
        return float(direction @ (ends[0] - ends[1])) / (2 * NUDGE)

    trace = sum(curvature(axis) for axis in np.eye(len(gradient)))
    return max(1.0, abs(trace / curvature(unit)))
