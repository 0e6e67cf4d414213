"""Recipes: checkpoint -> genome. The singular values are used to choose directions, then discarded."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ontogeny.canonical import LATER, plain
from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace
from ontogeny.genome.linalg import (
    Certificate,
    Decomposition,
    Select,
    canonical_basis,
    leading_subspaces,
    singular_values,
)
from ontogeny.genome.sites import Site
from ontogeny.genome.spectrum import energy_for_values, rank_for_energy

Progress = Callable[[Iterable[Any], int], Iterable[Any]]

SELECT, BASES, SCOPES = ("top", "middle", "bottom"), ("canonical", "singular"), ("matrix", "global")
PROFILES = ("uniform", "energy")
PARALLEL = 2**22  # entries; matrices up to here are decomposed one a core, larger ones with all cores on each


@dataclass(frozen=True)
class Recipe:
    """What to read of every site. Give one of ``rank`` ("10%" of the short side, or a number), ``energy`` (share
    of ‖W‖²_F that the directions must hold) or ``density`` ("10%" of the entries, largest magnitudes: a mask).

    ``basis``: ``canonical`` depends on the span alone, ``singular`` keeps the order and pairing of the directions.
    ``fold_norms``: readers act as W·diag(γ), γ the gain of the norm before them. ``scope``: masks keep the
    largest entries of each matrix, or of all matrices together.
    ``mask``: instead of ``rank`` k directions keep the k² largest entries, as many as the core has values.
    ``profile``: ``energy`` shares out the Σk² that ``rank`` allows over all sites so that the directions of every
    site hold one share of its ‖W‖²_F, as nearly as whole ranks can.
    """

    rank: str | int | None = None
    energy: float | None = None
    density: str | None = None
    select: Select = "top"
    basis: Literal["canonical", "singular"] = "canonical"
    fold_norms: bool = False
    scope: Literal["matrix", "global"] = "matrix"
    mask: bool = field(default=False, metadata=LATER)
    profile: Literal["uniform", "energy"] = field(default="uniform", metadata=LATER)

    def __post_init__(self) -> None:
        given = [key for key in ("rank", "energy", "density") if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(f"expected one of rank, energy and density, found {' and '.join(given) or 'none'}")
        for option, known in (("select", SELECT), ("basis", BASES), ("scope", SCOPES), ("profile", PROFILES)):
            if getattr(self, option) not in known:
                raise InputError(f"{option} {getattr(self, option)!r}: expected {', '.join(known)}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise InputError(f"energy {self.energy} is not a share: give a number above 0 and at most 1")
        if self.energy is not None and self.select != "top":
            raise InputError("a share of the energy is reached from the top: leave out --select, or give --rank")
        if self.mask and (self.rank is None or self.select != "top" or self.basis != "canonical"):
            raise InputError(
                "mask keeps the k² largest entries of a --rank k: leave out energy, density, select, basis"
            )
        if self.profile == "energy" and (self.rank is None or self.select != "top" or self.mask):
            raise InputError("an energy profile shares out a rank from the top: give --rank, without select or mask")
        if self.rank is not None:
            rank_of(self.rank, 10**9)
        if self.density is not None:
            share_of(self.density, "density")


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
    """Read a genome; ``device`` is where matrices are decomposed. In memory at a time: one matrix a core, or one
    where matrices have more than ``PARALLEL`` entries. Cores are counted by ``torch.get_num_threads()``.

    Every subspace comes with a certificate in ``provenance["certificates"]``, also where it failed.
    Raises InputError for a rank that a site can't have, CheckpointError for weights that can't be read.
    """
    if recipe.rank is not None:
        for site in checkpoint.sites:
            try:
                rank_of(recipe.rank, min(site.shape))
            except InputError as error:
                raise InputError(f"site {site.name} {site.shape}: {error}") from None
    weights, count = partial(site_weights, checkpoint, recipe.fold_norms), len(checkpoint.sites)
    recipe_json = {key: value for key, value in plain(recipe).items() if value is not None}
    genes: dict[Site, Gene] = {}
    certificates: dict[str, Any] = {}
    if recipe.density is not None or recipe.mask:
        genes |= _masks(progress(weights(), count), recipe)
    else:
        small = all(site.shape[0] * site.shape[1] <= PARALLEL for site in checkpoint.sites)
        workers = torch.get_num_threads() if small and device == "cpu" else 1
        if recipe.profile == "energy":
            spectra = list(progress(_ahead(lambda weight: singular_values(weight[1]), weights(), workers), count))
            recipe_json["energy_share"] = energy_for_values(spectra, _values(recipe, checkpoint.sites))
            recipe = replace(recipe, rank=None, energy=recipe_json["energy_share"], profile="uniform")
        read = partial(_bases, recipe=recipe, device=device)
        for site, bases, certificate in progress(_ahead(read, weights(), workers), count):
            genes[site] = Subspace(*(Q.to(dtype) for Q in bases))  # here: what stays would fragment a worker's heap
            certificates[site.name] = certificate.to_json()
    return Genome(genes, {"recipe": recipe_json, "source": checkpoint.source(), "certificates": certificates})


def _bases(weight: tuple[Site, Tensor], recipe: Recipe, device: str) -> tuple[Site, tuple[Tensor, Tensor], Certificate]:
    site, W = weight
    found = _decompose(site, W.to(device), recipe)
    bases = (found.U, found.V)
    if recipe.basis == "canonical":
        bases = (canonical_basis(found.U), canonical_basis(found.V))
    return site, bases, found.certificate


def _ahead(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """``map(function, items)`` on this many threads, each without threads of its own; in order."""
    if workers == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Any]] = deque()
    with one_thread_each(), ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, torch and BLAS use one thread in every thread that calls them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def _decompose(site: Site, W: Tensor, recipe: Recipe) -> Decomposition:
    if recipe.energy is not None:
        rank = rank_for_energy(singular_values(W), recipe.energy)
    else:
        assert recipe.rank is not None
        rank = rank_of(recipe.rank, min(site.shape))
    return leading_subspaces(W, rank, recipe.select)


def site_weights(checkpoint: Checkpoint, fold_norms: bool) -> Iterator[tuple[Site, Tensor]]:
    """Every site's weight; ``fold_norms``: as it acts on what the norm before it lets through, W·diag(γ), float64."""
    for site, W in checkpoint.weights():
        gain = checkpoint.norm_gain(site.name) if fold_norms else None
        yield site, W if gain is None else W.double() * gain.double()


