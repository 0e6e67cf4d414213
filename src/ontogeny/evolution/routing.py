"""A low-rank layer whose directions are chosen at run time by a context, or by nothing, or not chosen at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ontogeny.evolution.networks import RATES, SLOPE, best_rate, fit, tensor
from ontogeny.evolution.raised_apart import CLASSES, Images, parts
from ontogeny.streams import numpy_stream, stream_seed

World = Literal["planted", "turned", "asked", "plain"]
Arm = Literal["gated", "fixed", "random", "all"]
ARMS: tuple[Arm, ...] = ("gated", "fixed", "random", "all")

REGIMES = 4
DIRECTIONS, ACTIVE = 16, 4  # of the layer, and those that a gated row uses
HIDDEN = 64
CUE_NOISE = 0.3  # standard deviation of the noise on the context, which names the regime
PLANTED, NAMED = 16, 8  # inputs and outputs of the planted world
NETWORKS = 4  # starts of an arm at its best rate, that its error is the mean of
BATCH = 64
PARTS = {"train": 1200, "tune": 200, "test": 397}  # images


@dataclass(frozen=True)
class Rows:
    """Inputs with their context last, what is to be said of them, and directions drawn for every row by chance."""

    inputs: Float[Tensor, "rows inputs"]
    wanted: Float[Tensor, "rows outputs"] | Int[Tensor, " rows"]
    drawn: Float[Tensor, "rows directions"]


def active(inputs: int) -> int:
    """Directions that arms without a router use: a gated row's, and as many as the router's parameters pay for."""
    router = (REGIMES + 1) * DIRECTIONS
    return ACTIVE + -(-router // (inputs + HIDDEN))


def routing(*, world: World, steps: int, seed: int) -> dict[str, Any]:
    """Test errors of four arms in one world: chosen by the context, fixed, chosen by chance, and all directions.

    Planted: four linear maps of rank 4, one a regime. Turned: digits, by quarter turns. Asked: digits upright, their
    names changed by four codes. Plain: digits of one regime, the context's noise alone. The error is the share of
    variance left, or of images named wrongly. ``dealt``: of the gated arm with every row's choice dealt to another.
    """
    found: dict[str, Any] = {}
    tuning = stream_seed(seed, "tuning")
    tuned, scored = (worlds(world, s) for s in (tuning, seed))
    resolved = True
    for arm in ARMS:
        nets = _train(arm, tuned["train"], [0] * len(RATES), RATES, steps, tuning)
        rate = best_rate(_losses(arm, nets, tuned["tune"]))
        resolved &= rate not in (RATES[0], RATES[-1])
        nets = _train(arm, scored["train"], range(NETWORKS), [rate] * NETWORKS, steps, seed)
        found[arm] = _error(arm, nets, scored["test"])
        if arm == "gated":
            found["dealt"] = _error(arm, nets, scored["test"], numpy_stream(seed, "dealt"))
    return found | {"resolved": float(resolved)}


# Worlds -------------------------------------------------------------------------------------------------------


def worlds(world: World, seed: int) -> dict[str, Rows]:
    """Rows to train on, to tune on and to test on."""
    rng = numpy_stream(seed, "world", world)
    if world == "planted":
        maps = rng.normal(size=(REGIMES, PLANTED, ACTIVE)) @ rng.normal(size=(REGIMES, ACTIVE, NAMED))
        return {name: _planted(maps / (PLANTED * ACTIVE) ** 0.5, rng, 2 * size) for name, size in PARTS.items()}
    codes = np.stack([np.arange(CLASSES), *(rng.permutation(CLASSES) for _ in range(REGIMES - 1))])
    return {name: _images(world, images, codes, rng) for name, images in parts(seed, PARTS).items()}


def _planted(maps: Float[np.ndarray, "regimes inputs outputs"], rng: np.random.Generator, rows: int) -> Rows:
    regimes = rng.integers(REGIMES, size=rows)
    inputs = rng.normal(size=(rows, PLANTED))
    wanted = np.einsum("ri,rio->ro", inputs, maps[regimes])
    return _rows(inputs, regimes, wanted, rng)


def _images(world: World, images: Images, codes: Int[np.ndarray, "regimes classes"], rng: np.random.Generator) -> Rows:
    """Every image in every regime; in the plain world as often in the one."""
    pixels, labels = images
    regimes = np.repeat(np.arange(REGIMES) * (world != "plain"), len(labels))
    turned = [np.rot90(pixels.reshape(-1, 8, 8), r * (world == "turned"), (1, 2)) for r in range(REGIMES)]
    inputs = np.concatenate(turned).reshape(-1, pixels.shape[1])
    named = np.tile(labels, REGIMES)
    wanted = codes[regimes, named] if world == "asked" else named
    return _rows(inputs, regimes, wanted, rng)


def _rows(inputs: np.ndarray, regimes: Int[np.ndarray, " rows"], wanted: np.ndarray, rng: np.random.Generator) -> Rows:
    """With a context that names the regime, in noise."""
    cues = np.eye(REGIMES)[regimes] + CUE_NOISE * rng.normal(size=(len(regimes), REGIMES))
    given = tensor(np.concatenate([inputs, cues], axis=1))
    ranks = rng.random((len(inputs), DIRECTIONS)).argsort(1).argsort(1)
    drawn = tensor(ranks < active(given.shape[1]))
    return Rows(given, torch.from_numpy(wanted) if wanted.ndim == 1 else tensor(wanted), drawn)


# Networks -----------------------------------------------------------------------------------------------------

Parts = list[Tensor]  # into directions, out of them, bias, readout, its bias; and the router with its bias


def _fresh(arm: Arm, rows: Rows, starts: Sequence[int], seed: int) -> Parts:
    """A network for every start."""
    inputs = rows.inputs.shape[1]
    said = NAMED if rows.wanted.ndim == 2 else CLASSES
    count = active(inputs) if arm == "fixed" else DIRECTIONS

    def one(start: int) -> list[np.ndarray]:
        rng = numpy_stream(seed, "start", start)
        into, out = rng.normal(0, inputs**-0.5, (inputs, count)), rng.normal(0, (2 / count) ** 0.5, (count, HIDDEN))
        readout, router = rng.normal(0, HIDDEN**-0.5, (HIDDEN, said)), rng.normal(0, 1, (REGIMES, DIRECTIONS))
        return [into, out, np.zeros((1, HIDDEN)), readout, np.zeros((1, said)), router, np.zeros((1, DIRECTIONS))]

    return [tensor(np.stack(part)) for part in zip(*map(one, starts), strict=True)]


def gates(parts: Parts, cues: Float[Tensor, "networks rows regimes"]) -> Float[Tensor, "networks rows directions"]:
    """The router's choice: its largest softmax weights, made to add up to their number; all others 0 (Shazeer 2017)."""
    logits = torch.baddbmm(parts[6], cues, parts[5])
    least = logits.topk(ACTIVE, dim=-1).values[..., -1:]
    return ACTIVE * logits.masked_fill(logits < least, -torch.inf).softmax(-1)


