"""What is kept of things learnt early, where connections are pruned afterwards, or not, or later.

A network names digits all its life. Beside them it learns a set of items, arbitrary patterns with arbitrary names,
lives on for a while without them, learns another set, and lives on for as long.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.networks import RATES, TUNING, Layer, Losses, best_rate, fit, he_normal, parameters, stack
from ontogeny.evolution.senses import CLASSES, PIXELS, digits
from ontogeny.evolution.windows import Sample, losses_of, scored
from ontogeny.streams import numpy_stream

WIDTH, LIFE, SHOWN = 48, 32, 16  # of both hidden layers; digits, and items, a step
ITEMS = 40  # of a set
Masks = list[Float[Tensor, "networks _ _"]]  # a layer each, as its weights


def items(name: str, seed: int) -> Sample:
    """Patterns whose every pixel is one of the digits' at that place, each at random, with names at random."""
    images, rng = digits(seed)[0], numpy_stream(seed, "items", name)
    patterns = rng.permuted(images.still, axis=0)[:ITEMS]
    return torch.from_numpy(patterns), torch.from_numpy(rng.integers(CLASSES, size=ITEMS))


def strongest(weights: Float[Tensor, "inputs outputs"], share: float) -> Float[Tensor, "inputs outputs"]:
    """1 for this share of the weights, the largest in size, 0 for the others."""
    kept = max(1, round(share * weights.numel()))
    mask = torch.zeros(weights.numel())
    mask[weights.abs().flatten().topk(kept).indices] = 1
    return mask.view(weights.shape)


def pruned(layers: Sequence[Layer], masks: Masks) -> list[Layer]:
    """The networks with what the masks hold."""
    return [(weights * mask, biases) for (weights, biases), mask in zip(layers, masks, strict=True)]


def _live(
    layers: list[Layer], masks: Masks, learnt: Sample | None, steps: int, rates: Losses, seed: int, phase: str
) -> None:
    """One phase: digits, and items where there are some. Adam begins anew in each."""
    images, networks = digits(seed)[0], len(rates)

    def losses(step: int) -> Losses:
        rng = numpy_stream(seed, phase, step)
        rows = rng.integers(len(images.labels), size=LIFE)
        views, labels = torch.from_numpy(images.seen(rows, rng)), torch.from_numpy(images.labels[rows])
        now = pruned(layers, masks)
        total = losses_of(now, views.expand(networks, -1, -1), labels.expand(networks, -1))
        if learnt is None:
            return total
        chosen = torch.from_numpy(rng.integers(ITEMS, size=SHOWN))
        patterns, names = (part[chosen].expand(networks, *part[chosen].shape) for part in learnt)
        return total + losses_of(now, patterns, names)

    fit(parameters(layers), losses, rates, steps, decaying=False)


def _newborn(seed: int, networks: int) -> tuple[list[Layer], Masks]:
    layers = stack(he_normal((PIXELS, WIDTH, WIDTH, CLASSES), numpy_stream(seed, "start")), networks)
    return layers, [torch.ones_like(weights) for weights, _ in layers]


def _of_digits(seed: int) -> Sample:
    """Noisy digits of the test."""
    images = digits(seed)[1]
    views = images.seen(np.arange(len(images.labels)), numpy_stream(seed, "test"))
    return torch.from_numpy(views), torch.from_numpy(images.labels)


@cache
def tuned(learning: int) -> tuple[float, bool]:
    """The rate at which the losses of digits and of the first items add up to least; whether inside the grid."""
    layers, masks = _newborn(TUNING, len(RATES))
    first = items("early", TUNING)
    _live(layers, masks, first, learning, torch.tensor(RATES), TUNING, "childhood")
    best = best_rate(scored(layers, _of_digits(TUNING))[0] + scored(layers, first)[0])
    return best, best not in (RATES[0], RATES[-1])


def cases(shares: Sequence[float]) -> list[tuple[str, float]]:
    """What is done to each network: never anything, or pruned to a share, by size or at random, early or late."""
    return [("never", 1.0), *((how, share) for share in shares for how in ("early", "random", "late"))]


def _prune(layers: Sequence[Layer], masks: Masks, done: Sequence[tuple[str, float]], when: str, seed: int) -> None:
    """Prune in place, layer by layer, those networks whose time it is."""
    for place, (weights, _) in enumerate(layers):
        for network, (how, share) in enumerate(done):
            if how == when:
                masks[place][network] = strongest(weights[network], share)
            elif (how, when) == ("random", "early"):
                dice = numpy_stream(seed, "pruned", place).random(weights[network].shape)
                masks[place][network] = strongest(torch.from_numpy(dice), share)


def retention(shares: Sequence[float], learning: int, interval: int, seed: int) -> dict[str, float | list[float]]:
    """Shares of items named right, by case (``cases``), right after they were learnt and after the interval.

    ``early learnt``, ``early kept``, ``late learnt``, ``late kept``; ``digits``: named right in the end; ``resolved``:
    1 where the rate is inside the grid. Late items are pruned after learning only where that is the case.
    """
    done = cases(shares)
    rate, resolved = tuned(learning)
    rates = torch.full((len(done),), rate)
    layers, masks = _newborn(seed, len(done))
    early, late = (items(name, seed) for name in ("early", "late"))
    right = _asked(layers, masks)

    _live(layers, masks, early, learning, rates, seed, "childhood")
    found = {"early learnt": right(early)}
    _prune(layers, masks, done, "early", seed)
    _live(layers, masks, None, interval, rates, seed, "youth")
    found["early kept"] = right(early)
    _live(layers, masks, late, learning, rates, seed, "adulthood")
    found["late learnt"] = right(late)
    _prune(layers, masks, done, "late", seed)
    _live(layers, masks, None, interval, rates, seed, "age")
    found |= {"late kept": right(late), "digits": right(_of_digits(seed))}
    return {**found, "resolved": float(resolved), "rate": rate}


def _asked(layers: Sequence[Layer], masks: Masks) -> Callable[[Sample], list[float]]:
    def right(sample: Sample) -> list[float]:
        shares: list[float] = scored(pruned(layers, masks), sample)[1].tolist()
        return shares

    return right
