"""Crossed designs: searcher × target × data, and variation × selection."""

import math

import numpy as np

from ontogeny.evolution.landscapes import INPUTS, Point, Regression, make_regression, network, network_point
from ontogeny.evolution.population import reproduction
from ontogeny.evolution.search import SEARCHERS, best_rate, search
from ontogeny.streams import numpy_stream, stream_seed

WIDTH = 8  # of students
DATA = 64  # inputs of a batch, drawn anew every 16 evaluations
NOISE = 1.0  # sd of raw targets at dose 1, where the teacher's own vary by about 1
TURN = math.pi / 2  # how far a drifting teacher turns at dose 1
POPULATION, MUTATION = 64, 0.1


def target_and_data(
    searcher: str, *, drifting: bool, raw: bool, dose: float, budget: int, seed: int
) -> dict[str, float]:
    """``loss``: log₁₀ of half the mean squared error against the last teacher, at equal evaluations.

    The target is a teacher that stays, or turns into that one. The data are what the teacher says (written), or that
    with noise (raw). ``dose`` multiplies the turn and the noise. Rates are tuned on another seed's teacher, student and
    data; ``resolved``: 1 where the best is inside the grid. A search that diverges scores as one that says nothing.
    """

    def cost(rate: float, _limit: float) -> float:
        return _final(searcher, rate, drifting, raw, dose, budget, stream_seed(seed, "tuning"))

    tuned = best_rate(cost)
    loss = _final(searcher, tuned.rate, drifting, raw, dose, budget, seed)
    return {"loss": math.log10(loss), "rate": tuned.rate, "resolved": float(tuned.resolved)}


def _final(searcher: str, rate: float, drifting: bool, raw: bool, dose: float, budget: int, seed: int) -> float:
    teachers = [network_point(4, seed, name) for name in ("teacher", "other teacher")]
    start = network_point(WIDTH, seed, "student")

    def teacher_at(used: int) -> Point:
        angle = dose * TURN * (used / budget - 1) if drifting else 0.0  # 0 in the end
        return np.asarray(math.cos(angle) * teachers[0] + math.sin(angle) * teachers[1])

    def data_at(used: int, path: str, count: int, noise: float) -> Regression:
        rng = numpy_stream(seed, path, used // 16)
        inputs = rng.normal(size=(count, INPUTS))
        clean = 2 * network(teacher_at(used)[None], inputs)[0]
        return Regression(inputs, clean + noise * rng.normal(size=count), start)

    test = data_at(budget, "test", 1024, 0.0)
    point, nothing = start, float(0.5 * np.square(test.targets).mean())
    rng = numpy_stream(seed, "search", searcher)
    batches = search(
        lambda used: data_at(used, "batch", DATA, dose * NOISE * raw), start, SEARCHERS[searcher], rate, rng
    )
    for state in batches:
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
        people = people + MUTATION * variation * rng.normal(size=people.shape)
    return {"loss": math.log10(float(here.loss(people).mean()) / first)}
