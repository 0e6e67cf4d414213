"""How far two networks represent the same things alike, and make the same mistakes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.evolution.networks import SLOPE, Layer


def hidden(layers: Sequence[Layer], inputs: Float[Tensor, "networks rows inputs"]) -> Float[Tensor, "networks rows u"]:
    """The last hidden layer of every network of a stack, after its leaky ReLU."""
    for weights, biases in layers[:-1]:
        inputs = torch.nn.functional.leaky_relu(torch.baddbmm(biases, inputs, weights), SLOPE)
    return inputs


def apart(measure: Callable[[int, int], float], pairs: tuple[Sequence[int], Sequence[int]]) -> tuple[float, float]:
    """The mean of a measure within two groups of networks and between them; of ordered pairs, never one with itself."""
    within = [measure(i, j) for group in pairs for i in group for j in group if i != j]
    between = [measure(i, j) for a, b in (pairs, pairs[::-1]) for i in a for j in b]
    return float(np.mean(within)), float(np.mean(between))


def unexplained(
    learnt: tuple[Float[Tensor, "rows u"], Float[Tensor, "rows v"]],
    tested: tuple[Float[Tensor, "others u"], Float[Tensor, "others v"]],
) -> float:
    """The share of the second's variance that the best linear map of the first leaves, on rows not learnt from.

    Least squares with a constant; a ridge of 1e-4 of the features' mean variance keeps silent units harmless.
    """
    (x, y), (u, v) = ([part.double() for part in pair] for pair in (learnt, tested))
    mean, target = x.mean(0), y.mean(0)
    x, y = x - mean, y - target
    gram = x.T @ x
    gram = gram + 1e-4 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    found = torch.linalg.solve(gram, x.T @ y)
    missed = (v - target - (u - mean) @ found).square().sum()
    return float(missed / (v - v.mean(0)).square().sum())


def error_consistency(first: Bool[Tensor, " rows"], second: Bool[Tensor, " rows"]) -> float:
    """Cohen's κ of who is right where: 1 for the same mistakes, 0 for as many in common as by chance.

    Geirhos, Meding & Wichmann 2020. 0 where one of them is always right, or always wrong.
    """
    p, q = float(first.double().mean()), float(second.double().mean())
    chance = p * q + (1 - p) * (1 - q)
    if min(p, q) == 0 or max(p, q) == 1:
        return 0.0
    return float(((first == second).double().mean() - chance) / (1 - chance))


def linear_alignment(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Linear CKA (Kornblith et al. 2019, arXiv:1905.00414), debiased: unrelated features have 0, not about d/n.

    HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)) with the unbiased HSIC, as in Nguyen et al. 2021 (arXiv:2010.15327).
    """
    x, y = x - x.mean(0), y - y.mean(0)  # HSIC doesn't change, its terms get smaller
    return _independence(x, y) / math.sqrt(_independence(x, x) * _independence(y, y))


def _independence(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """n(n − 3) times the unbiased HSIC of centred features (Song et al. 2012, JMLR 13), from K = XXᵀ, L = YYᵀ without
    their diagonals: tr KL + 1ᵀK1·1ᵀL1 / ((n − 1)(n − 2)) − 2/(n − 2)·1ᵀKL1. Centred, K1 is minus K's diagonal.
    """
    n, of_x, of_y = len(x), x.square().sum(1), y.square().sum(1)
    trace = (x.T @ y).square().sum() - of_x @ of_y
    return float(trace + of_x.sum() * of_y.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (of_x @ of_y))