def _said(
    arm: Arm, parts: Parts, x: Float[Tensor, "networks rows i"], drawn: Tensor, dealt: Int[Tensor, " rows"] | None
) -> Float[Tensor, "networks rows o"]:
    used = x @ parts[0]
    if arm == "gated":
        chosen = gates(parts, x[..., -REGIMES:])
        used = used * (chosen if dealt is None else chosen[:, dealt])
    elif arm == "random":
        used = used * drawn
    hidden = F.leaky_relu(torch.baddbmm(parts[2], used, parts[1]), SLOPE)
    return torch.baddbmm(parts[4], hidden, parts[3])


def _loss(said: Float[Tensor, "networks rows o"], wanted: Tensor) -> Float[Tensor, " networks"]:
    if wanted.ndim == 2:
        each = F.cross_entropy(said.transpose(1, 2), wanted, reduction="none")
        return each.mean(1)
    return (said - wanted).square().mean((1, 2))


def _train(arm: Arm, rows: Rows, starts: Sequence[int], rates: Sequence[float], steps: int, seed: int) -> Parts:
    """One network for every start and its rate, all on the same batches."""
    parts = _fresh(arm, rows, starts, seed)
    order = numpy_stream(seed, "batches").integers(len(rows.inputs), size=(steps, BATCH))

    def losses(step: int) -> Tensor:
        batch = torch.from_numpy(order[step])
        x, wanted = (part[batch].expand(len(rates), *(-1,) * part.ndim) for part in (rows.inputs, rows.wanted))
        return _loss(_said(arm, parts, x, rows.drawn[batch], None), wanted)

    fit(parts if arm == "gated" else parts[:5], losses, torch.tensor(rates), steps)
    return parts


def _losses(arm: Arm, parts: Parts, rows: Rows) -> Float[Tensor, " networks"]:
    networks = len(parts[0])
    x, wanted = (part.expand(networks, *(-1,) * part.ndim) for part in (rows.inputs, rows.wanted))
    return _loss(_said(arm, parts, x, rows.drawn, None), wanted)


def _error(arm: Arm, parts: Parts, rows: Rows, rng: np.random.Generator | None = None) -> float:
    """Mean over networks of the share of variance left, or of rows named wrongly."""
    dealt = None if rng is None else torch.from_numpy(rng.permutation(len(rows.inputs)))
    said = _said(arm, parts, rows.inputs.expand(len(parts[0]), -1, -1), rows.drawn, dealt)
    if rows.wanted.ndim == 1:
        wrong: Bool[Tensor, "networks rows"] = said.argmax(-1) != rows.wanted
        return float(wrong.double().mean())
    return float((said - rows.wanted).square().mean() / rows.wanted.square().mean())
