"""Stacks of small networks against single ones and Adam's closed form."""

import numpy as np
import torch

from ontogeny.evolution.networks import RATES, best_rate, fit, he_normal, outputs, parameters, stack, tensor


def test_stacked_networks_are_single_ones() -> None:
    rng = np.random.default_rng(0)
    layers = stack(he_normal([2, 5, 1], rng), 3)
    x = rng.normal(size=(7, 2))
    first, last = (layer[0][1].numpy() for layer in layers)
    hidden = x @ first
    expected = np.where(hidden > 0, hidden, 0.01 * hidden) @ last
    np.testing.assert_allclose(outputs(layers, tensor(x).expand(3, -1, -1))[1], expected, atol=1e-5)


def test_adams_first_step_is_each_networks_rate() -> None:
    layers = stack([np.ones((2, 1))], 2)
    x, y = torch.ones(2, 4, 2), torch.zeros(2, 4, 1)
    fit(parameters(layers), lambda _: (outputs(layers, x) - y).square().mean((1, 2)), torch.tensor([0.1, 0.01]), 1)
    np.testing.assert_allclose(layers[0][0][:, 0, 0], [0.9, 0.99], atol=1e-6)
    assert not layers[0][0].requires_grad


def test_the_best_of_rates_is_the_smallest_within_the_tolerance() -> None:
    losses = torch.tensor([float("nan"), 1.0, 0.5, 0.505, 2.0, 3.0, 4.0, 5.0])
    assert best_rate(losses) == RATES[2]
    assert best_rate(losses, 0.01) == RATES[3]
