"""Linear regressions to be learnt from a few pairs, and who learns them: ridge, gradient steps, two kinds of lookup.

A task draws weights from N(0, size²/d), inputs from N(0, 1), and labels with noise; answers are without noise, so that
what is best to say is the same and a prediction of 0 has error size².
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Inputs = Float[np.ndarray, "tasks pairs d"]
Labels = Float[np.ndarray, "tasks pairs"]
Query = Float[np.ndarray, "tasks d"]
Said = Float[np.ndarray, " tasks"]
Learner = Callable[[Inputs, Labels, Query, float], Said]  # the last: what is tuned, a step's size or a width

NOISE = 0.2  # standard deviation of a label's noise
GRID = tuple(0.05 * 2 ** (power / 2) for power in range(13))  # of steps' sizes and kernels' widths: 0.05 … 3.2
NEIGHBOURS = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Tasks:
    """Pairs to learn from, and queries with their answers."""

    inputs: Float[np.ndarray, "tasks pairs d"]
    labels: Float[np.ndarray, "tasks pairs"]
    queries: Float[np.ndarray, "tasks queries d"]
    answers: Float[np.ndarray, "tasks queries"]

    def rolled(self) -> "Tasks":
        """The same with every label at another pair of its task: as much said, nothing to be learnt."""
        return Tasks(self.inputs, np.roll(self.labels, 1, axis=1), self.queries, self.answers)


def draw(rng: np.random.Generator, tasks: int, pairs: int, queries: int, dimension: int, size: float = 1.0) -> Tasks:
    """So many new tasks."""
    weights = size * rng.normal(size=(tasks, dimension, 1)) / np.sqrt(dimension)
    inputs, asked = rng.normal(size=(tasks, pairs, dimension)), rng.normal(size=(tasks, queries, dimension))
    labels = (inputs @ weights)[..., 0] + NOISE * rng.normal(size=(tasks, pairs))
    return Tasks(inputs, labels, asked, (asked @ weights)[..., 0])


def ridge(inputs: Inputs, labels: Labels, query: Query, size: float = 1.0) -> Said:
    """The best prediction there is: the posterior mean for weights and noise as they are drawn."""
    d = inputs.shape[2]
    gram = inputs.swapaxes(1, 2) @ inputs + NOISE**2 * d / size**2 * np.eye(d)
    weights = np.linalg.solve(gram, inputs.swapaxes(1, 2) @ labels[..., None])
    return np.asarray((query * weights[..., 0]).sum(1))


def gradient_steps(steps: int) -> Learner:
    """So many steps of gradient descent on half the pairs' mean squared error, from weights 0."""

    def learn(inputs: Inputs, labels: Labels, query: Query, rate: float) -> Said:
        weights = np.zeros_like(query)
        for _ in range(steps):
            errors = labels - (inputs @ weights[..., None])[..., 0]
            weights = weights + rate * (errors[..., None] * inputs).mean(1)
        return np.asarray((query * weights).sum(1))

    return learn


def neighbours(inputs: Inputs, labels: Labels, query: Query, count: float) -> Said:
    """The mean label of the nearest pairs."""
    distance = np.square(inputs - query[:, None]).sum(2)
    nearest = np.argsort(distance, axis=1)[:, : int(count)]
    return np.asarray(np.take_along_axis(labels, nearest, axis=1).mean(1))


def kernel(inputs: Inputs, labels: Labels, query: Query, width: float) -> Said:
    """Labels weighted by a Gaussian of the distance (Nadaraya 1964; Watson 1964), as one softmax attention weighs."""
    distance = np.square(inputs - query[:, None]).sum(2) / (2 * width**2)
    weights = np.exp(distance.min(1, keepdims=True) - distance)
    return np.asarray((weights * labels).sum(1) / weights.sum(1))


STEPS = (1, 2, 4, 8)
LEARNERS: dict[str, tuple[Learner, tuple[float, ...]]] = {"ridge": (ridge, (1.0,))} | {
    f"{steps} step{'s' * (steps > 1)}": (gradient_steps(steps), GRID) for steps in STEPS
}
LOOKUPS: dict[str, tuple[Learner, tuple[float, ...]]] = {"k-NN": (neighbours, NEIGHBOURS), "kernel": (kernel, GRID)}


def rivals(tasks: Tasks, tuning: Tasks) -> dict[str, Float[np.ndarray, "tasks pairs"]]:
    """What every learner and lookup says of query j after j pairs, j from 1 to all.

    Each is at its best for the number of pairs: with the value that has the least error on the tuning tasks.
    """
    return {
        name: np.stack([_said(learner, grid, tasks, tuning, j) for j in range(1, tasks.labels.shape[1] + 1)], axis=1)
        for name, (learner, grid) in (LEARNERS | LOOKUPS).items()
    }


def _said(learner: Learner, grid: tuple[float, ...], tasks: Tasks, tuning: Tasks, pairs: int) -> Said:
    def says(given: Tasks, value: float) -> Said:
        return learner(given.inputs[:, :pairs], given.labels[:, :pairs], given.queries[:, pairs], value)

    def error(value: float) -> float:
        return float(np.square(says(tuning, value) - tuning.answers[:, pairs]).mean())

    return says(tasks, min(grid, key=error) if len(grid) > 1 else grid[0])
