"""Recipes: checkpoint -> genome. The singular values are used to choose directions, then discarded."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace
from ontogeny.genome.linalg import Decomposition, Select, canonical_basis, leading_subspaces, singular_values
from ontogeny.genome.sites import Site
from ontogeny.genome.spectrum import rank_for_energy

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class Recipe:
    """What to read of every site. Give one of ``rank`` ("10%" of the short side, or a number), ``energy`` (share
    of ‖W‖²_F that the directions must hold) or ``density`` ("10%" of the entries, largest magnitudes: a mask).

    ``basis``: ``canonical`` depends on the span alone, ``singular`` keeps the order and pairing of the directions.
    ``fold_norms``: readers act as W·diag(γ), γ the gain of the norm before them. ``scope``: masks keep the
    largest entries of each matrix, or of all matrices together.
    """

    rank: str | int | None = None
    energy: float | None = None
    density: str | None = None
    select: Select = "top"
    basis: Literal["canonical", "singular"] = "canonical"
    fold_norms: bool = False
    scope: Literal["matrix", "global"] = "matrix"

    def __post_init__(self) -> None:
        given = [key for key in ("rank", "energy", "density") if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(f"expected one of rank, energy and density, found {' and '.join(given) or 'none'}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise InputError(f"energy {self.energy} is not a share: give a number above 0 and at most 1")
        if self.energy is not None and self.select != "top":
            raise InputError("a share of the energy is reached from the top: leave out --select, or give --rank")
        if self.rank is not None:
            rank_of(self.rank, 10**9)
        if self.density is not None:
            share_of(self.density, "density")


RECIPES: dict[str, Callable[[str], Recipe]] = {
    "top": lambda rank: Recipe(rank),
    "middle": lambda rank: Recipe(rank, select="middle"),
    "bottom": lambda rank: Recipe(rank, select="bottom"),
    "fold-norms": lambda rank: Recipe(rank, fold_norms=True),
    "energy": lambda energy: Recipe(energy=_number(energy)),
    "mask": lambda density: Recipe(density=density),
    "mask-global": lambda density: Recipe(density=density, scope="global"),
}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"energy {text!r}: expected a number above 0 and at most 1, e.g. 0.9") from None


def share_of(text: str, what: str) -> float:
    """``"10%"`` -> 0.1; InputError outside (0 %, 100 %]."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise InputError(f"{what} {text!r}: expected a percentage above 0% and at most 100%, e.g. 10%")
    return share


def rank_of(rank: str | int, short: int) -> int:
    """Directions kept of a matrix with this short side: max(1, round(share × short)), or the number given."""
    if isinstance(rank, str) and not re.fullmatch(r"\s*-?[0-9]{1,12}\s*", rank):
        return max(1, round(share_of(rank, "rank") * short))
    k = int(rank)
    if not 1 <= k <= short:
        raise InputError(f"rank {k}: expected 1 to {short} (the short side) or a percentage, e.g. 10%")
    return k


def extract(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: Progress = lambda items, total: items,
) -> Genome:
    """Read a genome, one matrix in memory at a time; ``device`` is where matrices are decomposed.

    Every subspace comes with a certificate in ``provenance["certificates"]``, also where it failed.
    Raises InputError for a rank that a site can't have, CheckpointError for weights that can't be read.
    """
    if recipe.rank is not None:
        for site in checkpoint.sites:
            try:
                rank_of(recipe.rank, min(site.shape))
            except InputError as error:
                raise InputError(f"site {site.name} {site.shape}: {error}") from None
    weights = progress(_weights(checkpoint, recipe.fold_norms), len(checkpoint.sites))
    genes: dict[Site, Gene]
    certificates: dict[str, Any] = {}
    if recipe.density is not None:
        genes = dict(_masks(weights, share_of(recipe.density, "density"), recipe.scope))
    else:
        genes = {}
        for site, W in weights:
            found = _decompose(site, W.to(device), recipe)
            certificates[site.name] = found.certificate.to_json()
            bases = (found.U, found.V)
            if recipe.basis == "canonical":
                bases = (canonical_basis(found.U), canonical_basis(found.V))
            genes[site] = Subspace(*(Q.to(dtype) for Q in bases))
    recipe_json = {key: value for key, value in asdict(recipe).items() if value is not None}
    return Genome(genes, {"recipe": recipe_json, "source": checkpoint.source(), "certificates": certificates})


def _decompose(site: Site, W: Tensor, recipe: Recipe) -> Decomposition:
    if recipe.energy is not None:
        rank = rank_for_energy(singular_values(W), recipe.energy)
    else:
        assert recipe.rank is not None
        rank = rank_of(recipe.rank, min(site.shape))
    return leading_subspaces(W, rank, recipe.select)


def _weights(checkpoint: Checkpoint, fold_norms: bool) -> Iterator[tuple[Site, Tensor]]:
    for site, W in checkpoint.weights():
        gain = checkpoint.norm_gain(site.name) if fold_norms else None
        yield site, W if gain is None else W.double() * gain.double()


def _masks(weights: Iterable[tuple[Site, Tensor]], share: float, scope: str) -> Iterator[tuple[Site, Mask]]:
    if scope == "matrix":
        for site, W in weights:
            yield site, Mask(_largest(W.abs(), share))
        return
    magnitudes = {site: W.abs().float() for site, W in weights}
    kept = _largest(torch.cat([M.flatten() for M in magnitudes.values()]), share)
    for (site, M), part in zip(magnitudes.items(), kept.split([M.numel() for M in magnitudes.values()]), strict=True):
        yield site, Mask(part.view(M.shape))


def _largest(magnitudes: Tensor, share: float) -> Tensor:
    """True at the round(share × n) largest entries, exactly that many."""
    flat = magnitudes.float().flatten().numpy()
    count = max(1, round(share * flat.size))
    keep = np.zeros(flat.size, dtype=bool)
    keep[np.argpartition(flat, flat.size - count)[flat.size - count :]] = True
    return torch.from_numpy(keep).view(magnitudes.shape)


def with_rank(recipe: Recipe, rank: str | int) -> Recipe:
    """The same recipe at another rank."""
    return replace(recipe, rank=rank)
