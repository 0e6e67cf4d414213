"""What axes owe to the architecture, to the corpus and to the seed: variance components of subspaces."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.dialects import CORPORA, LENGTH, bigram_loss, corpus, windows
from ontogeny.evolution.language_models import (
    BATCH,
    Body,
    Frame,
    Shape,
    agreement,
    axes,
    best_rate,
    fresh,
    held_out_losses,
    make_frame,
    next_symbol_losses,
    together,
)
from ontogeny.evolution.networks import Losses, fit
from ontogeny.streams import numpy_stream

ARCHITECTURES = {
    "sequential": Shape(4, "sequential", "gelu"),
    "parallel": Shape(1, "parallel", "square"),
    "post": Shape(2, "post", "relu"),
}
COMPONENTS = ("common", "architecture", "corpus", "both", "seed")
PARTS = {"core": (0, 6), "margins": (6, 12)}  # of a matrix's axes, by singular value: as many in either
HELD = 8 * BATCH  # windows

Labels = Int[np.ndarray, " networks"]


def continents(steps: int, seeds: int, seed: int) -> dict[str, float | list[float]]:
    """Architectures × corpora × seeds: shares of the variance of axes, by site.

    ``core …`` and ``margins …`` of COMPONENTS: a list over SITES. ``untrained …``: the mean over sites of the same of
    the networks before training, whose starts all differ. ``loss a c``: held out, mean over seeds; ``bigram c``.
    """
    frame, rng = make_frame(seed), numpy_stream(seed, "continents")
    text = {name: corpus(name, (seeds * steps * BATCH + HELD + 1) * LENGTH + 1) for name in CORPORA}
    found: dict[str, float | list[float]] = {f"bigram {name}": bigram_loss(text[name]) for name in CORPORA}
    bodies, starts, resolved = [], [], True
    corpora = np.repeat(np.arange(len(CORPORA)), seeds)
    for architecture, shape in ARCHITECTURES.items():
        rate, inside = best_rate(shape, steps // 2, "prose")
        resolved &= inside
        start = together([fresh(rng) for _ in corpora])
        body = [part.clone() for part in start]
        read = {name: windows(text[name], rng) for name in CORPORA}
        each = [read[name][HELD + i * steps * BATCH :] for name in CORPORA for i in range(seeds)]
        _train(body, each, steps, rate, frame, shape)
        for i, name in enumerate(CORPORA):
            losses = held_out_losses([part[corpora == i] for part in body], read[name][:HELD], frame, shape)
            found[f"loss {architecture} {name}"] = float(np.mean(losses))
        bodies.append(body)
        starts.append(start)
    architectures = np.repeat(np.arange(len(ARCHITECTURES)), len(corpora))
    labels = architectures, np.tile(corpora, len(ARCHITECTURES))
    for part, (first, last) in PARTS.items():
        after, before = (axes(together(every), first, last) for every in (bodies, starts))
        shares = [variance_shares(one, *labels) for one in agreement(after, after)]
        found |= {f"{part} {name}": [share[name] for share in shares] for name in COMPONENTS}
        untrained = variance_shares(agreement(before, before).mean(0), *labels)
        found |= {f"untrained {part} {name}": untrained[name] for name in COMPONENTS}
    return found | {"resolved": float(resolved)}


def _train(body: Body, each: Sequence[Tensor], steps: int, rate: float, frame: Frame, shape: Shape) -> None:
    """Every network on windows of its own."""

    def losses(step: int) -> Losses:
        batch = torch.stack([one[step * BATCH :][:BATCH] for one in each])
        return next_symbol_losses(body, batch, frame, shape)

    fit(body, losses, torch.full((len(each),), rate), steps)


def variance_shares(
    agreed: Float[np.ndarray, "networks networks"], architectures: Labels, corpora: Labels
) -> Mapping[str, float]:
    """Shares of the variance of projectors about that of random subspaces, of a crossed design with replication.

    A projector is the sum of a common part and of effects of architecture, corpus, both and seed; squared norms of
    projectors' differences are 2k(1 − overlap), so the components are contrasts of the mean agreement of pairs that
    share both, one or neither label. Unbiased, so that one may be below 0; they sum to 1.
    """
    one, other = np.triu_indices(len(agreed), 1)
    same = architectures[one] == architectures[other], corpora[one] == corpora[other]
    pairs = agreed[one, other]

    def mean(architecture: bool, text: bool) -> float:
        return float(pairs[(same[0] == architecture) & (same[1] == text)].mean())

    twins, shape, text, neither = mean(True, True), mean(True, False), mean(False, True), mean(False, False)
    both = twins - shape - text + neither
    return dict(zip(COMPONENTS, (neither, shape - neither, text - neither, both, 1 - twins), strict=True))
