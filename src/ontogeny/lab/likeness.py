"""Are units of one group more alike than units of two: a permutation test, and intervals where pairs share units."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ontogeny.lab.statistics import Interval, paired_interval
from ontogeny.streams import numpy_stream


@dataclass(frozen=True)
class Likeness:
    """Mean similarity of two units of one group and of two groups; ``p``: of groups by chance, one-sided."""

    within: float
    between: float
    p: float


def likeness(
    similarity: Float[np.ndarray, "n n"], groups: Sequence[int], blocks: Sequence[int], draws: int = 10_000
) -> Likeness:
    """Are units of one group more alike than units of two? Pairs of different blocks alone.

    Every block holds one unit of each group. ``p`` by permuting the groups' labels within each block: the share of
    ``draws`` random relabellings, and the given one, whose difference is at least the one found.
    """
    labels, blocked = np.array(groups), np.array(blocks)
    first, second = np.triu_indices(len(labels), 1)
    apart = blocked[first] != blocked[second]
    first, second = first[apart], second[apart]
    values = similarity[first, second]
    generator = numpy_stream(0, "likeness")
    relabelled = np.tile(labels, (draws + 1, 1))
    for block in np.unique(blocked):
        members = np.flatnonzero(blocked == block)
        relabelled[1:, members] = generator.permuted(relabelled[1:, members], axis=1)
    same = relabelled[:, first] == relabelled[:, second]  # (draws + 1, pairs)
    pairs = same.sum(axis=1)
    within = same @ values / pairs
    between = (values.sum() - pairs * within) / (len(values) - pairs)
    reached = int((within - between >= within[0] - between[0] - 1e-12).sum())  # the given labels among them
    return Likeness(float(within[0]), float(between[0]), reached / (draws + 1))


def jackknife_interval(statistic: Callable[[Sequence[int]], float], units: Sequence[int]) -> Interval:
    """A statistic of units that share its terms, as pairs do: Student's t on the leave-one-out pseudo-values.

    n·θ − (n − 1)·θ₋ᵢ (Tukey 1958; for U-statistics Arvesen 1969). ``statistic`` gets the units it is to use.
    """
    n, whole = len(units), statistic(units)
    return paired_interval([n * whole - (n - 1) * statistic([u for u in units if u != left]) for left in units])


def correlation_apart(
    first: Float[np.ndarray, "blocks n"], second: Float[np.ndarray, "blocks n"]
) -> Float[np.ndarray, "n n"]:
    """How the values of two units go together in different blocks: of ``first`` in rows, of ``second`` in columns.

    Mean product of deviations from their block's mean, over the product of their root mean squares. Of one table with
    itself the diagonal's mean is the intraclass correlation; all others sum to minus the diagonal.
    """
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    products = np.outer(x.sum(axis=0), y.sum(axis=0)) - x.T @ y
    found: Float[np.ndarray, "n n"] = products / (len(x) * (len(x) - 1)) / np.sqrt((x**2).mean() * (y**2).mean())
    return found
