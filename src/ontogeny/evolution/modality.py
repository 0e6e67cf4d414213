"""One world through different senses: parts of its channels, other codes for all of them, and other statistics.

Every network learns to name the same noisy digits; a sense stands between them and it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import fft
from torch import Tensor

from ontogeny.evolution.axes import leading_axes, shared
from ontogeny.evolution.networks import RATES, TUNING, Layer, Losses, best_rate, fit, he_normal, parameters, tensor
from ontogeny.evolution.representations import apart, error_consistency, hidden, linear_alignment, unexplained
from ontogeny.evolution.senses import CLASSES, NOISE, PIXELS, SIDE, Images, Labels, Views, digits
from ontogeny.evolution.windows import losses_of, scored
from ontogeny.streams import numpy_stream

WIDTH, BATCH, RANK = 48, 32, 8  # of both hidden layers; images a step; of the axes that are compared
GAIN = 1.0  # of the receptors of another code
Matrix = Float[np.ndarray, "pixels pixels"]


@dataclass(frozen=True, eq=False)
class Sense:
    """What reaches a network of images: their product with a matrix, through a saturating receptor or not.

    ``dealt``: it grows up with images whose pixels were dealt anew among those of a class, each on its own. That keeps
    what every pixel says of the class, and its whole distribution, and takes away what pixels have to do with each
    other.
    """

    matrix: Matrix
    saturating: bool = False
    dealt: bool = False

    def of(self, images: Float[Tensor, "rows pixels"]) -> Float[Tensor, "rows pixels"]:
        """What reaches a network."""
        reached = images @ tensor(self.matrix)
        return torch.tanh(GAIN * reached) if self.saturating else reached


def channels(kind: str, seed: int) -> tuple[Sense, Sense]:
    """Two senses of half the channels each, with none in common.

    ``place``: the left and the right half of every image. ``scale``: coarse and fine, the 32 lowest and highest
    frequencies of a cosine transform. ``scattered``: pixels at random, where neighbours tell of what is missing.
    """
    if kind == "scale":
        waves = fft.dct(np.eye(SIDE), norm="ortho", axis=0)
        basis = np.kron(waves, waves)  # a row a frequency
        order = np.argsort(np.add.outer(np.arange(SIDE), np.arange(SIDE)).ravel(), kind="stable")
    else:
        basis = np.eye(PIXELS)
        columns = np.argsort(np.arange(PIXELS) % SIDE, kind="stable")  # from left to right
        order = columns if kind == "place" else numpy_stream(seed, "scattered").permutation(PIXELS)
    halves = (basis[part] for part in (order[: PIXELS // 2], order[PIXELS // 2 :]))
    first, second = (Sense(half.T @ half) for half in halves)
    return first, second


def codes(seed: int) -> dict[str, Sense]:
    """Pixels; the same in another order; mixed by a rotation; that through receptors that saturate; dealt anew.

    All but the last keep the data: each can be undone. Order makes no difference to a network of independent weights,
    so ``permuted`` checks the measures.
    """
    rng = numpy_stream(seed, "codes")
    order = np.eye(PIXELS)[rng.permutation(PIXELS)]
    turns = [np.linalg.qr(rng.normal(size=(PIXELS, PIXELS)))[0] for _ in range(2)]
    pixels = np.eye(PIXELS)
    return {
        "pixels": Sense(pixels),
        "permuted": Sense(order),
        "mixed": Sense(turns[0]),
        "receptors": Sense(turns[1], saturating=True),
        "dealt": Sense(pixels, dealt=True),
    }


def dealt_within_classes(images: Views, labels: Labels, rng: np.random.Generator) -> Views:
    """Every pixel's values dealt anew among the images of a class, each pixel on its own."""
    found = images.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        found[rows] = rng.permuted(found[rows], axis=0)
    return found


def grown_up(
    senses: Sequence[Sense], starts: Sequence[str], rates: Losses, steps: int, seed: int
) -> tuple[list[Layer], list[Layer]]:
    """Networks with these senses, by the names of their starts: untrained, and after so many steps in one order."""
    images, _ = digits(seed)
    sizes = (PIXELS, WIDTH, WIDTH, CLASSES)
    drawn = [he_normal(sizes, numpy_stream(seed, "start", name)) for name in starts]
    layers = [
        (torch.stack([tensor(w) for w in ws]), torch.zeros(len(ws), 1, ws[0].shape[1]))
        for ws in zip(*drawn, strict=True)
    ]
    untrained = [(weights.clone(), biases.clone()) for weights, biases in layers]
    redealt = dealt_within_classes(images.still, images.labels, numpy_stream(seed, "dealt"))
    kept, dealt = tensor(images.still), tensor(redealt)
    labels = torch.from_numpy(images.labels)

    def losses(step: int) -> Losses:
        rng = numpy_stream(seed, "life", step)
        rows = torch.from_numpy(rng.integers(len(labels), size=BATCH))
        noise = NOISE * torch.from_numpy(rng.standard_normal((BATCH, PIXELS), dtype=np.float32))
        seen = torch.stack([sense.of((dealt if sense.dealt else kept)[rows] + noise) for sense in senses])
        return losses_of(layers, seen, labels[rows].expand(len(senses), -1))

    fit(parameters(layers), losses, rates, steps)
    return untrained, layers


