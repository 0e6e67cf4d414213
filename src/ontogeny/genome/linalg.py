"""Leading singular subspaces with a certificate; Haar bases; bases that depend on the span alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.lapack import Array, eigenpairs
from ontogeny.streams import stream

Select = Literal["top", "middle", "bottom"]
TOLERANCE = 1e-7  # largest principal-angle sine that a certificate accepts
ORTHONORMAL = 2e-14  # entries of |QᵀQ − I| that rounding leaves
PROBES = 24  # random combinations of columns that stand for all of them in a residual
LONGEST_REASON = 120  # characters that say why a certificate failed


@dataclass(frozen=True)
class Certificate:
    """Evidence that a computed subspace is the one asked for.

    ``gap`` is the relative gap at the cut, (σₖ − σₖ₊₁)/σₖ; ``orthonormality`` the largest entry of |QᵀQ − I|;
    ``residual`` bounds ‖W V − U S‖₂ and ‖Wᵀ U − V S‖₂, over σ₁; ``error_bound`` the largest principal-angle sine
    (Wedin 1972).
    """

    gap: float
    orthonormality: float
    residual: float
    error_bound: float
    method: Literal["gram", "svd"]
    reason: str

    @property
    def passed(self) -> bool:
        """True when the subspace is well defined and accurate to ``TOLERANCE``."""
        return self.reason == ""

    def to_json(self) -> dict[str, Any]:
        """A plain dict, with ``passed``. Two figures are rounded: exact ones give away ratios of singular values."""
        rounded = {"residual": float(f"{self.residual:.0e}"), "error_bound": float(f"{self.error_bound:.0e}")}
        return asdict(self) | rounded | {"passed": self.passed}


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Singular triplets [start, start + k) of a matrix, in float64, largest first."""

    U: Float[Tensor, "d_out k"]
    S: Float[Tensor, " k"]
    V: Float[Tensor, "d_in k"]
    certificate: Certificate


def window(short: int, rank: int, select: Select) -> tuple[int, int]:
    """The half-open range of singular indices (largest first) that ``select`` means for this rank."""
    start = {"top": 0, "middle": (short - rank) // 2, "bottom": short - rank}[select]
    return start, start + rank


def singular_values(W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " short"]:
    """All singular values, descending, float64: square roots of the Gram matrix's eigenvalues.

    Values below about 1e-8 σ₁ are lost in the square; none of the statistics made from them notice.
    """
    A = _wide(W)
    eigenvalues = np.linalg.eigvalsh(A @ A.T)[::-1]
    return torch.from_numpy(np.sqrt(np.clip(eigenvalues, 0, None)))


def leading_subspaces(W: Float[Tensor, "d_out d_in"], rank: int, select: Select = "top") -> Decomposition:
    """The ``rank`` leading (or middle, or last) singular triplets of ``W``, certified.

    Eigenvectors of the short side's float64 Gram matrix, those of the window alone on a CPU; the long side follows
    from them. Where the certificate fails, a full float64 SVD. A certificate that still fails says why.

    Raises InputError for a rank outside [1, min(d_out, d_in)] or non-finite entries.
    """
    return leading_subspaces_of([W], rank, select)[0]


def leading_subspaces_of(
    weights: Sequence[Float[Tensor, "d_out d_in"]], rank: int, select: Select = "top", *, batched: bool = False
) -> list[Decomposition]:
    """``leading_subspaces`` of matrices of one shape; ``batched``: side by side on the device where they are."""
    shape = tuple(weights[0].shape)
    if not 1 <= rank <= min(shape):
        raise InputError(f"rank {rank} is not possible for a {shape[0]}×{shape[1]} matrix: give 1 to {min(shape)}")
    start, stop = window(min(shape), rank, select)
    found = _by_batch(weights, start, stop) if batched else [_by_gram(W, start, stop) for W in weights]
    pairs = zip(weights, found, strict=True)
    return [one if one and one.certificate.passed else _by_svd(W, start, stop) for W, one in pairs]


def is_finite(W: Tensor) -> bool:
    """True when no entry is NaN or infinite: both show in the extremes, found in one pass without a copy."""
    return W.numel() == 0 or all(bool(extreme.isfinite()) for extreme in W.aminmax())


def _wide(W: Tensor) -> Array:
    A = W if W.shape[0] <= W.shape[1] else W.T
    return np.asarray(A.detach().to("cpu", torch.float64).numpy())


def _by_gram(W: Tensor, start: int, stop: int) -> Decomposition | None:
    """None where the Gram matrix doesn't do: its entries overflow, or its eigenvectors aren't to be had."""
    A = _wide(W)
    short = len(A)
    with np.errstate(invalid="ignore", over="ignore"):
        G = A @ A.T
    norm = float(np.sqrt(np.trace(G)))
    if not np.isfinite(norm):  # as it is wherever an entry isn't
        return None
    try:
        values, vectors = eigenpairs(G, short - stop, short - start)
        pair = _pair(A, vectors[:, ::-1].copy(), np)
    except np.linalg.LinAlgError:
        return None
    return _decomposition(tuple(W.shape), pair, values, start, norm)


def _by_batch(weights: Sequence[Tensor], start: int, stop: int) -> list[Decomposition | None]:
    """One stack of Gram matrices and one of full eigendecompositions, in float64 on the device of the weights."""
    shape = tuple(weights[0].shape)
    A = torch.stack([W if shape[0] <= shape[1] else W.T for W in weights]).double()
    norms = torch.linalg.matrix_norm(A).tolist()
    try:
        if not np.isfinite(norms).all():
            raise np.linalg.LinAlgError("an entry is not finite")
        values, vectors = torch.linalg.eigh(A @ A.mT)
        pairs = _pair(A, vectors.flip(-1)[..., start:stop].contiguous(), torch)
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]  # one of them spoils the stack
        return [None] if len(weights) == 1 else [_by_batch([W], start, stop)[0] for W in weights]
    parts = zip(*(part.cpu().numpy() for part in pairs), strict=True)
    return [
        _decomposition(shape, part, near, start, norm)
        for part, near, norm in zip(parts, values.cpu().numpy(), norms, strict=True)
    ]


