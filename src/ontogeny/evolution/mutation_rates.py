"""Evolved mutation rates beside Adam's, the updates they make, and what becomes of them in another environment."""

import math

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.adaptation import Course, Filter, Inheritance, evolve
from ontogeny.evolution.environments import ESSENTIAL, Environment, Task, factors, make_environment
from ontogeny.evolution.optimisers import (
    TUNING,
    WINDOW,
    Descent,
    adams_rate,
    candidates,
    descend,
    explained,
)
from ontogeny.evolution.population import spearman
from ontogeny.evolution.regulation import make_regulation, make_switching
from ontogeny.evolution.search import Tuned, best_rate
from ontogeny.streams import numpy_stream, stream_seed

Genes = Float[np.ndarray, " d"]
FACTORS = ("essential", "drift", "jitter")  # as in ``factors``
OPTIMISERS = ("SGD", "momentum", "Adam", "AdamW")
POINTS = 8  # of Adam's path, over which curvature is averaged
BINS = 40  # of the course of σ


def rates_and_updates(
    task: Task,
    offspring: int,
    generations: int,
    seed: int,
    *,
    selection: Filter = "truncation",
    inheritance: Inheritance = "recombining",
    adapting: bool = True,
) -> dict[str, float]:
    """What a population's mutation rates have in common with Adam's, and its updates with optimisers' steps.

    Everything is measured after the first third. Where σ isn't ``adapting`` it is one for all, tuned on another seed.
    """
    environment = make_environment(task, generations, seed)
    fixed = None if adapting else tuned_sigma(task, offspring, generations, seed)
    sigma = {} if fixed is None else {"sigma": fixed.rate}
    rng = numpy_stream(seed, "adaptation", task, selection, inheritance, str(adapting))
    chosen = {"selection": selection, "inheritance": inheritance, "adapting": adapting}
    course = evolve(environment, generations, offspring, rng, **chosen, **sigma)  # type: ignore[arg-type]
    tuned = adams_rate(make_environment(task, generations, stream_seed(seed, "tuning")), generations)
    adam = descend(environment, generations, tuned.rate)
    burn = generations // 3
    log_sigma = course.log_sigma[burn:].mean(0)
    measured = {"sigma": float(log_sigma.mean()), "settling": _settling(course.log_sigma[burn:])}
    measured |= {"Adam's rate": tuned.rate, "Adam's rate resolved": float(tuned.resolved)}
    measured |= {} if fixed is None else {"σ resolved": float(fixed.resolved)}
    measured |= compare(log_sigma, environment, adam, burn) | updates(course, burn)
    return measured | (effects(log_sigma, adam, burn, factors(seed)) if task == "genes" else {})


