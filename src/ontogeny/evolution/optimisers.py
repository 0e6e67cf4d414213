"""SGD, momentum, Adam and AdamW: their steps along a path of gradients, and Adam's rates along its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.environments import Environment
from ontogeny.evolution.search import Tuned, best_rate

Path = Float[np.ndarray, "generations d"]
Steps = Float[np.ndarray, "_ generations d"]  # parts: terms that have a rate each
MOMENTA = (0.5, 0.9, 0.99)  # tried for the first moment
SQUARES = (0.9, 0.99, 0.999)  # tried for the second
BETAS = (0.9, 0.999)  # of Adam on its own, as published
EPSILON = 1e-8
WINDOW = 10  # generations whose steps are added up
TUNING = 200  # steps, at most, over which a rate is tuned


def average(values: Path, beta: float) -> Path:
    """Exponential moving average from 0, corrected for its start (Kingma & Ba 2015)."""
    from scipy import signal  # slow to import

    seen = 1 - beta ** np.arange(1, len(values) + 1)
    return np.asarray(signal.lfilter([1 - beta], [1.0, -beta], values, axis=0) / seen[:, None])


def candidates(gradients: Path, points: Path) -> dict[str, list[Steps]]:
    """Every optimiser's steps at rate 1 along a given path, one entry for each of its momenta.

    AdamW has two parts, its rate's and its decay's (Loshchilov & Hutter 2019).
    """
    squares = {beta: np.sqrt(average(gradients**2, beta)) + EPSILON for beta in SQUARES}
    means = {beta: average(gradients, beta) for beta in MOMENTA}
    adam = [-mean / square for mean in means.values() for square in squares.values()]
    return {
        "SGD": [-gradients[None]],
        "momentum": [-mean[None] for mean in means.values()],
        "Adam": [step[None] for step in adam],
        "AdamW": [np.stack([step, -points]) for step in adam],
    }


def explained(updates: Path, tried: Sequence[Steps]) -> float:
    """Out-of-sample R² of updates by steps whose rates, at least 0, and momenta are fitted to the first half.

    Both are added up over windows of ``WINDOW`` generations and divided, gene by gene, by the updates' root mean
    square in the first half, so that every gene counts alike. R² is of deviations from 0, below 0 where the steps do
    worse than none.
    """
    from scipy import optimize  # slow to import

    sums = _windows(updates)
    half = len(sums) // 2
    scale = np.sqrt(np.square(sums[:half]).mean(0))
    scale[scale == 0] = 1.0
    y = sums / scale
    fits = []
    for steps in tried:
        x = np.stack([_windows(part) / scale for part in steps])
        rates, error = optimize.nnls(x[:, :half].reshape(len(x), -1).T, y[:half].ravel())
        fits.append((error, y[half:] - np.tensordot(rates, x[:, half:], 1)))
    _, rest = min(fits, key=lambda fit: fit[0])
    return float(1 - np.square(rest).sum() / np.square(y[half:]).sum())


def _windows(path: Path) -> Float[np.ndarray, "windows d"]:
    whole = len(path) // WINDOW * WINDOW
    return np.asarray(path[:whole].reshape(-1, WINDOW, path.shape[1]).sum(1))


def stationary_rate(mean: np.ndarray, sd: np.ndarray, rate: float = 1.0) -> np.ndarray:
    """Adam's rate of a parameter whose gradients have a constant mean and sd: rate / √(mean² + sd²), in closed form.

    Its step, rate × mean / √(mean² + sd²), is then the rate itself for steady gradients, whatever their size.
    """
    return np.asarray(rate / (np.sqrt(mean**2 + sd**2) + EPSILON))


@dataclass(frozen=True)
class Descent:
    """Adam's own path: points before each step, gradients there, every parameter's rate, and the steps."""

    points: Path
    gradients: Path
    rates: Path
    steps: Path
    losses: Float[np.ndarray, " generations"]


def descend(environment: Environment, generations: int, rate: float) -> Descent:
    """Adam from an environment's start, one step a generation."""
    point = environment.start
    first, second = np.zeros_like(point), np.zeros_like(point)
    rows, losses = [], []
    for t in range(generations):
        here = environment.at(t)
        gradient = here.gradient(point)
        first, second = (
            beta * before + (1 - beta) * now
            for beta, before, now in zip(BETAS, (first, second), (gradient, gradient**2), strict=True)
        )
        rates = rate / (np.sqrt(second / (1 - BETAS[1] ** (t + 1))) + EPSILON)
        step = -rates * first / (1 - BETAS[0] ** (t + 1))
        rows.append((point, gradient, rates, step))
        losses.append(float(here.loss(point[None])[0]))
        point = point + step
    points, gradients, all_rates, steps = (np.array(column) for column in zip(*rows, strict=True))
    return Descent(points, gradients, all_rates, steps, np.array(losses))


def adams_rate(environment: Environment, generations: int) -> Tuned:
    """The rate of the least mean loss over the second half of a short run."""
    length = min(TUNING, generations)
    return best_rate(lambda rate, _: float(descend(environment, length, rate).losses[length // 2 :].mean()))
