"""How many neurons a data set asks for: held-out loss over neurons, their layers, and data."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    TUNING,
    Layer,
    batches,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    resolved,
    stack,
    tensor,
)
from ontogeny.streams import numpy_stream

FACTORS = 6  # numbers in [−1, 1]; a target is the sum of the products of their pairs
NOISE = 0.1  # sd of what is learnt, where the target's own is 1
HELD_OUT = 2000
BATCH = 64


def sums_of_products(seed: int, path: str, count: int) -> tuple[Float[np.ndarray, "n 6"], Float[np.ndarray, "n 1"]]:
    """Inputs uniform in [−1, 1], and x₁x₂ + x₃x₄ + x₅x₆ at variance 1 (that of a product is 1/9)."""
    x = numpy_stream(seed, "inputs", path).uniform(-1, 1, (count, FACTORS))
    return x, (x[:, 0::2] * x[:, 1::2]).sum(1, keepdims=True) * 3**0.5


def surface(neurons: int, depth: int, data: Sequence[int], steps: int, seed: int) -> dict[str, float]:
    """One network size at every amount of data: ``loss n`` is log₁₀ of the held-out squared error from n examples.

    ``neurons`` are split evenly over ``depth`` hidden layers. All amounts start from one draw, a smaller one is the
    first part of a larger, and all take as many steps of as many examples. The target's variance is 1.
    """
    rate = _tuned(neurons, depth, sorted(data)[len(data) // 2], steps)
    layers = _trained(neurons, depth, data, torch.full((len(data),), rate), steps, seed)
    x, y = sums_of_products(seed, "held out", HELD_OUT)
    found = _squares(layers, x, y).double().log10().tolist()
    measured = {f"loss {n}": value for n, value in zip(data, found, strict=True)}
    return measured | {
        "parameters": float(sum(part[0].numel() for part in parameters(layers))),
        "rate": rate,
        "resolved": resolved([rate]),
    }


def _trained(neurons: int, depth: int, data: Sequence[int], rates: Tensor, steps: int, seed: int) -> list[Layer]:
    """A stack of networks, one an amount of data and a rate."""
    if neurons % depth:
        raise ValueError(f"{neurons} neurons: expected a multiple of {depth} layers")
    x, y = sums_of_products(seed, "learnt", max(data))
    rng = numpy_stream(seed, "learning", neurons, depth)
    inputs, target = tensor(x), tensor(y + NOISE * numpy_stream(seed, "noise").normal(size=y.shape))
    layers = stack(he_normal([FACTORS, *[neurons // depth] * depth, 1], rng), len(data))
    rows = torch.stack([batches(rng, n, BATCH, steps) for n in data], 1)  # (steps, networks, batch)
    fit(parameters(layers), lambda step: _errors(layers, inputs[rows[step]], target[rows[step]]), rates, steps)
    return layers


def _errors(layers: Sequence[Layer], x: Tensor, y: Tensor) -> Tensor:
    return (outputs(layers, x) - y).square().mean((1, 2))


def _squares(layers: Sequence[Layer], x: np.ndarray, y: np.ndarray) -> Tensor:
    networks = len(layers[0][0])
    found = _errors(layers, tensor(x).expand(networks, -1, -1), tensor(y))
    return torch.nan_to_num(found, nan=math.inf).clamp(max=1e3)


@cache
def _tuned(neurons: int, depth: int, count: int, steps: int) -> float:
    """The best rate for the middle amount of data, on another seed."""
    layers = _trained(neurons, depth, [count] * len(RATES), torch.tensor(RATES), steps, TUNING)
    return best_rate(_squares(layers, *sums_of_products(TUNING, "held out", HELD_OUT)))
