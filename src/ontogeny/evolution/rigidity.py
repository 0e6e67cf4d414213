"""What training on a world that stands still leaves of the ability to learn another: steps, and dormant units.

The networks of all worlds train side by side, at rates that stay.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.landscapes import INPUTS, network, network_point
from ontogeny.evolution.networks import (
    RATES,
    SLOPE,
    Layer,
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
from ontogeny.streams import numpy_stream, stream_seed

Inputs = Float[np.ndarray, "worlds steps batch inputs"]
Targets = Float[np.ndarray, "worlds steps batch"]
Needed = Float[np.ndarray, "networks goals"]

SIZES = (INPUTS, 32, 32, 1)
BATCH, DATA = 32, 128  # inputs a step; inputs of the frozen instant
GOALS = (0.5, 0.25, 0.125, 0.0625)  # of a new world's variance: how much is left to learn when a goal is reached
FINE = 8  # tests of whether it is, by doubling of the steps
LATE = 0.1  # of training, in which its own loss is taken
DORMANT = 0.1  # of a layer's mean activity (Sokar et al. 2023)


def worlds(turns: Sequence[int]) -> tuple[str, ...]:
    """What networks are trained on before they have to learn something else.

    ``instant``: a few inputs again and again; ``law``: new ones, of a teacher that stays; ``drifting``: of a teacher
    that takes so many turns and ends where it began; ``mixture``: of the teachers of a turn in random order, so that
    nothing can be followed. ``none``: not trained.
    """
    return ("instant", "law", *(f"drifting {turn}" for turn in turns), "mixture", "none")


def teach(name: str, inputs: Float[np.ndarray, "*any inputs"], seed: int) -> Float[np.ndarray, "*any"]:
    """What a random teacher of width 4 says, with mean 0 and variance 1 over inputs N(0, 1)."""
    point = network_point(4, seed, "teacher", name)[None]
    reference = network(point, numpy_stream(seed, "reference").normal(size=(4096, INPUTS)))[0]
    said = network(point, inputs.reshape(-1, INPUTS))[0].reshape(inputs.shape[:-1])
    return np.asarray((said - reference.mean()) / reference.std())


def lessons(turns: Sequence[int], steps: int, seed: int) -> tuple[Inputs, Targets]:
    """Every world's inputs and targets, the same new inputs in all but the frozen instant."""
    rng = numpy_stream(seed, "lessons")
    new = rng.normal(size=(steps, BATCH, INPUTS))
    few = rng.normal(size=(DATA, INPUTS))[rng.integers(0, DATA, (steps, BATCH))]
    once, still = 2 * np.pi * np.arange(steps) / steps, np.zeros(steps)
    angles = [still, still, *(turn * once for turn in turns), rng.permutation(once), still]
    inputs = np.stack([few] + [new] * (len(angles) - 1))
    first, second = (np.stack([teach(name, part, seed) for part in (few, new)]) for name in ("first", "second"))
    of_new, turned = np.minimum(np.arange(len(angles)), 1), np.stack(angles)[:, :, None]
    return inputs, np.cos(turned) * first[of_new] + np.sin(turned) * second[of_new]


def train(layers: list[Layer], rates: Losses, lesson: tuple[Inputs, Targets]) -> Losses:
    """Train in place as many networks for every world, of which the last isn't trained; their late losses."""
    inputs, targets = (tensor(part) for part in lesson)
    count, steps = len(rates) // len(inputs), inputs.shape[1]
    trained = (torch.arange(len(rates)) < len(rates) - count).float()
    late, last = torch.zeros(len(rates)), int(LATE * steps)

    def losses(step: int) -> Losses:
        rows, goals = (part[:, step].repeat_interleave(count, 0) for part in (inputs, targets))
        found = (outputs(layers, rows)[..., 0] - goals).square().mean(1)
        if step >= steps - last:
            late.add_(found.detach() / last)
        return found * trained

    fit(parameters(layers), losses, rates, steps, decaying=False)
    return late


