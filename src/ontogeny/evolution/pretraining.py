"""Donors: networks pretrained on many tasks of a family at once, and what a newcomer can inherit of one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.inner import Draw, Part, Parts, core, fresh, haar, squared
from ontogeny.evolution.networks import (
    RATES,
    SLOPE,
    Losses,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    resolved,
    stack,
    tensor,
)
from ontogeny.evolution.task_families import Tasks

TOGETHER = 8  # tasks of a batch
ROWS = 16  # of each of them
ENERGY = 0.9  # of a layer's squared singular values: how many of them are its rank


@dataclass(frozen=True)
class Donor:
    """A pretrained body, its heads left out. ``loss``: on rows of its tasks that it hasn't seen; reference 1."""

    weights: list[Float[np.ndarray, "_ _"]]
    biases: list[Float[np.ndarray, "1 _"]]
    loss: float
    resolved: bool

    def ranks(self) -> list[int]:
        """Of every layer the least number of singular values with nine tenths of their squares."""
        shares = [np.cumsum(np.linalg.svd(w, compute_uv=False) ** 2) for w in self.weights]
        return [int(np.searchsorted(share / share[-1], ENERGY)) + 1 for share in shares]


def pretrained(tasks: Tasks, sizes: Sequence[int], steps: int, rng: np.random.Generator) -> Donor:
    """The best of donors trained side by side, one a rate; every task has a head of its own.

    A step takes 16 rows each of 8 tasks. ``sizes``: those of the network of one task.
    """
    number, rows = tasks.inputs.shape[:2]
    body = stack(he_normal(sizes[:-1], rng), len(RATES))
    heads = core(rng, number, sizes[-2], sizes[-1]).reshape(1, -1, sizes[-1]).repeat(len(RATES), 1, 1)
    offsets = torch.zeros(len(RATES), number, sizes[-1])
    which = torch.from_numpy(rng.integers(number, size=(steps, TOGETHER)))
    picks = torch.from_numpy(rng.integers(rows, size=(steps, TOGETHER, ROWS)))

    def predicted(inputs: Tensor, chosen: Tensor) -> Tensor:
        """(tasks, rows, inputs) of these tasks -> (networks, tasks · rows, outputs)."""
        flat = inputs.reshape(1, -1, inputs.shape[-1]).expand(len(RATES), -1, -1)
        hidden = torch.nn.functional.leaky_relu(outputs(body, flat), SLOPE)
        own = heads.unflatten(1, (number, -1))[:, chosen].flatten(0, 1)
        said = torch.bmm(hidden.reshape(len(own), -1, hidden.shape[-1]), own)
        return (said + offsets[:, chosen].reshape(len(own), 1, -1)).reshape(len(RATES), -1, said.shape[-1])

    def losses(step: int) -> Losses:
        some, rows = which[step], picks[step]
        inputs, targets = (part[some[:, None], rows] for part in (tasks.inputs, tasks.targets))
        return squared(predicted(inputs, some), targets.flatten(0, 1))

    fit([*parameters(body), heads, offsets], losses, torch.tensor(RATES), steps)
    with torch.no_grad():
        everyone = torch.arange(number)
        tested = squared(predicted(tasks.test_inputs, everyone), tasks.test_targets.flatten(0, 1))
    rate = best_rate(tested)
    best = RATES.index(rate)
    layers = [tuple(part[best].double().numpy() for part in layer) for layer in body]
    return Donor([w for w, _ in layers], [b for _, b in layers], float(tested[best]), bool(resolved([rate])))


def with_weights(donor: Donor, sizes: Sequence[int], rotated: bool = False) -> Draw:
    """Newcomers that start from a donor's body, with a fresh head.

    ``rotated``: each has its first layer's inputs turned at random. Its spectra stay, what it looks at doesn't.
    """

    def draw(rng: np.random.Generator, number: int) -> Parts:
        parts = fresh(sizes)(rng, number)
        turns = haar(rng, number, sizes[0])
        for layer, (own, biases) in enumerate(zip(donor.weights, donor.biases, strict=True)):
            i, o = own.shape
            left, right = (torch.eye(size).repeat(number, 1, 1) for size in (i, o))
            left = turns if rotated and layer == 0 else left
            parts[layer] = Part(left, tensor(own).repeat(number, 1, 1), right, tensor(biases).repeat(number, 1, 1))
        return parts

    return draw


def with_subspaces(donor: Donor, sizes: Sequence[int]) -> Draw:
    """Newcomers whose bases are a donor's singular vectors, the largest first, and whose cores are fresh."""

    def draw(rng: np.random.Generator, number: int) -> Parts:
        parts = fresh(sizes)(rng, number)
        for layer, own in enumerate(donor.weights):
            u, _, vt = np.linalg.svd(own)
            left, right = (tensor(basis).repeat(number, 1, 1) for basis in (u, vt.T))
            parts[layer] = Part(left, parts[layer].core, right, parts[layer].biases)
        return parts

    return draw
