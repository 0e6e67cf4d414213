"""Error thresholds: matrices, eigenvectors and populations against closed forms."""

import numpy as np
import pytest

from ontogeny.evolution.quasispecies import (
    class_fitness,
    equilibrium,
    error_threshold,
    extrapolated,
    master_share,
    mutation_matrix,
    population_shares,
    threshold,
)


def test_copies_have_some_number_of_errors() -> None:
    matrix = mutation_matrix(12, 0.1)
    np.testing.assert_allclose(matrix.sum(0), 1)
    assert matrix[0, 0] == pytest.approx(0.9**12)
    np.testing.assert_allclose(np.arange(13) @ matrix, [12 * 0.1 + j * 0.8 for j in range(13)])  # mean of the errors
    np.testing.assert_allclose(mutation_matrix(5, 0.0), np.eye(6))


def test_the_threshold_is_about_ln_superiority_over_length() -> None:
    assert threshold(10.0, 1000) == pytest.approx(np.log(10) / 1000, rel=2e-3)
    assert master_share(10.0, 50, threshold(10.0, 50)) == pytest.approx(0, abs=1e-12)
    assert master_share(10.0, 50, 0.5) == 0


def test_long_sequences_have_the_masters_share_of_the_closed_form() -> None:
    rate = 0.5 * threshold(5.0, 100)
    assert equilibrium(class_fitness("peak", 100, 5.0), rate)[0] == pytest.approx(
        master_share(5.0, 100, rate), rel=0.02
    )


def test_on_a_slope_sites_are_independent() -> None:
    """Its equilibrium is binomial, the share of errors a site that of a two-state eigenvector."""
    length, rate = 10, 0.05
    site = np.array([[1 - rate, rate], [rate, 1 - rate]]) * np.array([3 ** (1 / length), 1])
    values, vectors = np.linalg.eig(site)
    leading = np.abs(vectors[:, values.argmax()])
    shares = equilibrium(class_fitness("slope", length, 3.0), rate)
    assert np.arange(length + 1) @ shares / length == pytest.approx(leading[1] / leading.sum())


def test_populations_are_near_the_eigenvector() -> None:
    fitness = class_fitness("peak", 20, 10.0)
    found = population_shares(fitness, 0.05, 4000, 200, np.random.default_rng(0))
    np.testing.assert_allclose(found, equilibrium(fitness, 0.05), atol=0.01)


def test_without_errors_the_master_stays_alone() -> None:
    assert population_shares(class_fitness("peak", 8, 2.0), 0.0, 50, 10, np.random.default_rng(0))[0] == 1


def test_a_line_is_extrapolated_to_the_threshold() -> None:
    rates = np.array([0.01, 0.02, 0.03])
    shares = np.array([master_share(10.0, 30, rate) for rate in rates.tolist()])
    assert extrapolated(shares, rates, 30) == pytest.approx(threshold(10.0, 30))
    assert np.isnan(extrapolated(shares[::-1], rates, 30))


def test_a_peak_has_a_threshold_and_a_slope_keeps_its_order_beyond() -> None:
    peak = error_threshold("peak", 20, 10.0, 1000, 200, 1)
    slope = error_threshold("slope", 20, 10.0, 1000, 200, 1)
    assert peak["ratio"] == pytest.approx(peak["infinite"], abs=0.15)
    assert abs(peak["order"]) < 0.1 < slope["order"]  # type: ignore[arg-type,operator]
