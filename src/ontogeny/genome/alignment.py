"""One map between two networks' residual streams, from the subspaces that corresponding sites read and write."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ontogeny.streams import stream

Alignment = Literal["permute", "orthogonal"]
Stack = Float[Tensor, "sides d k"]
STEPS = 20  # of one alignment, at most
SETTLED = 1e-6  # relative change of the objective below which an alignment stops
WELL_CONDITIONED = 1e-8  # of a Gram matrix: smallest to largest eigenvalue


def fit_alignment(bases: Sequence[tuple[Tensor, Tensor]], align: Alignment) -> Float[Tensor, "d d"]:
    """The permutation or orthogonal matrix Q that makes Σ tr(P_A Q P_B Qᵀ) large: a local maximum, or near one.

    bases: corresponding orthonormal bases (d, k) of the two networks, float64, ranks may differ; P their projectors. Q
    maps the second network's coordinates to the first's.
    Each step goes to the Q that maximises the objective's linearisation: a linear assignment, or the polar factor
    (Frank–Wolfe with full steps, as for the quadratic assignment problem it is; Vogelstein et al. 2015). Projectors are
    centred, P − (k/d)·I: that moves the objective by a constant only and takes half the steps. Starts from the better
    of the identity and a guess from quantities that such a map leaves unchanged.
    """
    start, nearest = METHODS[align]
    first, second = (_stack(side) for side in zip(*bases, strict=True))
    left, right, both = _centre(first, second)
    starts = torch.eye(left.shape[0], dtype=torch.float64), start(first, second)
    candidates = [(Q, _gradient(first, second, Q)) for Q in starts]
    Q, gradient = max(candidates, key=lambda candidate: float((candidate[0] * candidate[1]).sum()))
    for _ in range(STEPS):
        value = float((Q * gradient).sum())
        Q = nearest(gradient - left @ Q - Q @ right + both * Q)
        gradient = _gradient(first, second, Q)
        if abs(float((Q * gradient).sum()) - value) <= SETTLED * value:
            break
    return Q


def _stack(bases: Sequence[Tensor]) -> Stack:
    """Padded to one rank by zero columns, which leave the projectors as they are."""
    rank = max(basis.shape[1] for basis in bases)
    return torch.stack([pad(basis, (0, rank - basis.shape[1])) for basis in bases])


def _gradient(first: Stack, second: Stack, Q: Tensor) -> Tensor:
    """Σ P_A Q P_B, by factors; its inner product with Q is the objective."""
    return _sum_of_products(first @ (first.mT @ (Q @ second)), second)


def _sum_of_products(left: Stack, right: Stack) -> Tensor:
    """Σ_s left_s·right_sᵀ"""
    return left.transpose(0, 1).flatten(1) @ right.transpose(0, 1).flatten(1).T


def _centre(first: Stack, second: Stack) -> tuple[Tensor, Tensor, float]:
    """Σ b·P_A, Σ a·P_B and Σ a·b with a, b = k/d of each side: what turns the gradient into that of P − (k/d)·I."""
    a, b = (side.square().sum((1, 2), keepdim=True) / side.shape[1] for side in (first, second))
    return _sum_of_products(b * first, first), _sum_of_products(a * second, second), float((a * b).sum())


def _nearest_permutation(matrix: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(matrix.numpy(), maximize=True)
    permutation = torch.zeros_like(matrix)
    permutation[rows, columns] = 1
    return permutation


def _nearest_orthogonal(matrix: Tensor) -> Tensor:
    """The polar factor; by the Gram matrix, at half the cost of the SVD, unless that would lose digits."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    if values[0] < WELL_CONDITIONED * values[-1]:
        left, _, right = torch.linalg.svd(matrix)
        return torch.as_tensor(left @ right)
    polar: Tensor = matrix @ (vectors * values.rsqrt()) @ vectors.T
    return polar


def _match_coordinates(first: Stack, second: Stack) -> Tensor:
    """Permutation by signatures that move with coordinate i: (P_s)ᵢᵢ and (P_s·mean P)ᵢᵢ for every side s."""
    return _nearest_permutation(-torch.cdist(_signatures(first), _signatures(second)).square())


def _signatures(bases: Stack) -> Float[Tensor, "d features"]:
    average = _sum_of_products(bases, bases) / bases.shape[0]
    return torch.cat([bases.square().sum(2), (average @ bases * bases).sum(2)]).T


def _match_eigenvectors(first: Stack, second: Stack) -> Tensor:
    """Orthogonal map by the eigenvectors of one random combination of projectors, their signs by those of another."""
    weights = torch.rand(2, len(first), 1, 1, dtype=torch.float64, generator=stream(0, "alignment weights"))
    (frame_a, form_a), (frame_b, form_b) = _eigenframe(first, weights), _eigenframe(second, weights)
    # entries (i, j) of the forms agree up to signs sᵢ·sⱼ, so the leading eigenvector of their product carries the signs
    leading = torch.linalg.eigh(form_a * form_b).eigenvectors[:, -1]
    return frame_a * torch.where(leading < 0, -1.0, 1.0) @ frame_b.T


def _eigenframe(bases: Stack, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the first weighted sum of projectors, and the second sum in that frame."""
    first, second = (_sum_of_products(row * bases, bases) for row in weights)
    frame = torch.linalg.eigh(first).eigenvectors
    return frame, frame.T @ second @ frame


METHODS = {
    "permute": (_match_coordinates, _nearest_permutation),
    "orthogonal": (_match_eigenvectors, _nearest_orthogonal),
}
