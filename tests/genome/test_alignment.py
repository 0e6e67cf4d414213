import jaxtyping
import pytest
import torch
from torch import Tensor

from ontogeny.genome.alignment import Alignment, _gradient, fit_alignment
from ontogeny.genome.linalg import haar
from ontogeny.streams import stream

WIDTH = 32


def bases(ranks: list[int], seed: int) -> list[Tensor]:
    return [haar(WIDTH, k, stream(seed, "basis", i)) for i, k in enumerate(ranks)]


def true_map(align: Alignment) -> Tensor:
    if align == "permute":
        return torch.eye(WIDTH, dtype=torch.float64)[torch.randperm(WIDTH, generator=stream(1, "map"))]
    return haar(WIDTH, WIDTH, stream(1, "map"))


@pytest.mark.parametrize("align", ["permute", "orthogonal"])
def test_a_map_of_bases_of_several_ranks_is_found(align: Alignment) -> None:
    second, Q = bases([8, 5, 8, 12, 3, 8], seed=0), true_map(align)
    rotated = [Q @ B @ haar(B.shape[1], B.shape[1], stream(2, "basis")) for B in second]
    found = fit_alignment(list(zip(rotated, second, strict=True)), align)
    torch.testing.assert_close(found, Q, atol=1e-6, rtol=0)
    for A, B in zip(rotated, second, strict=True):
        torch.testing.assert_close((A.T @ found @ B).square().sum(), A.square().sum(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("align", ["permute", "orthogonal"])
def test_unrelated_bases_give_a_valid_map_that_beats_the_identity(align: Alignment) -> None:
    pairs = list(zip(bases([8] * 6, seed=2), bases([8] * 6, seed=3), strict=True))
    found = fit_alignment(pairs, align)
    torch.testing.assert_close(found @ found.T, torch.eye(WIDTH, dtype=torch.float64), atol=1e-7, rtol=0)
    if align == "permute":
        assert set(found.unique().tolist()) == {0.0, 1.0}
    raw, fitted = (
        sum(float((A.T @ Q @ B).square().sum()) for A, B in pairs) for Q in (torch.eye(WIDTH).double(), found)
    )
    assert fitted > 1.2 * raw


def test_a_single_pair_of_low_rank_gives_an_orthogonal_map() -> None:
    found = fit_alignment(list(zip(bases([2], seed=4), bases([2], seed=5), strict=True)), "orthogonal")
    torch.testing.assert_close(found @ found.T, torch.eye(WIDTH, dtype=torch.float64), atol=1e-7, rtol=0)


def test_shapes_are_checked_where_they_are_said() -> None:
    """Of all tests: by name, as in ``Stack``, too (``shapes.py``)."""
    with pytest.raises(jaxtyping.TypeCheckError):
        _gradient(torch.zeros(2, 3, 1), torch.zeros(2, 4), torch.eye(3))
