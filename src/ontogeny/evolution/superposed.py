"""Which directions networks use that were raised in different texts, and which one network uses for different tokens.

A small network says the next character from the last three. Worlds are one text read forwards and backwards.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    SLOPE,
    TUNING,
    Layer,
    batches,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    stack,
    tensor,
)
from ontogeny.evolution.similarity import Basis, Features, leading, matched_overlaps, overlap
from ontogeny.streams import numpy_stream

Ids = Int[np.ndarray, " _"]
Half = Float[np.ndarray, "_ features"]
Text = tuple[Float[np.ndarray, "rows inputs"], Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]

ALPHABET = "abcdefghijklmnopqrstuvwxyz "
CONTEXT = 3  # characters
HIDDEN = 32  # units in each of two layers
SIZES = (CONTEXT * len(ALPHABET), HIDDEN, HIDDEN, len(ALPHABET))
TOKENS = 8  # the most frequent ones
DRAWS = 400  # of a null
BATCH = 128


@functools.cache
def prose() -> Ids:
    """Python's own help on its topics as letters and spaces."""
    from pydoc_data.topics import topics

    text = "".join(c if c in ALPHABET else " " for name in sorted(topics) for c in f"{topics[name]} ".lower())
    return np.array([ALPHABET.index(c) for c in " ".join(text.split())], dtype=np.int64)


def read(ids: Ids) -> Text:
    """One-hot contexts, what comes next, and the last character of each context."""
    windows = np.lib.stride_tricks.sliding_window_view(ids, CONTEXT + 1)
    inputs = np.eye(len(ALPHABET), dtype=np.float32)[windows[:, :-1]].reshape(len(windows), -1)
    return inputs, windows[:, -1].copy(), windows[:, -2].copy()


def pieces(seed: int, characters: int, held: int) -> tuple[Ids, Ids]:
    """A piece of the text to learn and the next to look at."""
    text = prose()
    start = int(numpy_stream(seed, "text").integers(len(text) - characters - held))
    return text[start : start + characters], text[start + characters : start + characters + held]


def _raise(
    layers: Sequence[Layer],
    worlds: Sequence[Tensor],
    targets: Int[Tensor, "networks rows"],
    shown: Int[Tensor, "networks steps size"],
    rates: Float[Tensor, " networks"],
) -> None:
    """Train every network in the world of its own."""
    own = torch.arange(len(worlds))[:, None]

    def losses(step: int) -> Float[Tensor, " networks"]:
        rows = shown[:, step]
        inputs = torch.stack([world[which] for world, which in zip(worlds, rows, strict=True)])
        return _cross_entropy(outputs(layers, inputs), targets[own, rows])

    fit(parameters(layers), losses, rates, shown.shape[1])


def _cross_entropy(
    said: Float[Tensor, "networks rows o"], wanted: Int[Tensor, "networks rows"]
) -> Float[Tensor, " networks"]:
    return -said.log_softmax(-1).gather(-1, wanted[..., None]).mean((1, 2))


@functools.cache
def tuned_rate(characters: int, held: int, steps: int) -> tuple[float, bool]:
    """The rate of the least loss on held-out text, and whether it is inside the grid; on the tuning seed."""
    n = len(RATES)
    learnt, looked = (read(ids) for ids in pieces(TUNING, characters, held))
    layers = stack(he_normal(SIZES, numpy_stream(TUNING, "fresh")), n)
    shown = batches(numpy_stream(TUNING, "batches"), len(learnt[1]), BATCH, steps).expand(n, -1, -1)
    _raise(layers, [tensor(learnt[0])] * n, torch.from_numpy(learnt[1]).expand(n, -1), shown, torch.tensor(RATES))
    with torch.no_grad():
        losses = _cross_entropy(
            outputs(layers, tensor(looked[0]).expand(n, -1, -1)), torch.from_numpy(looked[1]).expand(n, -1)
        )
    rate = best_rate(losses)
    return rate, rate not in (RATES[0], RATES[-1])


