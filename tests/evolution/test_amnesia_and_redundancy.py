"""Items and pruning, and growing up without senses."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import amnesia
from ontogeny.evolution.amnesia import ITEMS, cases, items, retention, strongest
from ontogeny.evolution.redundancy import INPUTS, SENSES, given, missing_senses, scenes
from ontogeny.evolution.senses import PIXELS, digits


def test_items_are_patterns_of_the_pixels_own_values() -> None:
    patterns, names = items("early", 0)
    assert patterns.shape == (ITEMS, PIXELS)
    assert set(names.tolist()) <= set(range(10))
    still = digits(0)[0].still
    for pixel in (10, 33):
        assert set(patterns[:, pixel].tolist()) <= set(still[:, pixel].tolist())
    assert not torch.equal(patterns, items("late", 0)[0])


def test_the_strongest_connections_are_kept() -> None:
    mask = strongest(torch.tensor([[3.0, -4.0], [0.1, -0.2]]), 0.5)
    np.testing.assert_array_equal(mask, [[1, 1], [0, 0]])


def test_pruning_has_its_time() -> None:
    layers, masks = amnesia._newborn(0, 4)
    done = cases((0.5,))
    assert [how for how, _ in done] == ["never", "early", "random", "late"]
    amnesia._prune(layers, masks, done, "early", 0)
    assert masks[0].mean((1, 2)).tolist() == [1, 0.5, 0.5, 1]
    assert not torch.equal(masks[0][1], masks[0][2])
    amnesia._prune(layers, masks, done, "late", 0)
    assert masks[0].mean((1, 2)).tolist() == [1, 0.5, 0.5, 0.5]


def test_what_is_pruned_stays_pruned_and_before_it_nothing_differs() -> None:
    found = retention((0.5,), 30, 5, 7)
    assert np.shape(found["early learnt"]) == (4,)
    learnt = found["early learnt"]
    assert isinstance(learnt, list)
    assert len(set(learnt)) == 1  # one childhood
    layers, masks = amnesia._newborn(7, 4)
    amnesia._prune(layers, masks, cases((0.5,)), "early", 7)
    before = [mask.clone() for mask in masks]
    amnesia._live(layers, masks, None, 3, torch.full((4,), 0.01), 7, "youth")
    assert all(torch.equal(a, b) for a, b in zip(masks, before, strict=True))
    assert (amnesia.pruned(layers, masks)[0][0][1] == 0).float().mean() == pytest.approx(0.5, abs=1e-3)


def test_redundant_senses_show_one_digit_and_separate_ones_two() -> None:
    images, rng = digits(0)[0], np.random.default_rng(0)
    rows = np.arange(200)
    seen, labels = scenes(images, rows, True, rng, 0.0)
    assert seen.shape == (200, INPUTS)
    assert torch.equal(labels[:, 0], labels[:, 1])
    seen, labels = scenes(images, rows, False, rng, 0.0)
    assert 0.02 < (labels[:, 0] == labels[:, 1]).float().mean() < 0.25  # by chance
    one, two, near = seen.split([PIXELS, PIXELS, INPUTS - 2 * PIXELS], 1)
    blocks = ((one + two) / 2).view(200, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    np.testing.assert_allclose(near, blocks, atol=1e-4)


def test_a_missing_sense_brings_nothing() -> None:
    masks = given(list(SENSES.values()))
    np.testing.assert_array_equal(masks.sum(1), [INPUTS, INPUTS - PIXELS, INPUTS - PIXELS, INPUTS - 2 * PIXELS])
    assert masks[:, -1].all()


def test_senses_are_measured_against_one_that_had_both() -> None:
    found = missing_senses(True, 30, 7)
    assert "cka reference" not in found
    assert all(-0.1 < found[f"cka {name}"] <= 1 for name in (*SENSES, "late"))
    assert found["loss late"] != found["loss both"]
