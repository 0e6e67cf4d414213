"""How much a genome can hold: Eigen's error threshold, in closed form, as an eigenvector, and in finite populations.

Sequences of two letters under selection and copying errors, by their number of errors (Eigen 1971; Swetina & Schuster
1982). Generations don't overlap.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from ontogeny.streams import numpy_stream

Classes = Float[np.ndarray, " classes"]
Fitnesses = Literal["peak", "slope"]

BELOW = (0.3, 0.5, 0.7, 0.85)  # error rates at which the master's share is measured, in closed-form thresholds
BEYOND = 1.25  # and one at which order should be lost


def threshold(superiority: float, length: int) -> float:
    """The error rate a letter at which the master is lost: superiority × (1 − rate)^length = 1, about ln(s)/length."""
    return float(1 - superiority ** (-1 / length))


def master_share(superiority: float, length: int, rate: float) -> float:
    """The master's share in equilibrium without back mutation: (sQ − 1)/(s − 1), Q = (1 − rate)^length, at least 0."""
    return float(max(0.0, (superiority * (1 - rate) ** length - 1) / (superiority - 1)))


def class_fitness(kind: Fitnesses, length: int, superiority: float) -> Classes:
    """Fitness by number of errors. ``peak``: all but the master alike. ``slope``: every error costs the same factor."""
    errors = np.arange(length + 1)
    return np.asarray(
        np.where(errors == 0, superiority, 1.0) if kind == "peak" else superiority ** (1 - errors / length)
    )


def mutation_matrix(length: int, rate: float) -> Float[np.ndarray, "classes classes"]:
    """[i, j]: the probability that a copy of a sequence with j errors has i."""
    columns = [
        np.convolve(
            stats.binom.pmf(np.arange(j + 1), j, 1 - rate),
            stats.binom.pmf(np.arange(length - j + 1), length - j, rate),
        )
        for j in range(length + 1)
    ]
    return np.stack(columns, axis=1)


def equilibrium(fitness: Classes, rate: float) -> Classes:
    """Shares of the classes in an infinite population: the leading eigenvector of mutation × selection."""
    values, vectors = np.linalg.eig(mutation_matrix(len(fitness) - 1, rate) * fitness)
    leading = np.abs(vectors[:, values.real.argmax()].real)
    return np.asarray(leading / leading.sum())


def population_shares(
    fitness: Classes, rate: float, population: int, generations: int, rng: np.random.Generator
) -> Classes:
    """Mean shares of the classes in a finite population over the second half of its generations; all start as master.

    Every child draws its parent by fitness, and every letter of it is copied wrongly or not.
    """
    length = len(fitness) - 1
    errors: Int[np.ndarray, " population"] = np.zeros(population, dtype=np.int64)
    total = np.zeros(length + 1)
    for generation in range(generations):
        counts = np.bincount(errors, minlength=length + 1)
        if generation >= generations // 2:
            total += counts
        weights = counts * fitness
        parents = np.repeat(np.arange(length + 1), rng.multinomial(population, weights / weights.sum()))
        errors = parents - rng.binomial(parents, rate) + rng.binomial(length - parents, rate)
    return np.asarray(total / total.sum())


def extrapolated(shares: Float[np.ndarray, " rates"], rates: Float[np.ndarray, " rates"], length: int) -> float:
    """The error rate at which a line of the master's share on Q = (1 − rate)^length comes to 0.

    In closed form the share is such a line. nan where it doesn't rise.
    """
    slope, start = np.polyfit((1 - rates) ** length, shares, 1)
    quality = -start / slope if slope > 0 else np.nan
    return float(1 - quality ** (1 / length)) if quality > 0 else float("nan")


def error_threshold(
    kind: Fitnesses, length: int, superiority: float, population: int, generations: int, seed: int
) -> dict[str, float | list[float]]:
    """The threshold found in a finite population ÷ the closed form (``ratio``), and in an infinite one (``infinite``).

    0 where no threshold is found. ``order``: 1 − 2 × the share of wrong letters, at ``BEYOND`` the closed form's
    threshold; ``infinite order``: the same of the eigenvector.
    """
    closed, fitness = threshold(superiority, length), class_fitness(kind, length, superiority)
    rates = closed * np.array([*BELOW, BEYOND])
    finite, infinite = [], []
    for place, rate in enumerate(rates.tolist()):
        rng = numpy_stream(seed, "quasispecies", kind, length, place)
        finite.append(population_shares(fitness, rate, population, generations, rng))
        infinite.append(equilibrium(fitness, rate))
    measured: dict[str, float | list[float]] = {"closed form": closed}
    for start, shares in (("", np.array(finite)), ("infinite ", np.array(infinite))):
        found = extrapolated(shares[:-1, 0], rates[:-1], length) / closed
        measured |= {
            f"{start}ratio".replace("infinite ratio", "infinite"): found if np.isfinite(found) else 0.0,
            f"{start}order": float(1 - 2 * shares[-1] @ np.arange(length + 1) / length),
            f"{start}shares": shares[:, 0].tolist(),
        }
    return measured
