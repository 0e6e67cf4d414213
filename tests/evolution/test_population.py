"""Selection and mutation, against what they are in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ontogeny.evolution.landscapes import make_quadratic
from ontogeny.evolution.population import (
    Selection,
    cosine,
    displacement,
    mutations,
    reproduction,
    spearman,
)

RULES: tuple[Selection, ...] = ("proportional", "standardised", "truncation")
LOSSES = arrays(float, st.integers(2, 40), elements=st.floats(-1e3, 1e3))


@given(LOSSES)
def test_weights_are_shares_of_the_next_generation(losses: np.ndarray) -> None:
    for rule, total in zip(RULES, (1, 0, 1), strict=True):
        weights = reproduction(losses, rule)
        assert weights.sum() == pytest.approx(total, abs=1e-9)
        assert weights.argmax() == losses.argmin() or np.isclose(weights.max(), weights[losses.argmin()])


@given(LOSSES)
def test_a_better_one_never_weighs_less(losses: np.ndarray) -> None:
    order = np.argsort(losses, kind="stable")
    for rule in RULES:
        assert (np.diff(reproduction(losses, rule)[order]) <= 1e-12).all()


def test_truncation_keeps_the_best_quarter() -> None:
    np.testing.assert_array_equal(reproduction(np.arange(8.0), "truncation"), [0.5, 0.5, 0, 0, 0, 0, 0, 0])


def test_equal_losses_select_nobody() -> None:
    steps = mutations(np.random.default_rng(0), 8, 3)
    for rule in ("proportional", "standardised"):
        np.testing.assert_allclose(displacement(np.ones(8), steps, rule), 0, atol=1e-15)


def test_mutations_come_in_opposite_pairs() -> None:
    steps = mutations(np.random.default_rng(0), 10, 4)
    np.testing.assert_array_equal(steps[:5], -steps[5:])


def proportional_mean(point: np.ndarray, curvature: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian N(point, σ²I) times the Gaussian exp(−½ wᵀHw) is one, moved by −(I/σ² + H)⁻¹Hw (Lande 1979)."""
    return np.asarray(-np.linalg.solve(np.eye(len(point)) / sigma**2 + curvature, curvature @ point))


def test_proportional_selection_has_the_closed_form_of_stabilising_selection() -> None:
    here, sigma = make_quadratic(4, seed=0, condition=5.0), 0.5
    steps = sigma * mutations(np.random.default_rng(1), 400_000, 4)
    moved = displacement(here.loss(here.start + steps), steps, "proportional")
    np.testing.assert_allclose(moved, proportional_mean(here.start, here.curvature, sigma), atol=0.005)


def test_small_mutations_make_the_closed_form_the_gradient() -> None:
    here = make_quadratic(6, seed=0)
    moved = proportional_mean(here.start, here.curvature, 1e-3)
    np.testing.assert_allclose(moved / 1e-6, -here.gradient(here.start), rtol=1e-4)


def test_an_evolution_strategys_cosine_has_its_closed_form() -> None:
    d, n = 20, 40
    slope = np.ones(d) / np.sqrt(d)
    rng, pairs = np.random.default_rng(2), n / 2
    along, whole = 0.0, 0.0
    for _ in range(2000):
        steps = mutations(rng, n, d)
        moved = -(steps @ slope) @ steps
        along, whole = along + (moved @ slope) ** 2, whole + moved @ moved
    assert along / whole == pytest.approx((pairs + 2) / (pairs + d + 1), rel=0.02)
    steps = mutations(rng, n, d)  # dividing by the losses' spread leaves the direction
    moved = displacement(steps @ slope, steps, "standardised")
    assert cosine(moved, -(steps @ slope) @ steps) == pytest.approx(1)


def test_spearman_is_of_ranks() -> None:
    x = np.array([1.0, 2, 3, 4])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert spearman(x, np.ones(4)) == 0
    assert cosine(x, np.zeros(4)) == 0