def _values(recipe: Recipe, sites: Iterable[Site]) -> int:
    """Trained values of these sites together: Σk² of the cores that a rank means, or the density's share."""
    shapes = [site.shape for site in sites]
    if recipe.density is None:
        assert recipe.rank is not None
        return sum(rank_of(recipe.rank, min(shape)) ** 2 for shape in shapes)
    return max(1, round(share_of(recipe.density, "density") * sum(m * n for m, n in shapes)))


def _masks(weights: Iterable[tuple[Site, Tensor]], recipe: Recipe) -> Iterator[tuple[Site, Mask]]:
    if recipe.scope == "matrix":
        for site, W in weights:
            yield site, Mask(_largest(W.abs(), _values(recipe, [site])))
        return
    magnitudes = {site: W.abs().float() for site, W in weights}
    kept = _largest(torch.cat([M.flatten() for M in magnitudes.values()]), _values(recipe, magnitudes))
    for (site, M), part in zip(magnitudes.items(), kept.split([M.numel() for M in magnitudes.values()]), strict=True):
        yield site, Mask(part.view(M.shape))


def _largest(magnitudes: Tensor, count: int) -> Tensor:
    """True at exactly the ``count`` largest entries."""
    flat = magnitudes.float().flatten().numpy()
    keep = np.zeros(flat.size, dtype=bool)
    keep[np.argpartition(flat, flat.size - count)[flat.size - count :]] = True
    return torch.from_numpy(keep).view(magnitudes.shape)
