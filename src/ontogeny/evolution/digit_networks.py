"""A small convolutional network and a small vision transformer on the same 8 × 8 digits, trained side by side."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.networks import RATES, TUNING, batches, best_rate, fit, tensor
from ontogeny.streams import numpy_stream

Network = dict[str, Tensor]  # every part of a stack is (networks, _, _)
Images = Float[Tensor, "networks rows 8 8"]
Features = Float[Tensor, "networks rows 32"]
Targets = Float[Tensor, "networks rows 10"]  # probabilities
Rows = Int[Tensor, "networks steps size"]

CLASSES = 10
WIDTH = 32
HEADS = 4
BLOCKS = 2
KERNEL = 9  # entries of a 3 × 3 kernel
PATCH = 2  # pixels
GRID = 4  # patches a side, for both networks: what the convolutional one pools to
JUDGES = 400  # held-out images that a rate is chosen by
REACH = 2 * GRID - 1  # offsets between patches in one direction, −3 … 3
MATRICES = {"query": "qkv", "key": "qkv", "value": "qkv", "out": "out", "up": "up", "down": "down"}  # of a block


@functools.cache
def digits() -> tuple[Float[np.ndarray, "images 8 8"], Int[np.ndarray, " images"]]:
    """scikit-learn's 1,797 digits with mean 0 and variance 1 over all pixels, and their classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images - found.images.mean()) / found.images.std(), found.target.astype(np.int64)


def one_hot(labels: Int[np.ndarray, " rows"]) -> Float[Tensor, "rows 10"]:
    """Probabilities of hard labels."""
    return torch.eye(CLASSES, dtype=torch.float32)[torch.from_numpy(labels)]