def readapt(layers: list[Layer], rates: Losses, budget: int, seed: int) -> Needed:
    """Train on a new teacher, in place; steps until the loss is each of ``GOALS``, infinite where it never is."""
    rng, networks = numpy_stream(seed, "another world"), len(rates)
    rows, test = rng.normal(size=(budget, BATCH, INPUTS)), rng.normal(size=(256, INPUTS))
    inputs, targets, asked, expected = (
        tensor(part) for part in (rows, teach("new", rows, seed), test, teach("new", test, seed))
    )
    needed, goals = torch.full((networks, len(GOALS)), torch.inf), torch.tensor(GOALS)
    tests = {0, *np.unique(np.round(2 ** np.arange(0, np.log2(budget), 1 / FINE))).astype(int).tolist()}

    def losses(step: int) -> Losses:
        if step in tests:
            with torch.no_grad():
                left = (outputs(layers, asked.expand(networks, -1, -1))[..., 0] - expected).square().mean(1)
            needed.copy_(torch.where(left[:, None] <= goals, needed.clamp(max=max(step, 1)), needed))
        return (outputs(layers, inputs[step].expand(networks, -1, -1))[..., 0] - targets[step]).square().mean(1)

    fit(parameters(layers), losses, rates, budget, decaying=False)
    return needed.double().numpy()


def dormant_shares(layers: list[Layer], seed: int) -> Float[np.ndarray, " networks"]:
    """The share of hidden units whose mean absolute activity is at most ``DORMANT`` of their layer's mean."""
    networks = len(layers[0][0])
    inputs = tensor(numpy_stream(seed, "dormancy").normal(size=(1024, INPUTS))).expand(networks, -1, -1)
    quiet = []
    for depth in range(1, len(layers)):
        states = torch.nn.functional.leaky_relu(outputs(layers[:depth], inputs), SLOPE).abs().mean(1)
        quiet.append(states <= DORMANT * states.mean(1, keepdim=True))
    return torch.cat(quiet, 1).double().mean(1).numpy()


def picked(layers: list[Layer], networks: Int[Tensor, " picked"]) -> list[Layer]:
    """Copies of some networks of a stack."""
    return [(weights[networks].clone(), biases[networks].clone()) for weights, biases in layers]


def tuned(turns: Sequence[int], steps: int, budget: int, seed: int) -> tuple[list[float], list[float]]:
    """The best rate of every world's training, by its own late loss, and of re-adapting, by log steps to the goals."""
    count, each = len(worlds(turns)), len(RATES)
    grid = torch.tensor(RATES).repeat(count)
    layers = stack(he_normal(SIZES, numpy_stream(seed, "weights")), len(grid))
    own = train(layers, grid, lessons(turns, steps, seed)).reshape(count, each)
    first = [best_rate(losses) for losses in own]
    best = torch.tensor([place * each + RATES.index(rate) for place, rate in enumerate(first)])
    again = picked(layers, best.repeat_interleave(each))
    needed = readapt(again, grid, budget, seed)
    costs = torch.from_numpy(log_steps(needed, budget).mean(1)).float().reshape(count, each)
    return first, [best_rate(cost) for cost in costs]


def log_steps(needed: Needed, budget: int) -> Needed:
    """log₂ of the steps to each goal, the budget's where it is never reached."""
    return np.asarray(np.log2(np.minimum(needed, budget)))


def rigidity(turns: Sequence[int], steps: int, budget: int, seed: int) -> dict[str, float | list[float]]:
    """Of every world: log₂ ``steps`` to re-adapt to a new one, by goal, and ``dormant`` units before that.

    Rates are tuned on another seed; ``resolved``: neither is at an end of the grid. ``own``: the late loss on what is
    trained on. ``reached``: whether the last goal is, within the budget.
    """
    rates = tuned(turns, steps, budget, stream_seed(seed, "tuning"))
    first, second = (torch.tensor(part) for part in rates)
    layers = stack(he_normal(SIZES, numpy_stream(seed, "weights")), len(first))
    own = train(layers, first, lessons(turns, steps, seed))
    dormant = dormant_shares(layers, seed)
    needed = readapt(layers, second, budget, seed)
    rates[0][-1] = rates[1][-1]  # of no training
    measured: dict[str, float | list[float]] = {}
    for place, world in enumerate(worlds(turns)):
        measured |= {
            f"{world} steps": log_steps(needed, budget)[place].tolist(),
            f"{world} dormant": float(dormant[place]),
            f"{world} own": float(own[place]),
            f"{world} reached": float(np.isfinite(needed[place, -1])),
            f"{world} resolved": resolved(part[place] for part in rates),
        }
    return measured
