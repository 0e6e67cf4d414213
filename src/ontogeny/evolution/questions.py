"""Six quantities that tell one searcher's way from another's, measured along a path on minibatches."""

import math

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.landscapes import Point, Regression, make_regression
from ontogeny.evolution.population import cosine, mutations, spearman
from ontogeny.evolution.search import SEARCHERS, SIGMA, State, best_rate, search
from ontogeny.streams import numpy_stream, stream_seed

QUESTIONS = {
    "dimensions": "the dimensions its steps use: participation ratio of their second moments, as a share of all",
    "bits": "bits a step about the gradient's direction beyond chance: −(d/2) log₂((1 − cosine²)/(1 − 1/d))",
    "turning": "how far the gradient it meets turns in a step: 1 − cosine of successive gradients",
    "viable": "the share of what it tries that is at most 1 % worse than where it stands",
    "tail": "the 99th percentile of its steps' lengths over their median",
    "persistence": "Spearman's correlation of the coordinates' step sizes between the path's halves",
}
PER_STEP = ("bits", "turning")  # which are measured per evaluation too
WIDTH, DATA, BATCH = 8, 256, 32
VIABLE = 1.01
SAMPLED = 20  # states of the path at which points are tried and gradients taken
FAR = 1e3  # a coordinate that has diverged


def questions(searcher: str, evaluations: int, seed: int) -> dict[str, float]:
    """``QUESTIONS`` of one searcher at its tuned rate, and ``half …`` at half of it: what a rate alone can change.

    ``loss``: in the end, as a share of the start's. ``growth``: dimensions of the path's second half over the first's.
    Rates are tuned on another seed's landscape.
    """

    def cost(rate: float, _limit: float) -> float:
        other = stream_seed(seed, "tuning")
        return _loss(make_regression(WIDTH, other), _path(searcher, rate, evaluations, other)[-1].point)

    rate = best_rate(cost).rate
    return _measured(searcher, rate, evaluations, seed) | {
        f"half {name}": value for name, value in _measured(searcher, rate / 2, evaluations, seed).items()
    }


def _measured(searcher: str, rate: float, evaluations: int, seed: int) -> dict[str, float]:
    here, path = make_regression(WIDTH, seed), _path(searcher, rate, evaluations, seed)
    steps, points = np.stack([state.step for state in path]), [here.start, *(state.point for state in path)]
    seen = range(0, len(path), max(1, len(path) // SAMPLED))
    gradients = [(here.gradient(points[i]), here.gradient(points[i + 1])) for i in seen]
    cosines = [cosine(steps[i], -before) for i, (before, _) in zip(seen, gradients, strict=True)]
    d, lengths = steps.shape[1], np.linalg.norm(steps, axis=1)
    halves = np.array_split(steps, 2)
    found = {
        "dimensions": participation_ratio(steps) / d,
        "bits": float(np.mean([_bits(c, d) for c in cosines])),
        "turning": float(np.mean([1 - cosine(*pair) for pair in gradients])),
        "viable": _viable(here, searcher, [(points[i], points[i + 1]) for i in seen], seed),
        "tail": float(np.quantile(lengths, 0.99) / np.median(lengths)),
        "persistence": spearman(*(np.square(half).mean(0) for half in halves)),
        "growth": participation_ratio(halves[1]) / participation_ratio(halves[0]),
        "loss": min(FAR, _loss(here, path[-1].point) / _loss(here, here.start)),
    }
    return found | {f"{name} an evaluation": found[name] / SEARCHERS[searcher].cost for name in PER_STEP}


def _bits(found: float, dimension: int) -> float:
    chance = 1 - 1 / dimension
    return -dimension / 2 * math.log2(max(1 - found * found, 1e-12) / chance)


def _path(searcher: str, rate: float, evaluations: int, seed: int) -> list[State]:
    """Until the evaluations are used up, or a coordinate diverges."""
    here, rng = make_regression(WIDTH, seed), numpy_stream(seed, "questions", searcher)

    def batch_at(used: int) -> Regression:
        return here.batch(numpy_stream(seed, "batch", used).choice(DATA, BATCH, replace=False))

    path: list[State] = []
    for state in search(batch_at, here.start, SEARCHERS[searcher], rate, rng):
        if not np.abs(state.point).max() < FAR:
            return path or [State(here.start, 0, np.full(len(here.start), 1e-9))]
        path.append(state)
        if state.evaluations >= evaluations:
            return path
    raise AssertionError("a search has no end")


def _loss(here: Regression, point: Point) -> float:
    return float(here.loss(point[None])[0])


def _viable(here: Regression, searcher: str, pairs: list[tuple[Point, Point]], seed: int) -> float:
    """Of gradient descent's own steps, or of an evolution strategy's offspring."""
    rng, offspring = numpy_stream(seed, "viable"), SEARCHERS[searcher].offspring
    shares = []
    for before, after in pairs:
        tried = before + SIGMA * mutations(rng, offspring, len(before)) if offspring else after[None]
        shares.append(float((here.loss(tried) <= VIABLE * _loss(here, before)).mean()))
    return float(np.mean(shares))


def participation_ratio(steps: Float[np.ndarray, "steps d"]) -> float:
    """(Σλ)² / Σλ² of the eigenvalues λ of the steps' second moments: how many directions carry them."""
    moments = steps.T @ steps
    return float(np.trace(moments) ** 2 / np.square(moments).sum())
