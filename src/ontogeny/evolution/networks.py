"""Stacks of small networks trained side by side, every one of a stack at its own learning rate."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Layer = tuple[Float[Tensor, "networks _ _"], Float[Tensor, "networks 1 _"]]  # weights (inputs, outputs) and biases
Losses = Float[Tensor, " networks"]

SLOPE = 0.01  # of leaky ReLUs left of 0
RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)  # of Adam, every one tried where a rate is tuned
DECAYS = (0.9, 0.999)  # of Adam's two means
TUNING = 20_260_101  # the seed that rates are tuned on; no replicate has it


def tensor(array: np.ndarray) -> Tensor:
    """In single precision."""
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def stack(weights: Sequence[np.ndarray], networks: int) -> list[Layer]:
    """So many equal networks with these weights, (inputs, outputs) each, and biases 0."""
    return [
        (tensor(w).expand(networks, -1, -1).clone(), torch.zeros(networks, 1, w.shape[1], dtype=torch.float32))
        for w in weights
    ]


def he_normal(sizes: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Weights of a network with layers of these sizes: N(0, 2/inputs) (He et al. 2015)."""
    return [rng.normal(0, (2 / i) ** 0.5, (i, o)) for i, o in pairwise(sizes)]


def outputs(layers: Sequence[Layer], inputs: Float[Tensor, "networks rows inputs"]) -> Float[Tensor, "networks rows o"]:
    """What every network says of its rows: leaky ReLUs between layers, none at the end."""
    for weights, biases in layers[:-1]:
        inputs = torch.nn.functional.leaky_relu(torch.baddbmm(biases, inputs, weights), SLOPE)
    return torch.baddbmm(layers[-1][1], inputs, layers[-1][0])


def parameters(layers: Sequence[Layer]) -> list[Tensor]:
    """All weights and biases, in order."""
    return [part for layer in layers for part in layer]


def fit(
    trained: Sequence[Tensor],
    losses: Callable[[int], Losses],
    rates: Losses,
    steps: int,
    *,
    ends: Losses | None = None,
    decaying: bool = True,
) -> None:
    """Adam (Kingma & Ba 2015) in place, each network at its rate, which falls to 0 along a cosine if it is decaying.

    ``losses`` of a step: one for every network. Parameters hold networks in their first of three dimensions. ``ends``:
    how many steps each network takes, all of them if not said; then it stays as it is.
    """
    ends = torch.full_like(rates, steps) if ends is None else ends
    first, second = ([torch.zeros_like(part) for part in trained] for _ in DECAYS)
    for part in trained:
        part.requires_grad_()
    for step in range(steps):
        gradients = torch.autograd.grad(losses(step).sum(), trained)
        corrected = math.sqrt(1 - DECAYS[1] ** (step + 1)) / (1 - DECAYS[0] ** (step + 1))
        left = 0.5 * (1 + (math.pi * (step / ends).clamp(max=1)).cos()) if decaying else (step < ends).float()
        scale = (rates * corrected * left)[:, None, None]
        with torch.no_grad():
            for part, gradient, mean, square in zip(trained, gradients, first, second, strict=True):
                mean.lerp_(gradient, 1 - DECAYS[0])
                square.mul_(DECAYS[1]).addcmul_(gradient, gradient, value=1 - DECAYS[1])
                part.sub_(scale * mean / (square.sqrt() + 1e-8))
    for part in trained:
        part.requires_grad_(False)


def best_rate(losses: Losses, tolerance: float = 0.0) -> float:
    """The smallest rate whose loss is within the tolerance of the least, where a stack has one network for every rate.

    One that diverged has lost.
    """
    found = torch.nan_to_num(losses, nan=math.inf)
    return min(rate for rate, loss in zip(RATES, found, strict=True) if loss <= found.min() + tolerance)


def batches(rng: np.random.Generator, rows: int, size: int, steps: int) -> Int[Tensor, "steps size"]:
    """Which of so many rows stand in the batch of every step, with replacement."""
    return torch.from_numpy(rng.integers(rows, size=(steps, size)))
