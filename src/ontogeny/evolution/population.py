"""One generation: mutations around a parent, selection among them, and where it moves their mean."""

from typing import Literal

import numpy as np
from jaxtyping import Float

Steps = Float[np.ndarray, "offspring d"]
Fitness = Float[np.ndarray, " offspring"]
Selection = Literal["proportional", "standardised", "truncation"]
SURVIVE = 0.25  # of the offspring, under truncation


def mutations(rng: np.random.Generator, offspring: int, dimension: int) -> Steps:
    """Standard normal steps in antithetic pairs: every step comes with its opposite. ``offspring`` is even."""
    half = rng.normal(size=(offspring // 2, dimension))
    return np.concatenate([half, -half])


def independent(rng: np.random.Generator, offspring: int, dimension: int) -> Steps:
    """Standard normal steps, each by itself: their mean drifts."""
    return np.asarray(rng.normal(size=(offspring, dimension)))


def recombined(rng: np.random.Generator, steps: Steps) -> Steps:
    """Free recombination: every coordinate of every child is that of one of two random parents.

    Off the diagonal it halves the steps' covariance: (Σ + diag Σ)/2.
    """
    mothers, fathers = (steps[rng.integers(len(steps), size=len(steps))] for _ in range(2))
    return np.where(rng.random(steps.shape) < 0.5, mothers, fathers)


def reproduction(losses: Fitness, rule: Selection) -> Fitness:
    """Every offspring's weight in the next generation's mean.

    ``proportional``: to the fitness exp(−loss), so that weights sum to 1. ``truncation``: the best quarter, alike.
    ``standardised``: (mean − loss) / sd ÷ offspring, which sums to 0: an evolution strategy (Salimans et al. 2017).
    """
    if rule == "proportional":
        fitness = np.exp(losses.min() - losses)
        return np.asarray(fitness / fitness.sum())
    if rule == "truncation":
        kept = max(1, round(SURVIVE * len(losses)))
        weights = np.zeros(len(losses))
        weights[np.argsort(losses, kind="stable")[:kept]] = 1 / kept
        return weights
    spread = losses.std()
    return np.asarray((losses.mean() - losses) / (spread if spread > 0 else 1.0) / len(losses))


def displacement(losses: Fitness, steps: Steps, rule: Selection) -> Float[np.ndarray, " d"]:
    """Where selection moves the mean: the reproduction-weighted sum of the steps."""
    return np.asarray(reproduction(losses, rule) @ steps)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either is constant."""
    from scipy import stats  # slow to import

    return float(stats.spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of the angle between two vectors; 0 where one has no length."""
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else 0.0
