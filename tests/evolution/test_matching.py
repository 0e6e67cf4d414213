"""Matching finds planted permutations, and its null keeps what it says."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ontogeny.evolution import matching as module
from ontogeny.evolution.matching import (
    Network,
    assign,
    barrier,
    best_cosine,
    cosine,
    edges,
    matching,
    near_symmetry,
    network,
    plant,
    shuffle,
)
from ontogeny.evolution.networks import outputs
from ontogeny.evolution.pruning import CLASSES, INPUTS, held_out, task


def drawn(density: float, seed: int = 0, width: int = 24) -> Network:
    rng = np.random.default_rng(seed)
    neurons = rng.normal(size=(width, INPUTS + 1 + CLASSES))
    neurons[:, :INPUTS] *= rng.random((width, INPUTS)) < density
    neurons[:, INPUTS + 1 :] *= rng.random((width, CLASSES)) < density
    return Network(neurons, rng.normal(size=(1, CLASSES)), INPUTS)


def test_a_network_is_its_layers() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = ((2, 64, 5), (2, 1, 5)), ((2, 5, 10), (2, 1, 10))
    layers = [(torch.randn(w, generator=rng), torch.randn(b, generator=rng)) for w, b in shapes]
    one, x = network(layers, 1), torch.randn(2, 3, 64, generator=rng)
    into, bias, out = one.sides
    hidden = x[1].double().numpy() @ into.T + bias.T
    expected = np.where(hidden > 0, hidden, 0.01 * hidden) @ out + one.biases
    np.testing.assert_allclose(outputs(layers, x)[1], expected, atol=1e-4)


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_a_permutation_is_found(density: float) -> None:
    one = drawn(density)
    order = np.random.default_rng(1).permutation(len(one.neurons))
    np.testing.assert_array_equal(order[assign(one.neurons, one.neurons[order])], np.arange(len(order)))
    assert best_cosine(one.neurons, one.neurons[order]) == pytest.approx(1)
    assert cosine(one.neurons, one.neurons[order]) < 0.5


@settings(max_examples=10)
@given(st.floats(0.1, 1.0), st.integers(0, 5))
def test_the_null_keeps_degrees_and_sizes(density: float, seed: int) -> None:
    one = drawn(density, seed)
    other = Network(shuffle(one, np.random.default_rng(seed)), one.biases, INPUTS)
    for own, dealt in zip(one.sides, other.sides, strict=True):
        for axis in (0, 1):
            np.testing.assert_array_equal((own != 0).sum(axis), (dealt != 0).sum(axis))
    for side in (0, 2):
        own, dealt = (np.linalg.norm(which.sides[side], axis=1) for which in (one, other))
        np.testing.assert_allclose(own, dealt)
    np.testing.assert_allclose(np.sort(one.sides[1], axis=0), np.sort(other.sides[1], axis=0))


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_half_the_neurons_shared_is_seen_at_any_density(density: float) -> None:
    rng, one = np.random.default_rng(0), drawn(density, width=64)
    chance = best_cosine(one.neurons, shuffle(one, rng))
    assert (best_cosine(one.neurons, plant(one, rng)) - chance) / (1 - chance) == pytest.approx(0.5, abs=0.12)


def test_a_renamed_network_has_no_barrier_once_matched() -> None:
    given, one = task("digits", 0), drawn(1.0)
    order = np.random.default_rng(1).permutation(len(one.neurons))
    other = Network(one.neurons[order], one.biases, INPUTS)
    naming, same = assign(one.neurons, other.neurons), np.arange(len(order))
    assert barrier(one, other, naming, given) == pytest.approx(0, abs=1e-4)
    # by hand, unmatched: the loss of the middle, one of the eleven points, is no farther above than the largest
    middle = Network((one.neurons + other.neurons) / 2, one.biases, INPUTS)
    into, bias, out = middle.sides
    parts = [torch.from_numpy(part).float()[None] for part in (into.T, bias.T, out, middle.biases)]
    own = [torch.from_numpy(part).float()[None] for part in (one.sides[0].T, one.sides[1].T, one.sides[2], one.biases)]
    excess = held_out([(parts[0], parts[1]), (parts[2], parts[3])], given)
    excess = excess - held_out([(own[0], own[1]), (own[2], own[3])], given)
    assert barrier(one, other, same, given) == pytest.approx(max(0, float(excess)), rel=0.2, abs=1e-3)


def test_near_symmetry_of_twins_and_of_nothing() -> None:
    assert near_symmetry(np.ones((4, 3))) == 1
    assert near_symmetry(np.eye(4)) == 0
    assert near_symmetry(np.repeat(np.eye(2), 2, axis=0)) == 1  # neurons in pairs of twins
    assert near_symmetry(np.zeros((4, 3))) == 1
    twin = np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]])  # any two of three share one edge of two
    assert near_symmetry(twin) == pytest.approx(0.5)


def test_edges_leave_the_bias_out() -> None:
    neurons = np.zeros((2, 5))
    neurons[0, 1], neurons[1, 2], neurons[1, 4] = 3, 1, -2  # inputs 0 and 1, bias, outputs 3 and 4
    assert edges(neurons, 2).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_one_run_measures_every_density() -> None:
    options: dict[str, Any] = {
        "world": "digits",
        "width": 8,
        "densities": [1.0, 0.3],
        "steps": 10,
        "size": 8,
        "draws": 1,
    }
    found = matching(**options, seed=1)
    assert found == matching(**options, seed=1)
    assert found != matching(**options, seed=2)
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    assert {len(value) for value in lists.values()} == {2}
    for level in range(2):
        assert lists["matched"][level] >= lists["unmatched"][level]
        assert lists["matched barrier"][level] >= 0
    assert lists["near symmetry"][0] == 1  # dense: neurons are exchangeable
    assert lists["near symmetry"][1] < 1
    assert module.POINTS % 2  # the middle is among them
