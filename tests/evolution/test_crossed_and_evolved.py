"""Crossed networks and evolved ones: planted permutations, hand-made circuits, modularity against all divisions."""

from itertools import product

import numpy as np
import pytest
import torch

from ontogeny.evolution.crossing import SIZES, Images, Network, aligned, barrier, child, crossing, score
from ontogeny.evolution.modularity import modularity
from ontogeny.evolution.networks import he_normal, outputs, stack
from ontogeny.evolution.viable_paths import (
    GENES,
    GOALS,
    GRAIN,
    WEIGHTS,
    answers,
    connections,
    fitness,
    founders,
    modules,
    next_generation,
)


@pytest.fixture
def network() -> Network:
    layers = stack(he_normal(SIZES, np.random.default_rng(0)), 1)
    return [(W, b + torch.linspace(-0.1, 0.1, b.shape[-1])) for W, b in layers]


@pytest.fixture
def held() -> Images:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.random((50, 64), dtype=np.float32)), torch.from_numpy(rng.integers(10, size=50))


def test_a_permutation_is_undone(network: Network, held: Images) -> None:
    order = torch.randperm(SIZES[1], generator=torch.Generator().manual_seed(0))
    (W, b), (V, c) = [(5 * W, b) for W, b in network]  # sure of what it says
    network = [(W, b), (V, c)]
    held = held[0], outputs(network, held[0][None])[0].argmax(1)
    turned: Network = [(W[:, :, order], b[:, :, order]), (V[:, order], c)]
    assert score(turned, held) == pytest.approx(score(network, held), abs=1e-5)
    assert barrier(network, turned, held) > 0.1
    back = aligned(network, turned)
    torch.testing.assert_close(back[0][0], W)
    assert barrier(network, back, held) == pytest.approx(0, abs=1e-5)


def test_children_have_each_unit_from_one_parent(network: Network, held: Images) -> None:
    other = [(W + 1, b + 1) for W, b in network]
    of_one = torch.arange(SIZES[1]) < 5
    (W, b), (V, c) = child(network, other, of_one)
    torch.testing.assert_close(W[:, :, :5], network[0][0][:, :, :5])
    torch.testing.assert_close(W[:, :, 5:], other[0][0][:, :, 5:])
    torch.testing.assert_close(b[:, :, 5:], other[0][1][:, :, 5:])
    torch.testing.assert_close(V[:, :5], network[1][0][:, :5])
    torch.testing.assert_close(c, network[1][1] + 0.5)
    assert score(child(network, network, of_one), held) == pytest.approx(score(network, held))


def test_crossing_is_measured_for_three_kinds_of_pair() -> None:
    found = crossing(40, 1)
    assert found["accuracy"] > 0.5
    for kind in ("stranger", "aligned", "kin"):
        assert 0 <= found[f"{kind} alive"] <= 1
        assert found[f"{kind} barrier"] >= 0
    assert {"removed child", "removed alive", "resolved"} <= set(found)


def circuit(last: int) -> np.ndarray:
    """Two exclusive ors of an or and an and each, and a unit of this threshold on top."""
    first, second, third = np.zeros((4, 8), int), np.zeros((8, 4), int), np.zeros((4, 1), int)
    for half in (0, 1):
        first[2 * half : 2 * half + 2, 2 * half : 2 * half + 2] = 1
        second[2 * half, half], second[2 * half + 1, half] = 1, -1
        third[half] = 1
    thresholds = [2, 3, 2, 3, 3, 3, 3, 3, 2, 2, 3, 3, last]  # or: 0.5, and: 1.5
    return np.concatenate([first.ravel(), second.ravel(), third.ravel(), thresholds])[None]


def test_a_modular_circuit_solves_either_goal_by_one_threshold() -> None:
    for goal, last in zip(GOALS, (3, 2), strict=True):
        np.testing.assert_array_equal(answers(circuit(last))[0], goal)
        assert fitness(circuit(last), goal)[0] == 1
    assert fitness(np.zeros((1, GENES), int), GOALS[0])[0] == pytest.approx(0.5)  # always true: threshold −1.5
    values = fitness(founders(50, np.random.default_rng(0)), GOALS[1]) * GRAIN
    np.testing.assert_allclose(values, np.round(values), atol=1e-9)


def test_no_division_is_better_than_the_best_and_clear_modules_are_found() -> None:
    rng = np.random.default_rng(0)
    blocks = np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    assert modularity([blocks, blocks]) == pytest.approx(0.5)
    assert modularity([np.ones((3, 3), bool)]) == pytest.approx(0)
    assert modularity([np.zeros((3, 3), bool)]) == 0
    found, best = zip(*(_both(rng.random((4, 3)) < 0.5) for _ in range(12)), strict=True)
    assert all(one <= most + 1e-9 for one, most in zip(found, best, strict=True))
    assert np.sum(found) > 0.9 * np.sum(best)


def _both(mask: np.ndarray) -> tuple[float, float]:
    A = np.zeros((7, 7))
    A[:4, 4:] = mask
    A += A.T
    B = (A - np.outer(A.sum(0), A.sum(0)) / A.sum()) / A.sum()
    divisions = (np.array((0, *rest)) for rest in product(range(4), repeat=6))
    return modularity([mask]), max(float(B[part[:, None] == part].sum()) for part in divisions)


def test_a_lethal_threshold_lets_no_offspring_fall() -> None:
    rng, goal = np.random.default_rng(0), GOALS[0]
    genes = np.repeat(circuit(3), 60, axis=0)
    alive, best, found = next_generation(genes, goal, True, rng)
    assert fitness(alive, goal).min() == found == 1
    fallen, best, _ = next_generation(genes, goal, False, rng)
    assert fitness(fallen, goal).min() < 1
    np.testing.assert_array_equal(fallen[0], best)
    assert (fallen != genes).sum() / 60 == pytest.approx(0.7, abs=0.3)  # one gene drawn anew each, some as it was


def test_modules_are_looked_at_by_fitness() -> None:
    found = modules(20, 80, 2, True, True, 0)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, GRAIN + 1)
    assert sum(found["looks"]) == 4
    assert [mask.sum() for mask in connections(circuit(3)[0])] == [8, 4, 2]
    assert sum(WEIGHTS) == 68
