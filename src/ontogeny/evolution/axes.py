"""Small networks whose weights are held in subspaces: A C Bᵀ with trained cores C, after a donor or at random."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.networks import Layer, stack, tensor

Axes = tuple[Float[Tensor, "_ rank"], Float[Tensor, "_ rank"]]  # of inputs and outputs, orthonormal columns


def leading_axes(weights: Float[Tensor, "inputs outputs"], rank: int) -> Axes:
    """The leading singular subspaces of a layer's weights; their values are thrown away."""
    left, _, right = torch.linalg.svd(weights, full_matrices=False)
    return left[:, :rank].contiguous(), right[:rank].T.contiguous()


def random_axes(inputs: int, outputs: int, rank: int, rng: np.random.Generator) -> Axes:
    """Subspaces of the same rank, uniformly at random."""
    left, right = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in (inputs, outputs))
    return tensor(left), tensor(right)


def shared(first: Float[Tensor, "d rank"], second: Float[Tensor, "d rank"]) -> float:
    """How much two subspaces have in common, from 0 to 1: ‖AᵀB‖²/rank; by chance rank/d."""
    return float((first.T @ second).square().sum() / first.shape[1])


def cores(weights: Sequence[np.ndarray], axes: Sequence[Axes | None], networks: int) -> list[Layer]:
    """So many equal networks: where a layer has axes its core, else its weights; biases 0.

    A core starts at √(inputs·outputs)/rank · Aᵀ W B: in expectation the weights' own norm.
    """
    layers = stack(weights, networks)
    for place, within in enumerate(axes):
        if within is not None:
            (left, right), (full, biases) = within, layers[place]
            scale = (full.shape[1] * full.shape[2]) ** 0.5 / left.shape[1]
            layers[place] = (scale * left.T @ full @ right, biases)
    return layers


def unfolded(layers: Sequence[Layer], axes: Sequence[Axes | None]) -> list[Layer]:
    """The same networks with every layer's weights written out."""
    return [
        (weights if within is None else within[0] @ weights @ within[1].T, biases)
        for (weights, biases), within in zip(layers, axes, strict=True)
    ]
