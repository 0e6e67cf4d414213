"""Every draw has a name: different names are independent, equal names equal, and no global generator is touched."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ontogeny.streams import numpy_stream, stream, stream_seed

PATHS = st.lists(st.text("ab.1", max_size=3) | st.integers(0, 11), max_size=3)


def draw(seed: int, *path: str | int) -> torch.Tensor:
    return torch.randn(64, generator=stream(seed, *path))


def test_seeds_are_pinned() -> None:
    """Stores of earlier versions stay valid only while these hold."""
    assert stream_seed(0, "init", "layers.3.mlp.up") == 4026219488589463809
    drawn = draw(0, "init", "layers.3.mlp.up")[:3]
    assert torch.allclose(drawn, torch.tensor([1.7687204, -0.2630272, -1.3774608]), atol=1e-5)


def test_equal_paths_draw_equally() -> None:
    assert torch.equal(draw(3, "data", 1), draw(3, "data", 1))
    assert np.array_equal(numpy_stream(3, "a").random(8), numpy_stream(3, "a").random(8))


@given(st.integers(0, 99), PATHS, st.integers(0, 99), PATHS)
def test_different_paths_have_different_seeds(a: int, p: list[str | int], b: int, q: list[str | int]) -> None:
    same = (a, [str(part) for part in p]) == (b, [str(part) for part in q])
    assert (stream_seed(a, *p) == stream_seed(b, *q)) == same


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = torch.stack([torch.randn(4096, generator=stream(0, "site", i)) for i in range(16)])
    correlation = torch.corrcoef(draws).fill_diagonal_(0).abs().max()
    assert correlation < 6 / 4096**0.5


def test_an_extra_draw_moves_no_other_stream() -> None:
    undisturbed, first = draw(0, "b"), stream(0, "a")
    torch.randn(100, generator=first)
    assert torch.equal(draw(0, "b"), undisturbed)


def test_global_generators_are_left_alone() -> None:
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002  (read only)
    draw(0, "a")
    numpy_stream(0, "a").random(8)
    assert torch.equal(before, torch.get_rng_state())
    assert numpy_before == str(np.random.get_state())  # noqa: NPY002


def test_seeds_fit_63_bits() -> None:
    assert all(0 <= stream_seed(seed, "x") < 2**63 for seed in (-1, 0, 2**70))
