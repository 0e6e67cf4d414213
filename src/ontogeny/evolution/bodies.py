"""What evolution wires where connections and active units cost, and where they don't."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.evolution.inner import TUNING_TASKS, score, squared
from ontogeny.evolution.modularity import Masks, modularity, within_halves
from ontogeny.evolution.networks import RATES, SLOPE, Layer, Losses, batches, best_rate, fit, resolved, tensor
from ontogeny.evolution.population import recombined, reproduction
from ontogeny.evolution.task_families import Tasks
from ontogeny.streams import numpy_stream

SIZES = (8, 12, 12, 2)
BITS = sum(i * o for i, o in pairwise(SIZES))
HIDDEN = 8  # units of the teacher of either half
TRAIN, TEST, BATCH = 128, 128, 16
TASKS = 1  # that a genome is tried on
TESTS = 8  # tasks that the end is measured on, and prunings that are averaged over
LONGER = 3  # times the inner training of a generation, where samples are counted
EVERY = 4  # steps between two looks at the loss
GOAL = 0.5  # loss that samples are counted to; a constant's is 1

Bits = Bool[np.ndarray, "genomes bits"]
Stacked = list[Float[Tensor, "networks _ _"]]  # the masks of a stack's networks, layer by layer


def halves(rng: np.random.Generator, number: int) -> Tasks:
    """Tasks of two parts that have nothing to do with each other.

    Either output is a random function, standardised, of its own half of the inputs.
    """
    half = SIZES[0] // 2
    inputs = rng.normal(size=(number, TRAIN + TEST, SIZES[0]))
    targets = []
    for own in (inputs[:, :, :half], inputs[:, :, half:]):
        hidden = np.tanh(
            own @ rng.normal(size=(number, half, HIDDEN)) * 0.75 + rng.normal(size=(number, 1, HIDDEN)) / 2
        )
        made = hidden @ rng.normal(size=(number, HIDDEN, 1))
        targets.append((made - made.mean(1, keepdims=True)) / made.std(1, keepdims=True))
    x, y = tensor(inputs), tensor(np.concatenate(targets, 2))
    return Tasks(x[:, :TRAIN], y[:, :TRAIN], x[:, TRAIN:], y[:, TRAIN:])


def layered(bits: Bits) -> Stacked:
    """The masks that bits stand for."""
    ends = np.cumsum([i * o for i, o in pairwise(SIZES)])[:-1]
    parts = np.split(bits, ends, axis=1)
    return [tensor(part.reshape(-1, i, o)) for part, (i, o) in zip(parts, pairwise(SIZES), strict=True)]


@dataclass(frozen=True)
class Trial:
    """Of every network: log₁₀ test loss, the share of hidden units that an input sets off, and samples to the goal."""

    scores: Float[np.ndarray, " networks"]
    active: Float[np.ndarray, " networks"]
    samples: Float[np.ndarray, " networks"]


def trial(masks: Stacked, tasks: Tasks, rates: Losses, steps: int, rng: np.random.Generator) -> Trial:
    """Train masked networks, network n on task n modulo the number of tasks; all of a task start from one draw.

    Weights are N(0, 2/own inputs), biases 0. Samples that don't reach the goal count as all.
    """
    copies = len(rates) // len(tasks.inputs)
    data, layers = tasks.repeated(copies), []
    for mask in masks:
        drawn = tensor(rng.normal(size=(len(tasks.inputs), *mask.shape[1:]))).repeat(copies, 1, 1)
        layers.append(
            (drawn * (2 / mask.sum(1, keepdim=True).clamp(min=1)).sqrt(), torch.zeros(len(rates), 1, mask.shape[2]))
        )
    picks = batches(rng, TRAIN, BATCH, steps)
    reached = torch.full((len(rates),), float(steps * BATCH))

    def tested() -> tuple[Losses, Losses]:
        said, active = forward(layers, masks, data.test_inputs)
        return squared(said, data.test_targets), active

    def losses(step: int) -> Losses:
        if step % EVERY == 0:
            with torch.no_grad():
                reached.copy_(torch.where(tested()[0] <= GOAL, reached.clamp(max=step * BATCH), reached))
        rows = picks[step]
        return squared(forward(layers, masks, data.inputs[:, rows])[0], data.targets[:, rows])

    fit([part for layer in layers for part in layer], losses, rates, steps)
    with torch.no_grad():
        last, active = tested()
    return Trial(*(part.double().numpy() for part in (score(last), active, reached.clamp(min=BATCH))))


def forward(layers: Sequence[Layer], masks: Stacked, inputs: Tensor) -> tuple[Tensor, Losses]:
    """What networks say, and the mean share of their hidden units that are on."""
    on = []
    for (own, biases), mask in zip(layers[:-1], masks[:-1], strict=True):
        before = torch.baddbmm(biases, inputs, own * mask)
        on.append((before > 0).float().mean((1, 2)))
        inputs = torch.nn.functional.leaky_relu(before, SLOPE)
    said = torch.baddbmm(layers[-1][1], inputs, layers[-1][0] * masks[-1])
    return said, torch.stack(on).mean(0)


def tuned_rate(masks: Stacked, steps: int, seed: int) -> float:
    """The best rate of networks with these masks, one a tuning task."""
    tasks = halves(numpy_stream(seed, "bodies", "tuning"), TUNING_TASKS)
    some = [mask[:TUNING_TASKS].repeat(len(RATES), 1, 1) for mask in masks]
    rates = torch.tensor(RATES).repeat_interleave(TUNING_TASKS)
    found = trial(some, tasks, rates, steps, numpy_stream(seed, "bodies", "tuning", "start"))
    return best_rate(tensor(found.scores.reshape(len(RATES), -1).mean(1)))


def evolved(dose: float, sizes: tuple[int, int, int], rate: float, seed: int) -> Bits:
    """The wiring that a population settles on: what most of the last survivors have.

    What is minimised: log₁₀ loss + dose × (share of connections present + share of units active). ``sizes``:
    generations, offspring, inner steps. The first genomes have every density from none to all. The best quarter breed,
    freely recombined; a bit in a genome flips.
    """
    generations, offspring, steps = sizes
    rng = numpy_stream(seed, "bodies", "evolution")
    bits = rng.random((offspring, BITS)) < rng.random((offspring, 1))
    survivors = bits
    for generation in range(generations):
        tasks = halves(numpy_stream(seed, "bodies", "generation", generation), TASKS)
        masks = [mask.repeat_interleave(TASKS, 0) for mask in layered(bits)]
        start = numpy_stream(seed, "bodies", "generation", generation, "start")
        found = trial(masks, tasks, torch.full((offspring * TASKS,), rate), steps, start)
        losses = (found.scores + dose * found.active).reshape(-1, TASKS).mean(1) + dose * bits.mean(1)
        shares = reproduction(losses, "truncation")
        survivors = bits[shares > 0]
        parents = bits[rng.choice(offspring, offspring, p=shares)].astype(float)
        bits = (recombined(rng, parents) > 0.5) ^ (rng.random(bits.shape) < 1 / BITS)
    return np.asarray(survivors.mean(0, keepdims=True) > 0.5)


def pruned(rng: np.random.Generator, given: Masks, like: Masks) -> list[np.ndarray]:
    """As many connections a layer as ``like`` has, drawn from the given ones; beyond those from the others."""
    return largest([mask + rng.random(mask.shape) for mask in given], like)


def largest(magnitudes: Sequence[np.ndarray], like: Masks) -> list[np.ndarray]:
    """As many connections a layer as ``like`` has, the largest."""
    found = []
    for magnitude, mask in zip(magnitudes, like, strict=True):
        order = np.argsort(-magnitude, axis=None, kind="stable")[: int(mask.sum())]
        kept = np.zeros(mask.size, dtype=bool)
        kept[order] = True
        found.append(kept.reshape(mask.shape))
    return found


def backpropagated(steps: int, rate: float, seed: int) -> list[list[np.ndarray]]:
    """Magnitudes of the weights of whole networks after training, one a task, layer by layer."""
    tasks = halves(numpy_stream(seed, "bodies", "backpropagation"), TESTS)
    rng = numpy_stream(seed, "bodies", "backpropagation", "start")
    whole = [torch.ones(TESTS, i, o) for i, o in pairwise(SIZES)]
    layers = [
        (tensor(rng.normal(0, (2 / i) ** 0.5, (TESTS, i, o))), torch.zeros(TESTS, 1, o)) for i, o in pairwise(SIZES)
    ]
    picks = batches(rng, TRAIN, BATCH, steps)

    def losses(step: int) -> Losses:
        rows = picks[step]
        return squared(forward(layers, whole, tasks.inputs[:, rows])[0], tasks.targets[:, rows])

    fit([part for layer in layers for part in layer], losses, torch.full((TESTS,), rate), steps)
    return [[own[n].abs().double().numpy() for own, _ in layers] for n in range(TESTS)]


def bodies(doses: Sequence[float], generations: int, offspring: int, steps: int, seed: int) -> dict[str, Any]:
    """Wirings evolved without costs and at every dose, beside what has as many connections for other reasons.

    Arms: ``alone``; ``cost D``; for every dose ``pruned D``, alone's wiring pruned at random to as many connections a
    layer, and ``backpropagation D``, a trained whole network's largest weights, as many; ``whole``. Measured of each:
    density, modularity, paths within halves, log₁₀ loss and log₁₀ samples on new tasks, and whether its rate is
    resolved.
    """
    start = layered(numpy_stream(seed, "bodies", "random wiring").random((TUNING_TASKS, BITS)) < 0.5)
    rate, sizes = tuned_rate(start, steps, seed), (generations, offspring, steps)
    whole = [np.ones(pair, dtype=bool) for pair in pairwise(SIZES)]
    alone = single(evolved(0.0, sizes, rate, seed))
    arms: dict[str, list[list[np.ndarray]]] = {"alone": [alone], "whole": [whole]}
    longer = steps * LONGER
    trained = backpropagated(
        longer, tuned_rate([tensor(m[None]).repeat(TUNING_TASKS, 1, 1) for m in whole], longer, seed), seed
    )
    for dose in doses:
        rng, own = numpy_stream(seed, "bodies", "pruning"), single(evolved(dose, sizes, rate, seed))
        arms[f"cost {dose:g}"] = [own]
        arms[f"pruned {dose:g}"] = [pruned(rng, alone, own) for _ in range(TESTS)]
        arms[f"backpropagation {dose:g}"] = [largest(magnitudes, own) for magnitudes in trained]
    found: dict[str, Any] = {"rate resolved": resolved([rate])}
    for name, wirings in arms.items():
        found |= {f"{name} {key}": value for key, value in measured(wirings, longer, seed).items()}
    return found


def single(bits: Bits) -> list[np.ndarray]:
    """The masks of one genome."""
    return [mask[0].numpy() > 0.5 for mask in layered(bits)]


def measured(wirings: Sequence[Masks], steps: int, seed: int) -> dict[str, float]:
    """What wirings look like, and what networks with them learn; task n has wiring n, or the only one."""
    stacked = [tensor(np.stack(layer)) for layer in zip(*wirings, strict=True)]
    stacked = [mask if len(mask) == TESTS else mask.repeat(TESTS, 1, 1) for mask in stacked]
    rate = tuned_rate(stacked, steps, seed)
    tasks = halves(numpy_stream(seed, "bodies", "test"), TESTS)
    found = trial(stacked, tasks, torch.full((TESTS,), rate), steps, numpy_stream(seed, "bodies", "test", "start"))
    return {
        "density": float(np.mean([np.concatenate([mask.ravel() for mask in one]).mean() for one in wirings])),
        "modularity": float(np.mean([modularity(one) for one in wirings])),
        "within": float(np.mean([within_halves(one) for one in wirings])),
        "loss": float(found.scores.mean()),
        "samples": float(np.log10(found.samples).mean()),
        "resolved": resolved([rate]),
    }