def _pair(A: Any, left: Any, xp: Any) -> tuple[Any, Any, Any, Any, Any]:
    """From (…, short, k) eigenvectors of A Aᵀ both bases and the singular values, and how far they are off:
    (left, S, right, residual, orthonormality). ``xp``: NumPy or torch, for a matrix or a stack of them.

    The columns of Aᵀ left are orthogonal but for rounding. Where that shows, as it does with singular values of
    several magnitudes, a Cholesky factor makes them orthonormal as well as a QR decomposition would.
    """
    Y = A.mT @ left
    M = Y.mT @ Y
    S = xp.sqrt(xp.linalg.diagonal(M)) + 1e-150  # a zero stays one: the Cholesky decomposition refuses it
    eye = xp.eye(S.shape[-1], dtype=xp.float64) if xp is np else torch.eye(S.shape[-1]).to(S)
    M, right, beside = M / (S[..., :, None] * S[..., None, :]), Y / S[..., None, :], 0.0
    if not (abs(M - eye) < ORTHONORMAL).all():  # M is right's Gram matrix
        L = xp.linalg.cholesky(M)
        right = right @ xp.linalg.inv(L).mT
        core = L.mT * S[..., None, :]  # Y = right @ core
        S = 1 * xp.linalg.diagonal(core)
        beside = xp.linalg.matrix_norm(core - eye * S[..., None, :])
        M = right.mT @ right
    residual = xp.maximum(_residual(A, left, S, right), beside + 0 * S[..., 0])
    errors = (xp.amax(abs(Gram - eye), (-2, -1)) for Gram in (left.mT @ left, M))
    return left, S, right, residual, xp.maximum(*errors)


def _residual(A: Any, left: Any, S: Any, right: Any) -> Any:
    """A bound on ‖A right − left S‖₂: the Frobenius norm, or where there are many columns one from random combinations
    of them, that holds with probability 1 − 4⁻²⁴ (Halko, Martinsson & Tropp 2011, lemma 4.1)."""
    if S.shape[-1] <= 2 * PROBES:
        E = A @ right - left * S[..., None, :]
        return (E * E).sum((-2, -1)) ** 0.5
    probes: Any = _gaussian(S.shape[-1]).to(S) if isinstance(S, Tensor) else _gaussian(S.shape[-1]).numpy()
    E = A @ (right @ probes) - left @ (S[..., :, None] * probes)
    squares = (E * E).sum(-2)
    largest = squares.amax(-1) if isinstance(squares, Tensor) else squares.max(-1)
    return 4 * (2 / np.pi * largest) ** 0.5


@cache
def _gaussian(k: int) -> Float[Tensor, "k probes"]:
    return torch.randn(k, PROBES, generator=stream(0, "certificate"), dtype=torch.float64)


