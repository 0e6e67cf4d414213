"""Is what lies between two trained networks viable? Their straight path, and their children by crossing over."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    TUNING,
    Layer,
    Losses,
    batches,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    stack,
    tensor,
)
from ontogeny.streams import numpy_stream

SIZES = (64, 32, 10)
BATCH, TRAINED = 64, 1200  # images a step; images that are learnt from, the others are held out
TRUNK = 0.1  # of the steps that kin take together
POINTS, CHILDREN = 11, 32
ALIVE = 0.9  # of its parents' accuracy

Network = list[Layer]  # stacks of one
Images = tuple[Float[Tensor, "_ pixels"], Int[Tensor, " _"]]  # pixels, classes


def crossing(steps: int, seed: int) -> dict[str, float]:
    """Two networks trained on digits: strangers as they are, strangers ``aligned`` unit by unit, and kin.

    Kin share a trunk of a tenth of the steps. ``… barrier``: the most that held-out loss (nats) on the straight path
    lies above what it would be if it were linear; ``… child``: mean loss of children whose hidden units come from
    either parent by a coin, above their parents' mean; ``… alive``: the share of children with 90 % of their parents'
    accuracy at least. ``removed …``: children in which what would come from the second parent is missing, the first of
    the strangers'.
    """
    rate = _rate(steps)
    rng = numpy_stream(seed, "crossing")
    learnt, held = _digits(rng)
    starts = [he_normal(SIZES, rng) for _ in range(3)]
    together = [starts[0], starts[1], starts[2], starts[2]]
    layers = stack([np.zeros_like(part) for part in starts[0]], len(together))
    for (weights, _), *parts in zip(layers, *together, strict=True):
        weights.copy_(tensor(np.stack(parts)))
    trunk = round(TRUNK * steps)
    own = torch.stack([batches(rng, TRAINED, BATCH, trunk) for _ in range(3)])
    _train(layers, learnt, own[[0, 1, 2, 2]], rate, decaying=False)
    _train(layers, learnt, torch.stack([batches(rng, TRAINED, BATCH, steps - trunk) for _ in together]), rate)
    first, second, *kin = ([(W[i : i + 1], b[i : i + 1]) for W, b in layers] for i in range(4))
    pairs = {"stranger": (first, second), "aligned": (first, aligned(first, second)), "kin": (kin[0], kin[1])}
    found = dict(zip(("loss", "accuracy"), score(first, held), strict=True))
    for name, (one, other) in pairs.items():
        found[f"{name} barrier"] = barrier(one, other, held)
        found |= {f"{name} {what}": value for what, value in _children(one, other, held, rng).items()}
    gone = [(second[0][0] * 0, second[0][1] * 0), (second[1][0] * 0, first[1][1])]
    alone = _children(first, gone, held, rng, parents=(first, first))
    return found | {f"removed {what}": value for what, value in alone.items()} | {"resolved": float(_inside(rate))}


def aligned(one: Network, other: Network) -> Network:
    """The second network with its hidden units in the order that brings its weights nearest to the first's.

    Weight matching, which for one hidden layer is one assignment (Ainsworth, Hayase & Srinivasa 2023).
    """
    from scipy.optimize import linear_sum_assignment

    (W, b), (V, _) = one
    (X, d), (Y, e) = other
    alike = W[0].T @ X[0] + b[0].T @ d[0] + V[0] @ Y[0].T
    order = torch.from_numpy(linear_sum_assignment(alike.numpy(), maximize=True)[1])
    return [(X[:, :, order], d[:, :, order]), (Y[:, order], e)]


def barrier(one: Network, other: Network, held: Images) -> float:
    """The largest excess of loss on the straight path over the line between its ends (Frankle et al. 2020)."""
    at = np.linspace(0, 1, POINTS)
    path = [
        score([(W + t * (X - W), b + t * (c - b)) for (W, b), (X, c) in zip(one, other, strict=True)], held)[0]
        for t in at
    ]
    return float(np.max(path - ((1 - at) * path[0] + at * path[-1])))


def score(network: Network, held: Images) -> tuple[float, float]:
    """Loss in nats and accuracy of a stack of one."""
    found = outputs(network, held[0][None])[0]
    return float(F.cross_entropy(found, held[1])), float((found.argmax(1) == held[1]).double().mean())


def child(one: Network, other: Network, of_one: Tensor) -> Network:
    """Each hidden unit with all its weights from one of two parents; the outputs' biases are the parents' mean."""
    (W, b), (V, c) = one
    (X, d), (Y, e) = other
    return [
        (torch.where(of_one, W, X), torch.where(of_one, b, d)),
        (torch.where(of_one[:, None], V, Y), (c + e) / 2),
    ]


def _children(
    one: Network, other: Network, held: Images, rng: np.random.Generator, parents: tuple[Network, ...] = ()
) -> dict[str, float]:
    old = np.mean([score(parent, held) for parent in parents or (one, other)], axis=0)
    coins = torch.from_numpy(rng.random((CHILDREN, SIZES[1])) < 0.5)
    young = np.array([score(child(one, other, coin), held) for coin in coins])
    return {"child": float(young[:, 0].mean() - old[0]), "alive": float((young[:, 1] >= ALIVE * old[1]).mean())}


def _train(
    layers: Network, learnt: Images, rows: Int[Tensor, "networks steps size"], rate: float, *, decaying: bool = True
) -> None:
    def losses(step: int) -> Losses:
        chosen = rows[:, step]
        found = outputs(layers, learnt[0][chosen])
        each = F.cross_entropy(found.flatten(0, 1), learnt[1][chosen].flatten(), reduction="none")
        return each.view(len(rows), -1).mean(1)

    fit(parameters(layers), losses, torch.full((len(rows),), rate), rows.shape[1], decaying=decaying)


@cache
def _rate(steps: int) -> float:
    """The best rate on the tuning seed: one network a rate, all with one start and the same batches."""
    rng = numpy_stream(TUNING, "crossing")
    learnt, held = _digits(rng)
    layers = stack(he_normal(SIZES, rng), len(RATES))
    rows, rates = batches(rng, TRAINED, BATCH, steps), torch.tensor(RATES)

    def losses(step: int) -> Losses:
        found = outputs(layers, learnt[0][rows[step]].expand(len(RATES), -1, -1))
        each = F.cross_entropy(found.flatten(0, 1), learnt[1][rows[step]].repeat(len(RATES)), reduction="none")
        return each.view(len(RATES), -1).mean(1)

    fit(parameters(layers), losses, rates, steps)
    each = [score([(W[i : i + 1], b[i : i + 1]) for W, b in layers], held)[0] for i in range(len(RATES))]
    return best_rate(torch.tensor(each), tolerance=0.005)


def _inside(rate: float) -> bool:
    return rate not in (RATES[0], RATES[-1])


def _digits(rng: np.random.Generator) -> tuple[Images, Images]:
    """scikit-learn's digits, pixels from 0 to 1: learnt from, and held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = rng.permutation(len(found.target))
    pixels, classes = tensor(found.data[order] / 16), torch.from_numpy(found.target[order]).long()
    return (pixels[:TRAINED], classes[:TRAINED]), (pixels[TRAINED:], classes[TRAINED:])
