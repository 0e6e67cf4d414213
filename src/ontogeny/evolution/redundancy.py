"""Growing up with two distant senses, with one, with none, or with none at first; a coarse near sense is always there.

Where the senses are redundant both show the same digit; where they are separate, each shows a digit of its own.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    TUNING,
    Layer,
    Losses,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    tensor,
)
from ontogeny.evolution.representations import hidden, linear_alignment
from ontogeny.evolution.senses import CLASSES, NOISE, PIXELS, SIDE, TESTED, Images, digits
from ontogeny.streams import numpy_stream

WIDTH, BATCH, LOOKS = 48, 32, 4  # of both hidden layers; scenes a step; scenes of the test an image
TOUCH = SIDE * SIDE // 4  # what the near sense has: every 2 × 2 pixels as one, of both digits together
INPUTS = 2 * PIXELS + TOUCH
SENSES = {"both": (1, 1), "without first": (0, 1), "without second": (1, 0), "neither": (0, 0)}
LOST = math.log(CLASSES)  # nats of one who knows nothing
Scenes = tuple[Float[Tensor, "rows inputs"], torch.Tensor]  # and both digits' classes, (rows, 2)


def scenes(images: Images, rows: np.ndarray, redundant: bool, rng: np.random.Generator, noise: float) -> Scenes:
    """What both distant senses and the near one bring of these images, and of what stands beside them."""
    beside = rows if redundant else rng.integers(len(images.labels), size=len(rows))
    shown = [images.moved[rng.integers(len(images.moved), size=len(rows)), which] for which in (rows, beside)]
    halves = np.add(*shown).reshape(len(rows), SIDE // 2, 2, SIDE // 2, 2) / 2
    near = halves.mean((2, 4)).reshape(len(rows), TOUCH)
    seen = np.hstack([*shown, near])
    labels = np.stack([images.labels[rows], images.labels[beside]], 1)
    return tensor(seen + noise * rng.standard_normal(seen.shape)), torch.from_numpy(labels)


def given(senses: Sequence[tuple[int, int]]) -> Float[Tensor, "networks inputs"]:
    """1 where an input reaches a network, 0 where its sense is missing; the near sense is always there."""
    masks = [np.repeat([first, second, 1], [PIXELS, PIXELS, TOUCH]) for first, second in senses]
    return tensor(np.stack(masks))


def _losses(layers: Sequence[Layer], seen: Float[Tensor, "networks rows inputs"], labels: torch.Tensor) -> Losses:
    """Cross-entropy of both digits, mean, nats."""
    said = outputs(layers, seen).unflatten(-1, (2, CLASSES))
    wanted = labels.expand(len(seen), -1, -1)
    nats = torch.nn.functional.cross_entropy(said.flatten(0, 2), wanted.flatten(), reduction="none")
    return nats.view(len(seen), -1).mean(1)


def _live(
    layers: list[Layer], masks: Float[Tensor, "networks inputs"], deprived: Bool[Tensor, " networks"],
    redundant: bool, rates: Losses, steps: int, seed: int,
) -> None:  # fmt: skip
    """Grow up at a constant rate; those deprived have no distant sense for as many steps, and live twice as long."""
    images = digits(seed)[0]
    nothing = given([SENSES["neither"]])
    life = 2 * steps if bool(deprived.any()) else steps

    def losses(step: int) -> Losses:
        rng = numpy_stream(seed, "life", step)
        rows = rng.integers(len(images.labels), size=BATCH)
        seen, labels = scenes(images, rows, redundant, rng, NOISE)
        now = torch.where(deprived[:, None] & (step < steps), nothing, masks)
        return _losses(layers, seen * now[:, None], labels)

    ends = torch.where(deprived, 2 * steps, steps).float()
    fit(parameters(layers), losses, rates, life, ends=ends, decaying=False)


def _newborn(seed: int, starts: Sequence[str]) -> list[Layer]:
    sizes = (INPUTS, WIDTH, WIDTH, 2 * CLASSES)
    drawn = [he_normal(sizes, numpy_stream(seed, "start", name)) for name in starts]
    weights = [torch.stack([tensor(one) for one in each]) for each in zip(*drawn, strict=True)]
    return [(w, torch.zeros(len(starts), 1, w.shape[2])) for w in weights]


def _test(redundant: bool, seed: int, noise: float) -> Scenes:
    return scenes(digits(seed)[1], np.tile(np.arange(TESTED), LOOKS), redundant, numpy_stream(seed, "test"), noise)


@cache
def tuned(redundant: bool, steps: int) -> dict[str, tuple[float, bool]]:
    """For every set of senses the rate at which its loss is least; whether inside the grid."""
    every = [senses for senses in SENSES.values() for _ in RATES]
    layers, masks = _newborn(TUNING, ["own"] * len(every)), given(every)
    rates = torch.tensor(RATES * len(SENSES))
    _live(layers, masks, torch.zeros(len(every), dtype=torch.bool), redundant, rates, steps, TUNING)
    seen, labels = _test(redundant, TUNING, NOISE)
    losses = _losses(layers, seen * masks[:, None], labels).view(len(SENSES), len(RATES))
    best = [best_rate(row) for row in losses]
    return {name: (rate, rate not in (RATES[0], RATES[-1])) for name, rate in zip(SENSES, best, strict=True)}


def missing_senses(redundant: bool, steps: int, seed: int) -> dict[str, Any]:
    """Nats a digit (``loss …``) by the senses a network grew up with, and CKA with one that had both (``cka …``).

    ``late``: neither for as many steps, then both for as many: compare it with ``both``, which had those alone. CKA is
    with a network of another start, on scenes without noise. ``resolved``: 1 where all rates are inside the grid.
    """
    found = tuned(redundant, steps)
    names = ["reference", *SENSES, "late"]
    arms = ["both", *SENSES, "both"]
    layers = _newborn(seed, ["reference", *["own"] * (len(names) - 1)])
    masks = given([SENSES[arm] for arm in arms])
    deprived = torch.tensor([name == "late" for name in names])
    _live(layers, masks, deprived, redundant, torch.tensor([found[arm][0] for arm in arms]), steps, seed)
    seen, labels = _test(redundant, seed, NOISE)
    losses = _losses(layers, seen * masks[:, None], labels)
    states = hidden(layers, _test(redundant, seed, 0.0)[0] * masks[:, None]).double()
    measured = {f"loss {name}": float(loss) for name, loss in zip(names, losses, strict=True)}
    measured |= {f"cka {name}": linear_alignment(states[0], states[n]) for n, name in enumerate(names) if n}
    return measured | {"resolved": float(all(inside for _, inside in found.values()))}
