"""What is written and what is learnt: payoffs and optima against closed forms."""

import numpy as np
import pytest

from ontogeny.evolution import innate
from ontogeny.evolution.innate import LENGTH, evolved, imposed, innate_share, payoff, still_optimum


def test_payoffs_are_those_of_guessing() -> None:
    assert payoff(np.array(0)) == pytest.approx(innate.BEST)
    needed = np.random.default_rng(0).geometric(2.0**-8, 100_000)
    left = np.maximum(innate.TRIALS - (needed - 1), 0).mean()
    assert payoff(np.array(8)) == pytest.approx(1 + (innate.BEST - 1) * left / innate.TRIALS, rel=0.01)
    assert (np.diff(payoff(np.arange(LENGTH + 1))) < 0).all()


def test_copying_errors_lower_the_optimum() -> None:
    optima = [still_optimum(mutation) for mutation in (0.0, 0.01, 0.03, 0.1)]
    assert optima[0] == 1
    assert optima == sorted(optima, reverse=True)
    assert optima[-1] < 0.8


def test_without_change_and_errors_fitness_is_the_payoff() -> None:
    np.testing.assert_allclose(imposed(0.0, 0.0, 20, 10, 1), np.log(payoff(np.arange(LENGTH + 1))))


def test_mutation_costs_what_the_closed_form_says() -> None:
    fitness = imposed(0.0, 0.02, 1000, 60, 1)
    loci = np.arange(8)
    expected = np.log(payoff(loci)) + (LENGTH - loci) * np.log(1 - 0.02)
    np.testing.assert_allclose(fitness[:8], expected, atol=0.05)


def test_a_world_that_changes_is_worse_for_what_is_written() -> None:
    still, moving = (imposed(change, 0.01, 100, 100, 1) for change in (0.0, 0.05))
    assert still[0] - moving[0] > 1
    assert still[LENGTH] == moving[LENGTH]  # nothing is written, so nothing changes


def test_by_chance_two_thirds_are_written() -> None:
    assert evolved(0.0, 0.2, 200, 200, 1, selected=False) == pytest.approx(2 / 3, abs=0.03)
    assert evolved(0.0, 0.01, 500, 100, 1) != evolved(0.0, 0.01, 500, 100, 1, selected=False)


def test_the_optimum_is_an_innate_share() -> None:
    found = innate_share(0.0, 0.03, 300, 60, 1)
    assert found["optimum"] == pytest.approx(still_optimum(0.03), abs=0.15)
    assert found["closed form"] == still_optimum(0.03)
