"""What organisms of the theory bench see: handwritten digits, shifted and noisy, through one eye or two.

The digits are scikit-learn's (Alpaydın & Kaynak 1998): 1,797 images of 8 × 8 pixels.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float, Int

from ontogeny.streams import numpy_stream

Views = Float[np.ndarray, "rows pixels"]
Labels = Int[np.ndarray, " rows"]

SIDE, CLASSES = 8, 10
PIXELS = SIDE * SIDE
NOISE = 0.5  # sd of what is added to every pixel, where those of all images together have 1
TESTED = 360  # images that are never learnt from
SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
UNMOVED = SHIFTS.index((0, 0))


@dataclass(frozen=True, eq=False)
class Images:
    """Images in all their shifts, by ``SHIFTS``; every pixel's mean is 0 where nothing is moved."""

    moved: Float[np.ndarray, "shifts rows pixels"]
    labels: Labels

    @property
    def still(self) -> Views:
        """Neither moved nor noisy."""
        return np.asarray(self.moved[UNMOVED])

    def seen(self, which: Int[np.ndarray, " seen"], rng: np.random.Generator) -> Views:
        """These images by one eye: each moved by up to a pixel either way, and noisy."""
        views = self.moved[rng.integers(len(SHIFTS), size=len(which)), which]
        return np.asarray(views + NOISE * rng.standard_normal(views.shape, dtype=np.float32))

    def closed(self, rows: int, rng: np.random.Generator) -> Views:
        """What a closed eye sees: noise of the variance that every pixel has when it is open."""
        return np.asarray(self._spread * rng.standard_normal((rows, PIXELS), dtype=np.float32))

    @cached_property
    def _spread(self) -> Float[np.ndarray, " pixels"]:
        return np.asarray(np.sqrt(self.moved.var(axis=(0, 1)) + NOISE**2))


@cache
def _all_digits() -> tuple[Float[np.ndarray, "images side side"], Labels]:
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    return digits.images.astype(np.float32), digits.target.astype(np.int64)


@cache
def digits(seed: int) -> tuple[Images, Images]:
    """The images to learn from and to be tested on, another division for every seed."""
    images, labels = _all_digits()
    moved = np.stack([_shifted(images, *shift).reshape(len(images), PIXELS) for shift in SHIFTS])
    order = numpy_stream(seed, "division").permutation(len(images))
    learnt, tested = order[TESTED:], order[:TESTED]
    still = moved[UNMOVED, learnt]
    mean, scale = still.mean(0), np.sqrt(still.var(0).mean())
    return tuple(Images((moved[:, part] - mean) / scale, labels[part]) for part in (learnt, tested))  # type: ignore[return-value]


def _shifted(images: Float[np.ndarray, "n side side"], down: int, right: int) -> Float[np.ndarray, "n side side"]:
    """Moved by so many pixels; what comes in from outside is empty, 0."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.asarray(padded[:, 1 - down : 1 - down + SIDE, 1 - right : 1 - right + SIDE])
