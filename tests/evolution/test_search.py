"""Searchers against closed forms, and what they are charged."""

import math
from itertools import islice

import numpy as np
import pytest

from ontogeny.evolution.landscapes import Quadratic, make_quadratic
from ontogeny.evolution.race import effective_dimension, race
from ontogeny.evolution.search import (
    EVOLUTION,
    GRADIENT,
    GRADIENT_COST,
    RATES,
    Searcher,
    best_rate,
    evaluations_to,
    search,
)


def bowl(d: int = 3) -> Quadratic:
    return Quadratic(np.eye(d), np.ones(d))


def test_gradient_descent_shrinks_a_bowl_by_one_minus_its_rate() -> None:
    here = bowl()
    states = list(islice(search(lambda _: here, here.start, GRADIENT, 0.25, np.random.default_rng(0)), 4))
    np.testing.assert_allclose([state.point[0] for state in states], 0.75 ** np.arange(1, 5))
    assert [state.evaluations for state in states] == [GRADIENT_COST * step for step in (1, 2, 3, 4)]
    # loss falls by 0.75² a step: 9 steps are the first to reach a hundredth
    needed = evaluations_to(here, GRADIENT, 0.25, np.random.default_rng(0), share=0.01, budget=1e6)
    assert needed == GRADIENT_COST * math.ceil(math.log(0.01) / math.log(0.75**2))


def test_an_evolution_strategys_estimate_is_unbiased_on_a_quadratic() -> None:
    here, rng = make_quadratic(3, seed=0, condition=4.0), np.random.default_rng(1)
    mean = np.mean([EVOLUTION.descent(here, here.start, rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, here.gradient(here.start), atol=0.05)


def test_what_diverges_or_runs_out_never_arrives() -> None:
    rng = np.random.default_rng(0)
    assert evaluations_to(bowl(), GRADIENT, 4.0, rng, share=0.1, budget=1e6) == math.inf
    assert evaluations_to(bowl(), EVOLUTION, 1e-6, rng, share=0.1, budget=10.0 * EVOLUTION.cost) == math.inf


def test_the_best_rate_is_the_cheapest() -> None:
    found = best_rate(lambda rate, limit: abs(rate - RATES[3]))
    assert (found.rate, found.cost, found.resolved) == (RATES[3], 0, True)
    assert not best_rate(lambda rate, limit: math.inf).resolved
    assert not best_rate(lambda rate, limit: rate).resolved  # at the grid's end


def test_known_directions_are_a_projection_of_the_gradient() -> None:
    here, rng = make_quadratic(9, seed=0), np.random.default_rng(0)
    gradient = here.gradient(here.start)
    for known in (1, 3, 9):
        part = Searcher(directions=known).descent(here, here.start, rng)
        assert part @ gradient == pytest.approx(part @ part)
        assert part @ part <= gradient @ gradient + 1e-9
    np.testing.assert_allclose(part, gradient)


def test_dealt_losses_carry_no_credit() -> None:
    here, rng = make_quadratic(5, seed=0), np.random.default_rng(1)
    blind = Searcher(offspring=16, dealt=True)
    mean = np.mean([blind.descent(here, here.start, rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, 0, atol=0.1)


def test_a_race_of_a_bowls_dimension() -> None:
    for seed in (1, 2):
        found = race("quadratic", 6, 1500, seed=seed)
        assert found["gradient reached"] == found["pair reached"] == found["evolution reached"] == 1
        assert found["dimension"] == 6
        assert found["all steps"] * GRADIENT_COST == found["gradient evaluations"] < found["evolution evaluations"]
        assert found["one steps"] > found["all steps"]
        assert 0.1 < found["dealt"] <= 10
    lost = race("quadratic", 6, 16, seed=1)
    assert lost["evolution reached"] == 0
    assert lost["evolution evaluations"] == 16


def test_effective_dimension_of_a_bowl_is_its_dimension() -> None:
    assert effective_dimension(bowl(7)) == pytest.approx(7)
    sharp = Quadratic(np.diag([1.0, 0, 0]), np.array([1.0, 0, 0]))
    assert effective_dimension(sharp) == pytest.approx(1)
