"""The published multiplication in the variants that its description leaves open, at seed 1 and over seeds."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product

import numpy as np

from ontogeny.evolution.multiplication import RANGE, SAMPLES, SECOND, TRAINED, descend, line_cost

PUBLISHED = {63: 137, 64: 145, 65: 137, 80: 1346, 96: 1271, 105: 1360, 110: 135, 128: 138}  # width -> cost at seed 1
DRAWS = ("normal", "uniform")

FACTORS = (1, 2)
ENDS = ("linear", "leaky")
ORDERS = (("weights first", "data first"), ("inputs × outputs", "outputs × inputs"))  # of one generator's draws
VARIANCE: Mapping[str, Callable[[int, int], float]] = {
    "he": lambda i, o: 2 / i,  # He et al. 2015
    "glorot": lambda i, o: 2 / (i + o),  # Glorot & Bengio 2010
    "lecun": lambda i, o: 1 / i,  # LeCun et al. 1998
}


def cost_of(
    seed: int, width: int, epochs: int, draw: str, scale: str, factor: int, end: str, order: str, orientation: str
) -> tuple[float, float, float]:
    """A network's cost after the published training; the best line's and that of nothing said, on the same pairs.

    All draws come from one Mersenne Twister with this seed, as scripts of that kind have it.
    """
    generator = np.random.RandomState(seed)
    pairs = generator.uniform(*RANGE, (SAMPLES, 2)) if order == "data first" else None
    weights = [
        _weight(generator, i, o, draw, scale, orientation) for i, o in ((2, width), (width, SECOND), (SECOND, 1))
    ]
    x = (generator.uniform(*RANGE, (SAMPLES, 2)) if pairs is None else pairs)[:TRAINED]
    y = x.prod(1, keepdims=True)
    _, cost = descend(weights, x, y, epochs, factor=float(factor), leaky_output=end == "leaky")
    return cost, line_cost(x, y), float(np.square(y).mean())


def _weight(
    generator: np.random.RandomState, inputs: int, outputs: int, draw: str, scale: str, orientation: str
) -> np.ndarray:
    shape = (inputs, outputs) if orientation == ORDERS[1][0] else (outputs, inputs)
    unit = generator.randn(*shape) if draw == "normal" else generator.uniform(-(3**0.5), 3**0.5, shape)
    drawn = unit * VARIANCE[scale](inputs, outputs) ** 0.5
    return np.asarray(drawn if orientation == ORDERS[1][0] else drawn.T)


def variant(
    draw: str,
    scale: str,
    factor: int,
    end: str,
    widths: Sequence[int],
    published: Sequence[int],
    epochs: int,
    seed: int,
) -> dict[str, float | list[float]]:
    """One variant over seeds, and at seed 1.

    ``cost``: the mean over widths at this replicate's seed. ``line`` and ``nothing``: shares of those networks within
    a fifth of the best line's cost, and of that of nothing said. ``seed 1``: costs at the published widths, a row an
    order of draws and an orientation; ``hits``: how many of them are the published ones, to half a unit, at best.
    """
    own = seed % 2**32  # what a Mersenne Twister is seeded with
    found = np.array(
        [cost_of(own, width, epochs, draw, scale, factor, end, "weights first", ORDERS[1][0]) for width in widths]
    )
    costs, lines, nothing = found.T
    first = [
        [_at_seed_one(width, epochs, draw, scale, factor, end, *orders) for width in published]
        for orders in product(*ORDERS)
    ]
    hits = [sum(abs(c - PUBLISHED[w]) <= 0.5 for c, w in zip(row, published, strict=True)) for row in first]
    measured: dict[str, float | list[float]] = {
        "cost": float(costs.mean()),
        "line": float((np.abs(costs / lines - 1) < 0.2).mean()),
        "nothing": float((np.abs(costs / nothing - 1) < 0.2).mean()),
        "hits": float(max(hits)),
        "costs": costs.tolist(),
    }
    return measured | {f"seed 1, {', '.join(orders)}": row for orders, row in zip(product(*ORDERS), first, strict=True)}


@cache  # every replicate shows it beside its own
def _at_seed_one(
    width: int, epochs: int, draw: str, scale: str, factor: int, end: str, order: str, orientation: str
) -> float:
    return cost_of(1, width, epochs, draw, scale, factor, end, order, orientation)[0]
