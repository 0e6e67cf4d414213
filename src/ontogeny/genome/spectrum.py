"""What a list of singular values says about a matrix: effective and stable rank, energy, spikes above the noise.

Every function takes the singular values of one matrix in descending order; computed in float64.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from math import pi, sqrt

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy.special import entr
from torch import Tensor

from ontogeny.errors import InputError

TRACY_WIDOM_99 = 2.0234  # 99 % quantile of the Tracy–Widom law for real matrices (Johnstone 2001, table 1 lists 2.02)
ROUNDING = 1e-12  # relative; a cumulative energy this close to the target has reached it


def effective_rank(singular_values: Float[Tensor, " r"]) -> float:
    """exp of the entropy of σ/Σσ: r for equal values, 1 for a rank-one matrix, 0 for zero.

    Source: Roy & Vetterli, "The effective rank" (EUSIPCO 2007). Raises InputError as ``_checked`` says.
    """
    values = _checked(singular_values)
    total = values.sum()
    return float(np.exp(entr(values / total).sum())) if total > 0 else 0.0


def stable_rank(singular_values: Float[Tensor, " r"]) -> float:
    """‖W‖_F²/σ₁², between 1 and the rank; 0 for zero (Rudelson & Vershynin 2007). Raises InputError on bad values."""
    values = _checked(singular_values)
    return float(np.sum((values / values[0]) ** 2)) if values[0] > 0 else 0.0


def energy_share(singular_values: Float[Tensor, " r"], share: float = 0.1) -> float:
    """Share of Σσ² in the leading max(1, round(share·r)) directions; 0 for zero.

    Raises InputError on bad values or a share outside (0, 1].
    """
    _check_fraction("share", share)
    cumulative = _cumulative_energy(_checked(singular_values))
    return float(cumulative[max(1, round(share * cumulative.size)) - 1])


def rank_for_energy(singular_values: Float[Tensor, " r"], energy: float) -> int:
    """The fewest leading directions that hold this share of Σσ²; at least 1.

    Raises InputError on bad values or an energy outside (0, 1].
    """
    _check_fraction("energy", energy)
    cumulative = _cumulative_energy(_checked(singular_values))
    return min(int(np.searchsorted(cumulative, energy * (1 - ROUNDING))) + 1, cumulative.size)


def energy_for_values(spectra: Sequence[Float[Tensor, " _"]], total: int) -> float:
    """The share of Σσ² at which Σk², k = ``rank_for_energy`` of each matrix, is nearest to ``total``.

    Σk² grows by 2k + 1 where the share reaches what the first k directions of a matrix hold. The share is halfway
    between two such steps, so that rounding of the singular values can't move a rank. Of two as near it is the smaller.
    Raises InputError on bad values.
    """
    cumulative = [_cumulative_energy(_checked(spectrum)) for spectrum in spectra]
    steps = np.unique(np.concatenate([[0.0, 1.0], *cumulative]))
    steps = steps[np.diff(steps, prepend=-1.0) > 10 * ROUNDING]  # as good as equal: one step
    shares = ((steps[:-1] + steps[1:]) / 2).tolist()

    def values(share: float) -> int:
        return sum(rank_for_energy(spectrum, share) ** 2 for spectrum in spectra)

    reached = bisect_left(shares, total, key=values)  # the first share with so many values
    return float(min(shares[max(reached - 1, 0) : reached + 1], key=lambda share: abs(values(share) - total)))


def marchenko_pastur_spikes(singular_values: Float[Tensor, " r"], shape: tuple[int, int]) -> int:
    """How many singular values stand above what noise of independent entries of one variance would give.

    The noise level comes from the median singular value and the median of the Marchenko–Pastur law, which a few
    spikes can't move (Gavish & Donoho, "The optimal hard threshold for singular values is 4/√3", 2014). The edge is
    the 99 % quantile of the largest singular value of such noise (Johnstone 2001), a little above the asymptotic
    (√m + √n)·noise, so pure noise shows a spike once in about a hundred matrices rather than once in six
    (WeightWatcher corrects by Tracy–Widom too). If more than half of the values are zero the noise level is zero
    and every other value counts.
    Raises InputError unless there are min(shape) values, finite, ≥ 0 and descending.
    """
    values = _checked(singular_values)
    short, long = sorted(shape)
    if values.size != short:
        raise InputError(f"expected {short} singular values for shape {shape}, found {values.size}; pass all of them")
    noise = float(np.median(values)) / sqrt(long * _marchenko_pastur_median(short / long))
    centre = sqrt(long) + sqrt(short)
    spread = centre * (1 / sqrt(long) + 1 / sqrt(short)) ** (1 / 3)
    return int((values > noise * sqrt(centre**2 + TRACY_WIDOM_99 * spread)).sum())


def rank_profile(singular_values: Float[Tensor, " r"], shape: tuple[int, int]) -> dict[str, float]:
    """The numbers ``inspect`` prints for one matrix of this (d_out, d_in). Raises InputError as the parts do."""
    return {
        "effective_rank": effective_rank(singular_values),
        "stable_rank": stable_rank(singular_values),
        "energy_top_10_percent": energy_share(singular_values, 0.1),
        "rank_for_energy_90_percent": float(rank_for_energy(singular_values, 0.9)),
        "marchenko_pastur_spikes": float(marchenko_pastur_spikes(singular_values, shape)),
    }


@lru_cache(maxsize=1024)
def _marchenko_pastur_median(aspect: float) -> float:
    """Median of the Marchenko–Pastur law of eigenvalues at unit variance; aspect = short/long side in (0, 1]."""
    from scipy.integrate import quad  # these two are slow to import
    from scipy.optimize import brentq

    low, high = 1 - sqrt(aspect), 1 + sqrt(aspect)

    # in s = √λ, where the density stays finite at zero for square matrices
    def density(s: float) -> float:
        return sqrt(max(0.0, (high**2 - s**2) * (s**2 - low**2))) / (pi * aspect * s) if s > 0 else 0.0

    median = brentq(lambda s: quad(density, low, s)[0] - 0.5, low, high)
    return float(median) ** 2


def _cumulative_energy(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of Σσ² in the first 1, 2, … directions; scaled by σ₁ first so that squares can't over- or underflow."""
    if values[0] == 0:
        return np.zeros_like(values)
    cumulative = np.cumsum((values / values[0]) ** 2)
    return np.asarray(cumulative / cumulative[-1])


def _checked(singular_values: Tensor) -> npt.NDArray[np.float64]:
    """As float64; InputError unless there is at least one and all are finite, ≥ 0 and descending."""
    values: npt.NDArray[np.float64] = singular_values.detach().double().cpu().numpy()
    if values.size == 0 or not np.isfinite(values).all() or values[-1] < 0 or (np.diff(values) > 0).any():
        raise InputError(
            "expected one or more finite singular values ≥ 0 in descending order, "
            f"found {values.size} values that are not; pass torch.linalg.svdvals of a finite matrix"
        )
    return values


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InputError(f"expected {name} in (0, 1], found {value}; give a fraction such as 0.1")
