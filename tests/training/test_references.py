"""Reference losses against brute force, against closed forms, and on real text."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ontogeny.training import references
from ontogeny.training.batches import evaluation_windows
from ontogeny.training.references import CONCENTRATIONS, reference_losses
from ontogeny.training.text import end_token, load_tokenizer, read_corpus, tokenise


def brute_force(train: list[int], windows: NDArray[np.int64], vocabulary: int, alpha: float) -> tuple[float, float]:
    """Unigram and bigram loss with a V × V table and a loop over every target."""
    table = np.zeros((vocabulary, vocabulary))
    for a, b in itertools.pairwise(train):
        table[a, b] += 1
    prior = np.array([(train.count(word) + 1) / (len(train) + vocabulary) for word in range(vocabulary)])
    unigram, bigram = [], []
    for window in windows:
        for a, b in itertools.pairwise(window):
            unigram.append(-math.log(prior[b]))
            bigram.append(-math.log((table[a, b] + alpha * prior[b]) / (table[a].sum() + alpha)))
    return float(np.mean(unigram)), float(np.mean(bigram))


def test_losses_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "CHUNK", 64)  # pairs across chunks count too
    rng = np.random.default_rng(0)
    vocabulary = 11
    train, tune, test = ((rng.random(n) ** 2 * vocabulary).astype(np.uint16) for n in (700, 90, 120))
    windows = [evaluation_windows(split, 8, 9) for split in (tune, test)]
    losses = reference_losses(train, windows[0], windows[1], vocabulary)
    by_alpha = [
        [brute_force(train.tolist(), part.numpy(), vocabulary, alpha) for part in windows] for alpha in CONCENTRATIONS
    ]
    tuned, tested = min(by_alpha, key=lambda pair: pair[0][1])
    for name, (unigram, bigram) in (("tune", tuned), ("test", tested)):
        assert losses[name] == pytest.approx({"uniform": math.log(vocabulary), "unigram": unigram, "bigram": bigram})


def test_deterministic_chain_is_predicted_by_pairs_alone() -> None:
    cycle = np.arange(70_000, dtype=np.uint32) % 7 + 69_993  # large ids: no table of V × V
    windows = evaluation_windows(cycle, 16, 50)
    losses = reference_losses(cycle, windows, windows, 70_000)["test"]
    assert losses["uniform"] == math.log(70_000)
    assert losses["unigram"] == pytest.approx(math.log(7 * 2), rel=1e-3)  # half of the mass is smoothing
    assert losses["bigram"] < 1e-3


def test_unseen_pairs_have_a_finite_loss() -> None:
    train = np.zeros(100, dtype=np.uint16)
    windows = torch.tensor([[1, 2, 3]])
    losses = reference_losses(train, windows, windows, 4)["tune"]
    assert losses["bigram"] == pytest.approx(losses["unigram"]) == pytest.approx(math.log(104))


def test_bigram_of_novels(shared: Path, tmp_path: Path) -> None:
    """Measured apart, as the conditional entropy in sample: 3.304 nats on the first three million characters."""
    directory = shared / "checkpoints" / "stories260K"
    tokenizer = load_tokenizer(directory)
    corpus = read_corpus([str(shared / "text" / "fiction.txt")], max_characters=3_000_000)
    tokens = tokenise(corpus, tokenizer, end_token(tokenizer, directory), tmp_path)
    tune, test = (evaluation_windows(split, 256, 10_000) for split in (tokens.tune, tokens.test))
    losses = reference_losses(tokens.train, tune, test, tokens.vocabulary)
    assert losses["test"]["bigram"] == pytest.approx(3.30, abs=0.05)
    assert losses["test"]["unigram"] == pytest.approx(4.7, abs=0.1)
    assert losses["test"]["uniform"] == math.log(512)
