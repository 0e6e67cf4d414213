"""What a vision transformer gets from a trained convolutional network: its locality, its subspaces, its answers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ontogeny.evolution.digit_networks import (
    BLOCKS,
    HEADS,
    JUDGES,
    KERNEL,
    KINDS,
    MATRICES,
    REACH,
    WIDTH,
    Network,
    accuracies,
    best_of,
    digits,
    logits,
    one_hot,
    shown_to_all,
    stacked,
    train,
    tuned_rate,
)
from ontogeny.evolution.networks import RATES, TUNING, batches, tensor
from ontogeny.streams import numpy_stream

Parts = dict[str, np.ndarray]  # one network's
Profile = Float[np.ndarray, " offsets"]  # shares of attention by offset between patches, a table of 7 × 7 row by row
Basis = Float[np.ndarray, "32 r"]

UNIFORM = 0.05  # of a profile is spread evenly over all offsets: nothing is out of sight
RANK = 8  # directions of a subspace, a quarter of the width
TAUGHT = 0.5  # of a distilled network's targets are its teacher's probabilities (Hinton et al. 2015)
KERNEL_SIDE = 3
ON_GRID = ("second", "third")  # the convolutional layers on the patches' grid


def kernel_energy(weights: Float[np.ndarray, "inputs outputs"]) -> Float[np.ndarray, "3 3"]:
    """Σ weight² of a layer's kernels by place; sums to 1."""
    energy = (weights**2).reshape(-1, KERNEL, weights.shape[1]).sum((0, 2)).reshape(KERNEL_SIDE, KERNEL_SIDE)
    return np.asarray(energy / energy.sum())


