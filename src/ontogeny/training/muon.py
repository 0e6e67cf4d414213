"""Muon: cores step along their orthogonalised momentum, all of one shape at once; everything else by fused AdamW."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, its five steps, momentum, RMS: as torch.optim.Muon has them
STEPS, MOMENTUM, SMALLEST_NORM, RMS = 5, 0.95, 1e-7, 0.2


def orthogonalised(matrices: Float[Tensor, "count k k"]) -> Float[Tensor, "count k k"]:
    """Each matrix with its singular values moved near 1 (0.7 to 1.2, unless they are tiny): Newton–Schulz, batched.

    The quintic of Jordan et al. 2024 (kellerjordan.github.io/posts/muon), five times, in the matrices' own precision.
    Rows and columns that are zero stay zero, exactly.
    """
    a, b, c = COEFFICIENTS
    X: Tensor = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=SMALLEST_NORM)
    A, B, Y = (torch.empty_like(X) for _ in range(3))  # written over again and again: a sixth faster than new ones
    for _ in range(STEPS):
        torch.bmm(X, X.mT, out=A)
        torch.baddbmm(A, A, A, beta=b, alpha=c, out=B)
        torch.baddbmm(X, B, X, beta=a, out=Y)
        X, Y = Y, X
    return X


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for groups with ``orthogonal`` True, of square matrices; fused AdamW for the others.

    A core's step is −0.2·√k·lr·O, O its orthogonalised Nesterov momentum. With U and V orthonormal ‖ΔW‖₂ = ‖ΔC‖₂, so it
    is a spectral step inside the subspace. 0.2·√k gives steps of AdamW's size, for AdamW's rates and weight decay
    (Liu et al. 2025, arXiv:2502.16982; ``match_rms_adamw`` of torch.optim.Muon).
    """

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": 1e-3, "betas": betas, "weight_decay": weight_decay, "orthogonal": False}
        super().__init__([dict(group) for group in groups], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            (self._orthogonal if group["orthogonal"] else self._adamw)(parameters, group)
        return loss

    def _orthogonal(self, cores: list[Tensor], group: Mapping[str, Any]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for core in cores:
            by_shape.setdefault(core.shape, []).append(core)
        for (k, _), same in by_shape.items():
            momenta = [_state(self.state[p], "momentum_buffer", p) for p in same]
            gradients = [p.grad for p in same if p.grad is not None]  # of all: others have been left out
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            updates = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
            steps = orthogonalised(torch.stack(updates)).unbind()
            torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(same, steps, alpha=-RMS * k**0.5 * group["lr"])

    def _adamw(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        states = [self.state[p] for p in parameters]
        first, second = ([_state(s, name, p) for s, p in zip(states, parameters, strict=True)] for name in MOMENTS)
        steps = [
            s.setdefault("step", torch.zeros((), device=p.device)) for s, p in zip(states, parameters, strict=True)
        ]
        adamw(
            parameters, [p.grad for p in parameters if p.grad is not None], first, second, [], steps,
            fused=True, amsgrad=False, maximize=False, eps=1e-8,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
        )  # fmt: skip


MOMENTS = ("exp_avg", "exp_avg_sq")


def _state(state: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(like)
    return state[name]
