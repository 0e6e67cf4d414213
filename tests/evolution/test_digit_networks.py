"""Stacks of image networks against single ones, what their parts mean, and comparisons of them."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ontogeny.evolution import two_architectures
from ontogeny.evolution.digit_networks import (
    GRID,
    KINDS,
    accuracies,
    digits,
    logits,
    offsets,
    one_hot,
    shown_to_all,
    stacked,
    train,
    vit_features,
)
from ontogeny.evolution.networks import batches, tensor


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_a_stack_are_single_ones(kind: str) -> None:
    parts = [KINDS[kind].fresh(np.random.default_rng(seed)) for seed in range(3)]
    pixels = digits()[0][:5]
    together = logits(kind, stacked(parts), shown_to_all(stacked(parts), pixels))
    for i, part in enumerate(parts):
        alone = logits(kind, stacked([part]), shown_to_all(stacked([part]), pixels))
        torch.testing.assert_close(together[i], alone[0], atol=1e-4, rtol=1e-4)


def test_a_convolutional_layer_is_a_convolution() -> None:
    network = stacked([KINDS["cnn"].fresh(np.random.default_rng(0))])
    x = tensor(digits()[0][:2])[:, None]
    for name in ("first", "second", "third"):
        weights = network[name][0]
        x = F.relu(F.conv2d(x, weights.T.reshape(len(weights.T), -1, 3, 3), padding=1))
        x = F.avg_pool2d(x, 2) if name == "first" else x
    found = KINDS["cnn"].features(network, shown_to_all(network, digits()[0][:2]))
    torch.testing.assert_close(found[0], x.mean((2, 3)), atol=1e-4, rtol=1e-4)


def test_offsets_name_where_a_patch_looks() -> None:
    table = offsets().reshape(GRID, GRID, GRID, GRID)
    for place in ((0, 0), (1, 2)):
        assert table[(*place, *place)] == 24  # itself, in the middle of 7 × 7
    assert table[1, 1, 1, 2] == 25  # to the right
    assert table[1, 1, 2, 1] == 31  # below


def test_attention_of_one_offset_looks_there_alone() -> None:
    part = KINDS["vit"].fresh(np.random.default_rng(0))
    table = np.full((4, 49), -1e4)
    table[:, 24] = 0.0
    network = stacked([part | {f"{block} locality": table for block in range(2)}])
    network["positions"] *= 0
    images = torch.randn(1, 1, 1, 8, 8).repeat(1, 1, 1, 1, 1)[0]
    moved = images.roll(2, -1)  # by a patch: without positions and other patches the mean stays
    torch.testing.assert_close(vit_features(network, images), vit_features(network, moved), atol=1e-5, rtol=1e-4)
    plain = stacked([part])
    plain["0 locality"][:, :, 25] = 3.0  # to the right: now places matter
    assert not torch.allclose(vit_features(plain, images), vit_features(plain, moved), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_every_networks_own_labels(kind: str) -> None:
    pixels, labels = digits()
    pixels, labels = pixels[:20], labels[:20]
    dealt = np.random.default_rng(0).permutation(labels)
    network = stacked([KINDS[kind].fresh(np.random.default_rng(1))] * 2)
    targets = torch.stack([one_hot(labels), one_hot(dealt)])
    shown = batches(np.random.default_rng(2), 20, 20, 120).expand(2, -1, -1)
    train(kind, network, pixels, targets, shown, torch.tensor([0.01, 0.01]))
    assert accuracies(kind, network, pixels, labels)[0] > 0.9
    assert accuracies(kind, network, pixels, dealt)[1] > 0.9
    assert accuracies(kind, network, pixels, labels)[1] < 0.6


def test_two_architectures_are_compared_with_all_their_nulls() -> None:
    with patch.object(two_architectures, "tuned_rate", return_value=(0.01, True)):
        found = two_architectures.compare(examples=100, probes=200, steps=10, batch=16, seed=0)
    for measure in two_architectures.MEASURES:
        names = {f"{measure} {state}" for state in ("trained", "shuffled", "untrained", "seeds", "class", "permuted")}
        assert names <= set(found)
        assert -0.2 <= min(found[name] for name in names) <= max(found[name] for name in names) <= 1
    assert found["neighbours permuted"] == pytest.approx(10 / 199, abs=0.02)
    assert abs(found["cka permuted"]) < 0.05
    assert found["neighbours permuted"] < found["neighbours class"] < found["neighbours trained"]
