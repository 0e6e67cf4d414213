"""Leading singular subspaces with a certificate; Haar bases; bases that depend on the span alone."""

import ctypes
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from scipy.linalg import cython_lapack
from torch import Tensor

from ontogeny.errors import InputError

Select = Literal["top", "middle", "bottom"]
Array = np.ndarray[Any, np.dtype[np.float64]]

TOLERANCE = 1e-7  # largest principal-angle sine that a certificate accepts
LONGEST_REASON = 120  # characters that say why a certificate failed


@dataclass(frozen=True)
class Certificate:
    """Evidence that a computed subspace is the one asked for.

    ``gap`` is the relative gap at the cut, (σₖ − σₖ₊₁)/σₖ; ``orthonormality`` the largest entry of |QᵀQ − I|;
    ``residual`` is ‖W V − U S‖_F/σ₁; ``error_bound`` bounds the largest principal-angle sine (Wedin 1972).
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

    Float64 Gram matrix of the short side, LAPACK's ``syevr`` for the wanted eigenvectors alone, one
    Rayleigh–Ritz step on the long side; where the certificate fails, a full float64 SVD. Matrices on an
    accelerator are decomposed there with a full ``eigh``. A certificate that still fails says why.

    Raises InputError for a rank outside [1, min(d_out, d_in)] or non-finite entries.
    """
    short = min(W.shape)
    if not 1 <= rank <= short:
        raise InputError(f"rank {rank} is not possible for a {W.shape[0]}×{W.shape[1]} matrix: give 1 to {short}")
    if not is_finite(W):
        raise InputError("the matrix has NaN or infinite entries: the checkpoint is damaged")
    start, stop = window(short, rank, select)
    result = _by_gram(W, start, stop)
    return result if result.certificate.passed else _by_svd(W, start, stop)


def is_finite(W: Tensor) -> bool:
    """True when no entry is NaN or infinite: both show in the extremes, found in one pass without a copy."""
    return W.numel() == 0 or all(bool(extreme.isfinite()) for extreme in W.aminmax())


def _wide(W: Tensor) -> Array:
    A = W if W.shape[0] <= W.shape[1] else W.T
    return np.asarray(A.detach().to("cpu", torch.float64).numpy())


def _by_gram(W: Tensor, start: int, stop: int) -> Decomposition:
    short = min(W.shape)
    low, high = max(start - 1, 0), min(stop + 1, short)  # one neighbour on each side, for the gaps
    if W.device.type == "cpu":
        A = _wide(W)
        values, vectors = _eigenpairs(A @ A.T, short - high, short - low)
        values, vectors = values[::-1], vectors[:, ::-1]
    else:
        D = (W if W.shape[0] <= W.shape[1] else W.T).double()
        all_values, all_vectors = torch.linalg.eigh(D @ D.T)
        A = D.cpu().numpy()
        values = all_values.flip(0)[low:high].cpu().numpy()
        vectors = all_vectors.flip(1)[:, low:high].cpu().numpy()
    sigma = np.sqrt(np.clip(values, 0, None))
    left = np.ascontiguousarray(vectors[:, start - low : stop - low])
    right, S, rotation = np.linalg.svd(A.T @ left, full_matrices=False)
    left = left @ rotation.T
    above = sigma[0] if low < start else None
    below = sigma[-1] if high > stop else None
    return _certified(W, A, left, S, right, above, below, "gram")


def _eigenpairs(G: Array, low: int, high: int) -> tuple[Array, Array]:
    """Eigenvalues [low, high), ascending, and their eigenvectors as columns, of a symmetric matrix (overwritten).

    LAPACK's ``dsyevr`` as ``scipy.linalg.eigh`` calls it, except that other threads run meanwhile.
    """
    n, count = len(G), high - low
    values, vectors, support = np.empty(n), np.empty((count, n)), np.empty(2 * count, np.int32)
    work, integers = np.empty(64 * n + 2**13), np.empty(10 * n, np.int32)  # 26 n at least; the rest is for blocks
    numbers = np.array([n, low + 1, high, len(work), len(integers), 0, 0], np.int32)
    size, first, last, work_size, integers_size, found, info = np.split(numbers, 7)
    zero = np.zeros(1)
    arguments = [b"V", b"I", b"L", size, G, size, zero, zero, first, last, zero, found, values, vectors, size]
    arguments += [support, work, work_size, integers, integers_size, info]
    _dsyevr()(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments))
    if info[0]:
        raise np.linalg.LinAlgError(f"LAPACK's dsyevr failed (info {info[0]})")
    return values[:count], vectors.T


@cache
def _dsyevr() -> Callable[..., None]:
    """The routine in SciPy's own LAPACK, which SciPy publishes for callers in C; it takes 21 pointers."""
    capsule = ctypes.py_object(cython_lapack.__pyx_capi__["dsyevr"])
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, pointer.restype = ctypes.c_char_p, ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 21)(pointer(capsule, ctypes.c_char_p(name(capsule))))


def _by_svd(W: Tensor, start: int, stop: int) -> Decomposition:
    A = _wide(W)
    left, sigma, right = np.linalg.svd(A, full_matrices=False)
    above = sigma[start - 1] if start > 0 else None
    below = sigma[stop] if stop < len(sigma) else None
    return _certified(W, A, left[:, start:stop], sigma[start:stop], right[start:stop].T, above, below, "svd")


def _certified(
    W: Tensor,
    A: Array,
    left: Array,
    S: Array,
    right: Array,
    above: float | None,
    below: float | None,
    method: Literal["gram", "svd"],
) -> Decomposition:
    scale = max(A.max(), -A.min()) * np.sqrt(A.size)  # an upper bound on σ₁ where the window doesn't hold it
    largest = float(above or S[0])
    residual = float(np.linalg.norm(A @ right - left * S))
    gaps = ([S[-1] - below] if below is not None else [S[-1]]) + ([above - S[0]] if above is not None else [])
    gap = float(min(gaps))
    orthonormality = max(_orthonormality(left), _orthonormality(right))
    floor = np.finfo(np.float64).eps * max(A.shape) * min(scale, largest * np.sqrt(A.shape[0]))
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
    bound = min(bound, 1.0)
    certificate = Certificate(
        relative, orthonormality, residual / largest if largest > 0 else 0.0, float(bound), method, reason
    )
    if W.shape[0] > W.shape[1]:
        left, right = right, left
    U, V = (torch.from_numpy(np.ascontiguousarray(Q)) for Q in (left, right))
    return Decomposition(U, torch.from_numpy(np.ascontiguousarray(S)), V, certificate)


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
