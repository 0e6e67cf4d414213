"""What counting alone predicts: uniform, unigram and bigram losses, the marks a trained model has to pass."""

import math

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

CONCENTRATIONS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)
CHUNK = 1 << 22  # pairs counted at a time


def reference_losses(
    train: NDArray[np.integer],
    tune: Int[Tensor, "tune_windows length_plus_1"],
    test: Int[Tensor, "test_windows length_plus_1"],
    vocabulary: int,
) -> dict[str, dict[str, float]]:
    """{"tune", "test"} -> {"uniform", "unigram", "bigram"} -> loss in nats a token.

    Fitted by counts on the whole train split; scored on the targets of the windows, [:, 1:], given the token
    before, as a model is. Unigram: one added to every count. Bigram: shrunk to the unigram,
    p(b|a) = (c(ab) + α p(b)) / (c(a) + α), α the best on tune (MacKay & Peto 1995, Natural Language Engineering 1).
    """
    counts = np.bincount(train, minlength=vocabulary)
    unigram = (counts + 1) / (len(train) + vocabulary)
    contexts = np.bincount(train[:-1], minlength=vocabulary)
    splits = {"tune": tune.numpy(), "test": test.numpy()}
    before = {name: windows[:, :-1].ravel() for name, windows in splits.items()}
    after = {name: windows[:, 1:].ravel() for name, windows in splits.items()}
    pairs = {name: _pair_counts(train, before[name] * vocabulary + after[name], vocabulary) for name in splits}

    def bigram(name: str, alpha: float) -> float:
        joint = pairs[name] + alpha * unigram[after[name]]
        return float(-np.log(joint / (contexts[before[name]] + alpha)).mean())

    alpha = min(CONCENTRATIONS, key=lambda value: bigram("tune", value))
    return {
        name: {
            "uniform": math.log(vocabulary),
            "unigram": float(-np.log(unigram[after[name]]).mean()),
            "bigram": bigram(name, alpha),
        }
        for name in splits
    }


def _pair_counts(train: NDArray[np.integer], pairs: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """How often each pair (coded a·V + b) follows in ``train``; counts only these, so needs no V × V table."""
    wanted, places = np.unique(pairs, return_inverse=True)
    counts = np.zeros(len(wanted), dtype=np.int64)
    for start in range(0, len(train) - 1, CHUNK):
        ids = train[start : start + CHUNK + 1].astype(np.int64)
        codes = ids[:-1] * vocabulary + ids[1:]
        found = np.searchsorted(wanted, codes).clip(max=len(wanted) - 1)
        counts += np.bincount(found[wanted[found] == codes], minlength=len(wanted))
    return counts[places]
