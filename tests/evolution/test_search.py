"""Searchers against closed forms, and what they are charged."""

import math
from itertools import islice

import numpy as np

from ontogeny.evolution.landscapes import Quadratic, make_quadratic
from ontogeny.evolution.race import race
from ontogeny.evolution.search import GRADIENT_COST, OFFSPRING, RATES, best_rate, estimate, evaluations_to, search


def bowl(d: int = 3) -> Quadratic:
    return Quadratic(np.eye(d), np.ones(d))


def test_gradient_descent_shrinks_a_bowl_by_one_minus_its_rate() -> None:
    here = bowl()
    states = list(islice(search(lambda _: here, here.start, "gradient", 0.25, np.random.default_rng(0)), 4))
    np.testing.assert_allclose([state.point[0] for state in states], 0.75 ** np.arange(1, 5))
    assert [state.evaluations for state in states] == [GRADIENT_COST * step for step in (1, 2, 3, 4)]
    # loss falls by 0.75² a step: 9 steps are the first to reach a hundredth
    needed = evaluations_to(here, "gradient", 0.25, np.random.default_rng(0), share=0.01, budget=1e6)
    assert needed == GRADIENT_COST * math.ceil(math.log(0.01) / math.log(0.75**2))


def test_an_evolution_strategys_estimate_is_unbiased_on_a_quadratic() -> None:
    here, rng = make_quadratic(3, seed=0, condition=4.0), np.random.default_rng(1)
    mean = np.mean([estimate(here, here.start, rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, here.gradient(here.start), atol=0.05)


def test_what_diverges_or_runs_out_never_arrives() -> None:
    rng = np.random.default_rng(0)
    assert evaluations_to(bowl(), "gradient", 4.0, rng, share=0.1, budget=1e6) == math.inf
    assert evaluations_to(bowl(), "evolution", 1e-6, rng, share=0.1, budget=10.0 * OFFSPRING) == math.inf


def test_the_best_rate_is_the_cheapest() -> None:
    rate, cost = best_rate(lambda rate, limit: abs(rate - RATES[3]))
    assert (rate, cost) == (RATES[3], 0)
    assert best_rate(lambda rate, limit: math.inf)[1] == math.inf


def test_a_race_of_a_bowls_dimension() -> None:
    found = race("quadratic", 4, 20_000, seed=1)
    assert found["reached"] == 1
    assert found["dimension"] == 4
    assert 0 < found["gradient evaluations"] < found["evolution evaluations"]
    assert 0 < found["blind"] <= 1.5
    lost = race("quadratic", 4, 16, seed=1)
    assert lost["reached"] < 1
    assert lost["evolution evaluations"] == 16
