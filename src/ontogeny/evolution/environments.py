"""Environments that change from generation to generation, and whose genes differ in how much hangs on them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from ontogeny.evolution.landscapes import INPUTS, Landscape, Point, Points, Regression, network, network_point
from ontogeny.streams import numpy_stream

Task = Literal["genes", "students"]
Optima = Float[np.ndarray, "generations d"]
GENES = 32
ESSENTIAL = 400.0  # an essential gene's curvature ÷ another's: σ 20-fold apart would make their mutations alike in harm
MEMORY = 100  # generations over which the slow part of an optimum forgets where it was
SLOW, FAST = (0.3, 3.0), (0.1, 1.0)  # sd of an optimum's slow part and of its jitter, low and high
WIDTH, BATCH, NOISE = 4, 32, 0.5  # of students: hidden units, inputs a generation, sd of the targets' noise
TURN = 500  # generations in which the students' teacher comes round
SPREAD = np.geomspace(1, ESSENTIAL**-0.5, INPUTS)  # sd of the students' inputs
MANY = 512  # inputs over which a student's curvature is averaged


@runtime_checkable
class Environment(Protocol):
    """A landscape for every generation, and where life starts."""

    @property
    def start(self) -> Point: ...
    def at(self, generation: int) -> Landscape: ...
    def curvature(self, generation: int, point: Point) -> Point:
        """The loss's second derivative by every gene: how essential it is."""
        ...


@dataclass(frozen=True)
class Valley:
    """½ (w − θ)ᵀH(w − θ) about an optimum θ; starts at the origin."""

    hessian: Float[np.ndarray, "d d"]
    optimum: Point

    @property
    def start(self) -> Point:
        return np.zeros_like(self.optimum)

    def loss(self, points: Points) -> Float[np.ndarray, " points"]:
        away = points - self.optimum
        return np.asarray(0.5 * ((away @ self.hessian) * away).sum(-1))

    def gradient(self, point: Point) -> Point:
        return np.asarray(self.hessian @ (point - self.optimum))


@dataclass(frozen=True)
class Tracking:
    """A valley whose optimum moves; from generation ``switch`` on its second Hessian holds."""

    hessians: Float[np.ndarray, "2 d d"]
    switch: int
    optima: Optima

    @property
    def start(self) -> Point:
        return np.zeros(self.optima.shape[1])

    def at(self, generation: int) -> Valley:
        return Valley(self.hessians[int(generation >= self.switch)], self.optima[generation])

    def curvature(self, generation: int, point: Point) -> Point:
        return np.diag(self.at(generation).hessian).copy()


@dataclass(frozen=True)
class Students:
    """A small network learns a teacher that turns, from a fresh noisy batch every generation.

    Its inputs have standard deviations from 1 to 1/√``ESSENTIAL``, so that the curvature of input weights differs by
    about ``ESSENTIAL``.
    """

    seed: int

    @cached_property
    def start(self) -> Point:
        return network_point(WIDTH, self.seed, "student")

    @cached_property
    def teachers(self) -> Float[np.ndarray, "2 d"]:
        """Between which the teacher turns."""
        return np.stack([network_point(4, self.seed, name) for name in ("teacher", "other teacher")])

    def at(self, generation: int) -> Regression:
        return _batch(self, generation)

    def batch(self, generation: int) -> Regression:
        """A generation's, drawn anew."""
        rng = numpy_stream(self.seed, "batch", generation)
        inputs = _inputs(rng, BATCH)
        angle = 2 * np.pi * generation / TURN
        teacher = np.array([np.cos(angle), np.sin(angle)]) @ self.teachers
        clean = 2 * network(teacher[None], inputs)[0]
        return Regression(inputs, clean + NOISE * rng.normal(size=BATCH), self.start)

    def curvature(self, generation: int, point: Point) -> Point:
        """Its Gauss–Newton part, which doesn't depend on the targets: the mean square of the output's derivatives."""
        inputs = _inputs(numpy_stream(self.seed, "curvature"), MANY)
        weights, biases = point[: WIDTH * INPUTS].reshape(WIDTH, INPUTS), point[WIDTH * INPUTS :][:WIDTH]
        outputs = point[WIDTH * (INPUTS + 1) : -1]
        hidden = np.tanh(inputs @ weights.T + biases)  # (MANY, WIDTH)
        back = outputs * (1 - hidden**2)
        parts = (back[:, :, None] * inputs[:, None]).reshape(MANY, -1), back, hidden, np.ones((MANY, 1))
        return np.asarray(np.square(np.concatenate(parts, axis=1)).mean(0))


@lru_cache(maxsize=256)  # rates are tuned over the same few generations again and again
def _batch(students: Students, generation: int) -> Regression:
    return students.batch(generation)


def _inputs(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count inputs"]:
    return np.asarray(rng.normal(size=(count, INPUTS)) * SPREAD)


def factors(seed: int) -> Bool[np.ndarray, "3 d"]:
    """Which genes are essential, which have an optimum that drifts far, and which one that jitters much.

    The three are crossed: each of the eight combinations has as many genes.
    """
    cells = numpy_stream(seed, "factors").permutation(GENES) % 8
    return np.array([cells & bit > 0 for bit in (1, 2, 4)])


def moving_optima(
    slow: Float[np.ndarray, " d"], fast: Float[np.ndarray, " d"], generations: int, rng: np.random.Generator
) -> Optima:
    """Optima that drift, an autoregressive process of memory ``MEMORY`` and stationary sd ``slow``, and jitter, white
    of sd ``fast``."""
    from scipy import signal  # slow to import

    kept = np.exp(-1 / MEMORY)
    shocks = rng.normal(size=(generations, len(slow)))
    shocks[1:] *= np.sqrt(1 - kept**2)  # the first is stationary already
    drift = signal.lfilter([1.0], [1.0, -kept], shocks, axis=0)
    return np.asarray(slow * drift + fast * rng.normal(size=drift.shape))


def make_environment(task: Task, generations: int, seed: int) -> Environment:
    """``genes``: separate genes whose ``factors`` are crossed. ``students``: the weights of a small network."""
    if task == "students":
        return Students(seed)
    essential, far, much = factors(seed)
    hessian = np.diag(np.where(essential, 1.0, 1 / ESSENTIAL))
    optima = moving_optima(
        np.where(far, SLOW[1], SLOW[0]), np.where(much, FAST[1], FAST[0]), generations, numpy_stream(seed, "optima")
    )
    return Tracking(np.stack([hessian, hessian]), generations, optima)
