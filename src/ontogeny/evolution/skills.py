"""Text of two kinds as a problem for small networks: the next character after four, in prose or in code.

Python's own documentation and its standard library's code, in an alphabet of 32 characters.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice

import numpy as np
from jaxtyping import Float, Int

from ontogeny.training.standard_library import code, prose

Characters = Int[np.ndarray, " _"]

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,(_#"  # the last one stands for all others
CONTEXT = 4  # characters
INPUTS = CONTEXT * len(ALPHABET)
LEARNT, TESTED = 400_000, 40_000  # characters of each kind
SKILL, REST = code, prose  # the kind that is withheld, and the other


@cache
def characters(kind: Callable[[], Iterator[str]]) -> tuple[Characters, Characters]:
    """A kind of text to learn from and, further on, to be tested on, as places in the alphabet."""
    place = {character: index for index, character in enumerate(ALPHABET)}
    other = place["#"]

    def written() -> Iterator[int]:
        for document in kind():
            yield from (place.get(character, other) for character in " ".join([*document.lower().split(), ""]))

    text = np.fromiter(islice(written(), LEARNT + TESTED), dtype=np.int64)
    return text[:LEARNT], text[LEARNT:]


def passages(
    text: Characters, starts: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows inputs"], Int[np.ndarray, " rows"]]:
    """Four characters from each of these places on, one of ``ALPHABET`` hot for each; and the character after them."""
    windows = text[starts[:, None] + np.arange(CONTEXT + 1)]
    hot = np.eye(len(ALPHABET), dtype=np.float32)[windows[:, :CONTEXT]]
    return hot.reshape(len(starts), INPUTS), windows[:, CONTEXT]


def unigram_loss(learnt: Characters, tested: Characters) -> float:
    """Nats a character of the second under the first's shares of characters, plus one each."""
    counts = np.bincount(learnt, minlength=len(ALPHABET)) + 1
    return float(-np.log(counts / counts.sum())[tested].mean())
