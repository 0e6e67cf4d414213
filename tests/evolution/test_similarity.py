"""Measures of similarity against closed forms, the lab's own alignment and chance."""

import numpy as np
import pytest
import torch

from ontogeny.evolution.representations import linear_alignment
from ontogeny.evolution.similarity import (
    alike,
    beyond,
    centred_kernel,
    leading,
    matched_overlaps,
    neighbours,
    overlap,
    permuted,
    variance_shares,
    within_groups,
)


def drawn(seed: int, rows: int = 60, features: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features))


def test_kernels_product_is_debiased_cka() -> None:
    x, y = drawn(0), drawn(1) + drawn(0)
    expected = linear_alignment(torch.from_numpy(x), torch.from_numpy(y))
    assert alike(centred_kernel(x), centred_kernel(y)) == pytest.approx(expected, abs=1e-12)
    turned = 3 * x @ np.linalg.qr(drawn(2, 7))[0] + 5  # neither rotation, scale nor place matters
    assert alike(centred_kernel(x), centred_kernel(turned)) == pytest.approx(1, abs=1e-12)


def test_rows_that_are_all_one_are_like_nothing() -> None:
    dead, other = (centred_kernel(one) for one in (np.full((60, 7), 0.3), drawn(0)))
    assert alike(dead, dead) == alike(dead, other) == beyond(dead, other, other * 0.5) == 0


def test_unrelated_features_have_no_similarity_in_the_mean() -> None:
    pairs = [(drawn(2 * i, features=40), drawn(2 * i + 1, features=40)) for i in range(200)]
    assert abs(np.mean([alike(centred_kernel(x), centred_kernel(y)) for x, y in pairs])) < 0.01
    near = [alike(neighbours(x, 10), neighbours(y, 10)) for x, y in pairs]
    assert np.mean(near) == pytest.approx(10 / 59, abs=0.01)


def test_what_two_share_with_a_third_is_taken_off() -> None:
    third = drawn(0, 400, 5)
    first, second = (np.hstack([third, drawn(seed, 400, 5)]) for seed in (1, 2))
    kernels = [centred_kernel(one) for one in (first, second, third)]
    assert alike(kernels[0], kernels[1]) > 0.4
    assert abs(beyond(*kernels)) < 0.03
    assert beyond(kernels[0], kernels[0], kernels[2]) == pytest.approx(1)


def test_permuting_rows_is_permuting_pairs() -> None:
    x, groups = drawn(0), np.arange(60) % 3
    order = within_groups(groups, np.random.default_rng(0))
    assert (groups[order] == groups).all()
    assert (order != np.arange(60)).any()
    for measure in (centred_kernel, lambda features: neighbours(features, 4)):
        np.testing.assert_allclose(permuted(measure(x), order), measure(x[order]), atol=1e-12)


def test_overlaps_by_chance_and_by_covariance() -> None:
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.normal(size=(12, 3)))[0] for _ in range(2)]
    assert overlap(bases[0], bases[0]) == pytest.approx(1)
    assert overlap(np.eye(12)[:, :3], np.eye(12)[:, 3:6]) == 0
    found = matched_overlaps(np.eye(12), 3, 4, 300, rng)
    assert found.mean() == pytest.approx(3 / 12, abs=0.01)
    narrow = np.diag([1.0] * 3 + [1e-8] * 9)
    np.testing.assert_allclose(matched_overlaps(narrow, 3, 2, 5, rng), 1, atol=1e-3)


def test_leading_directions_are_the_widest() -> None:
    x = drawn(0, 500, 6) * [9, 1, 7, 1, 1, 1]
    assert overlap(leading(x + 4, 2), np.eye(6)[:, [0, 2]]) > 0.98


def test_shares_of_crossed_factors() -> None:
    first, second = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    vectors = np.outer(first, [2.0, 0.0, 0.0]) + np.outer(second, [0.0, 1.0, 0.0])
    shares = variance_shares(vectors @ vectors.T, {"first": first.tolist(), "second": second.tolist()})
    assert shares == pytest.approx({"first": 0.8, "second": 0.2, "rest": 0.0})
    noise = np.random.default_rng(0).normal(size=(8, 20_000))
    by_chance = variance_shares(noise @ noise.T, {"first": first.tolist(), "second": second.tolist()})
    assert by_chance == pytest.approx({"first": 1 / 7, "second": 1 / 7, "rest": 5 / 7}, abs=0.02)
