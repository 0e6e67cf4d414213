"""Crossed designs: searcher × target × data, and variation × selection."""

import math

import numpy as np

from ontogeny.evolution.landscapes import INPUTS, Point, Regression, make_regression, network, network_point
from ontogeny.evolution.population import reproduction
from ontogeny.evolution.search import Searcher, best_rate, search
from ontogeny.streams import numpy_stream

WIDTH = 8  # of students
DATA = 64  # inputs of a batch, drawn anew every 16 evaluations
NOISE = 1.0  # sd of raw targets, where the teacher's own vary by about 1
TURN = math.pi / 2  # how far a drifting teacher has turned by the end
POPULATION, MUTATION = 64, 0.1


def target_and_data(searcher: Searcher, *, drifting: bool, raw: bool, budget: int, seed: int) -> dict[str, float]:
    """``loss``: log₁₀ of half the mean squared error against the teacher as it is at the end, at equal evaluations.

    The target is a teacher that stays, or turns into another one. The data are what the teacher says (written), or
    that with noise (raw). Rates are tuned on another seed's teacher, student and data.
    """

    def cost(rate: float, _limit: float) -> float:
        return _final(searcher, rate, drifting=drifting, raw=raw, budget=budget, seed=seed + 1)

    rate, _ = best_rate(cost)
    loss = _final(searcher, rate, drifting=drifting, raw=raw, budget=budget, seed=seed)
    return {"loss": math.log10(loss), "rate": rate}


def _final(searcher: Searcher, rate: float, *, drifting: bool, raw: bool, budget: int, seed: int) -> float:
    """Half the mean squared error in the end; that of a student which says nothing, where the search diverges."""
    teachers = [network_point(4, seed, name) for name in ("teacher", "other teacher")]

    def teacher_at(used: int) -> Point:
        angle = TURN * used / budget if drifting else 0.0
        return np.asarray(math.cos(angle) * teachers[0] + math.sin(angle) * teachers[1])

    def data_at(used: int, path: str, count: int, noise: float) -> Regression:
        rng = numpy_stream(seed, path, used // 16)
        inputs = rng.normal(size=(count, INPUTS))
        clean = 2 * network(teacher_at(used)[None], inputs)[0]
        return Regression(inputs, clean + noise * rng.normal(size=count), start)

    start = network_point(WIDTH, seed, "student")
    rng = numpy_stream(seed, "search", searcher)
    test = data_at(budget, "test", 1024, 0.0)
    point, nothing = start, float(0.5 * np.square(test.targets).mean())
    for state in search(lambda used: data_at(used, "batch", DATA, NOISE * raw), start, searcher, rate, rng):
        if state.evaluations > budget:
            break
        point = state.point
        if not np.abs(point).max() < 1e3:
            return nothing
    return min(nothing, float(test.loss(point[None])[0]))


def four_cells(*, variation: bool, selection: bool, generations: int, seed: int) -> dict[str, float]:
    """``loss``: log₁₀ of a population's mean loss in the end, as a share of what it was at first.

    Variation: children differ from their parents by mutations. Selection: parents are the best quarter; without it
    any quarter. All cells start from the same population, whose members differ.
    """
    here = make_regression(WIDTH, seed)
    rng = numpy_stream(seed, "four cells")
    people = np.stack([network_point(WIDTH, seed, "member", str(member)) for member in range(POPULATION)])
    first = float(here.loss(people).mean())
    for _ in range(generations):
        losses = here.loss(people)
        luck = rng.permutation(POPULATION).astype(float)
        weights = reproduction(losses if selection else luck, "truncation")
        people = people[rng.choice(POPULATION, POPULATION, p=weights)]
        mutation = rng.normal(size=people.shape)
        people = people + MUTATION * variation * mutation
    return {"loss": math.log10(float(here.loss(people).mean()) / first)}
