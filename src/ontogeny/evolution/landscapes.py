"""What is searched: losses of points, many at a time, with their gradients and a point to start from."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ontogeny.streams import numpy_stream

Points = Float[np.ndarray, "points d"]
Point = Float[np.ndarray, " d"]

INPUTS = 6  # of the network landscapes
CHUNK = 64  # points at a time: their hidden units stay in the cache


@runtime_checkable
class Landscape(Protocol):
    """A loss over d dimensions, smaller is better."""

    @property
    def start(self) -> Point: ...
    def loss(self, points: Points) -> Float[np.ndarray, " points"]: ...
    def gradient(self, point: Point) -> Point: ...


@dataclass(frozen=True)
class Quadratic:
    """½ wᵀHw, whose minimum is 0 at the origin."""

    curvature: Float[np.ndarray, "d d"]
    start: Point

    def loss(self, points: Points) -> Float[np.ndarray, " points"]:
        return np.asarray(0.5 * ((points @ self.curvature) * points).sum(-1))

    def gradient(self, point: Point) -> Point:
        return np.asarray(self.curvature @ point)


@dataclass(frozen=True)
class Regression:
    """Half the mean squared error of a tanh network of one hidden layer on given targets.

    A point holds its (width, inputs) input weights, then biases, output weights, and the output's bias.
    """

    inputs: Float[np.ndarray, "data inputs"]
    targets: Float[np.ndarray, " data"]
    start: Point

    def loss(self, points: Points) -> Float[np.ndarray, " points"]:
        single, inputs = points.astype(np.float32), self.inputs.astype(np.float32)  # tanh is five times as fast
        some = [single[first : first + CHUNK] for first in range(0, len(points), CHUNK)]
        errors = [np.square(network(part, inputs) - self.targets).mean(-1) for part in some]
        return 0.5 * np.concatenate(errors)

    def gradient(self, point: Point) -> Point:
        weights, biases, outputs, _ = _parts(point[None], self.inputs.shape[1])
        hidden = np.tanh(self.inputs @ weights[0].T + biases[0])  # (data, width)
        error = (network(point[None], self.inputs)[0] - self.targets) / len(self.targets)
        back = error[:, None] * outputs[0] * (1 - hidden**2)
        return np.concatenate([(back.T @ self.inputs).ravel(), back.sum(0), hidden.T @ error, [error.sum()]])

    def batch(self, rows: np.ndarray) -> "Regression":
        """The loss on some of the data alone."""
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows])


def network(points: Points, inputs: Float[np.ndarray, "data inputs"]) -> Float[np.ndarray, "points data"]:
    """What the network of every point says of every input."""
    weights, biases, outputs, last = _parts(points, inputs.shape[1])
    hidden = np.tanh(weights @ inputs.T + biases[:, :, None])  # (points, width, data)
    return np.asarray((outputs[:, None] @ hidden)[:, 0] + last)


def _parts(points: Points, inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    width = (points.shape[1] - 1) // (inputs + 2)
    weights, biases, outputs, last = np.split(points, np.cumsum([width * inputs, width, width]), axis=1)
    return weights.reshape(len(points), width, inputs), biases, outputs, last


def network_point(width: int, seed: int, *path: str) -> Point:
    """A random network of this width: input weights N(0, 1/inputs), output weights N(0, 1/width), biases 0."""
    rng = numpy_stream(seed, "network", *path, width)
    weights = rng.normal(0, INPUTS**-0.5, width * INPUTS)
    return np.concatenate([weights, np.zeros(width), rng.normal(0, width**-0.5, width), [0.0]])


def make_quadratic(dimension: int, seed: int, condition: float = 100.0) -> Quadratic:
    """Eigenvalues log-spaced from 1/``condition`` to 1 in a random basis; starts at N(0, 1) in every coordinate."""
    rng = numpy_stream(seed, "quadratic", dimension)
    basis, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    values = np.geomspace(1 / condition, 1, dimension)
    return Quadratic((basis * values) @ basis.T, rng.normal(size=dimension))


def make_regression(width: int, seed: int, *, data: int = 256, noise: float = 0.0) -> Regression:
    """A student of this width learns a teacher of width 4, the targets with this much noise (sd)."""
    rng = numpy_stream(seed, "data", data)
    inputs = rng.normal(size=(data, INPUTS))
    targets = 2 * network(network_point(4, seed, "teacher")[None], inputs)[0]
    return Regression(inputs, targets + noise * rng.normal(size=data), network_point(width, seed, "student"))


def make_landscape(kind: str, size: int, seed: int) -> Landscape:
    """``quadratic`` of a dimension, or ``network`` of a width."""
    return make_quadratic(size, seed) if kind == "quadratic" else make_regression(size, seed)