def tuned_sigma(task: Task, offspring: int, generations: int, seed: int) -> Tuned:
    """The σ, one for all genes, of the least mean loss over the second half of a short run on another seed."""
    length, seed = min(TUNING, generations), stream_seed(seed, "tuning")
    environment = make_environment(task, length, seed)

    def cost(sigma: float, _limit: float) -> float:
        rng = numpy_stream(seed, "σ", task)
        return float(
            evolve(environment, length, offspring, rng, adapting=False, sigma=sigma).losses[length // 2 :].mean()
        )

    return best_rate(cost)


def _settling(log_sigma: Float[np.ndarray, "generations d"]) -> float:
    """How far log₁₀ σ is from having settled: its later half less its earlier, all genes."""
    earlier, later = np.array_split(log_sigma, 2)
    return float(later.mean() - earlier.mean())


def _log(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.log10(np.maximum(values, 1e-300)))


def compare(log_sigma: Genes, environment: Environment, adam: Descent, burn: int) -> dict[str, float]:
    """Correlations over genes of log σ, and exponents: slopes of logarithms on log curvature.

    Gradients and curvature are those on Adam's own path, where σ has no part in them. Spearman's correlation ``with``
    curvature, the gradient's ``mean`` (root mean square of its means over windows), its ``variance`` (within windows),
    and Adam's rates; ``beyond curvature``: Pearson's with log Adam's rates, a straight line in log curvature taken
    out of both.
    """
    moments = np.linspace(burn, len(adam.points) - 1, POINTS).astype(int).tolist()
    curvature = _log(np.mean([environment.curvature(t, adam.points[t]) for t in moments], axis=0))
    mean, variance = gradient_moments(adam.gradients[burn:])
    rates, steps = _log(adam.rates[burn:]).mean(0), _log(np.square(adam.steps[burn:]).mean(0)) / 2
    rest, rates_rest = (_residual(values, curvature[:, None]) for values in (log_sigma, rates))
    return {
        "exponent": slope(log_sigma, curvature),
        "Adam exponent": slope(rates, curvature),
        "step exponent": slope(steps, curvature),
        "with curvature": spearman(log_sigma, curvature),
        "with mean": spearman(log_sigma, mean),
        "with variance": spearman(log_sigma, variance),
        "with Adam": spearman(log_sigma, rates),
        "beyond curvature": _correlation(rest, rates_rest),
    }


def gradient_moments(gradients: Float[np.ndarray, "generations d"]) -> tuple[Genes, Genes]:
    """Root mean square of the means over windows of ``WINDOW`` generations, and the mean variance within them."""
    whole = len(gradients) // WINDOW * WINDOW
    windows = gradients[:whole].reshape(-1, WINDOW, gradients.shape[1])
    return np.sqrt(np.square(windows.mean(1)).mean(0)), windows.var(1, ddof=1).mean(0)


def slope(values: Genes, on: Genes) -> float:
    """Of a straight line by least squares."""
    return float(np.polyfit(on, values, 1)[0])


def fold(exponent: float | np.ndarray) -> np.ndarray:
    """log₁₀ of how many times lower σ is where curvature is ``ESSENTIAL`` times higher: −exponent × log₁₀.

    An exponent of −½ makes mutations alike in harm, ½hσ², and their σ 20-fold apart.
    """
    return np.asarray(-exponent * math.log10(ESSENTIAL))


def _residual(values: Genes, on: Float[np.ndarray, "d k"]) -> Genes:
    given = np.column_stack([np.ones(len(values)), on])
    return np.asarray(values - given @ np.linalg.lstsq(given, values, rcond=None)[0])


def _correlation(a: Genes, b: Genes) -> float:
    """Pearson's; 0 where either is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 1e-9 else 0.0


def effects(log_sigma: Genes, adam: Descent, burn: int, high: np.ndarray) -> dict[str, float]:
    """log₁₀ of σ, of Adam's rates and of the size of its steps: genes high in a factor less those low in it."""
    of = {
        "σ": log_sigma,
        "Adam": _log(adam.rates[burn:]).mean(0),
        "step": _log(np.square(adam.steps[burn:]).mean(0)) / 2,
    }
    return {
        f"{name} {factor}": float(values[row].mean() - values[~row].mean())
        for name, values in of.items()
        for factor, row in zip(FACTORS, high, strict=True)
    }


def updates(course: Course, burn: int) -> dict[str, float]:
    """Out-of-sample R² of the population mean's updates by every optimiser's steps along the same path.

    ``response``: by what the population's own covariance gives, as far as updates can be told from chance.
    """
    moved = np.diff(course.means, axis=0)[burn:]
    tried = candidates(course.gradients, course.means[:-1])
    found = {f"R² {name}": explained(moved, [steps[:, burn:] for steps in tried[name]]) for name in OPTIMISERS}
    return found | {"R² response": explained(moved, [course.responses[None, burn:]])}


def switching(
    offspring: int,
    generations: int,
    seed: int,
    *,
    native: bool = False,
    selection: Filter = "truncation",
    inheritance: Inheritance = "recombining",
) -> dict[str, float | list[list[float]]]:
    """Which environment σ tells of once essentiality has moved to other genes.

    Slopes of log₁₀ σ on log₁₀ curvature ``now``, log₁₀ curvature ``before`` the switch and log₁₀ ``centrality``,
    together by least squares over genes, in the last quarter; ``first``: on curvature alone in the quarter before the
    switch. ``course``: mean log₁₀ σ of the genes essential in neither environment, the first, the second, both, over
    ``BINS`` times. ``native`` populations live in the second environment from the start.
    """
    here = make_regulation(seed)
    rng = numpy_stream(seed, "switching", str(native), selection, inheritance)
    course = evolve(
        make_switching(here, generations, seed, native=native),
        generations,
        offspring,
        rng,
        selection=selection,
        inheritance=inheritance,
    )
    quarters = [part.mean(0) for part in np.array_split(course.log_sigma, 4)]
    before, now = np.log10(here.curvatures)
    given = np.column_stack([now, before, np.log10(here.centrality), np.ones(len(now))])
    slopes = np.linalg.lstsq(given, quarters[3], rcond=None)[0]
    groups = here.essential[0] + 2 * here.essential[1]
    bins = [part.mean(0) for part in np.array_split(course.log_sigma, BINS)]
    return {
        "now": float(slopes[0]),
        "before": float(slopes[1]),
        "centrality": float(slopes[2]),
        "first": slope(quarters[1], before),
        "course": [[float(part[groups == group].mean()) for part in bins] for group in range(4)],
    }
