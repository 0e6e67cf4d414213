"""Subspaces against NumPy's float64 SVD, certificates that fail where they must, Haar frames, canonical bases."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.linalg import (
    TOLERANCE,
    _residual,
    canonical_basis,
    haar,
    leading_subspaces,
    leading_subspaces_of,
    orthonormality_error,
    singular_values,
)
from ontogeny.streams import stream


def sine(A: Tensor, B: Tensor) -> float:
    """Largest principal-angle sine between the spans of two orthonormal bases."""
    A, B = A.double(), B.double()
    return float(torch.linalg.matrix_norm(B - A @ (A.T @ B), 2))


def with_spectrum(m: int, n: int, spectrum: Tensor, seed: int = 0) -> Tensor:
    r = len(spectrum)
    return haar(m, r, stream(seed, "U")) * spectrum @ haar(n, r, stream(seed, "V")).T


SPECTRA = {
    "flat": torch.linspace(1.0, 0.9, 60, dtype=torch.float64),
    "decaying": torch.logspace(0, -3, 60, dtype=torch.float64),
    "outlier": torch.cat([torch.tensor([1e4], dtype=torch.float64), torch.linspace(1, 0.5, 59, dtype=torch.float64)]),
}


@pytest.mark.parametrize("shape", [(60, 60), (160, 60), (60, 160)])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("select", ["top", "middle", "bottom"])
def test_agrees_with_float64_svd(shape: tuple[int, int], spectrum: str, select: str) -> None:
    W = with_spectrum(*shape, SPECTRA[spectrum])
    found = leading_subspaces(W, 6, select)  # type: ignore[arg-type]
    U, S, Vt = np.linalg.svd(W.numpy(), full_matrices=False)
    cut = {"top": slice(0, 6), "middle": slice(27, 33), "bottom": slice(54, 60)}[select]
    assert found.certificate.passed, found.certificate
    assert sine(found.U, torch.from_numpy(U[:, cut])) <= TOLERANCE
    assert sine(found.V, torch.from_numpy(Vt[cut].T.copy())) <= TOLERANCE
    np.testing.assert_allclose(found.S.numpy(), S[cut], rtol=1e-8)


@given(m=st.integers(2, 24), n=st.integers(2, 24), seed=st.integers(0, 2**31), data=st.data())
def test_projection_is_optimal(m: int, n: int, seed: int, data: st.DataObject) -> None:
    """Eckart–Young: what the leading subspaces leave out has the energy of the discarded singular values."""
    W = torch.randn(m, n, generator=stream(seed), dtype=torch.float64)
    k = data.draw(st.integers(1, min(m, n)))
    found = leading_subspaces(W, k)
    rest = W - found.U @ (found.U.T @ W @ found.V) @ found.V.T
    expected = float((torch.linalg.svdvals(W)[k:] ** 2).sum())
    assert float((rest**2).sum()) == pytest.approx(expected, abs=1e-9 * float((W**2).sum()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tie_at_the_cut_fails_and_says_so(dtype: torch.dtype) -> None:
    spectrum = torch.linspace(2, 1, 40, dtype=torch.float64)
    spectrum[10] = spectrum[9]
    certificate = leading_subspaces(with_spectrum(64, 40, spectrum).to(dtype), 10).certificate
    if dtype == torch.float64:
        assert not certificate.passed
        assert "ill-defined" in certificate.reason
    assert certificate.gap < 1e-6


def test_rank_below_k_fails_and_says_so() -> None:
    certificate = leading_subspaces(with_spectrum(50, 40, torch.ones(5, dtype=torch.float64)), 8).certificate
    assert not certificate.passed
    assert "rank 5" in certificate.reason
    assert not leading_subspaces(torch.zeros(8, 8), 2).certificate.passed


def test_full_rank_of_a_rectangle_is_its_row_space() -> None:
    W = torch.randn(12, 30, generator=stream(3), dtype=torch.float64)
    found = leading_subspaces(W, 12)
    assert found.certificate.passed
    assert torch.allclose(W @ found.V @ found.V.T, W)


@pytest.mark.parametrize("rank", [0, -1, 9])
def test_impossible_rank(rank: int) -> None:
    with pytest.raises(InputError, match="give 1 to 8"):
        leading_subspaces(torch.eye(8, 12), rank)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_is_refused(bad: float) -> None:
    W = torch.eye(8)
    W[2, 3] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        leading_subspaces(W, 2)


def test_singular_values() -> None:
    W = torch.randn(20, 30, generator=stream(1), dtype=torch.float64)
    assert torch.allclose(singular_values(W), torch.linalg.svdvals(W))


def test_haar_is_orthonormal_and_uniform() -> None:
    assert orthonormality_error(haar(40, 10, stream(0))) < 1e-13
    draws = torch.stack([haar(5, 2, stream(i))[0, 0] for i in range(4000)])
    assert float(draws.mean()) == pytest.approx(0, abs=0.03)
    assert float((draws**2).mean()) == pytest.approx(1 / 5, abs=0.01)  # E[q²] = 1/d


@given(d=st.integers(3, 30), seed=st.integers(0, 2**31), data=st.data())
def test_canonical_basis_depends_on_the_span_alone(d: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, d))
    Q = haar(d, k, stream(seed, "Q"))
    canonical = canonical_basis(Q)
    assert sine(Q, canonical) < 1e-10
    assert orthonormality_error(canonical) < 1e-12
    assert torch.allclose(canonical_basis(Q @ haar(k, k, stream(seed, "R"))), canonical, atol=1e-7)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (1, 1), (1, 5), (2, 2)])
def test_a_batch_is_each_alone(shape: tuple[int, int]) -> None:
    """Two of the four are beyond a Gram matrix: they spoil the batch, and are then decomposed by themselves."""
    good = [torch.randn(shape, generator=stream(i), dtype=torch.float64) for i in range(2)]
    weights, k = [*good, torch.zeros(shape), good[0] * 1e160], max(1, min(shape) // 4)
    for one, alone in zip(
        leading_subspaces_of(weights, k, batched=True), map(leading_subspaces, weights, 4 * [k]), strict=True
    ):
        assert one.certificate.passed == alone.certificate.passed
        assert one.certificate.method == alone.certificate.method
        torch.testing.assert_close(one.S, alone.S)
        if one.certificate.passed:
            assert sine(one.U, alone.U) < TOLERANCE
            assert sine(one.V, alone.V) < TOLERANCE


@pytest.mark.parametrize("diagonal", [torch.arange(30, 0, -1.0), torch.ones(30), torch.arange(30) % 3 + 1.0])
@pytest.mark.parametrize("shape", [(30, 30), (30, 50), (50, 30)])
def test_matrices_that_fall_into_parts(diagonal: Tensor, shape: tuple[int, int]) -> None:
    """The tridiagonal form of a diagonal matrix has nothing beside its diagonal; with ties every cut is ill-defined."""
    W = torch.zeros(shape, dtype=torch.float64)
    W.diagonal().copy_(diagonal)
    found = leading_subspaces(W, 4)
    torch.testing.assert_close(found.S, diagonal.double().sort(descending=True).values[:4])
    assert torch.allclose(W @ found.V, found.U * found.S)
    assert found.certificate.passed == (len(set(diagonal.tolist())) == 30)


def test_bases_are_orthonormal_to_the_last_bits() -> None:
    """A genome stored in float64 is checked to 1e-13."""
    found = leading_subspaces(torch.randn(700, 800, generator=stream(0)), 70)
    assert found.certificate.method == "gram"
    assert found.certificate.orthonormality < 5e-14


@pytest.mark.parametrize("k", [20, 100])
def test_the_residual_bounds_the_true_one(k: int) -> None:
    """A wrong direction, or a wrong singular value, shows as what it is, whether all columns are looked at or few."""
    A = torch.randn(120, 150, generator=stream(0), dtype=torch.float64)
    U, S, Vt = (
        part[..., :k, :] if i == 2 else part[..., :k] for i, part in enumerate(torch.linalg.svd(A, full_matrices=False))
    )
    for wrong in (S * (1 + 1e-3 * (torch.arange(k) == k // 2)), S):
        exact = float(torch.linalg.matrix_norm(A @ Vt.T - U * wrong, 2))
        bound = float(_residual(A, U, wrong, Vt.T))
        assert exact <= bound <= 20 * exact + 1e-10
        assert float(_residual(A.numpy(), U.numpy(), wrong.numpy(), Vt.T.numpy())) == pytest.approx(
            bound, rel=0.2, abs=1e-11
        )
