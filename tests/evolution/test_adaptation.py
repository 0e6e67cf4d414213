"""Self-adaptation against the breeder's equation and what chance alone would do."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from ontogeny.evolution.adaptation import BOUNDS, children, errors, evolve, survivors
from ontogeny.evolution.environments import Environment, Tracking


@dataclass(frozen=True)
class Plane:
    """A loss that falls as fast everywhere."""

    slope: np.ndarray

    @property
    def start(self) -> np.ndarray:
        return np.zeros_like(self.slope)

    def at(self, generation: int) -> "Plane":
        return self

    def loss(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points @ self.slope)

    def gradient(self, point: np.ndarray) -> np.ndarray:
        return self.slope

    def curvature(self, generation: int, point: np.ndarray) -> np.ndarray:
        return np.zeros_like(self.slope)


def still(d: int, generations: int) -> Environment:
    return Tracking(np.stack([np.eye(d)] * 2), generations, np.zeros((generations, d)))


def test_one_generation_on_a_plane_obeys_the_breeders_equation() -> None:
    slope, share = np.array([3.0, -4.0]), 1 / 7
    intensity = stats.norm.pdf(stats.norm.ppf(share)) / share
    course = evolve(Plane(slope), 1, 70_000, np.random.default_rng(0), adapting=False, sigma=0.1)
    np.testing.assert_allclose(course.means[1], -0.1 * intensity * slope / 5, atol=0.004)
    np.testing.assert_allclose(intensity * course.responses[0], course.means[1], atol=0.004)


def test_errors_of_mutation_rates_have_their_two_parts() -> None:
    d = 50
    found = errors(np.random.default_rng(0), 20_000, d)
    assert found.mean() == pytest.approx(0, abs=0.005)
    assert found.mean(1).std() == pytest.approx(math.sqrt(1 / (2 * d) + 1 / (2 * math.sqrt(d)) / d), rel=0.03)
    assert (found - found.mean(1, keepdims=True)).std() == pytest.approx((2 * math.sqrt(d)) ** -0.5, rel=0.03)


def test_children_take_genes_with_their_rates() -> None:
    points, rng = np.arange(12.0).reshape(3, 4), np.random.default_rng(0)
    for inheritance in ("recombining", "clonal"):
        genes, rates = children(points, -points, 200, rng, inheritance)
        np.testing.assert_array_equal(rates, -genes)
        np.testing.assert_array_equal(genes % 4, np.tile(np.arange(4.0), (200, 1)))
        parents = np.ptp(genes // 4, axis=1)
        assert (parents == 0).all() == (inheritance == "clonal")
        assert len(np.unique(genes // 4)) == 3


def test_the_best_survive() -> None:
    assert set(survivors(np.array([3.0, 1, 2, 0]), 2)) == {1, 3}


def test_without_selection_rates_drift_without_direction() -> None:
    chosen = [
        evolve(still(8, 6), 6, 14, np.random.default_rng(seed), selection="random").log_sigma[-1].mean()
        for seed in range(60)
    ]
    assert abs(np.mean(chosen) + 1) < 4 * np.std(chosen) / math.sqrt(60)


def test_in_a_still_valley_selection_lowers_every_rate() -> None:
    """The reduction principle (Altenberg & Feldman 1987)."""
    course = evolve(still(4, 120), 120, 70, np.random.default_rng(1))
    assert (course.log_sigma[-1] < -1.5).all()
    assert course.losses[-20:].mean() < course.losses[:20].mean()
    assert course.log_sigma.min() >= math.log10(BOUNDS[0]) - 1e-9


def test_rates_stay_where_they_do_not_adapt() -> None:
    course = evolve(still(3, 5), 5, 14, np.random.default_rng(1), adapting=False, sigma=0.5)
    np.testing.assert_allclose(course.log_sigma, math.log10(0.5))
    assert course.means.shape == (6, 3)
    np.testing.assert_array_equal(course.gradients, course.means[:-1])  # of ½|w|²
