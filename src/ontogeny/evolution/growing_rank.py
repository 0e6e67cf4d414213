"""Evolution strategies over matrices of low rank: a genome that gains dimensions while it searches, and fixed ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ontogeny.evolution.population import mutations
from ontogeny.evolution.search import RATES as ALL_RATES
from ontogeny.evolution.search import SIGMA
from ontogeny.streams import numpy_stream, stream_seed

SIDE = 16  # rows and columns of every matrix
OFFSPRING = 16
RATES = ALL_RATES[4:]  # 1/2 … 1/512
DATA = 32  # rows of the network's regression
STAGES = (1, 2, 4, 8, 16)  # dimensions in use, in turn, each for as many generations

Genome = Float[np.ndarray, "*points layers components sides"]  # a component's left vector, then its right one
Matrices = Float[np.ndarray, "*points layers i o"]
SCHEDULES: dict[str, tuple[int, ...]] = {
    **{f"fixed {rank}": (rank,) for rank in (1, 4, 16)},
    "growing": STAGES,
    "shrinking": STAGES[::-1],
}


@dataclass(frozen=True)
class Factored:
    """A loss of matrices Σ a bᵀ, a sum of rank-one components; a constant network's or an empty matrix's is 1."""

    loss: Callable[[Matrices], Float[np.ndarray, "*points"]]
    start: Genome


def products(genome: Genome) -> Matrices:
    """The matrices that components add up to."""
    return np.asarray(np.swapaxes(genome[..., :SIDE], -1, -2) @ genome[..., SIDE:])


def spectral(rng: np.random.Generator) -> Float[np.ndarray, "i o"]:
    """A random matrix with singular values 1, 1/2, 1/3, …"""
    left, right = (np.linalg.qr(rng.normal(size=(SIDE, SIDE)))[0] for _ in range(2))
    return np.asarray(left / np.arange(1.0, SIDE + 1) @ right.T)


def newborn(rng: np.random.Generator, layers: int) -> Genome:
    """Components of no effect: left vectors of length about 1, right vectors 0, so that one can be added unnoticed.

    (Chen, Goodfellow & Shlens 2016.) Of two layers the first has one component with an effect: without it neither
    would have a gradient.
    """
    genome = np.zeros((layers, SIDE, 2 * SIDE))
    genome[..., :SIDE] = rng.normal(0, SIDE**-0.5, (layers, SIDE, SIDE))
    if layers > 1:
        genome[0, 0, SIDE:] = rng.normal(size=SIDE)
    return genome


def matrix(seed: int) -> Factored:
    """‖W − M‖²/‖M‖²; the least of rank k is the share of M's squared singular values beyond k (Eckart & Young 1936)."""
    rng = numpy_stream(seed, "rank", "matrix")
    target = spectral(rng)

    def loss(matrices: Matrices) -> Float[np.ndarray, "*points"]:
        return np.asarray(np.square(matrices[..., 0, :, :] - target).sum((-2, -1)) / np.square(target).sum())

    return Factored(loss, newborn(rng, 1))


def least(rank: int) -> float:
    """The least loss of that rank on ``matrix``."""
    squares = np.arange(1.0, SIDE + 1) ** -2
    return float(squares[rank:].sum() / squares.sum())


def network(seed: int) -> Factored:
    """The error of tanh(x W₁) W₂ on a network of the same shape, on fixed rows, over the targets' variance."""
    rng = numpy_stream(seed, "rank", "network")
    inputs = rng.normal(size=(DATA, SIDE))
    targets = np.tanh(SIDE**0.5 * inputs @ spectral(rng)) @ spectral(rng)
    targets = targets - targets.mean(0)

    def loss(matrices: Matrices) -> Float[np.ndarray, "*points"]:
        said = np.tanh(inputs @ matrices[..., 0, :, :]) @ matrices[..., 1, :, :]
        return np.asarray(np.square(said - targets).mean((-2, -1)) / np.square(targets).mean())

    return Factored(loss, newborn(rng, 2))


LANDSCAPES = {"matrix": matrix, "network": network}


def in_use(schedule: Sequence[int], generation: int, generations: int) -> Bool[np.ndarray, " components"]:
    """Which components are mutated: as many of the first as the stage has."""
    stage = generation * len(schedule) // generations
    return np.arange(SIDE) < schedule[stage]


def searched(
    landscape: Factored, schedule: Sequence[int], rates: Sequence[float], generations: int, rng: np.random.Generator
) -> Float[np.ndarray, " rates"]:
    """The loss in the end at every rate, of an evolution strategy with 16 antithetic offspring.

    Its step is −rate · Σ loss · ε / (offspring · σ), ε standard normal in the components in use (Salimans et al. 2017).
    """
    points = np.repeat(landscape.start[None], len(rates), axis=0)
    speed = np.array(rates)[:, None, None, None]
    layers = len(landscape.start)
    with np.errstate(all="ignore"):
        for generation in range(generations):
            used = in_use(schedule, generation, generations)
            steps = mutations(rng, OFFSPRING, layers * int(used.sum()) * 2 * SIDE)
            steps = steps.reshape(OFFSPRING, layers, -1, 2 * SIDE)
            trials = np.repeat(points[:, None], OFFSPRING, axis=1)
            trials[..., used, :] += SIGMA * steps
            losses = landscape.loss(products(trials))
            points[..., used, :] -= speed * np.tensordot(losses, steps, 1) / (OFFSPRING * SIGMA)
        found = landscape.loss(products(points))
    return np.asarray(np.nan_to_num(found, nan=np.inf))


def growth(landscape: str, generations: int, seed: int) -> dict[str, float]:
    """Log₁₀ loss of every schedule after as many evaluations, at the rate that is best on another seed.

    Beside it: whether that rate is inside the grid, and the loss there, by which the best fixed rank is chosen.
    """
    made, elsewhere = LANDSCAPES[landscape], stream_seed(seed, "tuning")
    found: dict[str, float] = {}
    for name, schedule in SCHEDULES.items():
        tried = searched(made(elsewhere), schedule, RATES, generations, numpy_stream(elsewhere, "rank", name))
        best = int(np.argmin(tried))
        own = searched(made(seed), schedule, RATES[best : best + 1], generations, numpy_stream(seed, "rank", name))
        found[f"{name} loss"] = logarithm(float(own[0]))
        found[f"{name} tuning"] = logarithm(float(tried[best]))
        found[f"{name} resolved"] = float(0 < best < len(RATES) - 1)
    fixed = [name for name in SCHEDULES if name.startswith("fixed")]
    found["best fixed loss"] = found[f"{min(fixed, key=lambda name: found[f'{name} tuning'])} loss"]
    return found


def logarithm(loss: float) -> float:
    """Log₁₀, of a search that diverged as if its loss were 10."""
    return float(np.log10(np.clip(loss, 1e-12, 10.0)))
