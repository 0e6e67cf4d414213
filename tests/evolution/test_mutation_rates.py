"""What is measured of mutation rates, against planted ones."""

import math

import numpy as np
import pytest

from ontogeny.evolution.adaptation import Course
from ontogeny.evolution.environments import factors, make_environment
from ontogeny.evolution.mutation_rates import (
    BINS,
    FACTORS,
    OPTIMISERS,
    compare,
    effects,
    fold,
    gradient_moments,
    rates_and_updates,
    slope,
    switching,
    updates,
)
from ontogeny.evolution.optimisers import descend


def test_an_exponent_of_minus_a_half_is_20_fold() -> None:
    assert 10 ** fold(-0.5) == pytest.approx(20)
    assert slope(np.array([1.0, 3, 5]), np.array([0.0, 1, 2])) == pytest.approx(2)


def test_planted_rates_are_compared_as_what_they_are() -> None:
    here = make_environment("genes", 240, seed=1)
    adam, essential = descend(here, 240, 0.1), factors(1)[0]
    harm = np.where(essential, -1.0, -1.0 + math.log10(20))
    found = compare(harm, here, adam, 80)
    assert found["exponent"] == pytest.approx(-0.5)
    assert found["with curvature"] == pytest.approx(-1)
    assert found["with Adam"] > 0.8
    assert found["beyond curvature"] == 0  # importance is all there is to them
    own = compare(np.log10(adam.rates[80:]).mean(0), here, adam, 80)
    assert own["with Adam"] == own["beyond curvature"] == pytest.approx(1)
    assert own["exponent"] == own["Adam exponent"] < -0.5
    assert abs(own["step exponent"]) < 0.15
    opposed = compare(-np.log10(adam.rates[80:]).mean(0), here, adam, 80)
    assert opposed["with Adam"] == opposed["beyond curvature"] == pytest.approx(-1)


def test_effects_are_differences_between_classes() -> None:
    here = make_environment("genes", 60, seed=1)
    high = factors(1)
    planted = -1.0 * high[0] + 0.5 * high[1] + 0.0 * high[2]
    found = effects(planted, descend(here, 60, 0.1), 20, high)
    assert [found[f"σ {factor}"] for factor in FACTORS] == pytest.approx([-1, 0.5, 0])
    assert found["Adam essential"] < -1
    assert found["Adam jitter"] < -0.1


def test_moments_of_gradients() -> None:
    rng = np.random.default_rng(0)
    mean, variance = gradient_moments(np.array([2.0, 0.0]) + rng.normal(size=(20_000, 2)) * np.array([0.0, 3.0]))
    np.testing.assert_allclose(mean, [2, 3 / math.sqrt(10)], rtol=0.05)
    np.testing.assert_allclose(variance, [0, 9], rtol=0.05, atol=1e-12)


def test_updates_are_those_after_the_first_third() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(300, 4))
    steps = np.where(np.arange(300)[:, None] < 100, 1.0, -0.1 * gradients)  # another rule at first
    means = np.vstack([np.zeros(4), np.cumsum(steps, axis=0)])
    found = updates(Course(means, gradients, gradients, -gradients, np.zeros(300)), 100)
    assert found["R² SGD"] == found["R² response"] == pytest.approx(1)
    assert found["R² momentum"] < 0.98


def test_everything_has_a_number() -> None:
    found = rates_and_updates("genes", 14, 30, seed=1)
    assert all(map(math.isfinite, found.values()))
    assert {*(f"R² {name}" for name in OPTIMISERS), *(f"σ {factor}" for factor in FACTORS)} < set(found)
    again = rates_and_updates("genes", 14, 30, seed=1)
    assert found == again
    fixed = rates_and_updates("students", 14, 30, seed=1, adapting=False)
    assert fixed["exponent"] == pytest.approx(0, abs=1e-9)
    assert fixed["with Adam"] == fixed["beyond curvature"] == fixed["settling"] == 0


def test_a_switch_has_a_course() -> None:
    found = switching(14, 80, seed=1, selection="random")
    assert np.shape(found["course"]) == (4, BINS)
    assert all(math.isfinite(found[name]) for name in ("now", "before", "centrality", "first"))  # type: ignore[arg-type]
    assert switching(14, 80, seed=1, selection="random", native=True) != found
