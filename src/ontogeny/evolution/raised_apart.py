"""Twins raised apart: networks of the same subspaces in several environments, and what their behaviour is due to."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.factors import variance_shares
from ontogeny.evolution.networks import (
    RATES,
    Layer,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    tensor,
)
from ontogeny.streams import numpy_stream, stream_seed

CLASSES = 10
SIZES = (64, 32, 32, CLASSES)  # pixels, two hidden layers that the genome constrains, classes
DIRECTIONS = 12  # of either hidden layer
GENOMES, ENVIRONMENTS, SEEDS = 4, 4, 3
FAVOURED = 5  # classes that an environment shows more often
BATCH = 64
DONOR_RATE = 0.01  # of Adam; what donors have learnt need not be the best that they could
PARTS = {"donors": 600, "twins": 700, "tune": 150, "probe": 347}  # images
FACTORS = ("genome", "environment", "seed")
Images = tuple[Float[np.ndarray, "images pixels"], Int[np.ndarray, " images"]]
Cells = Int[np.ndarray, "networks 3"]
Genes = list[tuple[Float[np.ndarray, "genomes _ k"], Float[np.ndarray, "genomes _ k"]]]  # a layer each


@lru_cache(maxsize=1)
def digits() -> Images:
    """Scikit-learn's 1,797 digits, 8 × 8 pixels between 0 and 1, with their labels (Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data / 16, found.target.astype(np.int64)


def parts(seed: int, sizes: Mapping[str, int]) -> dict[str, Images]:
    """The digits in random order, cut into parts of these sizes."""
    images, labels = digits()
    order = numpy_stream(seed, "digits").permutation(len(labels))
    cuts = np.split(order, np.cumsum(list(sizes.values())))
    return {name: (images[rows], labels[rows]) for name, rows in zip(sizes, cuts, strict=False)}


def raised_apart(*, donors: bool, skew: float, steps: int, seed: int) -> dict[str, Any]:
    """Genomes × environments × seeds: shares of the variance of what all twins say of the same images.

    Genomes are the leading subspaces of trained networks, or as many random directions where ``donors`` is False. An
    environment shows five classes of its own ``skew`` times as often as the rest, and the same images; at skew 1
    environments differ by the order of images alone. A seed is the start of cores, readout and biases, and the order
    within an environment. ``together``, ``apart``: how often two twins of one genome differ in the class they name, in
    the same environment and in different ones.
    """
    tuning = stream_seed(seed, "tuning")
    tried = np.zeros((len(RATES), 3), dtype=int)
    layers = _raised(tuning, _genes(tuning, donors, steps), tried, 1.0, torch.tensor(RATES), steps)
    rate = best_rate(_surprise(*_said(layers, parts(tuning, PARTS)["tune"])))

    cells = np.indices((GENOMES, ENVIRONMENTS, SEEDS)).reshape(3, -1).T
    layers = _raised(seed, _genes(seed, donors, steps), cells, skew, torch.full((len(cells),), rate), steps)
    said, labels = _said(layers, parts(seed, PARTS)["probe"])
    probabilities = said.softmax(-1).double().numpy().reshape(GENOMES, ENVIRONMENTS, SEEDS, *said.shape[1:])
    named = probabilities.argmax(-1)
    return variance_shares(probabilities, FACTORS) | {
        "accuracy": float((named == labels[0].numpy()).mean()),
        "together": float((named[:, :, :-1] != named[:, :, 1:]).mean()),
        "apart": float((named[:, :-1, :-1] != named[:, 1:, 1:]).mean()),
        "resolved": float(rate not in (RATES[0], RATES[-1])),
    }


def _raised(
    seed: int, genes: Genes, cells: Cells, skew: float, rates: Float[Tensor, " networks"], steps: int
) -> list[Layer]:
    """One trained network for every row of cells: its genome, its environment, its seed."""
    images, labels = parts(seed, PARTS)["twins"]
    directions = [(tensor(V[cells[:, 0]]), tensor(U[cells[:, 0]])) for V, U in genes]
    starts = [_start(seed, number) for number in range(SEEDS)]
    trained = [torch.stack([starts[number][part] for number in cells[:, 2]]) for part in range(len(starts[0]))]
    x, y, rows = tensor(images), torch.from_numpy(labels), _rows(seed, cells, labels, skew, steps)
    fit(
        trained,
        lambda step: _surprise(outputs(_layers(directions, trained), x[rows[step]]), y[rows[step]]),
        rates,
        steps,
    )
    return _layers(directions, trained)


