"""Inner training: networks of given rank, initial scale and learning rate a layer, many of them side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.networks import RATES, Layer, Losses, batches, best_rate, fit, outputs, resolved, tensor
from ontogeny.evolution.task_families import INPUTS, OUTPUTS, Family, Tasks
from ontogeny.streams import numpy_stream

SIZES = (INPUTS, 32, 32, 32, OUTPUTS)  # three layers that genomes constrain, and a head
BATCH = 32  # rows of a step
TUNING_TASKS = 4  # that an arm's rate is tuned on
WORST = 10.0  # of a loss whose reference is 1: a network that diverged has this one


@dataclass(frozen=True)
class Part:
    """One layer of every network of a stack: left · core · rightᵀ and biases. Cores and biases are trained."""

    left: Float[Tensor, "networks i i"]
    core: Float[Tensor, "networks i o"]
    right: Float[Tensor, "networks o o"]
    biases: Float[Tensor, "networks 1 o"]

    def repeated(self, times: int) -> "Part":
        """All networks, then all of them again, so many times."""
        parts = (self.left, self.core, self.right, self.biases)
        return Part(*(part.repeat(times, 1, 1) for part in parts))


Parts = list[Part]
Draw = Callable[[np.random.Generator, int], Parts]  # so many networks of an arm, before training


@dataclass(frozen=True)
class Hyperparameters:
    """Of every genome and layer: directions kept on either side, factor of the He scale, learning rate."""

    ranks: Int[np.ndarray, "genomes layers"]
    scales: Float[np.ndarray, "genomes layers"]
    rates: Float[np.ndarray, "genomes layers"]

    def tried(self, rates: Sequence[float]) -> "Hyperparameters":
        """The only genome at each of these base rates."""
        ranks, scales = (np.repeat(part, len(rates), axis=0) for part in (self.ranks, self.scales))
        return Hyperparameters(ranks, scales, np.asarray(rates)[:, None] * self.rates)


def widest(sizes: Sequence[int]) -> Int[np.ndarray, " layers"]:
    """The rank at which a layer is whole."""
    return np.array([max(pair) for pair in pairwise(sizes)])


def plain_hyperparameters(sizes: Sequence[int], ranks: Sequence[int] | None = None) -> Hyperparameters:
    """One genome: whole layers, or these ranks of all but the head; He scale, and one rate for all."""
    own = widest(sizes)
    own[: len(ranks or ())] = list(ranks or ())
    ones = np.ones((1, len(own)))
    return Hyperparameters(own[None], ones, ones.copy())


def haar(rng: np.random.Generator, number: int, size: int) -> Float[Tensor, "number size size"]:
    """Orthogonal matrices, uniformly distributed (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(number, size, size)))
    return tensor(q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None])


def fresh(sizes: Sequence[int]) -> Draw:
    """Random bases, He-normal cores (He et al. 2015), biases 0."""

    def draw(rng: np.random.Generator, number: int) -> Parts:
        return [
            Part(haar(rng, number, i), core(rng, number, i, o), haar(rng, number, o), torch.zeros(number, 1, o))
            for i, o in pairwise(sizes)
        ]

    return draw


def core(rng: np.random.Generator, number: int, i: int, o: int) -> Float[Tensor, "number i o"]:
    """N(0, 2/inputs)."""
    return tensor(rng.normal(0, (2 / i) ** 0.5, (number, i, o)))


def constrained(parts: Parts, genomes: Hyperparameters) -> tuple[Parts, list[Tensor]]:
    """Every genome's networks, all those of the first genome first, and the masks of their cores.

    A core of k_i × k_o directions starts with the norm of the whole layer, times the genome's scale.
    """
    found, masks = [], []
    for layer, part in enumerate(parts):
        networks, i, o = part.core.shape
        ranks = torch.from_numpy(genomes.ranks[:, layer])
        rows, columns = (torch.arange(size) < ranks[:, None] for size in (i, o))
        norms = tensor(genomes.scales[:, layer]) * torch.sqrt(i * o / (rows.sum(1) * columns.sum(1)))
        mask = (rows[:, :, None] & columns[:, None, :]).float().repeat_interleave(networks, 0)
        spread = part.repeated(len(ranks))
        cores = spread.core * mask * norms.repeat_interleave(networks)[:, None, None]
        found.append(Part(spread.left, cores, spread.right, spread.biases))
        masks.append(mask)
    return found, masks


def weights(parts: Parts, masks: Sequence[Tensor]) -> list[Layer]:
    """Ordinary layers."""
    masked = zip(parts, masks, strict=True)
    return [(torch.bmm(torch.bmm(p.left, p.core * mask), p.right.mT), p.biases) for p, mask in masked]


def squared(predicted: Tensor, targets: Tensor) -> Losses:
    """Mean squared error of every network."""
    return (predicted - targets).square().mean((1, 2))


def score(losses: Tensor) -> Tensor:
    """Log₁₀ loss; of networks that diverged that of the worst."""
    return torch.log10(torch.nan_to_num(losses, nan=WORST).clamp(1e-6, WORST))


def inner_scores(
    parts: Parts, genomes: Hyperparameters, tasks: Tasks, steps: int, rng: np.random.Generator
) -> Float[np.ndarray, "genomes tasks"]:
    """Log₁₀ test loss of every genome on every task, after Adam. ``parts``: one network a task, the same to all."""
    own, masks = constrained(parts, genomes)
    data = tasks.repeated(len(genomes.ranks))
    rates = [tensor(rate).repeat_interleave(len(tasks.inputs)) for rate in genomes.rates.T]
    picks = batches(rng, tasks.inputs.shape[1], BATCH, steps)

    def losses(step: int) -> Losses:
        rows = picks[step]
        return squared(outputs(weights(own, masks), data.inputs[:, rows]), data.targets[:, rows])

    fit([p.core for p in own] + [p.biases for p in own], losses, rates + rates, steps)
    with torch.no_grad():
        tested = squared(outputs(weights(own, masks), data.test_inputs), data.test_targets)
    return score(tested).reshape(len(genomes.ranks), -1).double().numpy()


@dataclass(frozen=True)
class World:
    """A family of tasks of one replicate, and how long a network trains on one of them."""

    family: Family
    steps: int
    seed: int

    def scores(
        self, draw: Draw, genomes: Hyperparameters, number: int, *path: str | int
    ) -> Float[np.ndarray, "genomes tasks"]:
        """What genomes reach on so many tasks of this path; all of them meet the same tasks, draws and batches."""
        tasks = self.family.tasks(numpy_stream(self.seed, *path, "tasks"), number)
        parts = draw(numpy_stream(self.seed, *path, "start"), number)
        return inner_scores(parts, genomes, tasks, self.steps, numpy_stream(self.seed, *path, "batches"))

    def base_rate(self, draw: Draw, genome: Hyperparameters) -> float:
        """The base rate that serves an only genome best on the tuning tasks, which nothing else is measured on."""
        found = self.scores(draw, genome.tried(RATES), TUNING_TASKS, "tuning").mean(1)
        return best_rate(tensor(found))

    def tested(self, draw: Draw, genome: Hyperparameters, number: int) -> dict[str, float]:
        """Mean log₁₀ loss on tasks that nothing has met, at a base rate tuned for this genome, and whether that is
        inside the grid."""
        rate = self.base_rate(draw, genome)
        found = self.scores(draw, genome.tried([rate]), number, "test")
        return {"loss": float(found.mean()), "resolved": resolved([rate])}
