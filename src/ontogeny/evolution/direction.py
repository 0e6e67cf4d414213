"""How near a generation's displacement is to the gradient, and what takes it away from it."""

import math

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.landscapes import Landscape, Point, make_landscape
from ontogeny.evolution.population import (
    Selection,
    Steps,
    cosine,
    displacement,
    independent,
    mutations,
    recombined,
    spearman,
)
from ontogeny.streams import numpy_stream

GENERATIONS = 20  # independent ones at one point
POINTS = 12  # on the way from the start to the origin, where step sizes are measured
ANISOTROPY = 100.0  # largest ÷ smallest variance of anisotropic mutations


def alignment(
    landscape: str,
    size: int,
    offspring: int,
    sigma: float,
    rule: Selection,
    seed: int,
    *,
    anisotropic: bool = False,
    recombination: bool = False,
) -> dict[str, float]:
    """Cosines of displacements at the start with the descent direction −∇L, and with what theory puts in its place.

    ``cosine``: of one generation of independent offspring, the mean over generations. ``expected``: of the mean
    displacement over generations, from antithetic pairs, which leave the expectation and take chance away.
    ``preconditioned``: the same with −C∇L, C the offspring's covariance (Σ, or (Σ + diag Σ)/2 after recombination);
    ``foreign``: with another covariance of the same spectrum. ``dealt``: of one generation whose losses are dealt out
    at random, absolute; ``chance``: √(2/πd), what that is of a random direction. ``homeward``: −∇L with −w.
    ``drift``: 1/√(1 + (d/N)(1 + 1/(σ|∇L|)²)), the closed form of ``cosine`` under proportional selection, small σ.
    """
    here = make_landscape(landscape, size, seed)
    downhill = -here.gradient(here.start)
    dimension = len(downhill)
    rng = numpy_stream(seed, "alignment", offspring, str(sigma))
    basis, foreign = (
        _basis(dimension, seed, name) if anisotropic else np.eye(dimension) for name in ("own", "foreign")
    )
    one, null, expected = [], [], np.zeros(dimension)
    for _ in range(GENERATIONS):
        for pairs in (False, True):
            steps = sigma * independent(rng, offspring // 2 if pairs else offspring, dimension) @ basis
            steps = recombined(rng, steps) if recombination else steps
            steps = np.concatenate([steps, -steps]) if pairs else steps
            losses = here.loss(here.start + steps)
            moved = displacement(losses, steps, rule)
            if pairs:
                expected += moved / GENERATIONS
            else:
                one.append(cosine(moved, downhill))
                null.append(abs(cosine(displacement(rng.permutation(losses), steps, rule), downhill)))
    slope = sigma * float(np.linalg.norm(downhill))
    return {
        "cosine": float(np.mean(one)),
        "expected": cosine(expected, downhill),
        "preconditioned": cosine(expected, _covariance(basis, recombination) @ downhill),
        "foreign": cosine(expected, _covariance(foreign, recombination) @ downhill),
        "dealt": float(np.mean(null)),
        "chance": math.sqrt(2 / (math.pi * dimension)),
        "homeward": cosine(downhill, -here.start),
        "drift": 1 / math.sqrt(1 + dimension / offspring * (1 + slope**-2)),
    }


def _basis(dimension: int, seed: int, name: str) -> Steps:
    """A matrix B whose BᵀB is a covariance: variances log-spaced over ``ANISOTROPY`` in a random basis, mean 1."""
    rng = numpy_stream(seed, "covariance", name, dimension)
    directions, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    variances = np.geomspace(1 / ANISOTROPY, 1, dimension)
    return np.asarray(np.sqrt(variances / variances.mean())[:, None] * directions.T)


def _covariance(basis: Steps, recombination: bool) -> Float[np.ndarray, "d d"]:
    covariance = basis.T @ basis
    return np.asarray((covariance + np.diag(np.diag(covariance))) / 2 if recombination else covariance)


def step_sizes(landscape: str, size: int, offspring: int, sigma: float, rule: Selection, seed: int) -> dict[str, float]:
    """Whether the displacement's length follows the gradient's, from the start towards the origin.

    ``monotone``: Spearman's correlation of the lengths; ``exponent``: the slope of their logarithms. Lengths are those
    of the displacement's part along the gradient, averaged over generations, so that chance adds nothing.
    """
    here = make_landscape(landscape, size, seed)
    rng = numpy_stream(seed, "step sizes", offspring, str(sigma))
    points = [share * here.start for share in np.linspace(0.1, 1, POINTS)]
    lengths = np.array([_lengths(here, point, offspring, sigma, rule, rng) for point in points])
    gradients, moved = lengths.T
    positive = moved > 0
    slope = np.polyfit(np.log(gradients[positive]), np.log(moved[positive]), 1)[0] if positive.sum() > 2 else 0.0
    return {"monotone": spearman(gradients, moved), "exponent": float(slope)}


def _lengths(
    here: Landscape, point: Point, offspring: int, sigma: float, rule: Selection, rng: np.random.Generator
) -> tuple[float, float]:
    gradient = here.gradient(point)
    length = float(np.linalg.norm(gradient))
    moved = []
    for _ in range(GENERATIONS):
        steps = sigma * mutations(rng, offspring, len(point))
        moved.append(displacement(here.loss(point + steps), steps, rule) @ -gradient / length)
    return length, float(np.mean(moved))