def _decomposition(
    shape: tuple[int, ...], pair: Sequence[Any], eigenvalues: Array, start: int, norm: float
) -> Decomposition:
    """``eigenvalues``: all, ascending."""
    left, S, right, residual, orthonormality = pair
    sigma, stop = np.sqrt(np.clip(eigenvalues[::-1], 0, None)), start + len(S)
    above = float(sigma[start - 1]) if start > 0 else None
    below = float(sigma[stop]) if stop < len(sigma) else None
    certificate = _certificate(shape, S, (above, below), float(residual), float(orthonormality), norm, "gram")
    return _oriented(shape, left, S, right, certificate)


def _by_svd(W: Tensor, start: int, stop: int) -> Decomposition:
    if not is_finite(W):  # LAPACK may hang on them
        raise InputError("the matrix has NaN or infinite entries: the checkpoint is damaged")
    A = _wide(W)
    U, sigma, Vt = np.linalg.svd(A, full_matrices=False)
    left, S, right = U[:, start:stop], sigma[start:stop], Vt[start:stop].T
    above = float(sigma[start - 1]) if start > 0 else None
    below = float(sigma[stop]) if stop < len(sigma) else None
    residual = float(np.linalg.norm(A @ right - left * S))
    orthonormality, norm = max(_orthonormality(left), _orthonormality(right)), float(np.linalg.norm(sigma))
    certificate = _certificate(tuple(W.shape), S, (above, below), residual, orthonormality, norm, "svd")
    return _oriented(tuple(W.shape), left, S, right, certificate)


def _oriented(shape: tuple[int, ...], left: Array, S: Array, right: Array, certificate: Certificate) -> Decomposition:
    """``left`` is the short side's basis."""
    sides = (left, right) if shape[0] <= shape[1] else (right, left)
    U, V = (torch.from_numpy(np.ascontiguousarray(Q)) for Q in sides)
    return Decomposition(U, torch.from_numpy(np.ascontiguousarray(S)), V, certificate)


def _certificate(
    shape: tuple[int, ...],
    S: Array,
    neighbours: tuple[float | None, float | None],
    residual: float,
    orthonormality: float,
    norm: float,
    method: Literal["gram", "svd"],
) -> Certificate:
    """``neighbours``: the singular values above and below the window; ``norm``: ‖W‖_F, which bounds σ₁."""
    above, below = neighbours
    largest = float(above or S[0])
    gaps = ([S[-1] - below] if below is not None else [S[-1]]) + ([above - S[0]] if above is not None else [])
    gap = float(min(gaps))
    floor = np.finfo(np.float64).eps * max(shape) * min(norm, largest * np.sqrt(min(shape)))
    bound = residual / gap if gap > 0 else np.inf
    if S[-1] <= floor:
        reason = f"the matrix has numerical rank {int((floor < S).sum())}, below the {len(S)} directions asked for"
    elif bound > TOLERANCE or gap <= floor:
        reason = "the cut is ill-defined: the singular values on its two sides are equal to working precision"
    elif orthonormality > 1e-10:
        reason = f"the basis is not orthonormal ({orthonormality:.1e})"
    else:
        reason = ""
    relative = gap / float(S[-1]) if S[-1] > 0 else 0.0
    scaled = residual / largest if largest > 0 else 0.0
    return Certificate(relative, orthonormality, scaled, float(min(bound, 1.0)), method, reason)


def _orthonormality(Q: Array) -> float:
    return float(np.abs(Q.T @ Q - np.eye(Q.shape[1])).max())


def orthonormality_error(Q: Float[Tensor, "d k"]) -> float:
    """The largest entry of |QᵀQ − I|, computed in float64."""
    return _orthonormality(Q.detach().to("cpu", torch.float64).numpy())


def haar(d: int, k: int, generator: torch.Generator) -> Float[Tensor, "d k"]:
    """A uniformly random k-frame in R^d, float64: QR of a Gaussian, signs fixed (Mezzadri 2007)."""
    Q, R = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))
    frame: Tensor = Q * R.diagonal().sign()
    return frame


def canonical_basis(Q: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """An orthonormal basis, float64, that depends on the span of ``Q``'s orthonormal columns alone.

    The orthogonal factor of the column-pivoted QR of the projector QQᵀ, signs fixed by a positive diagonal.
    It is computed from Qᵀ, whose pivots and triangular factor are the projector's, at O(d·k²).
    """
    if Q.shape[0] == Q.shape[1]:
        return torch.eye(Q.shape[0], dtype=torch.float64)  # the projector is the identity: every pivot would be a tie
    Q64 = Q.detach().to("cpu", torch.float64).numpy()
    q, r, _ = scipy.linalg.qr(Q64.T, mode="economic", pivoting=True, check_finite=False)
    return torch.from_numpy(np.ascontiguousarray(Q64 @ (q * np.sign(np.diagonal(r)))))
