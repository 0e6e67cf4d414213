"""The coordinate search against brute force, on losses with one valley."""

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontogeny.lab.experiment import Rates
from ontogeny.lab.rates import GRID, START, Axis, Search, search

BOTH: tuple[Axis, ...] = ("body", "rest")
INDEX = range(len(GRID))
POINTS = [Rates(body, rest) for body, rest in itertools.product(GRID, GRID)]
Loss = Callable[[Rates], float]


def conduct(loss: Loss, axes: tuple[Axis, ...] = BOTH) -> tuple[Search, dict[Rates, float]]:
    """Score what the search asks for until it asks for nothing."""
    scores: dict[Rates, float] = {}
    while needed := (state := search(scores, axes)).needed:
        assert not set(needed) & set(scores), "a point was asked for twice"
        scores |= {rates: loss(rates) for rates in needed}
    return state, scores


def bowl(body: float, rest: float, tilt: float = 0.0) -> Loss:
    """A convex loss over the grid's indices with its valley at (body, rest), not necessarily a grid point."""

    def loss(rates: Rates) -> float:
        x, y = GRID.index(rates.body) - body, GRID.index(rates.rest) - rest
        return 5 + x * x + y * y + tilt * x * y

    return loss


def line(rates: Rates, axis: Axis) -> list[Rates]:
    others = {"body": rates.body, "rest": rates.rest}
    return [Rates(**others | {axis: value}) for value in GRID]


@given(st.floats(-1, 6), st.floats(-1, 6), st.floats(-1, 1))
def test_winner_is_best_along_both_axes(body: float, rest: float, tilt: float) -> None:
    loss = bowl(body, rest, tilt)
    state, scores = conduct(loss)
    assert state.best is not None
    for axis in BOTH:
        assert loss(state.best) == min(map(loss, line(state.best, axis)))
    assert state.at_edge == (not {state.best.body, state.best.rest}.isdisjoint({GRID[0], GRID[-1]}))
    assert len(scores) <= 16, "far fewer than the 36 points of the grid"


@pytest.mark.parametrize(("body", "rest"), list(itertools.product(INDEX, INDEX)))
def test_separable_losses_end_at_the_global_optimum(body: int, rest: int) -> None:
    loss = bowl(body, rest)
    state, scores = conduct(loss)
    assert state.best == min(POINTS, key=loss) == Rates(GRID[body], GRID[rest])
    assert state.at_edge == (body in (0, 5) or rest in (0, 5))
    assert state.second == min(set(scores) - {state.best}, key=lambda r: (scores[r], r.body, r.rest))


def test_optimum_at_the_start_costs_five_points() -> None:
    state, scores = conduct(bowl(GRID.index(START.body), GRID.index(START.rest)))
    assert state == Search(best=START, second=state.second, at_edge=False)
    assert len(scores) == 5


def test_first_question_is_the_start() -> None:
    assert search({}) == Search(needed=(Rates(body=1e-2, rest=3e-2),))


@given(st.floats(-1, 6), st.floats(-1, 6), st.floats(-1, 1), st.randoms(use_true_random=False))
def test_replay_from_scores_in_any_order(body: float, rest: float, tilt: float, order: random.Random) -> None:
    loss = bowl(body, rest, tilt)
    state, scores = conduct(loss)
    shuffled = list(scores.items())
    order.shuffle(shuffled)
    assert search(dict(shuffled)) == state
    kept = dict(shuffled[: len(shuffled) // 2])
    while needed := search(kept).needed:
        assert set(needed) <= set(scores), "an interrupted search asks for nothing new"
        kept |= {rates: scores[rates] for rates in needed}
    assert search(kept).best == state.best


@given(st.floats(-1, 6), st.floats(-1, 6))
def test_body_alone(body: float, rest: float) -> None:
    loss = bowl(body, rest)
    state, scores = conduct(loss, ("body",))
    assert {rates.rest for rates in scores} == {START.rest}
    assert state.best is not None
    assert loss(state.best) == min(map(loss, line(START, "body")))
    assert state.at_edge == (state.best.body in (GRID[0], GRID[-1])), "the other axis wasn't searched"


@given(st.floats(0, 3), st.floats(0, 3))
def test_diverged_runs_are_infinitely_bad(body: float, rest: float) -> None:
    """Everything above 1e-2 diverges, the start included; the valley below is found all the same."""

    def loss(rates: Rates) -> float:
        return bowl(body, rest)(rates) if rates.rest <= 1e-2 and rates.body <= 3e-2 else math.inf

    state, _ = conduct(loss)
    assert state.best is not None
    assert loss(state.best) == min(map(loss, POINTS))
    assert state.second is not None
    assert math.isfinite(loss(state.second))


def test_all_diverged_is_unresolved() -> None:
    state, scores = conduct(lambda rates: math.inf)
    assert state == Search(best=START, second=None, at_edge=True)
    assert len(scores) == 5


def test_ties_end_the_search() -> None:
    state, _ = conduct(lambda rates: 1.0)
    assert state.best == START
    assert state.second is not None
