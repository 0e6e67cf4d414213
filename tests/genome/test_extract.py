"""Recipes against NumPy: subspaces of a real checkpoint, ranks, masks, and what the canonical basis forgets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import tiny_checkpoint
from torch import Tensor

from ontogeny.canonical import canonical_json
from ontogeny.errors import CheckpointError, InputError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.controls import transform
from ontogeny.genome.extract import Recipe, extract, rank_of, share_of
from ontogeny.genome.genome import Genome, Mask, Subspace, load, save
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Site
from ontogeny.streams import stream


@pytest.fixture(scope="session")
def stories(shared: Path) -> Checkpoint:
    return open_checkpoint(shared / "checkpoints" / "stories260K")


@pytest.fixture
def llama(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint("llama", tmp_path / "llama"))


def sine(A: Tensor, B: Tensor) -> float:
    """Largest principal-angle sine between the spans of two orthonormal bases."""
    A, B = A.double(), B.double()
    return float(torch.linalg.matrix_norm(B - A @ (A.T @ B), 2))


def subspaces(genome: Genome) -> dict[Site, Subspace]:
    return {site: gene for site, gene in genome.genes.items() if isinstance(gene, Subspace)}


def masks(genome: Genome) -> dict[Site, Mask]:
    return {site: gene for site, gene in genome.genes.items() if isinstance(gene, Mask)}


@pytest.mark.parametrize("basis", ["canonical", "singular"])
@pytest.mark.parametrize("select", ["top", "middle", "bottom"])
def test_subspaces_of_a_real_checkpoint(stories: Checkpoint, select: Any, basis: Any) -> None:
    genome = extract(stories, Recipe("10%", select=select, basis=basis))
    weights = dict(stories.weights())
    assert list(genome.genes) == list(stories.sites)
    assert len(genome.genes) == 35
    for site, gene in subspaces(genome).items():
        U, S, Vt = np.linalg.svd(weights[site].double().numpy(), full_matrices=False)
        k = max(1, round(0.1 * min(site.shape)))
        start = {"top": 0, "middle": (len(S) - k) // 2, "bottom": len(S) - k}[select]
        assert gene.rank == k
        assert sine(gene.U, torch.from_numpy(U[:, start : start + k])) < 1e-6
        assert sine(gene.V, torch.from_numpy(Vt[start : start + k].T.copy())) < 1e-6
        if basis == "singular":  # ordered and paired: UᵀWV is the diagonal of singular values
            core = gene.U.double().T @ weights[site].double() @ gene.V.double()
            np.testing.assert_allclose(core.numpy(), np.diag(S[start : start + k]), atol=1e-5 * S[0])
    assert all(c["passed"] for c in genome.provenance["certificates"].values())
    assert genome.provenance["source"] == stories.source()
    assert genome.provenance["recipe"]["select"] == select


def test_selections_are_disjoint(stories: Checkpoint) -> None:
    top, middle, bottom = (
        subspaces(extract(stories, Recipe("10%", select=select))) for select in ("top", "middle", "bottom")
    )
    for site in stories.sites:
        for A, B in ((top, middle), (top, bottom), (middle, bottom)):
            assert float((A[site].U.T @ B[site].U).abs().max()) < 1e-5
            assert float((A[site].V.T @ B[site].V).abs().max()) < 1e-5


def test_file_of_a_real_checkpoint(stories: Checkpoint, tmp_path: Path) -> None:
    before = extract(stories, Recipe("10%"))
    save(before, tmp_path / "g")
    after = load(tmp_path / "g")
    assert dict(after.genes).keys() == dict(before.genes).keys()
    assert all(torch.equal(subspaces(after)[s].U, gene.U) for s, gene in subspaces(before).items())


@given(short=st.integers(1, 5000), percent=st.integers(1, 100))
def test_rank_of_a_percentage(short: int, percent: int) -> None:
    assert rank_of(f"{percent}%", short) == max(1, round(percent / 100 * short))


def test_ranks_by_number_percentage_and_energy(llama: Checkpoint) -> None:
    for rank in (4, "4", " 4 "):
        assert {gene.rank for gene in subspaces(extract(llama, Recipe(rank))).values()} == {4}
    for site, gene in subspaces(extract(llama, Recipe("12.5%"))).items():
        assert gene.rank == round(0.125 * min(site.shape))
    weights = dict(llama.weights())
    for energy in (0.3, 0.9, 1.0):
        for site, gene in subspaces(extract(llama, Recipe(energy=energy))).items():
            squares = np.linalg.svd(weights[site].double().numpy(), compute_uv=False) ** 2
            share = squares.cumsum() / squares.sum()
            assert share[gene.rank - 1] >= energy - 1e-9
            assert gene.rank == 1 or share[gene.rank - 2] < energy


BAD_RANKS = [0, "0", -1, "-1", "--1", "110%", "0%", "-10%", "ten", "", "%", "²", "1e1", "5.5", "10%%", "nan%", "1 0"]


@pytest.mark.parametrize("rank", [*BAD_RANKS, 17, "33", 10**12, "9" * 5000])
def test_impossible_ranks(rank: Any, llama: Checkpoint) -> None:
    """The keys and values of the tiny model have a short side of 16; nothing is decomposed before all ranks fit."""

    def progress(items: Any, total: int) -> Any:
        raise AssertionError("started")

    with pytest.raises(InputError) as error:
        extract(llama, Recipe(rank), progress=progress)
    assert "\n" not in str(error.value)
    assert rank not in (17, "33") or "layers.0.attention" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "found none"),
        ({"rank": "10%", "energy": 0.9}, "rank and energy"),
        ({"rank": 3, "density": "10%"}, "rank and density"),
        ({"energy": 0.0}, "not a share"),
        ({"energy": 1.1}, "not a share"),
        ({"energy": float("nan")}, "not a share"),
        ({"energy": 0.9, "select": "bottom"}, "reached from the top"),
        ({"density": "0%"}, "density"),
        ({"density": "101%"}, "density"),
        ({"density": "0.1"}, "density"),
        ({"density": "10%", "mask": True}, "mask keeps the k² largest entries"),
        ({"energy": 0.5, "mask": True}, "mask keeps the k² largest entries"),
        ({"rank": 3, "mask": True, "select": "bottom"}, "leave out energy, density, select"),
        ({"rank": 3, "mask": True, "basis": "singular"}, "leave out energy, density, select"),
        ({"density": "10%", "profile": "energy"}, "shares out a rank"),
        ({"energy": 0.5, "profile": "energy"}, "shares out a rank"),
        ({"rank": 3, "profile": "energy", "select": "middle"}, "without select or mask"),
        ({"rank": 3, "profile": "energy", "mask": True}, "without select or mask"),
    ],
)
def test_impossible_recipes(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Recipe(**keys)


@pytest.mark.parametrize(
    "option", [{"select": "best"}, {"basis": "Canonical"}, {"scope": "layer"}, {"profile": "flat"}]
)
@pytest.mark.usefixtures("unchecked")
def test_misspelt_options_are_refused(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name} "):
        Recipe(1, **option)


def test_share() -> None:
    assert share_of(" 12.5 %", "density") == 0.125


@pytest.mark.parametrize("density", ["0.01%", "10%", "37%", "100%"])
def test_masks_of_each_matrix(stories: Checkpoint, density: str) -> None:
    weights = dict(stories.weights())
    for site, mask in masks(extract(stories, Recipe(density=density))).items():
        magnitudes = weights[site].abs().numpy()
        count = max(1, round(float(density[:-1]) / 100 * magnitudes.size))
        assert int(mask.keep.sum()) == count
        kept = magnitudes[mask.keep.numpy()]
        np.testing.assert_array_equal(np.sort(kept), np.sort(magnitudes.ravel())[-count:])


def test_masks_of_all_matrices_together(stories: Checkpoint) -> None:
    found = masks(extract(stories, Recipe(density="10%", scope="global")))
    magnitudes = {site: W.abs().numpy() for site, W in stories.weights()}
    everything = np.concatenate([M.ravel() for M in magnitudes.values()])
    count = round(0.1 * everything.size)
    kept = np.concatenate([magnitudes[site][mask.keep.numpy()] for site, mask in found.items()])
    np.testing.assert_array_equal(np.sort(kept), np.sort(everything)[-count:])
    assert len({round(float(mask.keep.double().mean()), 3) for mask in found.values()}) > 5  # densities differ


@pytest.mark.parametrize("scope", ["matrix", "global"])
@pytest.mark.parametrize("rank", ["25%", 3])
def test_masks_of_as_many_values_as_a_core(stories: Checkpoint, rank: Any, scope: Any) -> None:
    """k² at every site, or Σk² over all: what the same recipe's cores have."""
    genome = extract(stories, Recipe(rank, mask=True, scope=scope))
    cores = {site: gene.rank**2 for site, gene in subspaces(extract(stories, Recipe(rank))).items()}
    magnitudes, found = {site: W.abs().numpy() for site, W in stories.weights()}, masks(genome)
    kept = {site: magnitudes[site][mask.keep.numpy()] for site, mask in found.items()}
    if scope == "matrix":
        for site, values in kept.items():
            np.testing.assert_array_equal(np.sort(values), np.sort(magnitudes[site].ravel())[-cores[site] :])
    everything = np.concatenate([M.ravel() for M in magnitudes.values()])
    together = np.sort(np.concatenate(list(kept.values())))
    assert len(together) == sum(cores.values())
    assert np.array_equal(together, np.sort(everything)[-len(together) :]) == (scope == "global")
    assert genome.provenance["recipe"]["mask"] is True


