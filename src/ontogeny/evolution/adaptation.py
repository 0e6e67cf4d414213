"""Populations whose members inherit a mutation rate for every gene, and mutate it: self-adaptation (Schwefel 1981)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ontogeny.evolution.environments import Environment

Inheritance = Literal["recombining", "clonal"]
Filter = Literal["truncation", "random"]
Path = Float[np.ndarray, "generations d"]
PARENTS = 7  # offspring for every parent (Schwefel's ratio)
FIRST = 0.1  # σ of every gene at first, where optima move by about as much in a generation
BOUNDS = (1e-3, 1e1)  # of every σ


@dataclass(frozen=True)
class Course:
    """One population's course, by generation.

    ``means``: of the survivors, the first row before any selection. ``log_sigma``: log₁₀ of the survivors' σ, their
    mean by gene. ``gradients`` and ``losses``: at the mean that a generation starts from. ``responses``: the
    displacement that the population's own covariance would give, −Cov(x) ∇L / sd(loss).
    """

    means: Float[np.ndarray, "generations_and_one d"]
    log_sigma: Path
    gradients: Path
    responses: Path
    losses: Float[np.ndarray, " generations"]


def evolve(
    environment: Environment,
    generations: int,
    offspring: int,
    rng: np.random.Generator,
    *,
    selection: Filter = "truncation",
    inheritance: Inheritance = "recombining",
    adapting: bool = True,
    sigma: float = FIRST,
) -> Course:
    """A population from its environment's start.

    ``truncation`` keeps the best seventh, ``random`` any seventh. ``recombining`` children take every gene, with its
    σ, from one or the other of two survivors, ``clonal`` ones all of them from one. σ is inherited with a log-normal
    error, one part of it common to all genes, and used at once; not ``adapting``: σ stays as it is for all.
    """
    start = environment.start
    kept, d = max(2, offspring // PARENTS), len(start)
    points, logs = np.tile(start, (kept, 1)), np.full((kept, d), math.log(sigma))
    means, rows = [start], []
    for generation in range(generations):
        here, mean = environment.at(generation), means[-1]
        gradient = here.gradient(mean)
        points, logs = children(points, logs, offspring, rng, inheritance)
        if adapting:
            logs = np.clip(logs + errors(rng, offspring, d), *np.log(BOUNDS))
        points = points + np.exp(logs) * rng.normal(size=points.shape)
        loss, *others = here.loss(np.vstack([mean, points]))
        losses = np.array(others)
        response = _response(points, losses, gradient)
        chosen = survivors(losses if selection == "truncation" else rng.normal(size=offspring), kept)
        points, logs = points[chosen], logs[chosen]
        rows.append((logs.mean(0) / math.log(10), gradient, response, loss))
        means.append(points.mean(0))
    log_sigma, gradients, responses, passed = (np.array(column) for column in zip(*rows, strict=True))
    return Course(np.array(means), log_sigma, gradients, responses, passed)


def children(
    points: Float[np.ndarray, "kept d"],
    logs: Float[np.ndarray, "kept d"],
    offspring: int,
    rng: np.random.Generator,
    inheritance: Inheritance,
) -> tuple[Float[np.ndarray, "offspring d"], Float[np.ndarray, "offspring d"]]:
    """What offspring inherit before they mutate: genes and their ln σ, which stay together."""
    mothers = rng.integers(len(points), size=offspring)
    if inheritance == "clonal":
        return points[mothers], logs[mothers]
    fathers = rng.integers(len(points), size=offspring)
    parents = np.where(rng.random((offspring, points.shape[1])) < 0.5, mothers[:, None], fathers[:, None])
    genes = np.arange(points.shape[1])
    return points[parents, genes], logs[parents, genes]


def errors(rng: np.random.Generator, offspring: int, d: int) -> Float[np.ndarray, "offspring d"]:
    """Of ln σ: normal, sd 1/√(2d) common to a child's genes and 1/√(2√d) each gene's own (Bäck & Schwefel 1993)."""
    common = rng.normal(size=(offspring, 1)) / math.sqrt(2 * d)
    return np.asarray(common + rng.normal(size=(offspring, d)) / math.sqrt(2 * math.sqrt(d)))


def survivors(losses: Float[np.ndarray, " offspring"], kept: int) -> Int[np.ndarray, " kept"]:
    """The indices of the least losses."""
    return np.argsort(losses, kind="stable")[:kept]


def _response(
    points: Float[np.ndarray, "offspring d"],
    losses: Float[np.ndarray, " offspring"],
    gradient: Float[np.ndarray, " d"],
) -> Float[np.ndarray, " d"]:
    """−Cov(x) ∇L / sd(loss): Lande's (1979) response. On a plane truncation moves the mean by it times φ(z)/p, where
    a share p survives and z is its normal quantile (the breeder's equation)."""
    away, spread = points - points.mean(0), float(losses.std())
    return np.asarray(-(away.T @ (away @ gradient)) / len(points) / (spread if spread > 0 else 1.0))
