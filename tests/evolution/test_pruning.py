"""Tasks, masks and masked training."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import pruning
from ontogeny.evolution.networks import RATES
from ontogeny.evolution.pruning import Task, fresh, held_out, magnitude_masks, orders, prune, task, train


def small_task(rows: int = 40) -> Task:
    """Three inputs, of which the first one's sign is the class."""
    x = torch.randn(2 * rows, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return Task(x[:rows], y[:rows], x[rows:], y[rows:])


def test_masks_keep_the_largest_over_all_matrices() -> None:
    weights = [torch.tensor([[[1.0, -5.0]], [[1.0, 2.0]]]), torch.tensor([[[3.0], [0.0]], [[-4.0], [3.0]]])]
    masks = magnitude_masks(weights, 0.5)
    assert masks[0].tolist() == [[[False, True]], [[False, False]]]
    assert masks[1].tolist() == [[[True], [False]], [[True], [True]]]


def test_masked_weights_stay_zero_and_the_rest_learns() -> None:
    given = small_task()
    starts, rows = fresh([3, 4, 2], 0, "a"), orders(given, 0, ["a"], 8, 100)
    masks = magnitude_masks(starts, 0.5)
    layers = train(starts, masks, given, torch.tensor([0.03]), rows)
    for (weights, _), mask in zip(layers, masks, strict=True):
        assert (weights[~mask] == 0).all()
        assert (weights[mask] != 0).all()
    assert float(held_out(layers, given)) < 0.5 * given.reference


def test_networks_of_a_stack_are_independent() -> None:
    given = small_task()
    one, other = fresh([3, 4, 2], 0, "a"), fresh([3, 4, 2], 0, "b")
    both = [torch.cat(pair) for pair in zip(one, other, strict=True)]
    rows, rates = orders(given, 0, ["a", "b"], 8, 20), torch.tensor([0.03, 0.01])
    stacked = train(both, magnitude_masks(both, 0.5), given, rates, rows)
    alone = train(one, magnitude_masks(one, 0.5), given, rates[:1], rows[:, :1])
    np.testing.assert_allclose(stacked[0][0][0], alone[0][0][0], atol=1e-5)


def test_pruning_nests_masks_and_hands_them_on() -> None:
    given = small_task()
    starts = [torch.cat(pair) for pair in zip(*(fresh([3, 4, 2], 0, n) for n in "ab"), strict=True)]
    rows = orders(given, 0, ["a", "b"], 8, 10)
    levels = [masks for masks, _ in prune(given, starts, (1.0, 0.5, 0.25), (0.01,) * 3, rows, [0, 0])]
    assert [sum(int(mask[0].sum()) for mask in masks) for masks in levels] == [20, 10, 5]
    for sparser, denser in zip(levels[1:], levels, strict=False):
        assert all(bool((a <= b).all()) for a, b in zip(sparser, denser, strict=True))
        assert all(torch.equal(mask[0], mask[1]) for mask in sparser)


@pytest.mark.parametrize("world", list(pruning.WORLDS))
def test_worlds_differ_by_seed_and_have_a_reference(world: str) -> None:
    one, again, other = task(world, 1), task(world, 1), task(world, 2)
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert one.inputs.shape[1] == pruning.INPUTS
    assert int(one.labels.max()) < pruning.CLASSES
    shares = np.bincount(one.held_labels, minlength=pruning.CLASSES) / len(one.held_labels)
    entropy = -sum(p * np.log(p) for p in shares if p)
    assert entropy - 1e-6 <= one.reference < entropy + 0.1


def test_parts_read_every_input_once() -> None:
    rng = np.random.default_rng(0)
    inputs, labels, learnt = pruning.WORLDS["parts"](rng)
    assert inputs.shape == (learnt + pruning.PARTS_HELD, 64)
    assert set(labels) <= set(range(10))


def test_tuned_rates_are_of_the_grid() -> None:
    rates = pruning.tuned_rates("digits", (64, 4, 10), (1.0, 0.5), 5, 8)
    assert len(rates) == 2
    assert set(rates) <= set(RATES)
