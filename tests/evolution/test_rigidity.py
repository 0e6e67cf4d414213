"""Networks that are trained on worlds that stand still or move, and what is dormant in them."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import rigidity as rooms
from ontogeny.evolution.landscapes import INPUTS
from ontogeny.evolution.networks import RATES, he_normal, stack
from ontogeny.evolution.rigidity import (
    GOALS,
    SIZES,
    dormant_shares,
    lessons,
    log_steps,
    picked,
    readapt,
    rigidity,
    teach,
    train,
    tuned,
    worlds,
)

NETS = he_normal(SIZES, np.random.default_rng(0))


def test_teachers_have_variance_one() -> None:
    said = teach("first", np.random.default_rng(0).normal(size=(10, 1000, INPUTS)), 1)
    assert said.shape == (10, 1000)
    assert (said.mean(), said.var()) == (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))


def test_worlds_differ_as_they_are_said_to() -> None:
    steps, names = 400, worlds((1, 4))
    inputs, targets = (dict(zip(names, part, strict=True)) for part in lessons((1, 4), steps, 1))
    distinct = {world: len(np.unique(rows.reshape(-1, INPUTS), axis=0)) for world, rows in inputs.items()}
    assert distinct["instant"] == rooms.DATA
    assert distinct["law"] == distinct["drifting 4"] == steps * rooms.BATCH
    for world in ("instant", "law"):
        np.testing.assert_allclose(targets[world], teach("first", inputs[world], 1))
    turned = {}
    for world in ("drifting 1", "drifting 4", "mixture"):
        parts = [teach(name, inputs[world], 1) for name in ("first", "second")]
        each = [np.linalg.lstsq(np.c_[a, b], t, rcond=None)[0] for a, b, t in zip(*parts, targets[world], strict=True)]
        weights = np.array(each)
        np.testing.assert_allclose((weights**2).sum(1), 1)
        turned[world] = np.abs(np.diff(np.unwrap(np.arctan2(weights[:, 1], weights[:, 0])))).max()
    assert turned["drifting 4"] == pytest.approx(4 * turned["drifting 1"]) == pytest.approx(8 * np.pi / steps)
    assert turned["mixture"] > 1


def test_training_lowers_the_loss_of_all_but_the_last() -> None:
    layers, count = stack(NETS, 5), len(worlds((1,)))
    before = [part.clone() for part in layers[0]]
    losses = train(layers, torch.full((count,), 0.01), lessons((1,), 300, 1))
    assert (losses[:3] < 0.5).all()
    assert losses[-1] > 0.5
    for part, old in zip(layers[0], before, strict=True):
        assert torch.equal(part[-1], old[-1])
        assert not torch.equal(part[0], old[0])


def test_re_adapting_takes_steps_more_for_each_goal_and_for_ever_where_nothing_is_learnt() -> None:
    quick, never = readapt(stack(NETS, 2), torch.tensor([0.01, 0.0]), 600, 1)
    assert 1 <= quick[0] < quick[-1] <= 600
    assert (np.diff(quick) >= 0).all()
    assert np.isinf(never).all()
    assert (log_steps(never[None], 512) == 9).all()


def test_units_that_say_nothing_are_dormant() -> None:
    layers = stack(NETS, 2)
    before = dormant_shares(layers, 1)
    for part in layers[0]:
        part[1, :, :8] = 0  # a quarter of the first layer's units
    after = dormant_shares(layers, 1)
    assert after[0] == before[0]
    assert after[1] == pytest.approx(before[1] + 8 / 64, abs=3 / 64)


def test_copies_are_of_the_networks_asked_for() -> None:
    layers = stack(NETS, 3)
    layers[0][0][1] = 7
    chosen = picked(layers, torch.tensor([1, 1, 0]))
    assert (chosen[0][0][:2] == 7).all()
    chosen[0][0][:] = 0
    assert (layers[0][0][1] == 7).all()


def test_rates_are_tuned_for_every_world() -> None:
    first, second = tuned((1,), 30, 30, 1)
    assert len(first) == len(second) == len(worlds((1,)))
    assert set(first) | set(second) <= set(RATES)


def test_every_world_is_measured() -> None:
    found = rigidity((2,), 30, 30, 1)
    for world in worlds((2,)):
        assert len(found[f"{world} steps"]) == len(GOALS)  # type: ignore[arg-type]
        assert 0 <= found[f"{world} dormant"] <= 1  # type: ignore[operator]
