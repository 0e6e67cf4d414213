"""Families of tasks: regressions that share what they see of their inputs, and differ in what they make of it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.networks import tensor

INPUTS, OUTPUTS = 16, 4
FEATURES = 64  # hidden units that all tasks of a family share
GAIN = 1.5  # standard deviation of what such a unit reads: tanh is bent there
REFERENCE = 4096  # rows that a family's moments are taken from
TRAIN, TEST = 128, 256  # rows of a task
DIRECTIONS = {"four": np.ones(4), "power law": 1 / np.arange(1.0, INPUTS + 1)}  # strengths of directions that matter


@dataclass(frozen=True)
class Tasks:
    """Rows to train on and others to test on, of as many tasks as the first dimension is long."""

    inputs: Float[Tensor, "tasks rows inputs"]
    targets: Float[Tensor, "tasks rows outputs"]
    test_inputs: Float[Tensor, "tasks others inputs"]
    test_targets: Float[Tensor, "tasks others outputs"]

    def repeated(self, times: int) -> "Tasks":
        """All tasks, then all of them again, so many times."""
        parts = (self.inputs, self.targets, self.test_inputs, self.test_targets)
        return Tasks(*(part.repeat(times, 1, 1) for part in parts))


def joined(several: list[Tasks]) -> Tasks:
    """Tasks one after the other."""
    names = ("inputs", "targets", "test_inputs", "test_targets")
    return Tasks(*(torch.cat([getattr(one, name) for one in several]) for name in names))


@dataclass(frozen=True)
class Family:
    """y = tanh(x · reading + biases) · readout, standardised; the readout is a task's own, x is standard normal.

    ``mean`` and ``covariance``: of the features, so that targets have mean 0 and variance 1: the reference loss is 1.
    """

    reading: Float[np.ndarray, "inputs features"]
    biases: Float[np.ndarray, " features"]
    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]

    @classmethod
    def drawn(cls, rng: np.random.Generator, directions: str = "four") -> "Family":
        """A family whose features read so many random directions, at these strengths (``DIRECTIONS``)."""
        strengths = DIRECTIONS[directions]
        frame, _ = np.linalg.qr(rng.normal(size=(INPUTS, len(strengths))))
        mixed = strengths[:, None] * rng.normal(size=(len(strengths), FEATURES))
        reading, biases = GAIN * frame @ mixed / np.linalg.norm(strengths), 0.5 * rng.normal(size=FEATURES)
        seen = np.tanh(rng.normal(size=(REFERENCE, INPUTS)) @ reading + biases)
        return cls(reading, biases, seen.mean(0), np.cov(seen.T))

    def tasks(self, rng: np.random.Generator, number: int, train: int = TRAIN, test: int = TEST) -> Tasks:
        """So many new tasks."""
        readouts = rng.normal(size=(number, FEATURES, OUTPUTS))
        readouts /= np.sqrt(np.einsum("tfo,fg,tgo->to", readouts, self.covariance, readouts))[:, None]
        inputs = rng.normal(size=(number, train + test, INPUTS))
        targets = (np.tanh(inputs @ self.reading + self.biases) - self.mean) @ readouts
        x, y = tensor(inputs), tensor(targets)
        return Tasks(x[:, :train], y[:, :train], x[:, train:], y[:, train:])
