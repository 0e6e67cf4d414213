"""Fresh networks grown in a trained network's wiring, and in random wirings that share some of its properties."""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.networks import RATES, TUNING, best_rate, resolved
from ontogeny.evolution.pruning import (
    CLASSES,
    INPUTS,
    Task,
    Weights,
    fresh,
    held_out,
    magnitude_masks,
    orders,
    prune,
    task,
    train,
    tuned_rates,
)
from ontogeny.evolution.wiring import Wiring, effective, wirings
from ontogeny.genome.topology import clustering, mask_cosine
from ontogeny.streams import numpy_stream, stream_seed

ARMS = ("density", "named", "hubs", "degree", "clustering", "blocks", "renamed", "donor", "ticket")
TUNING_DRAWS = 2  # donors, graphs and starts that rates are tuned on
TOLERANCE = 0.02  # nats: a rate that is so near the best is as good


def transplant(
    *, world: str, width: int, densities: Sequence[float], steps: int, size: int, share: float, groups: int, seed: int
) -> dict[str, float]:
    """Held-out losses (nats) of one fresh start in every wiring, and what the wirings share with the donor's.

    The donor's wiring is what iterative magnitude pruning keeps at the last of the densities. ``ticket``: the donor's
    own start in its own wiring. Of every other arm also ``effective`` edges and ``overlap`` with the donor's mask, and
    ``clustering`` as the mean over matrices of its ratio to the donor's.
    """
    recipe = (world, width, tuple(densities), steps, size)
    rates = _arm_rates(*recipe, share, groups)
    given, masks, start = _donor(*recipe, seed)
    arms = wirings(masks, share, groups, partial(numpy_stream, seed, "wiring"))
    losses = _grow(given, arms, start, torch.tensor([rates]), size, steps, seed)[0]
    found = {f"{arm} loss": float(loss) for arm, loss in zip(ARMS, losses, strict=True)}
    for name, wiring in arms.items():
        found |= {f"{name} effective": effective(wiring), f"{name} overlap": mask_cosine(wiring, masks)}
        found[f"{name} clustering"] = _clustering_ratio(wiring, masks)
    donor_rates = tuned_rates(world, _sizes(width), tuple(densities)[:-1], steps, size)
    found |= {f"{arm} rate": rate for arm, rate in zip(ARMS, rates, strict=True)}
    return found | {"reference": given.reference, "resolved": resolved([*rates, *donor_rates])}


def _sizes(width: int) -> tuple[int, ...]:
    return (INPUTS, width, width, CLASSES)


def _clustering_ratio(wiring: Wiring, donor: Wiring) -> float:
    pairs = [(clustering(own.double()), clustering(keep.double())) for own, keep in zip(wiring, donor, strict=True)]
    return float(np.mean([own / goal if goal else float(own == goal) for own, goal in pairs]))


def _donor(
    world: str, width: int, densities: tuple[float, ...], steps: int, size: int, seed: int
) -> tuple[Task, Wiring, Weights]:
    """The task, the donor's wiring at the last density, and the weights that the donor started from."""
    given, start = task(world, seed), fresh(_sizes(width), seed, "donor")
    rates = tuned_rates(world, _sizes(width), densities[:-1], steps, size)
    rows = orders(given, seed, ["donor"], size, steps)
    *_, (_, layers) = prune(given, start, densities[:-1], rates, rows, [0])
    masks = magnitude_masks([layer[0] for layer in layers], densities[-1])
    return given, [mask[0] for mask in masks], start


def _grow(
    given: Task,
    arms: dict[str, Wiring],
    start: Weights,
    rates: Float[Tensor, "tries arms"],
    size: int,
    steps: int,
    seed: int,
) -> Float[Tensor, "tries arms"]:
    """Held-out losses of all arms from one fresh start with one order of batches, at each arm's rates.

    Starts are divided by √density, a matrix at a time, so that sparse sums begin as large as dense ones; all arms have
    the same densities.
    """
    sizes = [len(start[0][0]), *(w.shape[2] for w in start)]
    own, tries = fresh(sizes, seed, "fresh"), len(rates)
    starts, masks = [], []
    for i, keep in enumerate(arms["donor"]):
        scale = max(1, int(keep.sum())) ** -0.5 * keep.numel() ** 0.5
        weights = torch.cat([own[i]] * len(arms) + [start[i]]) * scale
        wired = torch.stack([*(wiring[i] for wiring in arms.values()), keep])
        starts.append(weights.repeat(tries, 1, 1))
        masks.append(wired.repeat(tries, 1, 1))
    rows = orders(given, seed, ["fresh"], size, steps).expand(-1, rates.numel(), -1)
    return held_out(train(starts, masks, given, rates.flatten(), rows), given).reshape(rates.shape)


@cache
def _arm_rates(
    world: str, width: int, densities: tuple[float, ...], steps: int, size: int, share: float, groups: int
) -> tuple[float, ...]:
    """Every arm's best rate: the smallest whose mean loss over two tuning draws is within 0.02 nats of the least."""
    rates = torch.tensor(RATES)[:, None].expand(-1, len(ARMS))
    total = torch.zeros(rates.shape)
    for draw in range(TUNING_DRAWS):
        seed = stream_seed(TUNING, "draw", draw)
        given, masks, start = _donor(world, width, densities, steps, size, seed)
        arms = wirings(masks, share, groups, partial(numpy_stream, seed, "wiring"))
        total = total + _grow(given, arms, start, rates, size, steps, seed)
    return tuple(best_rate(losses, TOLERANCE) for losses in total.T / TUNING_DRAWS)
