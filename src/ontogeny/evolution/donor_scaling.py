"""How much a donor's subspaces are worth as donors grow wider or train longer, and whether that comes to an end."""

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.inner import World, fresh, plain_hyperparameters
from ontogeny.evolution.pretraining import pretrained, with_subspaces
from ontogeny.evolution.task_families import INPUTS, OUTPUTS, Family
from ontogeny.streams import numpy_stream

RANK = 8  # directions a layer that are inherited: the genome has stopped growing
DONOR_TASKS = 32
TESTS = 8
POWERS = np.geomspace(0.05, 4.0, 80)  # exponents that fits try

Series = Float[np.ndarray, " sizes"]
Means = Float[np.ndarray, "sets sizes"]


def worth(width: int, donor_steps: int, steps: int, seed: int) -> dict[str, float]:
    """By how much newcomers in a donor's subspaces end below those in as many random ones.

    The world has a direction that matters for every input, the strengths falling as a power law: there is always more
    to find. Measured: ``gap``, log₁₀ loss random − donor at rank 8 in three layers, both losses, whether all rates are
    inside their grids; the donor's own loss.
    """
    sizes = (INPUTS, width, width, width, OUTPUTS)
    world = World(Family.drawn(numpy_stream(seed, "scaling"), "power law"), steps, seed)
    tasks = world.family.tasks(numpy_stream(seed, "scaling", "donor"), DONOR_TASKS)
    donor = pretrained(tasks, sizes, donor_steps, numpy_stream(seed, "scaling", "pretraining"))
    genome = plain_hyperparameters(sizes, [RANK] * (len(sizes) - 2))
    own, random = (world.tested(draw, genome, TESTS) for draw in (with_subspaces(donor, sizes), fresh(sizes)))
    return {
        "gap": random["loss"] - own["loss"],
        "loss": own["loss"],
        "random loss": random["loss"],
        "donor loss": float(np.log10(donor.loss)),
        "resolved": min(float(donor.resolved), own["resolved"], random["resolved"]),
    }


def ceiling(x: Series, means: Means, errors: Series) -> tuple[Float[np.ndarray, " sets"], Float[np.ndarray, " sets"]]:
    """Of every set of means, how much better gap = c − a·x^−b fits than gap = a·x^b, and c.

    Least squares weighted by 1/error², b scanned over ``POWERS``; a ≥ 0 in both. "Better" is the difference of AIC with
    known errors: above 0 the ceiling is worth its parameter.
    """
    growing, saturating = (np.array([_fit(x, means, errors, sign * b) for b in POWERS]) for sign in (1, -1))
    best = saturating[:, 0].argmin(0)
    misfit, tops = saturating[best, :, np.arange(len(means))].T
    return growing[:, 0].min(0) - misfit - 2, tops


def _fit(x: Series, means: Means, errors: Series, power: float) -> Float[np.ndarray, "2 sets"]:
    """χ² and constant of every set at one exponent; a constant alone where a ceiling's a would be negative."""
    columns = [np.ones_like(x), -(x**power)] if power < 0 else [x**power]
    design, wanted = np.stack(columns, 1) / errors[:, None], (means / errors).T
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    flat = np.zeros_like(solution)
    flat[0] = np.average(means, axis=1, weights=errors**-2) if power < 0 else 0.0
    solution = np.where(solution[-1] < 0, flat, solution)
    return np.stack([np.square(design @ solution - wanted).sum(0), solution[0]])


def ceiling_share(x: Series, gaps: Float[np.ndarray, "replicates sizes"], draws: int = 1000) -> tuple[float, float]:
    """The share of bootstrapped sets of replicates in which the ceiling fits better, and the median ceiling.

    Every fit is to the means of a set, weighted by the standard errors of all replicates.
    """
    rng = numpy_stream(0, "scaling", "bootstrap")
    errors = gaps.std(0, ddof=1) / np.sqrt(len(gaps)) + 1e-6
    means = gaps[rng.integers(len(gaps), size=(draws, len(gaps)))].mean(1)
    better, tops = ceiling(x / x[-1], means, errors)
    return float((better > 0).mean()), float(np.median(tops))