def _said(
    layers: list[Layer], images: Images
) -> tuple[Float[Tensor, "networks rows classes"], Int[Tensor, "networks rows"]]:
    """What every network says of these images, and their labels, once for each."""
    networks = len(layers[0][0])
    said = outputs(layers, tensor(images[0]).expand(networks, -1, -1))
    return said, torch.from_numpy(images[1]).expand(networks, -1)


def _surprise(said: Float[Tensor, "networks rows classes"], labels: Int[Tensor, "networks rows"]) -> Tensor:
    """Mean cross-entropy of every network, nats."""
    return F.cross_entropy(said.transpose(1, 2), labels, reduction="none").mean(1)


def _genes(seed: int, donors: bool, steps: int) -> Genes:
    """The leading singular subspaces of trained networks, each from its own start, or Haar-random directions."""
    if not donors:
        rng = numpy_stream(seed, "random genes")
        sides = [np.linalg.qr(rng.normal(size=(GENOMES, size, DIRECTIONS)))[0] for size in (*SIZES[:2], *SIZES[1:3])]
        return [(sides[0], sides[1]), (sides[2], sides[3])]
    images, labels = parts(seed, PARTS)["donors"]
    starts = [he_normal(SIZES, numpy_stream(seed, "donor", number)) for number in range(GENOMES)]
    layers = [(tensor(np.stack(w)), torch.zeros(GENOMES, 1, w[0].shape[1])) for w in zip(*starts, strict=True)]
    orders = [numpy_stream(seed, "donor order", n).integers(len(labels), size=(steps, BATCH)) for n in range(GENOMES)]
    x, y, rows = tensor(images), torch.from_numpy(labels), torch.from_numpy(np.stack(orders, axis=1))
    fit(
        parameters(layers),
        lambda step: _surprise(outputs(layers, x[rows[step]]), y[rows[step]]),
        torch.full((GENOMES,), DONOR_RATE),
        steps,
    )
    found = []
    for weights, _ in layers[:-1]:
        left, _, right = np.linalg.svd(weights.double().numpy(), full_matrices=False)
        found.append((left[:, :, :DIRECTIONS], right[:, :DIRECTIONS].swapaxes(1, 2)))
    return found


def _start(seed: int, number: int) -> list[Tensor]:
    """Cores, the readout, and all biases, of one seed."""
    rng = numpy_stream(seed, "start", number)
    cores = [rng.normal(0, (2 * o) ** 0.5 / DIRECTIONS, (DIRECTIONS, DIRECTIONS)) for o in SIZES[1:-1]]
    readout = rng.normal(0, (2 / SIZES[-2]) ** 0.5, SIZES[-2:])
    return [tensor(part) for part in (*cores, readout, *(np.zeros((1, size)) for size in SIZES[1:]))]


def _layers(directions: list[tuple[Tensor, Tensor]], trained: list[Tensor]) -> list[Layer]:
    """Every network's weights: fixed directions around its cores."""
    *cores, readout = trained[: len(SIZES) - 1]
    weights = [V @ core @ U.transpose(1, 2) for (V, U), core in zip(directions, cores, strict=True)]
    return list(zip([*weights, readout], trained[len(SIZES) - 1 :], strict=True))


def _rows(
    seed: int, cells: Cells, labels: Int[np.ndarray, " images"], skew: float, steps: int
) -> Int[Tensor, "steps networks batch"]:
    """Which images every network sees in every step; networks of one environment and seed see the same."""
    found = {}
    for environment, number in {(int(e), int(s)) for _, e, s in cells}:
        favoured = numpy_stream(seed, "favoured", environment).permutation(CLASSES)[:FAVOURED]
        weights = np.where(np.isin(labels, favoured), skew, 1.0)
        rng = numpy_stream(seed, "order", environment, number)
        found[environment, number] = rng.choice(len(labels), size=(steps, BATCH), p=weights / weights.sum())
    return torch.from_numpy(np.stack([found[int(e), int(s)] for _, e, s in cells], axis=1))
