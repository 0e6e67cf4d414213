"""The learning-rate protocol: one coordinate search for every arm, replayed from the scores known so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ontogeny.lab.experiment import Rates

GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
START = Rates(body=1e-2, rest=3e-2)
Axis = Literal["body", "rest"]


@dataclass(frozen=True)
class Search:
    """Where a search stands: ``needed`` rates still to score, or a winner.

    ``at_edge``: the winner lies on the grid's edge, so the best rate is unresolved. ``second`` is the second-best
    rate tried. ``scores``: those that a store has of what was asked for.
    """

    needed: tuple[Rates, ...] = ()
    best: Rates | None = None
    second: Rates | None = None
    at_edge: bool = False
    scores: Mapping[Rates, float] = field(default_factory=dict)


def search(scores: Mapping[Rates, float], axes: tuple[Axis, ...] = ("body", "rest")) -> Search:
    """Coordinate search on ``GRID`` from ``START``: along each axis in turn, to the first rate better than both its
    neighbours, until no axis moves. Deterministic in ``scores`` (losses; infinite where a run diverged).
    """
    if START not in scores:
        return Search(needed=(START,))
    current, settled = START, 0
    while settled < len(axes):
        for axis in axes:
            line = _neighbours(current, axis)
            missing = tuple(rates for rates in line if rates not in scores)
            if missing:
                return Search(needed=missing)
            better = min(line, key=lambda rates: scores[rates])
            if scores[better] < scores[current]:
                current, settled = _descend(scores, current, better, axis), 0
                if current not in scores:
                    return Search(needed=(current,))
            else:
                settled += 1
            if settled >= len(axes):
                break
    finite = sorted((loss, rates.body, rates.rest) for rates, loss in scores.items() if rates != current)
    second = Rates(*finite[0][1:]) if finite and math.isfinite(finite[0][0]) else None
    at_edge = any(getattr(current, axis) in (GRID[0], GRID[-1]) for axis in axes) or not math.isfinite(scores[current])
    return Search(best=current, second=second, at_edge=at_edge)


def _neighbours(rates: Rates, axis: Axis) -> list[Rates]:
    index = GRID.index(getattr(rates, axis))
    return [replace(rates, **{axis: GRID[i]}) for i in (index - 1, index + 1) if 0 <= i < len(GRID)]


def _descend(scores: Mapping[Rates, float], current: Rates, better: Rates, axis: Axis) -> Rates:
    """Go on in the direction of ``better`` while it improves; an unscored rate on the way is returned to be scored."""
    direction = GRID.index(getattr(better, axis)) - GRID.index(getattr(current, axis))
    while True:
        index = GRID.index(getattr(better, axis)) + direction
        if not 0 <= index < len(GRID):
            return better
        further = replace(better, **{axis: GRID[index]})
        if further not in scores:
            return further
        if scores[further] >= scores[better]:
            return better
        better = further
