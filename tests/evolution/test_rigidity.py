"""Rectified networks, the worlds they are trained on, and what is dormant in them."""

import numpy as np
import pytest

from ontogeny.evolution import rigidity as rooms
from ontogeny.evolution.landscapes import INPUTS
from ontogeny.evolution.rigidity import (
    dormant_share,
    forward,
    fresh,
    gradients,
    lessons,
    readapt,
    rigidity,
    teach,
    train,
)


def test_gradients_are_finite_differences() -> None:
    nets, rng = fresh(1), np.random.default_rng(0)
    nets = [np.concatenate([part, 1.1 * part]) for part in nets]  # two networks at once
    inputs, targets = rng.normal(size=(16, INPUTS)), rng.normal(size=16)
    found, losses = gradients(nets, inputs, targets)
    for place, part in enumerate(nets):
        direction = rng.normal(size=part.shape)
        moved = []
        for step in (1e-6, -1e-6):
            other = [p + step * direction if i == place else p for i, p in enumerate(nets)]
            moved.append(0.5 * np.square(forward(other, inputs)[2][..., 0] - targets).mean(1))
        slope = (moved[0] - moved[1]) / 2e-6
        np.testing.assert_allclose((found[place] * direction).sum((1, 2)), slope, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(losses, np.square(forward(nets, inputs)[2][..., 0] - targets).mean(1))


def test_teachers_have_variance_one() -> None:
    said = teach("first", np.random.default_rng(0).normal(size=(10, 1000, INPUTS)), 1)
    assert said.shape == (10, 1000)
    assert (said.mean(), said.var()) == (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))


def test_worlds_differ_as_they_are_said_to() -> None:
    steps = 400
    worlds = {world: lessons(world, steps, 1) for world in ("instant", "law", "drifting", "mixture")}
    distinct = {world: len(np.unique(inputs.reshape(-1, INPUTS), axis=0)) for world, (inputs, _) in worlds.items()}
    assert distinct["instant"] == rooms.DATA
    assert distinct["law"] == distinct["drifting"] == steps * rooms.BATCH
    for world in ("instant", "law"):
        inputs, targets = worlds[world]
        np.testing.assert_allclose(targets, teach("first", inputs, 1))
    for world in ("drifting", "mixture"):
        inputs, targets = worlds[world]
        first, second = teach("first", inputs, 1), teach("second", inputs, 1)
        weights = np.array([np.linalg.lstsq(np.c_[a, b], t, rcond=None)[0] for a, b, t in zip(first, second, targets)])  # noqa: B905
        np.testing.assert_allclose((weights**2).sum(1), 1)
        turned = np.abs(np.diff(np.unwrap(np.arctan2(weights[:, 1], weights[:, 0]))))
        assert (turned.max() < 0.1) == (world == "drifting")
    assert len(lessons("none", steps, 1)[0]) == 0


def test_training_lowers_the_loss_and_divergence_is_infinite() -> None:
    nets = [np.repeat(part, 2, axis=0) for part in fresh(1)]
    losses = train(nets, np.array([0.05, 100.0]), lessons("law", 300, 1))
    assert losses[0] < 0.2
    assert losses[1] == np.inf


def test_re_adapting_takes_steps_and_the_budget_where_nothing_is_learnt() -> None:
    nets = [np.repeat(part, 2, axis=0) for part in fresh(1)]
    quick, never = readapt(nets, np.array([0.1, 0.0]), 1500, 1)
    assert 0 < quick < never == 1500


def test_units_that_say_nothing_are_dormant() -> None:
    net = fresh(1)
    before = dormant_share(net, 1)
    net[1][..., :8] = -100  # a quarter of the first layer's units never fires
    assert dormant_share(net, 1) == pytest.approx(before + 8 / 64, abs=2 / 64)


def test_an_untrained_network_has_nothing_to_unlearn() -> None:
    found = rigidity("none", 0, 600, 1)
    assert found["own"] == 1
    assert 0 < found["steps"] <= 600
