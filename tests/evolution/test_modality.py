"""Senses that split a world or recode it, and measures of how alike networks are."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import modality
from ontogeny.evolution.modality import Sense, channels, codes, dealt_within_classes, different_worlds, other_codes
from ontogeny.evolution.networks import tensor
from ontogeny.evolution.representations import apart, error_consistency, unexplained
from ontogeny.evolution.senses import PIXELS, digits

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["place", "scale", "scattered"])
def test_channels_share_the_world_and_nothing_else(kind: str) -> None:
    first, second = (sense.matrix for sense in channels(kind, 0))
    np.testing.assert_allclose(first @ first, first, atol=1e-12)  # projections
    np.testing.assert_allclose(first + second, np.eye(PIXELS), atol=1e-12)
    assert np.trace(first) == pytest.approx(PIXELS / 2)


def test_channels_by_place_and_scale_are_what_they_say() -> None:
    left = channels("place", 0)[0].matrix.diagonal().reshape(8, 8)
    np.testing.assert_array_equal(left, [[1] * 4 + [0] * 4] * 8)
    coarse, fine = (sense.matrix for sense in channels("scale", 0))
    even, checkered = np.ones(PIXELS), np.indices((8, 8)).sum(0).ravel() % 2 * 2.0 - 1
    np.testing.assert_allclose(coarse @ even, even, atol=1e-9)
    assert np.square(fine @ checkered).sum() > 0.8 * PIXELS


def test_codes_keep_the_data_and_dealing_keeps_marginals_alone() -> None:
    senses = codes(0)
    for name in ("permuted", "mixed", "receptors"):
        np.testing.assert_allclose(senses[name].matrix @ senses[name].matrix.T, np.eye(PIXELS), atol=1e-9)
    x = tensor(RNG.normal(size=(3, PIXELS)))
    back = torch.atanh(senses["receptors"].of(x)) @ tensor(senses["receptors"].matrix.T)
    np.testing.assert_allclose(back, x, atol=1e-2)
    images = digits(0)[0]
    dealt = dealt_within_classes(images.still, images.labels, RNG)
    for label in (0, 7):
        rows = images.labels == label
        np.testing.assert_array_equal(np.sort(dealt[rows], axis=0), np.sort(images.still[rows], axis=0))
        together = [
            np.abs(np.corrcoef(part[rows][:, 18:22].T)[np.triu_indices(4, 1)]).mean() for part in (images.still, dealt)
        ]
        assert together[1] < together[0] / 2


def test_what_a_linear_map_leaves_over() -> None:
    x, u = (torch.from_numpy(RNG.normal(size=(500, 4))) for _ in range(2))
    turn = torch.from_numpy(RNG.normal(size=(4, 6)))
    assert unexplained((x, x @ turn + 1), (u, u @ turn + 1)) == pytest.approx(0, abs=1e-3)
    noise, other = (torch.from_numpy(RNG.normal(size=(500, 4))) for _ in range(2))
    assert unexplained((x, x + noise), (u, u + other)) == pytest.approx(0.5, abs=0.06)
    assert unexplained((x, noise), (u, other)) == pytest.approx(1, abs=0.03)


def test_mistakes_in_common() -> None:
    right = torch.from_numpy(RNG.random(2000) < 0.8)
    assert error_consistency(right, right) == pytest.approx(1)
    assert error_consistency(right, torch.from_numpy(RNG.random(2000) < 0.8)) == pytest.approx(0, abs=0.08)
    assert error_consistency(right, torch.ones(2000, dtype=torch.bool)) == 0


def test_within_and_between_groups() -> None:
    likeness = np.array([[1, 0.8, 0.1, 0.3], [0.8, 1, 0.2, 0.2], [0.1, 0.2, 1, 0.6], [0.3, 0.2, 0.6, 1]])
    within, between = apart(lambda i, j: float(likeness[i, j]), ((0, 1), (2, 3)))
    assert within == pytest.approx(0.7)
    assert between == pytest.approx(0.2)


def test_axes_are_led_back_to_pixels() -> None:
    turn = np.linalg.qr(RNG.normal(size=(PIXELS, PIXELS)))[0]
    first = tensor(RNG.normal(size=(PIXELS, 20)))
    weights = torch.stack([first, tensor(turn.T) @ first])
    nothing = torch.zeros(2, 3, 4, dtype=torch.double)
    senses = (Sense(np.eye(PIXELS)), Sense(turn))
    grown = modality.Grown(nothing, nothing, nothing, torch.ones(2, 3, dtype=torch.bool), weights, senses)
    assert grown.common_axes(0, 1) == pytest.approx(1, abs=1e-4)


def test_networks_grow_up_with_their_senses() -> None:
    worlds = different_worlds("place", 30, 7)
    assert set(worlds) >= {"cka", "cka untrained", "mistakes", "right", "resolved"}
    assert worlds["cka untrained"] != worlds["cka"]
    found = other_codes(30, 7)
    assert {"axes permuted", "axes mixed"} <= set(found)
    assert "axes receptors" not in found
    sense = codes(7)["pixels"]
    rates = torch.full((2,), 0.01)
    untrained, layers = modality.grown_up([sense, sense], ["a", "a"], rates, 5, 7)
    np.testing.assert_array_equal(layers[0][0][0], layers[0][0][1])  # one start, one life, one network
    assert not torch.equal(layers[0][0], untrained[0][0])
