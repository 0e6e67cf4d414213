"""Optimisers against PyTorch's, Adam's rates against their closed form, and steps that are known."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ontogeny.evolution.environments import Tracking
from ontogeny.evolution.optimisers import (
    BETAS,
    MOMENTA,
    SQUARES,
    adams_rate,
    average,
    candidates,
    descend,
    explained,
    stationary_rate,
)
from ontogeny.evolution.search import RATES


def valley(generations: int) -> Tracking:
    rng = np.random.default_rng(0)
    return Tracking(np.stack([np.diag([1.0, 0.1, 0.01])] * 2), generations, 1 + rng.normal(size=(generations, 3)))


@dataclass(frozen=True)
class Noise:
    """Gradients of a constant mean and sd, whatever the point."""

    mean: np.ndarray
    sd: np.ndarray

    @property
    def start(self) -> np.ndarray:
        return np.zeros_like(self.mean)

    def at(self, generation: int) -> "Noise":
        draw = np.random.default_rng(generation).normal(size=len(self.mean))
        return Noise(self.mean + self.sd * draw, self.sd)

    def loss(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points @ self.mean)

    def gradient(self, point: np.ndarray) -> np.ndarray:
        return self.mean

    def curvature(self, generation: int, point: np.ndarray) -> np.ndarray:
        return np.zeros_like(self.mean)


def test_descent_is_pytorchs_adam() -> None:
    here, point = valley(30), torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimiser = torch.optim.Adam([point], lr=0.1)
    found = descend(here, 30, 0.1)
    for t in range(30):
        np.testing.assert_allclose(found.points[t], point.detach().numpy(), rtol=1e-6, atol=1e-9)
        point.grad = torch.from_numpy(found.gradients[t].copy())
        optimiser.step()


def test_adamws_two_parts_are_pytorchs_step() -> None:
    rng, rate, decay = np.random.default_rng(1), 0.05, 0.3
    gradients = rng.normal(size=(40, 3)) * np.array([1.0, 10, 0.1])
    point = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimiser, points = torch.optim.AdamW([point], lr=rate, weight_decay=decay), []
    for gradient in gradients:
        points.append(point.detach().numpy().copy())
        point.grad = torch.from_numpy(gradient.copy())
        optimiser.step()
    path = np.array(points)
    place = MOMENTA.index(BETAS[0]) * len(SQUARES) + SQUARES.index(BETAS[1])
    step, shrink = candidates(gradients, path)["AdamW"][place]
    np.testing.assert_allclose(np.diff(path, axis=0), (rate * (step + decay * shrink))[:-1], rtol=1e-6)


def test_the_average_of_a_constant_is_the_constant_from_the_start() -> None:
    np.testing.assert_allclose(average(np.full((5, 2), 3.0), 0.99), 3)


def test_adams_rates_have_their_closed_form() -> None:
    mean, sd = np.array([1.0, 0.0, 3.0, 0.01]), np.array([0.0, 1.0, 4.0, 0.0])
    found = descend(Noise(mean, sd), 1500, 0.01)
    np.testing.assert_allclose(found.rates[-1], stationary_rate(mean, sd, 0.01), rtol=0.1)
    np.testing.assert_allclose(
        found.steps[-1, [0, 3]], -0.01, rtol=1e-4
    )  # steady gradients: alike, whatever their size


def test_adams_rate_is_tuned_on_the_grid() -> None:
    assert adams_rate(valley(60), 60).rate in RATES


def planted(name: str, place: int = 0) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(600, 5)) * np.geomspace(0.01, 1, 5) + 0.3 * np.geomspace(0.01, 1, 5)
    tried = candidates(gradients, 1 + rng.normal(size=(600, 5)))
    return np.tensordot(np.arange(1, len(tried[name][place]) + 1), tried[name][place], 1), tried


@pytest.mark.parametrize("name", ["SGD", "momentum", "Adam", "AdamW"])
def test_a_planted_optimisers_steps_are_explained_by_it(name: str) -> None:
    updates, tried = planted(name, place=-1)
    assert explained(updates, tried[name]) == pytest.approx(1)
    others = {"SGD": "Adam", "momentum": "Adam", "Adam": "SGD", "AdamW": "Adam"}
    assert explained(updates, tried[others[name]]) < 0.9


def test_rates_are_not_negative_and_noise_is_not_explained() -> None:
    updates, tried = planted("SGD")
    assert explained(-updates, tried["SGD"]) == 0
    chance = np.random.default_rng(3).normal(size=updates.shape)
    assert explained(chance, tried["AdamW"]) < 0.1


def test_every_gene_counts_alike() -> None:
    updates, tried = planted("SGD")
    updates[:, -1] = 1e4 * np.random.default_rng(4).normal(size=len(updates))  # the one of five that isn't explained
    assert explained(updates, tried["SGD"]) == pytest.approx(0.8, abs=0.1)
