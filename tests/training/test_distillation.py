"""The distillation loss against autograd in float64, and a teacher whose predictions are kept."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ontogeny.training import distillation
from ontogeny.training.distillation import ROWS, distillation_loss, remembered


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.sampled_from([1, 3, ROWS, ROWS + 5]),
    temperature=st.sampled_from([1.0, 2.0, 3.5]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradient(tokens: int, temperature: float, share: float, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, told = (torch.randn(tokens, 7, generator=generator) * scale for _ in range(2))
    targets = torch.randint(7, (tokens,), generator=generator)
    ours, reference = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = distillation_loss(ours, told, targets, temperature=temperature, share=share)
    student, teacher = (F.log_softmax(x / temperature, dim=-1) for x in (reference, told.double()))
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    wanted = (1 - share) * F.cross_entropy(reference, targets) + share * temperature**2 * divergence
    (3 * loss).backward()
    (3 * wanted).backward()
    assert ours.grad is not None
    assert reference.grad is not None
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-5 * scale)
    torch.testing.assert_close(ours.grad.double(), reference.grad, atol=1e-5, rtol=1e-4)


def teach(windows: Tensor) -> Tensor:
    asked.append(len(windows))
    return windows[:, :-1, None] * torch.arange(4.0)


asked: list[int] = []
TEXT = torch.arange(40).view(8, 5)


def test_what_is_read_again_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked.clear()

    def twice(step: int) -> Tensor:
        return TEXT[[2 * step % 8, (2 * step + 1) % 8]]

    teacher = remembered(teach, twice, 8)
    assert asked == [1, 2, 2, 2, 2], "how large one answer is, then every window in batches"
    for step in (5, 0):
        torch.testing.assert_close(teacher(twice(step)), teach(twice(step)))
    assert asked[5:] == [2, 2], "by the comparison alone"
    assert remembered(teach, twice, 4) is teach, "nothing is read twice"
    monkeypatch.setattr(distillation, "REMEMBERED", 8 * 4 * 4 * 4 - 1)
    assert remembered(teach, twice, 8) is teach, "too large to be kept"