def test_an_energy_profile_shares_out_the_values(stories: Checkpoint, tmp_path: Path) -> None:
    """One share of ‖W‖²_F at every site; Σk² is nearest to the uniform rank's among all shares; by NumPy."""
    genome = extract(stories, Recipe("25%", profile="energy"))
    ranks = {site: gene.rank for site, gene in subspaces(genome).items()}
    squares = {site: np.linalg.svd(W.double().numpy(), compute_uv=False) ** 2 for site, W in stories.weights()}
    held = {site: s.cumsum() / s.sum() for site, s in squares.items()}
    share = genome.provenance["recipe"]["energy_share"]

    def fewest(share: float) -> dict[Site, int]:
        return {site: int((shares < share).sum()) + 1 for site, shares in held.items()}

    assert ranks == fewest(share)
    assert len(set(ranks.values())) > 3
    target = sum(max(1, round(0.25 * min(site.shape))) ** 2 for site in ranks)
    steps = np.sort(np.concatenate([shares[:-1] for shares in held.values()]))
    totals = [sum(k * k for k in fewest(float(step)).values()) for step in steps]
    total = sum(k * k for k in ranks.values())
    assert abs(total - target) == min(abs(t - target) for t in totals)
    assert {site: gene.rank for site, gene in subspaces(extract(stories, Recipe(energy=share))).items()} == ranks
    random = transform("random", [genome], seed=1)
    assert {site: gene.rank for site, gene in subspaces(random).items()} == ranks
    save(genome, tmp_path / "g")
    assert load(tmp_path / "g").provenance["recipe"] == genome.provenance["recipe"]