def superposition(
    *, characters: int, held: int, steps: int, directions: int, dealt: int, seed: int
) -> dict[str, float]:
    """Overlaps of the directions that carry most of the second layer, between worlds and between tokens, and their z.

    All networks start alike. Two are raised in the first world, one in the second, ``dealt`` in each with what comes
    next dealt out. "P z matched": against random directions of the same covariance; "P z dealt": against the networks
    that had nothing to learn; "P variant": by how much one world or one token overlaps more with itself, in two halves
    of its rows, than with another. P is "worlds" or "tokens".
    """
    learnt, looked = pieces(seed, characters, held)
    forwards, backwards = read(learnt), read(learnt[::-1])
    worlds, kinds = (forwards, backwards), [0, 0, 1, *[0] * dealt, *[1] * dealt]
    rate, resolved = tuned_rate(characters, held, steps)
    layers = stack(he_normal(SIZES, numpy_stream(seed, "fresh")), len(kinds))
    wanted = [worlds[kind][1] for kind in kinds]
    wanted[3:] = [numpy_stream(seed, "dealt", i).permutation(y) for i, y in enumerate(wanted[3:])]
    rows = len(wanted[0])
    shown = torch.stack([batches(numpy_stream(seed, "batches", i), rows, BATCH, steps) for i in range(len(kinds))])
    inputs = [tensor(world[0]) for world in worlds]
    before = stack([weights[0].numpy() for weights, _ in layers], 1)
    _raise(
        layers, [inputs[k] for k in kinds], torch.from_numpy(np.stack(wanted)), shown, torch.full((len(kinds),), rate)
    )
    seen = [read(looked), read(looked[::-1])]
    hidden = [_hidden(layers, i, seen[kind][0]) for i, kind in enumerate(kinds)]
    fresh = [_hidden(before, 0, one[0]) for one in seen]
    found = {
        "resolved": float(resolved),
        "gain": min(_gain(layers, i, seen[kind], worlds[kind][1]) for i, kind in ((0, 0), (2, 1))),
    }
    found |= _worlds(hidden, fresh, dealt, directions, seed)
    return found | _tokens([hidden[0], *hidden[3 : 3 + dealt]], fresh[0], seen[0][2], directions, seed)


@torch.no_grad()
def _hidden(layers: Sequence[Layer], network: int, inputs: Float[np.ndarray, "rows inputs"]) -> Features:
    """One network's second layer."""
    own = [(weights[network : network + 1], biases[network : network + 1]) for weights, biases in layers[:-1]]
    return F.leaky_relu(outputs(own, tensor(inputs)[None]), SLOPE)[0].double().numpy()


@torch.no_grad()
def _gain(layers: Sequence[Layer], network: int, seen: Text, learnt: Int[np.ndarray, " _"]) -> float:
    """Nats by which a network's held-out loss is below what the characters' frequencies reach."""
    own = [(weights[network : network + 1], biases[network : network + 1]) for weights, biases in layers]
    loss = _cross_entropy(outputs(own, tensor(seen[0])[None]), torch.from_numpy(seen[1])[None])
    counts = np.bincount(learnt, minlength=len(ALPHABET)) + 1
    return float(-np.log(counts / counts.sum())[seen[1]].mean() - float(loss[0]))


def halves(features: Features) -> tuple[Half, Half]:
    """Every other row."""
    return features[::2], features[1::2]


def _worlds(hidden: Sequence[Features], fresh: Sequence[Features], dealt: int, k: int, seed: int) -> dict[str, float]:
    """Networks 0 and 1 are twins, network 2 is of the other world, then the dealt of the first world and the second."""

    def between(first: Features, second: Features) -> float:
        return overlap(leading(halves(first)[0], k), leading(halves(second)[1], k))

    found = between(hidden[0], hidden[2])
    pooled = (np.cov(hidden[0].T) + np.cov(hidden[2].T)) / 2
    matched = matched_overlaps(pooled, k, 2, DRAWS, numpy_stream(seed, "matched worlds"))
    null = [between(hidden[3 + i], hidden[3 + dealt + i]) for i in range(dealt)]
    return {
        "worlds overlap": found,
        "worlds z matched": z(found, matched),
        "worlds z dealt": z(found, null),
        "worlds variant": between(hidden[0], hidden[1]) - found,
        "worlds untrained": between(fresh[0], fresh[1]),
    }


def _tokens(
    networks: Sequence[Features], fresh: Features, last: Int[np.ndarray, " rows"], k: int, seed: int
) -> dict[str, float]:
    """The first network is the one to look at, the others had nothing to learn."""
    tokens = [token for token, _ in Counter(last.tolist()).most_common(TOKENS)]

    def bases(features: Features) -> tuple[list[Basis], list[Basis]]:
        parts = [halves(features[last == token]) for token in tokens]
        return [leading(one, k) for one, _ in parts], [leading(other, k) for _, other in parts]

    def between(features: Features) -> float:
        first, second = bases(features)
        return float(np.mean([overlap(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if i != j]))

    trained, found = networks[0], between(networks[0])
    pooled = np.mean([np.cov(trained[last == token].T) for token in tokens], axis=0)
    matched = matched_overlaps(pooled, k, len(tokens), DRAWS, numpy_stream(seed, "matched tokens"))
    own = float(np.mean([overlap(a, b) for a, b in zip(*bases(trained), strict=True)]))
    return {
        "tokens overlap": found,
        "tokens z matched": z(found, matched),
        "tokens z dealt": z(found, [between(one) for one in networks[1:]]),
        "tokens variant": own - found,
        "tokens untrained": between(fresh),
    }


def z(found: float, null: Sequence[float] | Float[np.ndarray, " draws"]) -> float:
    """Standard deviations of the null by which a number is above its mean."""
    values = np.asarray(null, dtype=float)
    return float((found - values.mean()) / max(values.std(ddof=1), math.ulp(1.0)))