def fresh_cnn(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three layers of 3 × 3 kernels, weights (channels · 9, outputs) N(0, 2/inputs) (He et al. 2015), and a head."""
    inputs = {"first": KERNEL, "second": WIDTH * KERNEL, "third": WIDTH * KERNEL}
    parts = {name: rng.normal(0, (2 / i) ** 0.5, (i, WIDTH)) for name, i in inputs.items()}
    return parts | {f"{name} bias": np.zeros((1, WIDTH)) for name in inputs} | _head(rng)


def fresh_vit(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Patches of 2 × 2 pixels, two blocks with four heads, matrices N(0, 1/inputs), attention without a bias yet."""
    parts = {"patches": rng.normal(0, 1 / PATCH, (PATCH**2, WIDTH)), "positions": rng.normal(0, 0.02, (GRID**2, WIDTH))}
    for block in range(BLOCKS):
        for name in dict.fromkeys(MATRICES.values()):
            outputs = 3 * WIDTH if name == "qkv" else WIDTH
            parts[f"{block} {name}"] = rng.normal(0, WIDTH**-0.5, (WIDTH, outputs))
        parts[f"{block} locality"] = np.zeros((HEADS, REACH**2))
    return parts | _head(rng)


def _head(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"head": rng.normal(0, WIDTH**-0.5, (WIDTH, CLASSES)), "head bias": np.zeros((1, CLASSES))}


def cnn_features(network: Mapping[str, Tensor], images: Images) -> Features:
    """What the head reads: convolve, pool to the patches' grid, convolve twice, mean over the grid."""
    x = images.transpose(0, 1)  # (rows, networks, 8, 8): a group of channels is a network
    for name in ("first", "second", "third"):
        weights = network[name]
        n, inputs, outputs = weights.shape
        kernels = weights.transpose(1, 2).reshape(n * outputs, inputs // KERNEL, 3, 3)
        x = F.relu(F.conv2d(x, kernels, network[f"{name} bias"].reshape(-1), padding=1, groups=n))
        x = F.avg_pool2d(x, PATCH) if name == "first" else x
    means: Tensor = x.mean((2, 3)).unflatten(1, (len(images), WIDTH))
    return means.transpose(0, 1)


def vit_features(network: Mapping[str, Tensor], images: Images) -> Features:
    """What the head reads: the mean over patches after the last norm (Dosovitskiy et al. 2021, without a class token).

    Every head adds a bias to the attention between two patches by their offset (Shaw et al. 2018; Liu et al. 2021).
    """
    n, rows = images.shape[:2]
    patches = F.pixel_unshuffle(images.reshape(n * rows, 1, 8, 8), PATCH).flatten(2).transpose(1, 2)
    x = _times(patches.reshape(n, rows, GRID**2, PATCH**2), network["patches"]) + network["positions"][:, None]
    for block in range(BLOCKS):
        x = x + _attention(network, block, F.layer_norm(x, (WIDTH,)))
        hidden = F.gelu(_times(F.layer_norm(x, (WIDTH,)), network[f"{block} up"]))
        x = x + _times(hidden, network[f"{block} down"])
    return F.layer_norm(x, (WIDTH,)).mean(2)


def _attention(
    network: Mapping[str, Tensor], block: int, x: Float[Tensor, "networks rows patches 32"]
) -> Float[Tensor, "networks rows patches 32"]:
    parts = _times(x, network[f"{block} qkv"]).unflatten(-1, (3, HEADS, WIDTH // HEADS))
    query, key, value = parts.permute(3, 0, 1, 4, 2, 5)  # each (networks, rows, heads, patches, width/heads)
    bias = network[f"{block} locality"][:, :, offsets()]  # (networks, heads, patches, patches)
    attended = (query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + bias[:, None]).softmax(-1)
    return _times((attended @ value).transpose(2, 3).flatten(3), network[f"{block} out"])


def _times(x: Float[Tensor, "networks rows patches i"], weights: Float[Tensor, "networks i o"]) -> Tensor:
    product: Tensor = torch.bmm(x.flatten(1, 2), weights).unflatten(1, x.shape[1:3])
    return product


@functools.cache
def offsets() -> Int[Tensor, "patches patches"]:
    """Where a patch (row) finds the bias of its offset to another (column), in a table of 7 × 7 offsets."""
    rows, columns = np.divmod(np.arange(GRID**2), GRID)
    down, right = (np.subtract.outer(at, at).T + GRID - 1 for at in (rows, columns))
    return torch.from_numpy(down * REACH + right)


@dataclass(frozen=True)
class Kind:
    """How a network is drawn, and what its head reads of images."""

    fresh: Callable[[np.random.Generator], dict[str, np.ndarray]]
    features: Callable[[Mapping[str, Tensor], Images], Features]


KINDS = {"cnn": Kind(fresh_cnn, cnn_features), "vit": Kind(fresh_vit, vit_features)}


def stacked(networks: Sequence[Mapping[str, np.ndarray]]) -> Network:
    """Networks of one kind side by side."""
    return {name: tensor(np.stack([network[name] for network in networks])) for name in networks[0]}


def logits(kind: str, network: Mapping[str, Tensor], images: Images) -> Targets:
    """What every network says of its images."""
    return torch.baddbmm(network["head bias"], KINDS[kind].features(network, images), network["head"])


def shown_to_all(network: Mapping[str, Tensor], pixels: Float[np.ndarray, "rows 8 8"]) -> Images:
    """The same images for every network of a stack."""
    return tensor(pixels).expand(len(network["head"]), -1, -1, -1)


@torch.no_grad()
def accuracies(
    kind: str, network: Mapping[str, Tensor], pixels: Float[np.ndarray, "rows 8 8"], labels: Int[np.ndarray, " rows"]
) -> Float[Tensor, " networks"]:
    """The share of images that every network classifies rightly."""
    said = logits(kind, network, shown_to_all(network, pixels)).argmax(-1)
    return (said == torch.from_numpy(labels)).float().mean(1)


def train(
    kind: str,
    network: Network,
    pixels: Float[np.ndarray, "rows 8 8"],
    targets: Targets,
    shown: Rows,
    rates: Float[Tensor, " networks"],
) -> None:
    """Adam on cross-entropy, in place; every network sees the images ``shown`` to it with its own targets."""
    images, own = tensor(pixels), torch.arange(len(targets))[:, None]

    def losses(step: int) -> Float[Tensor, " networks"]:
        rows = shown[:, step]
        said = logits(kind, network, images[rows]).log_softmax(-1)
        return -(targets[own, rows] * said).sum(-1).mean(-1)

    fit(list(network.values()), losses, rates, shown.shape[1])


@functools.cache
def tuned_rate(kind: str, examples: int, steps: int, batch: int) -> tuple[float, bool]:
    """The rate whose network has the least loss on held-out images, and whether it is inside the grid.

    On the tuning seed: once for all replicates of a process.
    """
    pixels, labels = digits()
    order = numpy_stream(TUNING, "images").permutation(len(labels))
    learnt, held = order[:examples], order[examples : examples + JUDGES]
    network = stacked([KINDS[kind].fresh(numpy_stream(TUNING, kind))] * len(RATES))
    shown = batches(numpy_stream(TUNING, "batches"), examples, batch, steps).expand(len(RATES), -1, -1)
    targets = one_hot(labels[learnt]).expand(len(RATES), -1, -1)
    train(kind, network, pixels[learnt], targets, shown, torch.tensor(RATES))
    return best_of(kind, network, pixels[held], labels[held])


@torch.no_grad()
def best_of(
    kind: str, network: Mapping[str, Tensor], pixels: Float[np.ndarray, "rows 8 8"], labels: Int[np.ndarray, " rows"]
) -> tuple[float, bool]:
    """Of a stack with one network a rate, the rate of the least loss on these images, and whether it is resolved."""
    said = logits(kind, network, shown_to_all(network, pixels)).log_softmax(-1)
    rate = best_rate(-said[:, torch.arange(len(labels)), torch.from_numpy(labels)].mean(1))
    return rate, rate not in (RATES[0], RATES[-1])
