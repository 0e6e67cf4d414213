"""How alike a convolutional network and a vision transformer are that learnt the same images."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int

from ontogeny.evolution.digit_networks import (
    KINDS,
    Network,
    accuracies,
    digits,
    one_hot,
    shown_to_all,
    stacked,
    train,
    tuned_rate,
)
from ontogeny.evolution.networks import batches
from ontogeny.evolution.similarity import Pairs, alike, beyond, centred_kernel, neighbours, permuted, within_groups
from ontogeny.streams import numpy_stream

NEAREST = 10  # neighbours
PERMUTATIONS = 5  # of a null
STATES = ("trained", "shuffled", "untrained")
MEASURES = ("cka", "neighbours")
NULLS = ("untrained", "shuffled", "class", "permuted")


def compare(*, examples: int, probes: int, steps: int, batch: int, seed: int) -> dict[str, float]:
    """Two networks of each kind that learnt labels, two that learnt labels dealt out anew, two that learnt nothing.

    "cka M": between kinds, debiased, beyond what pixels explain; "neighbours M": mutual 10-NN. M is "seeds" for two
    trained networks of one kind, "class" for trained ones whose images are permuted within their class, which leaves
    alike what knowing the class alone makes alike, "permuted" over all. "plain M": debiased CKA with pixels in it.
    """
    pixels, labels = digits()
    order = numpy_stream(seed, "images").permutation(len(labels))
    learnt, held = order[:examples], order[examples : examples + probes]
    found: dict[str, float] = {}
    seen: dict[tuple[str, str, int], np.ndarray] = {}
    for kind in KINDS:
        rate, resolved = tuned_rate(kind, examples, steps, batch)
        fresh, trained = _trained(kind, pixels[learnt], labels[learnt], rate, steps, batch, seed)
        right = accuracies(kind, trained, pixels[held], labels[held])
        found |= {f"{kind} accuracy": float(right[:2].mean()), f"{kind} shuffled accuracy": float(right[2:].mean())}
        found[f"{kind} resolved"] = float(resolved)
        for network, states in ((trained, STATES[:2]), (fresh, STATES[2:])):
            with torch.no_grad():
                features = KINDS[kind].features(network, shown_to_all(network, pixels[held])).double().numpy()
            seen |= {(kind, s, twin): features[2 * i + twin] for i, s in enumerate(states) for twin in (0, 1)}
    rng = numpy_stream(seed, "permutations")
    kernels = {which: centred_kernel(features) for which, features in seen.items()}
    shared = centred_kernel(pixels[held].reshape(probes, -1))
    near = {which: neighbours(features, NEAREST) for which, features in seen.items()}
    found |= _likenesses("cka", kernels, lambda x, y: beyond(x, y, shared), labels[held], rng)
    found |= _likenesses("neighbours", near, alike, labels[held], rng)
    return found | {f"plain {state}": _between(kernels, state, alike) for state in STATES}


def _trained(
    kind: str,
    pixels: Float[np.ndarray, "rows 8 8"],
    labels: Int[np.ndarray, " rows"],
    rate: float,
    steps: int,
    batch: int,
    seed: int,
) -> tuple[Network, Network]:
    """Two fresh networks, and four from them: both trained on labels, both on labels dealt out, each in its own way."""
    fresh = [KINDS[kind].fresh(numpy_stream(seed, "fresh", kind, twin)) for twin in range(2)]
    network = stacked(fresh * 2)
    dealt = [numpy_stream(seed, "dealt", kind, twin).permutation(labels) for twin in range(2)]
    targets = torch.stack([one_hot(own) for own in (labels, labels, *dealt)])
    shown = [batches(numpy_stream(seed, "batches", kind, i), len(labels), batch, steps) for i in range(4)]
    train(kind, network, pixels, targets, torch.stack(shown), torch.full((4,), rate))
    return stacked(fresh), network


def _likenesses(
    name: str,
    seen: Mapping[tuple[str, str, int], Pairs],
    measure: Callable[[Pairs, Pairs], float],
    labels: Int[np.ndarray, " probes"],
    rng: np.random.Generator,
) -> dict[str, float]:
    found = {f"{name} {state}": _between(seen, state, measure) for state in STATES}
    own = [measure(seen[kind, "trained", 0], seen[kind, "trained", 1]) for kind in KINDS]
    found[f"{name} seeds"] = float(np.mean(own))
    for null, groups in (("class", labels), ("permuted", np.zeros_like(labels))):
        drawn = []
        for _ in range(PERMUTATIONS):
            rows = within_groups(groups, rng)
            moved = {which: permuted(one, rows) if which[0] == "vit" else one for which, one in seen.items()}
            drawn.append(_between(moved, "trained", measure))
        found[f"{name} {null}"] = float(np.mean(drawn))
    return found


def _between(seen: Mapping[tuple[str, str, int], Pairs], state: str, measure: Callable[[Pairs, Pairs], float]) -> float:
    pairs = [(seen["cnn", state, i], seen["vit", state, j]) for i in range(2) for j in range(2)]
    return float(np.mean([measure(x, y) for x, y in pairs]))
