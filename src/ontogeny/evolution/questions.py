"""Six quantities that tell one searcher's way from another's, measured along a path on minibatches."""

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.landscapes import Point, Regression, make_regression
from ontogeny.evolution.population import cosine, mutations, spearman
from ontogeny.evolution.search import COST, SIGMA, Searcher, State, best_rate, search
from ontogeny.streams import numpy_stream

QUESTIONS = {
    "dimensions": "the dimensions its steps use: participation ratio of their covariance, as a share of all",
    "bits": "bits about the gradient's direction an evaluation: −(d/2) log₂(1 − cosine²) ÷ evaluations a step",
    "turning": "how far the gradient turns an evaluation: (1 − cosine of successive gradients) ÷ evaluations a step",
    "viable": "the share of what it tries that is at most 1 % worse than where it stands",
    "tail": "the 99th percentile of its steps' lengths over their median",
    "persistence": "Spearman's correlation of the coordinates' step sizes between the path's halves",
}
WIDTH, DATA, BATCH = 8, 256, 32
VIABLE = 1.01
SAMPLED = 20  # states of the path at which points are tried and gradients taken


def questions(searcher: Searcher, evaluations: int, seed: int) -> dict[str, float]:
    """``QUESTIONS`` of one searcher at its tuned rate, and its ``loss`` in the end as a share of the start's."""

    def cost(rate: float, _limit: float) -> float:
        return _loss(make_regression(WIDTH, seed + 1), _path(searcher, rate, evaluations, seed + 1)[-1].point)

    rate, _ = best_rate(cost)
    here, path = make_regression(WIDTH, seed), _path(searcher, rate, evaluations, seed)
    steps = np.stack([state.step for state in path])
    every = max(1, len(path) // SAMPLED)
    points = [here.start, *(state.point for state in path)]
    seen = [(points[i], steps[i], points[i + 1]) for i in range(0, len(path), every)]
    gradients = [(here.gradient(before), here.gradient(after)) for before, _, after in seen]
    cosines = [cosine(step, -gradient) for (_, step, _), (gradient, _) in zip(seen, gradients, strict=True)]
    d, lengths = steps.shape[1], np.linalg.norm(steps, axis=1)
    first, second = (np.square(half).mean(0) for half in np.array_split(steps, 2))
    return {
        "dimensions": participation_ratio(steps) / d,
        "bits": float(np.mean([-d / 2 * np.log2(1 - min(c * c, 1 - 1e-12)) for c in cosines])) / COST[searcher],
        "turning": float(np.mean([1 - cosine(*pair) for pair in gradients])) / COST[searcher],
        "viable": _viable(here, searcher, [(before, after) for before, _, after in seen], seed),
        "tail": float(np.quantile(lengths, 0.99) / np.median(lengths)),
        "persistence": spearman(first, second),
        "loss": _loss(here, path[-1].point) / _loss(here, here.start),
    }


def _path(searcher: Searcher, rate: float, evaluations: int, seed: int) -> list[State]:
    here, rng = make_regression(WIDTH, seed), numpy_stream(seed, "questions", searcher)

    def batch_at(used: int) -> Regression:
        return here.batch(numpy_stream(seed, "batch", used).choice(DATA, BATCH, replace=False))

    path: list[State] = []
    for state in search(batch_at, here.start, searcher, rate, rng):
        path.append(state)
        if state.evaluations >= evaluations or not np.abs(state.point).max() < 1e3:
            return path
    raise AssertionError("a search has no end")


def _loss(here: Regression, point: Point) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        loss = float(here.loss(point[None])[0])
    return loss if np.isfinite(loss) else float("inf")


def _viable(here: Regression, searcher: Searcher, pairs: list[tuple[Point, Point]], seed: int) -> float:
    """Of gradient descent's own steps, or of an evolution strategy's offspring."""
    rng = numpy_stream(seed, "viable")
    shares = []
    for before, after in pairs:
        tried = after[None] if searcher == "gradient" else before + SIGMA * mutations(rng, 16, len(before))
        shares.append(float((here.loss(tried) <= VIABLE * _loss(here, before)).mean()))
    return float(np.mean(shares))


def participation_ratio(steps: Float[np.ndarray, "steps d"]) -> float:
    """(Σλ)² / Σλ² of the eigenvalues λ of the steps' second moments: how many directions carry them."""
    moments = steps.T @ steps
    return float(np.trace(moments) ** 2 / np.square(moments).sum())
