"""How near a generation's displacement is to the gradient, and what takes it away from it."""

import numpy as np

from ontogeny.evolution.landscapes import Landscape, make_landscape
from ontogeny.evolution.population import Selection, cosine, displacement, mutations, spearman
from ontogeny.streams import numpy_stream

GENERATIONS = 20  # independent ones at one point, whose cosines are averaged
POINTS = 12  # on the way from the start to the origin, where step sizes are measured
ANISOTROPY = 100.0  # largest ÷ smallest variance of anisotropic mutations


def alignment(
    landscape: str, size: int, offspring: int, sigma: float, rule: Selection, seed: int, *, anisotropic: bool = False
) -> dict[str, float]:
    """Cosines of one generation's displacement at the start, the mean over independent generations.

    ``cosine`` with the descent direction −∇L; ``preconditioned`` with −Σ∇L, Σ the mutations' covariance;
    ``shuffled``: the absolute cosine where losses are dealt out at random, so that nothing is selected.
    ``closed_form``: √((m+2)/(m+d+1)) of m antithetic pairs, an evolution strategy's cosine on a plane (the root of the
    ratio of E[(uᵀg)²] = m² + 2m to E[u²] = m² + m(d+1), g of length 1).
    """
    here = make_landscape(landscape, size, seed)
    gradient = here.gradient(here.start)
    dimension = len(gradient)
    rng = numpy_stream(seed, "alignment", offspring, str(sigma), rule)
    basis = _basis(dimension, seed) if anisotropic else np.eye(dimension)
    found, pairs = [], offspring // 2
    for _ in range(GENERATIONS):
        steps = sigma * mutations(rng, offspring, dimension) @ basis
        losses = here.loss(here.start + steps)
        moved = displacement(losses, steps, rule)
        null = displacement(rng.permutation(losses), steps, rule)
        found.append(
            (
                cosine(moved, -gradient),
                cosine(moved, -basis.T @ basis @ gradient),
                abs(cosine(null, -gradient)),
            )
        )
    names = ("cosine", "preconditioned", "shuffled")
    measured = dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
    return measured | {"closed_form": float(np.sqrt((pairs + 2) / (pairs + dimension + 1)))}


def _basis(dimension: int, seed: int) -> np.ndarray:
    """A matrix B whose BᵀB is a covariance: variances log-spaced over ``ANISOTROPY`` in a random basis, mean 1."""
    directions, _ = np.linalg.qr(numpy_stream(seed, "covariance", dimension).normal(size=(dimension, dimension)))
    variances = np.geomspace(1 / ANISOTROPY, 1, dimension)
    return np.asarray(np.sqrt(variances / variances.mean())[:, None] * directions.T)


def step_sizes(landscape: str, size: int, offspring: int, sigma: float, rule: Selection, seed: int) -> dict[str, float]:
    """Whether the displacement's length follows the gradient's, from the start towards the origin.

    ``monotone``: Spearman's correlation of the lengths; ``exponent``: the slope of their logarithms. Lengths are those
    of the displacement's part along the gradient, averaged over generations, so that chance adds nothing.
    """
    here = make_landscape(landscape, size, seed)
    rng = numpy_stream(seed, "step sizes", offspring, str(sigma), rule)
    lengths = np.array([_lengths(here, share, offspring, sigma, rule, rng) for share in np.linspace(0.1, 1, POINTS)])
    gradients, moved = lengths.T
    positive = moved > 0
    slope = np.polyfit(np.log(gradients[positive]), np.log(moved[positive]), 1)[0] if positive.sum() > 2 else 0.0
    return {"monotone": spearman(gradients, moved), "exponent": float(slope)}


def _lengths(
    here: Landscape, share: float, offspring: int, sigma: float, rule: Selection, rng: np.random.Generator
) -> tuple[float, float]:
    point = share * here.start
    gradient = here.gradient(point)
    length = float(np.linalg.norm(gradient))
    moved = []
    for _ in range(GENERATIONS):
        steps = sigma * mutations(rng, offspring, len(point))
        moved.append(displacement(here.loss(point + steps), steps, rule) @ -gradient / length)
    return length, float(np.mean(moved))
