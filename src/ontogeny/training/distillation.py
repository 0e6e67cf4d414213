"""Learning from a teacher's predictions as well as from the text (Hinton, Vinyals & Dean 2015, arXiv:1503.02531)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 128  # tokens at a time: what a pass over them makes stays in the cache
REMEMBERED = 2**29  # bytes of a teacher's predictions kept for windows that are read again


def distillation_loss(
    logits: Float[Tensor, "tokens vocabulary"],
    told: Float[Tensor, "tokens vocabulary"],
    targets: Int[Tensor, " tokens"],
    *,
    temperature: float,
    share: float,
) -> Float[Tensor, ""]:
    """(1 − share)·cross-entropy + share·T²·KL(teacher ‖ student), both softened by T; mean nats a token.

    ``told``: the teacher's logits. The gradient is made on the way, so that the exponentials are taken once.
    """
    loss: Tensor = _Distillation.apply(logits.float(), told, targets, temperature, share)  # type: ignore[no-untyped-call]
    return loss


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, told: Tensor, targets: Tensor, temperature: float, share: float
    ) -> Float[Tensor, ""]:
        grad, losses = torch.empty_like(logits), []
        pieces = zip(*(each.split(ROWS) for each in (logits, told, targets, grad)), strict=True)
        for z, t, y, g in pieces:
            a = (z - z.amax(-1, keepdim=True)).div_(temperature)
            b = (t - t.amax(-1, keepdim=True)).div_(temperature)
            e, p = a.exp(), b.exp()
            hard = e.pow(temperature)  # the exponentials at temperature 1
            sums = [each.sum(-1, keepdim=True) for each in (e, p, hard)]
            p /= sums[1]
            own = sums[2].log() - temperature * a.gather(1, y[:, None])
            divergence = (p * (b - a)).sum(-1, keepdim=True) + sums[0].log() - sums[1].log()
            losses.append(((1 - share) * own + share * temperature**2 * divergence).sum())
            torch.sub(e.div_(sums[0]), p, out=g).mul_(share * temperature)
            g.add_(hard.div_(sums[2]), alpha=1 - share)
            g.scatter_add_(1, y[:, None], g.new_full((len(y), 1), share - 1))
        ctx.save_for_backward(grad.div_(len(targets)))
        return torch.stack(losses).sum() / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.saved_tensors[0] * upstream, None, None, None, None


def remembered(
    teacher: Callable[[Tensor], Tensor], batches: Callable[[int], Tensor], steps: int
) -> Callable[[Tensor], Tensor]:
    """The teacher's predictions of windows (B, T + 1), kept where the steps read windows again.

    All are made beforehand, in the order in which they are first read, so that a run that goes on computes with the
    same last bits. Where they would take more than ``REMEMBERED`` bytes, or nothing is read twice, the teacher is
    asked every time.
    """
    size, each = len(batches(0)), teacher(batches(0)[:1]).nbytes
    windows: dict[bytes, Tensor] = {}
    for step in range(steps):
        windows |= {one.numpy().tobytes(): one for one in batches(step)}
        if len(windows) * each > REMEMBERED:
            return teacher
    if len(windows) == size * steps:
        return teacher
    told = [one for part in torch.stack(list(windows.values())).split(size) for one in teacher(part)]
    known = dict(zip(windows, told, strict=True))
    return lambda asked: torch.stack([known[one.numpy().tobytes()] for one in asked.cpu()])
