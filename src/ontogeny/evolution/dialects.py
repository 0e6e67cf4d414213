"""Text of few symbols for small language models: the standard library's documentation and code, plain or marked.

Letters lose their case, digits become ``0``, what is neither a letter, a digit, a space nor a line's end becomes ``·``.
Two symbols more are marks, which no text has until it is marked.
"""

import string
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ontogeny.training.standard_library import code, prose

TABLE = string.ascii_lowercase + " \n0·"
MARKS = (len(TABLE), len(TABLE) + 1)
SYMBOLS = len(TABLE) + len(MARKS)
CORPORA = ("prose", "code", "backwards")  # the last is the documentation read from its end
LENGTH = 32  # symbols that a model reads at once

Text = Int[np.ndarray, " _"]


@cache
def corpus(name: str, size: int) -> Text:
    """The first so many symbols of a corpus; fewer where it has no more."""
    parts, found = [], 0
    for document in code() if name == "code" else prose():
        parts.append(encode(document + "\n"))
        found += len(parts[-1])
        if found >= size:
            break
    text = np.concatenate(parts)[:size]
    return text[::-1].copy() if name == "backwards" else text


def encode(text: str) -> Text:
    """Indices into ``TABLE``."""
    raw = np.frombuffer(text.lower().encode("latin-1", "replace"), np.uint8)
    return _lookup()[raw]


@cache
def _lookup() -> Text:
    found = np.full(256, TABLE.index("·"))
    for symbol in TABLE[:-1]:
        found[ord(symbol)] = TABLE.index(symbol)
    found[[ord(digit) for digit in string.digits]] = TABLE.index("0")
    return found


def windows(text: Text, rng: np.random.Generator) -> Int[Tensor, "windows length_plus_1"]:
    """All windows of LENGTH + 1 symbols that start at multiples of LENGTH, in random order."""
    starts = rng.permutation((len(text) - 1) // LENGTH) * LENGTH
    return torch.from_numpy(text[starts[:, None] + np.arange(LENGTH + 1)])


def bigram_loss(text: Text) -> float:
    """Cross-entropy (nats a symbol) of a text's symbols given the one before, by its own counts."""
    counts = np.zeros((SYMBOLS, SYMBOLS))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    given = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return float(-(counts * np.log(np.where(counts > 0, given, 1))).sum() / counts.sum())


@dataclass(frozen=True, eq=False)
class Dialect:
    """Two rules of spelling.

    A mark follows every trigger of a rule; it agrees where it is the one that the class of the symbol before the
    trigger asks for. A trigger after a trigger is not marked.
    """

    triggers: Bool[np.ndarray, "rules symbols"]
    classes: Int[np.ndarray, "rules symbols"]  # 0 or 1


TRIGGERS = ("er", "ta")  # a rule's; of about equal frequency in the documentation


def make_dialect(text: Text, rng: np.random.Generator) -> Dialect:
    """Which rule has which triggers, and classes that share out symbols of neighbouring frequency by coins."""
    triggers = np.zeros((2, SYMBOLS), bool)
    for rule, letters in enumerate(rng.permutation(TRIGGERS)):
        triggers[rule, [TABLE.index(letter) for letter in letters]] = True
    order = np.argsort(-np.bincount(text, minlength=SYMBOLS), kind="stable").reshape(-1, 2)
    classes = np.zeros((2, SYMBOLS), int)
    for rule in range(2):
        classes[rule, np.where(rng.random(len(order)) < 0.5, *order.T)] = 1
    return Dialect(triggers, classes)


def mark(text: Text, dialect: Dialect, agreement: tuple[float, float], rng: np.random.Generator) -> Text:
    """The text with its marks, each of which agrees with this probability, by rule."""
    triggers = dialect.triggers[:, text]
    triggers[:, 1:] &= ~np.logical_or(*dialect.triggers)[text[:-1]]
    triggers[:, 0] = False
    places = np.flatnonzero(triggers.any(0))
    rules = triggers[1, places].astype(int)
    agrees = rng.random(len(places)) < np.array(agreement)[rules]
    classes = dialect.classes[rules, text[places - 1]]
    return np.insert(text, places + 1, np.array(MARKS)[np.where(agrees, classes, 1 - classes)])


def slots(
    symbols: Int[Tensor, "*windows length_plus_1"], dialect: Dialect, rule: int
) -> tuple[Bool[Tensor, "*windows length"], Int[Tensor, "*windows length"]]:
    """Where the next symbol is a mark of this rule whose class a window shows, and that class."""
    triggers = torch.from_numpy(dialect.triggers[rule])
    found = triggers[symbols[..., :-1]] & (symbols[..., 1:] >= MARKS[0])
    found[..., 0] = False
    return found, torch.from_numpy(dialect.classes[rule])[symbols.roll(1, -1)[..., :-1]]