def test_an_energy_profile_of_folded_norms(llama: Checkpoint) -> None:
    shares = [
        extract(llama, Recipe("25%", profile="energy", fold_norms=fold)).provenance["recipe"]["energy_share"]
        for fold in (False, True)
    ]
    assert shares[0] != shares[1]


def test_recipes_of_old_read_as_they_did(llama: Checkpoint) -> None:
    """In a file, and in what a store calls a donor's genome by."""
    old = {"basis": "canonical", "fold_norms": False, "rank": "25%", "scope": "matrix", "select": "top"}
    assert extract(llama, Recipe("25%")).provenance["recipe"] == old
    assert canonical_json(Recipe("25%")) == canonical_json(old | {"energy": None, "density": None})
    assert canonical_json(Recipe("25%", mask=True)) == canonical_json(
        old | {"energy": None, "density": None, "mask": True}
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_ties_keep_the_exact_count(dtype: torch.dtype, scope: Any, tmp_path: Path) -> None:
    """Low-precision weights are full of ties; the count is exact all the same."""
    W = torch.randint(-3, 4, (40, 50), generator=stream(0)).to(dtype)
    save_file({"a.weight": W, "b.weight": torch.zeros(40, 50, dtype=dtype)}, tmp_path / "w.safetensors")
    genome = extract(open_checkpoint(tmp_path, pattern="weight"), Recipe(density="10%", scope=scope))
    counts = [int(mask.keep.sum()) for mask in masks(genome).values()]
    assert counts == ([200, 200] if scope == "matrix" else [400, 0])


def test_folded_norms(llama: Checkpoint) -> None:
    plain, folded = (subspaces(extract(llama, Recipe("25%", fold_norms=fold))) for fold in (False, True))
    for site, W in llama.weights():
        gain = llama.norm_gain(site.name)
        assert (gain is None) == (sine(plain[site].V, folded[site].V) < 1e-6)
        if gain is not None:
            Vt = torch.linalg.svd(W.double() @ torch.diag(gain.double())).Vh
            assert sine(folded[site].V, Vt[: folded[site].rank].T) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_progress(llama: Checkpoint, dtype: torch.dtype) -> None:
    seen: list[int] = []

    def progress(items: Any, total: int) -> Any:
        seen.append(total)
        return items

    genome = extract(llama, Recipe("25%"), dtype=dtype, progress=progress)
    assert {gene.U.dtype for gene in subspaces(genome).values()} == {dtype}
    assert seen == [14]


def test_bad_weights_are_the_checkpoints_fault(tmp_path: Path) -> None:
    save_file({"a.weight": torch.full((8, 8), float("nan"))}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.weight has NaN"):
        extract(open_checkpoint(tmp_path, pattern="weight"), Recipe(2))


def test_zero_matrix_has_a_certificate_that_failed(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(8, 8)}, tmp_path / "w.safetensors")
    genome = extract(open_checkpoint(tmp_path, pattern="weight"), Recipe(2))
    assert not genome.provenance["certificates"]["a"]["passed"]
    save(genome, tmp_path / "g")
    load(tmp_path / "g")


# What a change of the leading triplets does to W = U S Vᵀ without moving the spans
CHANGES: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "order": lambda U, V, R: (U.flip(1), V.flip(1)),
    "pairing": lambda U, V, R: (U, V.roll(1, 1)),
    "sign": lambda U, V, R: (U * torch.tensor([1.0, -1.0] * 4), -V),
    "rotation": lambda U, V, R: (U @ R, V @ R.T),
}


