"""Who is at the goal first: evaluations that gradient descent and an evolution strategy need, by dimension."""

import math

import numpy as np

from ontogeny.evolution.landscapes import Landscape, make_landscape
from ontogeny.evolution.search import Searcher, best_rate, evaluations_to
from ontogeny.streams import numpy_stream

SHARE = 0.1  # of the start's loss: the goal
BLIND = 256  # points that blind search tries at a time
SEARCHERS: tuple[Searcher, ...] = ("gradient", "evolution")


def race(landscape: str, size: int, budget: int, seed: int) -> dict[str, float]:
    """Evaluations until a tenth of the start's loss, the rate tuned on another landscape of the same kind.

    ``reached``: the share of searchers that got there; where one didn't, its evaluations are the budget. ``blind``:
    the best loss of as many random points as the evolution strategy tried, as a share of the start's.
    """
    here, other = (make_landscape(landscape, size, s) for s in (seed, seed + 1))
    measured: dict[str, float] = {"dimension": float(len(here.start))}
    reached = []
    for searcher in SEARCHERS:

        def cost(rate: float, limit: float, searcher: Searcher = searcher) -> float:
            rng = numpy_stream(seed, "race tuning", searcher)
            return evaluations_to(other, searcher, rate, rng, share=SHARE, budget=min(limit, float(budget)))

        rate, _ = best_rate(cost)
        rng = numpy_stream(seed, "race", searcher)
        needed = evaluations_to(here, searcher, rate, rng, share=SHARE, budget=float(budget))
        reached.append(math.isfinite(needed))
        measured |= {f"{searcher} evaluations": min(needed, budget), f"{searcher} rate": rate}
    tries = int(measured["evolution evaluations"])
    return measured | {"reached": float(np.mean(reached)), "blind": _blind(here, tries, seed)}


def _blind(here: Landscape, tries: int, seed: int) -> float:
    """The best loss of points with the start's coordinates in random order, as a share of the start's own."""
    rng = numpy_stream(seed, "blind")
    best = math.inf
    for first in range(0, tries, BLIND):
        points = np.stack([rng.permutation(here.start) for _ in range(min(BLIND, tries - first))])
        points *= rng.choice([-1.0, 1.0], points.shape)
        best = min(best, float(here.loss(points).min()))
    return best / float(here.loss(here.start[None])[0])
