"""What a transformer's start takes from a convolutional network, and how many images that saves."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from ontogeny.evolution import locality
from ontogeny.evolution.digit_networks import KINDS
from ontogeny.evolution.locality import (
    ARMS,
    RANK,
    UNIFORM,
    channel_subspaces,
    entropy,
    inherit,
    kernel_energy,
    locality_profile,
    random_profile,
    samples_to,
)
from ontogeny.evolution.similarity import overlap


def networks() -> tuple[locality.Parts, locality.Parts, locality.Parts]:
    cnn, other, vit = (
        KINDS[kind].fresh(np.random.default_rng(seed)) for seed, kind in enumerate(("cnn", "cnn", "vit"))
    )
    return vit, cnn, other


def test_a_profile_is_the_convolution_of_kernels_energies() -> None:
    even, left = np.ones((32 * 9, 32)), np.zeros((32, 9, 32))
    left[:, 3] = 1.0  # the middle row's first place
    np.testing.assert_allclose(kernel_energy(even), 1 / 9)
    profile = locality_profile({"second": even, "third": left.reshape(-1, 32)}).reshape(7, 7)
    expected = np.full((7, 7), UNIFORM / 49)
    expected[2:5, 1:4] += (1 - UNIFORM) / 9  # a square of offsets, moved to the left
    np.testing.assert_allclose(profile, expected)
    assert profile.sum() == pytest.approx(1)


def test_controls_keep_a_profiles_entropy_and_little_else() -> None:
    vit, cnn, other = networks()
    tables = {}
    for arm in ("profile", "random locality", "shuffled profile", "untrained profile"):
        started = ARMS[arm](vit, cnn, other, np.random.default_rng(0))
        tables[arm] = np.exp(started["1 locality"][2])
        assert all(started[name] is part for name, part in vit.items() if "locality" not in name)
    assert tables["profile"].sum() == pytest.approx(1)
    for arm in ("random locality", "shuffled profile"):
        assert entropy(tables[arm]) == pytest.approx(entropy(tables["profile"]), abs=1e-6)
        assert abs(np.corrcoef(tables[arm], tables["profile"])[0, 1]) < 0.6
    np.testing.assert_allclose(np.sort(tables["shuffled profile"]), np.sort(tables["profile"]))
    np.testing.assert_allclose(tables["untrained profile"], locality_profile(other))
    assert entropy(random_profile(1.0, np.random.default_rng(3))) == pytest.approx(1.0, abs=1e-6)


def test_subspaces_are_the_networks_own_and_norms_stay() -> None:
    vit, cnn, other = networks()
    read, written = channel_subspaces(cnn["third"], RANK)
    for arm, near in (("subspaces", 1.0), ("random subspaces", RANK / 32)):
        started = ARMS[arm](vit, cnn, other, np.random.default_rng(0))
        u, s, v = np.linalg.svd(started["1 qkv"][:, 32:64])
        assert s[RANK] < 1e-9 * s[0]
        assert overlap(u[:, :RANK], read) == pytest.approx(near, abs=0.2)
        assert overlap(v[:RANK].T, written) == pytest.approx(near, abs=0.2)
        for name, part in vit.items():
            assert np.linalg.norm(started[name]) == pytest.approx(np.linalg.norm(part))


def test_samples_are_read_off_between_sizes() -> None:
    sizes = (25, 50, 100)
    assert samples_to(0.5, sizes, np.array([0.2, 0.4, 0.6])) == pytest.approx((np.log2(50) + 0.5, True))
    assert samples_to(0.5, sizes, np.array([0.2, 0.6, 0.4]))[0] == pytest.approx(np.log2(25) + 0.75)
    assert samples_to(0.5, sizes, np.array([0.6, 0.7, 0.8])) == (np.log2(25), False)
    assert samples_to(0.5, sizes, np.array([0.1, 0.2, 0.3])) == (np.log2(100), False)


def test_an_arm_is_tuned_trained_and_counted() -> None:
    options: dict[str, Any] = {"sizes": (10, 20), "accuracy": 0.2, "examples": 200, "steps": 8, "batch": 8, "seed": 0}
    with patch.object(locality, "tuned_rate", return_value=(0.01, True)):
        found = inherit(arm="profile", **options)
        with patch.object(locality, "learners_rate", return_value=(0.01, True)):
            taught, plain = (inherit(arm=arm, **options) for arm in ("distilled", "plain"))
    assert np.shape(found["accuracies"]) == (2,)
    assert np.log2(10) <= np.max(found["samples"]) <= np.log2(20)
    assert taught["accuracies"] != plain["accuracies"]  # of one start, by other targets
