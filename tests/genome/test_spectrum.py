from math import pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.spectrum import (
    _marchenko_pastur_median,
    effective_rank,
    energy_for_values,
    energy_share,
    marchenko_pastur_spikes,
    rank_for_energy,
    rank_profile,
    stable_rank,
)
from ontogeny.streams import stream


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaussian(m: int, n: int, seed: int) -> Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=stream(seed, "gaussian", m, n))


def test_closed_forms() -> None:
    flat, one = torch.full((20,), 3.0, dtype=torch.float64), tensor(5, 0, 0)
    assert effective_rank(flat) == pytest.approx(20)
    assert stable_rank(flat) == pytest.approx(20)
    assert energy_share(flat) == pytest.approx(0.1)
    assert [rank_for_energy(flat, energy) for energy in (0.1, 0.3, 0.9, 1.0)] == [2, 6, 18, 20]
    assert (effective_rank(one), stable_rank(one), energy_share(one), rank_for_energy(one, 1.0)) == (1, 1, 1, 1)
    assert effective_rank(tensor(2, 1, 1)) == pytest.approx(2 * 2**0.5)  # entropy of (½, ¼, ¼) is 1.5 log 2
    assert stable_rank(tensor(2, 1, 1)) == pytest.approx(1.5)
    assert energy_share(tensor(2, 1, 1), share=0.5) == pytest.approx(5 / 6)
    assert rank_for_energy(tensor(2, 1, 1), 0.7) == 2


def test_a_zero_matrix_has_rank_zero() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    assert (effective_rank(zero), stable_rank(zero), energy_share(zero), marchenko_pastur_spikes(zero, (4, 9))) == (
        0,
        0,
        0,
        0,
    )


@given(st.lists(st.floats(1e-150, 1e150), min_size=1, max_size=30), st.floats(0.01, 1))
def test_bounds_and_scale(values: list[float], energy: float) -> None:
    sigma = tensor(*sorted(values, reverse=True))
    assert 1 - 1e-9 <= stable_rank(sigma) <= len(values) + 1e-9
    assert 1 - 1e-9 <= effective_rank(sigma) <= len(values) + 1e-9
    rank = rank_for_energy(sigma, energy)
    share = sigma.div(sigma[0]).square().cumsum(0) / sigma.div(sigma[0]).square().sum()
    assert share[rank - 1] >= energy - 1e-9
    assert rank == 1 or share[rank - 2] < energy
    assert effective_rank(sigma * 8) == pytest.approx(effective_rank(sigma))


@pytest.mark.parametrize("aspect", [0.05, 0.375, 1.0])
def test_the_marchenko_pastur_median_halves_the_law(aspect: float) -> None:
    low, high = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
    mass, _ = quad(
        lambda x: ((high - x) * (x - low)) ** 0.5 / (2 * pi * aspect * x), low, _marchenko_pastur_median(aspect)
    )
    assert mass == pytest.approx(0.5, abs=1e-6)
    sample = torch.linalg.svdvals(gaussian(round(400 * aspect), 400, 0)).square() / 400
    assert sample.quantile(0.5).item() == pytest.approx(_marchenko_pastur_median(aspect), rel=0.05)


@pytest.mark.parametrize("shape", [(64, 64), (60, 200), (200, 60)])
def test_noise_has_no_spikes_and_planted_ones_are_counted(shape: tuple[int, int]) -> None:
    counts, planted = [], []
    for seed in range(40):
        noise = gaussian(*shape, seed)
        counts.append(marchenko_pastur_spikes(torch.linalg.svdvals(noise), shape))
        left, right = (torch.linalg.qr(gaussian(side, 3, seed + 100)).Q for side in shape)
        # 2.5 × the edge, far above the threshold at which a spike leaves the bulk
        spikes = 2.5 * (shape[0] ** 0.5 + shape[1] ** 0.5) * left @ right.T
        planted.append(marchenko_pastur_spikes(torch.linalg.svdvals(noise + spikes), shape))
    assert sum(counts) <= 3
    assert sum(count == 3 for count in planted) >= 36


def test_profile_holds_every_number() -> None:
    sigma = torch.linalg.svdvals(gaussian(40, 60, 0))
    profile = rank_profile(sigma, (60, 40))
    assert profile["effective_rank"] == effective_rank(sigma)
    assert profile["rank_for_energy_90_percent"] == rank_for_energy(sigma, 0.9)
    assert set(profile) == {
        "effective_rank",
        "stable_rank",
        "energy_top_10_percent",
        "rank_for_energy_90_percent",
        "marchenko_pastur_spikes",
    }


@pytest.mark.parametrize("values", [(), (1.0, 2.0), (1.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0)], ids=str)
def test_what_is_no_list_of_singular_values_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="descending"):
        effective_rank(tensor(*values))


def test_wrong_counts_and_fractions_are_refused() -> None:
    with pytest.raises(InputError, match="expected 3 singular values"):
        marchenko_pastur_spikes(tensor(2, 1), (3, 5))
    with pytest.raises(InputError, match=r"energy in \(0, 1\]"):
        rank_for_energy(tensor(2, 1), 1.5)
    with pytest.raises(InputError, match=r"share in \(0, 1\]"):
        energy_share(tensor(2, 1), 0.0)


@given(
    st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_energy_for_values_is_the_nearest_share(matrices: list[list[float]], part: float) -> None:
    """Against every number of directions that some share gives; ranks stay when the values move by rounding."""
    spectra = [tensor(*sorted(values, reverse=True)) for values in matrices]
    least, most = len(spectra), sum(len(spectrum) ** 2 for spectrum in spectra)
    total = round(least + part * (most - least))

    def values(share: float) -> int:
        return sum(rank_for_energy(spectrum, share) ** 2 for spectrum in spectra)

    share = energy_for_values(spectra, total)
    assert 0 < share <= 1
    moved = [spectrum * (1 + 1e-13 * torch.linspace(1, 0, len(spectrum), dtype=torch.float64)) for spectrum in spectra]
    assert [rank_for_energy(s, share) for s in moved] == [rank_for_energy(s, share) for s in spectra]
    reached = [s.square().cumsum(0) / s.square().sum() for s in spectra]
    others = [
        e for steps in reached for step in steps.tolist() for e in (step * (1 - 1e-9), min(1.0, step * (1 + 1e-9)))
    ]
    nearest = min(abs(values(e) - total) for e in others)
    assert abs(values(share) - total) <= nearest
    above = [values(e) for e in others if values(e) >= total]
    assert values(share) <= min(above, default=most)


def test_energy_for_values_in_closed_form() -> None:
    """σ² of 4, 3, 2, 1 and of 9, 1: shares 0.4, 0.7, 0.9 and 0.9 end the first directions."""
    spectra = [tensor(4, 3, 2, 1).sqrt(), tensor(9, 1).sqrt()]
    expected = {2: 0.2, 3: 0.2, 4: 0.55, 5: 0.55, 7: 0.55, 8: 0.8, 10: 0.8, 15: 0.8, 16: 0.95, 20: 0.95}
    assert {total: round(energy_for_values(spectra, total), 9) for total in expected} == expected
    assert energy_for_values([torch.zeros(3, dtype=torch.float64)], 9) == 0.5
