"""Windows: each once an epoch, a pure function of seed and step; budgets that say what to change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ontogeny.errors import InputError
from ontogeny.training.batches import Batches, evaluation_windows


@given(count=st.integers(2, 400), length=st.integers(1, 20), size=st.integers(1, 9), seed=st.integers(0, 3))
def test_every_epoch_visits_each_window_once(count: int, length: int, size: int, seed: int) -> None:
    if count <= length:
        return
    tokens = np.arange(count, dtype=np.uint16)
    batches = Batches(tokens, length, size, seed)
    windows = (count - 1) // length
    epochs = 2
    steps = -(-epochs * windows // size)
    drawn = torch.cat([batches(step) for step in range(steps)])[: epochs * windows]
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(length + 1))
    for epoch in drawn[:, 0].split(windows):
        assert torch.equal(epoch.sort().values, torch.arange(windows) * length)
    assert batches.epochs(steps) == pytest.approx(steps * size / windows)


def test_a_batch_depends_on_seed_and_step_only() -> None:
    tokens = np.arange(10_001, dtype=np.uint16)
    first = Batches(tokens, 10, 32, 0)
    late = first(40)
    again = Batches(tokens.copy(), 10, 32, 0)
    assert torch.equal(again(40), late)
    for step in (0, 31, 7):
        assert torch.equal(again(step), first(step))
    assert not torch.equal(Batches(tokens, 10, 32, 1)(40), late)
    orders = [torch.cat([first(125 * epoch + step) for step in range(31)]) for epoch in (0, 1)]  # 4,000 windows ≙ 125
    assert not torch.equal(orders[0], orders[1])


def test_budget_error_names_tokens_and_remedies() -> None:
    batches = Batches(np.zeros(1_001, dtype=np.uint16), 10, 5, 0)
    batches.check_budget(20, 1)
    batches.check_budget(40, 2)
    with pytest.raises(InputError, match=r"21 steps .* 1,050 tokens, 1.05 epochs .* 1,001; at most 1 .* fewer steps"):
        batches.check_budget(21, 1)


@given(count=st.integers(2, 500), length=st.integers(1, 20), asked=st.integers(1, 60))
def test_evaluation_windows_are_spread_and_do_not_overlap(count: int, length: int, asked: int) -> None:
    if count <= length:
        return
    windows = evaluation_windows(np.arange(count, dtype=np.uint16), length, asked)
    available = (count - 1) // length
    assert windows.shape == (min(asked, available), length + 1)
    targets = windows[:, 1:].ravel()
    assert len(targets.unique()) == len(targets)
    gaps = windows[:, 0].diff() // length
    if len(gaps):
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("count", [0, 1, 10])
def test_an_empty_split_is_a_clear_error(count: int) -> None:
    tokens = np.zeros(count, dtype=np.uint16)
    with pytest.raises(InputError, match="at least 11 tokens"):
        evaluation_windows(tokens, 10, 4)
    with pytest.raises(InputError, match=f"found {count}"):
        Batches(tokens, 10, 4, 0)
