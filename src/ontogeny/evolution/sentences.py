"""Questions formed from ambiguous sentences: a rule beside a position, and a rule beside words that go together.

After McCoy, Frank & Linzen 2020: the auxiliary that a question fronts is the main clause's (the rule), which is also
the first one, except where a relative clause stands at the subject.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ontogeny.evolution.networks import RATES, SLOPE, TUNING, batches, best_rate, fit, resolved, tensor
from ontogeny.streams import numpy_stream

Arm = Literal["dense", "copied", "grown", "random"]
Clause = Literal["none", "object", "subject"]
ARMS: tuple[Arm, ...] = ("dense", "copied", "grown", "random")

NOUNS, VERBS, AUXILIARIES = range(4), range(4, 6), range(6, 8)
WHO, ADVERB, NOTHING = 8, 9, 10
WORDS, LENGTH = 11, 8
EMBEDDING, HIDDEN, RANK = 8, 32, 8  # a genome keeps 8 of 32 directions of every matrix
TOGETHER = 0.9  # how often subject and main auxiliary are of one class in the language that donors learn
DONOR_SENTENCES, DONOR_STEPS, DONOR_RATE = 4000, 800, 0.01
SHARED_RATE = 0.01
BATCH, TEST = 64, 1000

Sentences = Int[np.ndarray, "sentences positions"]


@dataclass(frozen=True)
class Corpus:
    """Sentences, padded to 8 words, and which of two auxiliaries the main clause has."""

    sentences: Sentences
    main: Int[np.ndarray, " sentences"]


def corpus(rng: np.random.Generator, count: int, clauses: tuple[Clause, ...], together: float, differ: bool) -> Corpus:
    """Sentences with a relative clause at object, subject or none, in equal shares; half begin with an adverb.

    ``together``: how often the subject's class (its number's parity) is the main auxiliary's. ``differ``: the relative
    clause's auxiliary is always the other one.
    """
    written, mains = [], []
    for index in range(count):
        main, inner = (int(part) for part in rng.integers(2, size=2))
        inner = 1 - main if differ else inner
        kind = main if rng.random() < together else 1 - main
        subject, other = NOUNS[2 * int(rng.integers(2)) + kind], NOUNS[int(rng.integers(4))]
        first, second = (VERBS[int(part)] for part in rng.integers(2, size=2))
        clause = [WHO, AUXILIARIES[inner], second]
        at = clauses[index % len(clauses)]
        words = [ADVERB] * int(rng.integers(2)) + [subject] + clause * (at == "subject")
        words += [AUXILIARIES[main], first, other] + clause * (at == "object")
        written.append(words + [NOTHING] * (LENGTH - len(words)))
        mains.append(main)
    return Corpus(np.array(written), np.array(mains))


def rule_and_surface(sentences: int, steps: int, seed: int) -> dict[str, float]:
    """What networks make of so many ambiguous sentences, by what they start from; every word is new to all of them.

    A donor has learnt a language with relative clauses everywhere, whose subjects and auxiliaries go together 9 times
    in 10. ``copied``: its weights, but for the words; ``grown``: fresh weights inside the leading singular subspaces of
    its two hidden matrices; ``random``: inside random subspaces; ``dense``: all fresh. What they learn has relative
    clauses at objects alone, and subject and auxiliary always together. ``structure``: the share of main auxiliaries
    among answers where a clause at the subject has the other one; ``words``: the same where subject and auxiliary
    never go together; 0 follows the surface, 1 the rule. ``learnt``: the share right on new ambiguous sentences. With
    ``shared`` before them: every arm at a rate of 0.01.
    """
    donor, own = _donor(seed)
    rates = {arm: _tuned(arm, sentences, steps) for arm in ARMS}
    found: dict[str, float] = {"donor": own, "resolved": resolved(rates.values())}
    for arm, rate in rates.items():
        network = _learner(arm, donor, torch.tensor([rate, SHARED_RATE]), sentences, steps, seed)
        for name, test in _tests(seed).items():
            found[f"{name} {arm}"], found[f"shared {name} {arm}"] = _right(network, test).tolist()
        found[f"rate {arm}"] = rate
    return found


def _tests(seed: int) -> Mapping[str, Corpus]:
    rng = numpy_stream(seed, "sentences tests")
    return {
        "learnt": corpus(rng, TEST, ("none", "object"), 1.0, False),
        "structure": corpus(rng, TEST, ("subject",), 0.5, True),
        "words": corpus(rng, TEST, ("none", "object"), 0.0, False),
    }


Parts = tuple[Tensor, ...]  # of one matrix: itself, or a left frame, a core and a right frame


@dataclass
class Network:
    """Embeddings (networks, words, 8), two hidden matrices with biases, and the choice of an auxiliary."""

    words: Tensor
    hidden: list[Parts]
    biases: list[Tensor]
    choice: Tensor

    @property
    def trained(self) -> list[Tensor]:
        """All but frames."""
        return [self.words, *(parts[len(parts) // 2] for parts in self.hidden), *self.biases, self.choice]

    def logits(self, sentences: Int[Tensor, "rows positions"]) -> Float[Tensor, "networks rows 2"]:
        """Which auxiliary, of every sentence."""
        x = self.words[:, sentences].flatten(2)  # (networks, rows, positions × embedding)
        for parts, bias in zip(self.hidden, self.biases, strict=True):
            for part in parts:
                x = x @ part
            x = torch.nn.functional.leaky_relu(x + bias, SLOPE)
        return x @ self.choice


def _fresh(networks: int, seed: int, path: str, frames: list[tuple[np.ndarray, np.ndarray]] | None = None) -> Network:
    rng = numpy_stream(seed, "sentences network", path)
    sizes = [LENGTH * EMBEDDING, HIDDEN, HIDDEN]

    def many(array: np.ndarray) -> Tensor:
        return tensor(array).expand(networks, -1, -1).clone()

    words = many(rng.normal(size=(WORDS, EMBEDDING)))
    hidden: list[Parts] = []
    for layer, (i, o) in enumerate(pairwise(sizes)):
        if frames is None:
            hidden.append((many(rng.normal(0, (2 / i) ** 0.5, (i, o))),))
        else:
            left, right = frames[layer]
            core = rng.normal(0, (2 * o) ** 0.5 / RANK, (RANK, RANK))  # the matrix's norm is a dense one's
            hidden.append((many(left), many(core), many(right.T)))
    biases = [torch.zeros(networks, 1, HIDDEN, dtype=torch.float32) for _ in hidden]
    return Network(words, hidden, biases, many(rng.normal(0, HIDDEN**-0.5, (HIDDEN, 2))))


def _teach(network: Network, learnt: Corpus, rates: Tensor, steps: int, rng: np.random.Generator) -> None:
    sentences, main = torch.from_numpy(learnt.sentences), torch.from_numpy(learnt.main)
    rows = batches(rng, len(main), BATCH, steps)
    fit(network.trained, lambda step: _losses(network, sentences[rows[step]], main[rows[step]]), rates, steps)


def _losses(network: Network, sentences: Tensor, main: Tensor) -> Tensor:
    logits = network.logits(sentences)
    answers = main.expand(len(logits), -1)
    return (
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none")
        .view(answers.shape)
        .mean(1)
    )


def _right(network: Network, test: Corpus) -> Float[np.ndarray, " networks"]:
    said: Bool[Tensor, "networks rows"] = network.logits(torch.from_numpy(test.sentences)).argmax(
        -1
    ) == torch.from_numpy(test.main)
    return said.double().mean(1).numpy()


@cache  # of one seed for every amount of sentences
def _donor(seed: int) -> tuple[Network, float]:
    """A donor, and its share right on new sentences of its own language."""
    rng = numpy_stream(seed, "donor")
    clauses: tuple[Clause, ...] = ("none", "object", "subject")
    network = _fresh(1, seed, "donor")
    learnt, test = (corpus(rng, n, clauses, TOGETHER, False) for n in (DONOR_SENTENCES, TEST))
    _teach(network, learnt, torch.tensor([DONOR_RATE]), DONOR_STEPS, rng)
    return network, float(_right(network, test)[0])


def _learner(arm: Arm, donor: Network, rates: Tensor, sentences: int, steps: int, seed: int) -> Network:
    frames = None
    if arm in ("grown", "random"):
        frames = [_frames(parts[0][0].numpy(), layer, arm, seed) for layer, parts in enumerate(donor.hidden)]
    network = _fresh(len(rates), seed, "learner", frames)
    if arm == "copied":
        network.hidden = [(parts[0].expand(len(rates), -1, -1).clone(),) for parts in donor.hidden]
        network.biases = [bias.expand(len(rates), -1, -1).clone() for bias in donor.biases]
        network.choice = donor.choice.expand(len(rates), -1, -1).clone()
    learnt = corpus(numpy_stream(seed, "ambiguous"), sentences, ("none", "object"), 1.0, False)
    _teach(network, learnt, rates, steps, numpy_stream(seed, "ambiguous batches"))
    return network


def _frames(matrix: np.ndarray, layer: int, arm: Arm, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The leading left and right singular vectors of a matrix (x @ matrix), or random frames of the same shapes."""
    if arm == "random":
        rng = numpy_stream(seed, "random frames", layer)
        left, right = (np.linalg.qr(rng.normal(size=(side, RANK)))[0] for side in matrix.shape)
        return left, right
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :RANK], right[:RANK].T


@cache
def _tuned(arm: Arm, sentences: int, steps: int) -> float:
    """The smallest rate within 0.01 nats of the least loss on new ambiguous sentences, on another seed.

    Nearly all of them learn those to the last one, and then the largest rate would win by its confidence alone.
    """
    network = _learner(arm, _donor(TUNING)[0], torch.tensor(RATES), sentences, steps, TUNING)
    test = _tests(TUNING)["learnt"]
    return best_rate(_losses(network, torch.from_numpy(test.sentences), torch.from_numpy(test.main)), 0.01)