@cache
def tuned(kind: str, steps: int) -> tuple[tuple[float, bool], ...]:
    """For every sense of a kind the rate at which its loss on noisy test images is least; whether inside the grid."""
    senses = list(codes(TUNING).values()) if kind == "codes" else channels(kind, TUNING)
    every = [sense for sense in senses for _ in RATES]
    _, layers = grown_up(every, ["own"] * len(every), torch.tensor(RATES * len(senses)), steps, TUNING)
    images = digits(TUNING)[1]
    noise = NOISE * numpy_stream(TUNING, "test noise").standard_normal(images.still.shape)
    losses = _scored(layers, every, images, noise)[0].view(len(senses), len(RATES))
    rates = [best_rate(row) for row in losses]
    return tuple((rate, rate not in (RATES[0], RATES[-1])) for rate in rates)


def _scored(layers: Sequence[Layer], senses: Sequence[Sense], images: Images, noise: Views) -> tuple[Losses, Losses]:
    """Loss and share right of every network, through its own sense."""
    labels, seen = torch.from_numpy(images.labels), tensor(images.still + noise)
    found = [scored([(w[[n]], b[[n]]) for w, b in layers], (sense.of(seen), labels)) for n, sense in enumerate(senses)]
    losses, right = (torch.cat(part) for part in zip(*found, strict=True))
    return losses, right


@dataclass(frozen=True, eq=False)
class Grown:
    """Networks, two of every sense, on images without noise: what they represent, and where they are right."""

    learnt: Float[Tensor, "networks learnt units"]
    states: Float[Tensor, "networks rows units"]
    untrained: Float[Tensor, "networks rows units"]
    right: Bool[Tensor, "networks rows"]
    first: Float[Tensor, "networks pixels _"]  # weights of the first layer
    senses: Sequence[Sense]

    def alike(self, i: int, j: int) -> float:
        """CKA of what two represent."""
        return linear_alignment(self.states[i], self.states[j])

    def alike_untrained(self, i: int, j: int) -> float:
        """The same before they learnt."""
        return linear_alignment(self.untrained[i], self.untrained[j])

    def left_over(self, i: int, j: int) -> float:
        """The share of one's representation that no linear map of the other's explains."""
        return unexplained((self.learnt[i], self.learnt[j]), (self.states[i], self.states[j]))

    def mistaken(self, i: int, j: int) -> float:
        """κ of their mistakes."""
        return error_consistency(self.right[i], self.right[j])

    def common_axes(self, i: int, j: int) -> float:
        """What the leading axes of two first layers share, led back to pixels."""
        axes = [leading_axes(tensor(self.senses[n].matrix) @ self.first[n], RANK)[0] for n in (i, j)]
        return shared(axes[0], axes[1])


def _grow(senses: Sequence[Sense], rates: Sequence[float], steps: int, seed: int) -> Grown:
    """Two networks of every sense, next to each other, all from their own starts."""
    twice = [sense for sense in senses for _ in range(2)]
    starts = [str(number) for number in range(len(twice))]
    untrained, layers = grown_up(twice, starts, torch.tensor(rates).repeat_interleave(2), steps, seed)
    learnt, images = digits(seed)
    seen, old = (torch.stack([sense.of(tensor(part.still)) for sense in twice]) for part in (images, learnt))
    right = _right(layers, seen, torch.from_numpy(images.labels))
    states = (hidden(layers, old).double(), hidden(layers, seen).double(), hidden(untrained, seen).double())
    return Grown(*states, right, layers[0][0], twice)


def _right(layers: Sequence[Layer], seen: Tensor, labels: Tensor) -> Tensor:
    weights, biases = layers[-1]
    return torch.baddbmm(biases, hidden(layers, seen), weights).argmax(-1) == labels


def _gap(measure: Callable[[int, int], float], first: int, second: int) -> float:
    """Mean within two senses − mean between them."""
    within, between = apart(measure, ((2 * first, 2 * first + 1), (2 * second, 2 * second + 1)))
    return within - between


def different_worlds(kind: str, steps: int, seed: int) -> dict[str, Any]:
    """Two senses of half the channels each: within − between them ``cka``, ``cka untrained`` and ``mistakes`` (κ).

    ``cka within`` and ``mistakes within``: what these are taken from. ``right``: the least share right of any network;
    ``resolved``: 1 where both rates are inside the grid.
    """
    rates, resolved = zip(*tuned(kind, steps), strict=True)
    grown = _grow(channels(kind, seed), rates, steps, seed)
    return {
        "cka": _gap(grown.alike, 0, 1),
        "cka untrained": _gap(grown.alike_untrained, 0, 1),
        "cka within": apart(grown.alike, ((0, 1), (2, 3)))[0],
        "mistakes": _gap(grown.mistaken, 0, 1),
        "mistakes within": apart(grown.mistaken, ((0, 1), (2, 3)))[0],
        "right": float(grown.right.double().mean(1).min()),
        "resolved": float(all(resolved)),
    }


def other_codes(steps: int, seed: int) -> dict[str, Any]:
    """Every code against pixels, within − between: ``cka``, ``axes`` of linear ones; ``left over`` the other way.

    All on the same whole images, those networks too that grew up with dealt ones. ``right`` and ``resolved`` as in
    ``different_worlds``.
    """
    rates, resolved = zip(*tuned("codes", steps), strict=True)
    senses = codes(seed)
    grown = _grow(list(senses.values()), rates, steps, seed)
    found: dict[str, Any] = {
        "right": float(grown.right[:-2].double().mean(1).min()),
        "right dealt": float(grown.right[-2:].double().mean()),
        "resolved": float(all(resolved)),
    }
    for place, (name, sense) in enumerate(senses.items()):
        if place == 0:
            continue
        against = partial(_gap, first=0, second=place)
        found[f"cka {name}"] = against(grown.alike)
        found[f"left over {name}"] = -against(grown.left_over)
        if not sense.saturating:
            found[f"axes {name}"] = against(grown.common_axes)
    return found
