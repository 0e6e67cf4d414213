"""Moving environments and networks of genes, against what they are in closed form."""

import numpy as np
import pytest

from ontogeny.evolution.environments import (
    ESSENTIAL,
    GENES,
    MEMORY,
    WIDTH,
    Environment,
    Valley,
    factors,
    make_environment,
    moving_optima,
)
from ontogeny.evolution.landscapes import INPUTS, network
from ontogeny.evolution.regulation import EFFECT, Regulation, make_regulation, make_switching


def test_a_valleys_gradient_is_its_losss_slope() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(size=(3, 3))
    here, point = Valley(half @ half.T, rng.normal(size=3)), rng.normal(size=3)
    nudges = 1e-5 * np.eye(3)
    slopes = (here.loss(point + nudges) - here.loss(point - nudges)) / 2e-5
    np.testing.assert_allclose(here.gradient(point), slopes, rtol=1e-6)
    assert here.loss(here.optimum[None])[0] == 0


def test_importance_drift_and_jitter_are_crossed() -> None:
    combinations, counts = np.unique(factors(seed=3), axis=1, return_counts=True)
    assert combinations.shape == (3, 8)
    assert (counts == GENES // 8).all()


def test_optima_drift_and_jitter_as_they_are_told() -> None:
    optima = moving_optima(np.array([2.0, 0.0]), np.array([0.0, 0.5]), 60_000, np.random.default_rng(1))
    drifting, jittering = optima.T
    assert drifting.std() == pytest.approx(2, rel=0.15)
    assert np.corrcoef(drifting[:-MEMORY], drifting[MEMORY:])[0, 1] == pytest.approx(np.exp(-1), abs=0.1)
    assert jittering.std() == pytest.approx(0.5, rel=0.02)
    assert np.corrcoef(jittering[:-1], jittering[1:])[0, 1] == pytest.approx(0, abs=0.02)


def test_separate_genes_have_the_curvature_of_their_class() -> None:
    here = make_environment("genes", 5, seed=2)
    assert isinstance(here, Environment)
    essential = factors(seed=2)[0]
    curvature = here.curvature(0, here.start)
    np.testing.assert_array_equal(curvature[essential], 1)
    np.testing.assert_allclose(curvature[~essential], 1 / ESSENTIAL)


def test_students_curvature_is_the_outputs_mean_square_slope() -> None:
    here = make_environment("students", 5, seed=2)
    assert isinstance(here, Environment)
    point = here.start + 0.1
    curvature = here.curvature(0, point)
    assert curvature[-1] == 1  # of the output's bias
    inputs = np.random.default_rng(0).normal(size=(100_000, INPUTS)) * np.geomspace(1, ESSENTIAL**-0.5, INPUTS)
    for gene in (0, INPUTS - 1, WIDTH * INPUTS, len(point) - 2):  # input weights, a bias, an output weight
        nudge = 1e-4 * np.eye(len(point))[gene]
        slope = np.subtract(*network(np.stack([point + nudge, point - nudge]), inputs)) / 2e-4
        assert curvature[gene] == pytest.approx(np.square(slope).mean(), rel=0.3)


def test_students_get_a_fresh_batch_every_generation() -> None:
    here = make_environment("students", 5, seed=2)
    one, other = here.at(0), here.at(1)
    assert not np.array_equal(one.inputs, other.inputs)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(one.targets, make_environment("students", 5, seed=2).at(0).targets)  # type: ignore[attr-defined]


def test_a_chain_of_genes_in_closed_form() -> None:
    effects = np.zeros((3, 3))
    effects[1, 0] = effects[2, 1] = -EFFECT  # 0 regulates 1, which regulates 2
    essential = np.array([[False, False, True], [True, True, True]])
    here = Regulation(effects, essential)
    np.testing.assert_allclose(here.centrality, [1.75, 1.5, 1])
    low = 1 / ESSENTIAL
    np.testing.assert_allclose(here.curvatures[0], [low + low / 4 + 1 / 16, low + 1 / 4, 1])
    np.testing.assert_allclose(here.curvatures[1], [1 + 1 / 4 + 1 / 16, 1 + 1 / 4, 1])


def test_networks_have_no_loops_and_essentiality_moves() -> None:
    here = make_regulation(seed=4)
    assert not np.linalg.matrix_power(here.effects, GENES).any()
    _, counts = np.unique(here.essential, axis=1, return_counts=True)
    np.testing.assert_array_equal(counts, GENES // 4)
    assert here.centrality.max() > 2 * np.median(here.centrality)  # hubs


def test_the_second_hessian_holds_from_the_switch_on() -> None:
    here = make_regulation(seed=4)
    moved, native = (make_switching(here, 10, seed=4, native=native) for native in (False, True))
    for generation, which in ((0, 0), (4, 0), (5, 1), (9, 1)):
        np.testing.assert_array_equal(moved.at(generation).hessian, here.hessians[which])
        np.testing.assert_array_equal(native.at(generation).hessian, here.hessians[1])
    np.testing.assert_array_equal(moved.optima, native.optima)