@pytest.mark.parametrize("change", CHANGES)
def test_canonical_basis_forgets(change: str, tmp_path: Path) -> None:
    k, d_out, d_in = 8, 30, 40
    U, V, R = haar(d_out, d_out, stream(0)), haar(d_in, d_out, stream(1)), haar(k, k, stream(2))
    S = torch.linspace(3, 1, d_out, dtype=torch.float64)
    U2, V2 = U.clone(), V.clone()
    U2[:, :k], V2[:, :k] = CHANGES[change](U[:, :k], V[:, :k], R)
    found: dict[tuple[str, int], Subspace] = {}
    for basis in ("canonical", "singular"):
        for i, (left, right) in enumerate(((U, V), (U2, V2))):
            path = tmp_path / f"{basis}{i}.safetensors"
            save_file({"w": (left * S @ right.T).contiguous()}, path)
            genome = extract(open_checkpoint(path, pattern="w"), Recipe(k, basis=basis))
            found[basis, i] = next(iter(subspaces(genome).values()))
    for side in ("U", "V"):
        torch.testing.assert_close(
            getattr(found["canonical", 0], side), getattr(found["canonical", 1], side), atol=1e-6, rtol=0
        )
    assert not torch.allclose(found["singular", 0].V, found["singular", 1].V, atol=1e-2)
