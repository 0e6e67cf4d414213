"""Losses and gradients of the landscapes, against finite differences and loops."""

import numpy as np
import pytest

from ontogeny.evolution.landscapes import make_landscape, make_quadratic, make_regression, network, network_point


@pytest.mark.parametrize(("kind", "size"), [("quadratic", 7), ("network", 3)])
def test_gradient_is_the_slope_of_the_loss(kind: str, size: int) -> None:
    here = make_landscape(kind, size, seed=3)
    gradient, step = here.gradient(here.start), 3e-3  # losses of networks are in single precision
    nudges = step * np.eye(len(here.start))
    slopes = (here.loss(here.start + nudges) - here.loss(here.start - nudges)) / (2 * step)
    np.testing.assert_allclose(gradient, slopes, atol=5e-5)


def test_quadratic_has_the_spectrum_it_says() -> None:
    here = make_quadratic(6, seed=1, condition=10.0)
    np.testing.assert_allclose(np.linalg.eigvalsh(here.curvature), np.geomspace(0.1, 1, 6))
    assert here.loss(np.zeros((1, 6)))[0] == 0


def test_network_is_a_tanh_layer_and_a_sum() -> None:
    point = network_point(2, 5, "student")
    weights, biases, outputs, last = point[:12].reshape(2, 6), point[12:14], point[14:16], point[16]
    x = np.linspace(-1, 1, 6)
    said = sum(outputs[i] * np.tanh(weights[i] @ x + biases[i]) for i in range(2)) + last
    assert network(point[None], x[None])[0, 0] == pytest.approx(said)


def test_a_batch_is_some_of_the_data() -> None:
    here = make_regression(3, seed=2)
    halves = [here.batch(rows).loss(here.start[None])[0] for rows in np.array_split(np.arange(256), 2)]
    assert np.mean(halves) == pytest.approx(here.loss(here.start[None])[0])


def test_the_teacher_is_the_same_for_every_width() -> None:
    one, other = make_regression(2, seed=4), make_regression(5, seed=4)
    np.testing.assert_array_equal(one.targets, other.targets)
    assert make_regression(2, seed=5).targets[0] != one.targets[0]


def test_noise_is_added_to_targets_alone() -> None:
    clean, noisy = make_regression(2, seed=4), make_regression(2, seed=4, noise=1.0)
    np.testing.assert_array_equal(clean.inputs, noisy.inputs)
    assert np.std(noisy.targets - clean.targets) == pytest.approx(1.0, abs=0.15)