def locality_profile(cnn: Mapping[str, np.ndarray]) -> Profile:
    """How a network's effective kernel on the patches' grid spreads over offsets.

    The energy of all paths through its layers: the convolution of their kernels' energies, exact where paths' signs
    are independent (Luo et al. 2016 on receptive fields). Kernels of two layers reach two patches.
    """
    from scipy.signal import convolve2d

    first, second = (kernel_energy(cnn[name]) for name in ON_GRID)
    reached = convolve2d(first, second)
    spread = np.pad(reached, (REACH - len(reached)) // 2).ravel()
    return np.asarray((1 - UNIFORM) * spread + UNIFORM / REACH**2)


def entropy(profile: Profile) -> float:
    """Nats."""
    return float(-(profile * np.log(profile)).sum())


def random_profile(wanted: float, rng: np.random.Generator) -> Profile:
    """Offsets preferred at random, as sharply as gives this entropy: softmax(β z), z normal, β by bisection."""
    from scipy.optimize import brentq
    from scipy.special import softmax

    z = rng.normal(size=REACH**2)
    sharpness = brentq(lambda beta: entropy(softmax(beta * z) + 1e-12) - wanted, 0.0, 100.0)
    found: Profile = softmax(sharpness * z) + 1e-12
    return np.asarray(found / found.sum())


def channel_subspaces(weights: Float[np.ndarray, "inputs outputs"], rank: int) -> tuple[Basis, Basis]:
    """Leading directions of a layer's input and output channels over all places (Tucker 1966; De Lathauwer 2000)."""
    outputs = weights.shape[1]
    read = np.linalg.svd(weights.reshape(-1, KERNEL * outputs), full_matrices=False)[0]
    written = np.linalg.svd(weights, full_matrices=False)[2].T
    return read[:, :rank], written[:, :rank]


def attend(vit: Parts, profile: Profile) -> Parts:
    """Attention starts from the profile, in every head and block: its logarithm is added before the softmax."""
    table = np.broadcast_to(np.log(profile), (HEADS, REACH**2))
    return vit | {f"{block} locality": table for block in range(BLOCKS)}


def into_subspaces(vit: Parts, bases: Sequence[tuple[Basis, Basis]], rng: np.random.Generator) -> Parts:
    """Every block's matrices start as U C Vᵀ, C random, of the same norm; a block has a pair (U, V). All stay free."""
    changed = dict(vit)
    for block, (read, written) in enumerate(bases):
        for name in dict.fromkeys(MATRICES.values()):
            parts = np.split(vit[f"{block} {name}"], vit[f"{block} {name}"].shape[1] // WIDTH, axis=1)
            moved = []
            for part in parts:
                inside = read @ rng.normal(size=(read.shape[1], written.shape[1])) @ written.T
                moved.append(inside * np.linalg.norm(part) / np.linalg.norm(inside))
            changed[f"{block} {name}"] = np.concatenate(moved, axis=1)
    return changed


def _profiled(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    return attend(vit, locality_profile(trained))


def _untrained(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    return attend(vit, locality_profile(fresh))


def _random(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    return attend(vit, random_profile(entropy(locality_profile(trained)), rng))


def _shuffled(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    return attend(vit, rng.permutation(locality_profile(trained)))


def _subspaces(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    return into_subspaces(vit, [channel_subspaces(trained[name], RANK) for name in ON_GRID], rng)


def _random_subspaces(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    bases = [np.linalg.qr(rng.normal(size=(2, WIDTH, RANK)))[0] for _ in ON_GRID]
    return into_subspaces(vit, [(read, written) for read, written in bases], rng)


def _plain(vit: Parts, trained: Parts, fresh: Parts, rng: np.random.Generator) -> Parts:
    return vit


ARMS: dict[str, Callable[[Parts, Parts, Parts, np.random.Generator], Parts]] = {
    "plain": _plain,
    "profile": _profiled,
    "random locality": _random,
    "shuffled profile": _shuffled,
    "subspaces": _subspaces,
    "random subspaces": _random_subspaces,
    "untrained profile": _untrained,
    "distilled": _plain,
}


@functools.cache
def images(seed: int, examples: int, pool: int) -> tuple[Int[np.ndarray, " _"], ...]:
    """Which digits the convolutional network learns, which the transformers may learn, and which test them."""
    order = numpy_stream(seed, "images").permutation(len(digits()[1]))
    return order[:examples], order[examples : examples + pool], order[examples + pool :]


@functools.lru_cache(maxsize=32)
def donor(seed: int, examples: int, pool: int, steps: int, batch: int) -> tuple[Parts, Parts]:
    """A convolutional network trained on images of its own, and what it was before."""
    pixels, labels = digits()
    learnt = images(seed, examples, pool)[0]
    rate, _ = tuned_rate("cnn", examples, steps, batch)
    fresh = KINDS["cnn"].fresh(numpy_stream(seed, "fresh", "donor"))
    network = stacked([fresh])
    shown = batches(numpy_stream(seed, "batches", "donor"), examples, batch, steps)[None]
    train("cnn", network, pixels[learnt], one_hot(labels[learnt])[None], shown, torch.tensor([rate]))
    return {name: part[0].double().numpy() for name, part in network.items()}, fresh


def learners(
    arm: str,
    sizes: Sequence[int],
    rates: Sequence[float],
    *,
    examples: int,
    pool: int,
    steps: int,
    batch: int,
    seed: int,
) -> Network:
    """A stack of transformers of one arm, each trained on the first so many images of the pool, at its rate."""
    pixels, labels = digits()
    given = images(seed, examples, pool)[1]
    trained, fresh = donor(seed, examples, pool, steps, batch)
    start = KINDS["vit"].fresh(numpy_stream(seed, "fresh", "vit"))
    start = ARMS[arm](start, trained, fresh, numpy_stream(seed, "inherited", arm))
    targets = one_hot(labels[given])[None]
    if arm == "distilled":
        teacher = {name: tensor(part[None]) for name, part in trained.items()}
        with torch.no_grad():
            said = logits("cnn", teacher, shown_to_all(teacher, pixels[given])).softmax(-1)
        targets = (1 - TAUGHT) * targets + TAUGHT * said
    network = stacked([start] * len(sizes))
    shown = torch.stack([batches(numpy_stream(seed, "batches", "vit", size), size, batch, steps) for size in sizes])
    train("vit", network, pixels[given], targets.expand(len(sizes), -1, -1), shown, torch.tensor(rates))
    return network


@functools.cache
def learners_rate(arm: str, size: int, examples: int, pool: int, steps: int, batch: int) -> tuple[float, bool]:
    """An arm's best rate for this many images, by the loss on held-out ones, on the tuning seed."""
    pixels, labels = digits()
    options = {"examples": examples, "pool": pool, "steps": steps, "batch": batch}
    network = learners(arm, [size] * len(RATES), RATES, **options, seed=TUNING)
    held = images(TUNING, examples, pool)[2][:JUDGES]
    return best_of("vit", network, pixels[held], labels[held])


def inherit(
    *, arm: str, sizes: Sequence[int], accuracy: float, examples: int, steps: int, batch: int, seed: int
) -> dict[str, Any]:
    """Accuracy on test images by the number of images learnt, and log₂ of the number that an accuracy takes.

    ``examples``: of the convolutional network, none of which an arm sees. ``within``: whether the accuracy is crossed
    between the least and the largest size.
    """
    pixels, labels = digits()
    options = {"examples": examples, "pool": sizes[-1], "steps": steps, "batch": batch}
    rate, resolved = learners_rate(arm, sizes[len(sizes) // 2], **options)
    network = learners(arm, sizes, [rate] * len(sizes), **options, seed=seed)
    test = images(seed, examples, sizes[-1])[2]
    curve = accuracies("vit", network, pixels[test], labels[test]).double().numpy()
    cnn = stacked([donor(seed, **options)[0]])
    needed, within = samples_to(accuracy, sizes, curve)
    return {
        "accuracies": curve.tolist(),
        "samples": needed,
        "within": float(within),
        "resolved": float(resolved and tuned_rate("cnn", examples, steps, batch)[1]),
        "donor accuracy": float(accuracies("cnn", cnn, pixels[test], labels[test])[0]),
    }


def samples_to(accuracy: float, sizes: Sequence[int], curve: Float[np.ndarray, " sizes"]) -> tuple[float, bool]:
    """log₂ of the images that an accuracy takes, by straight lines between sizes on a logarithmic axis.

    The curve is its running maximum. Outside the sizes it is the nearer end, and the second answer says no.
    """
    risen, logs = np.maximum.accumulate(curve), np.log2(sizes)
    above = np.flatnonzero(risen >= accuracy)
    if not len(above):
        return float(logs[-1]), False
    if (at := int(above[0])) == 0:
        return float(logs[0]), False
    share = (accuracy - risen[at - 1]) / (risen[at] - risen[at - 1])
    return float(logs[at - 1] + share * (logs[at] - logs[at - 1])), True
