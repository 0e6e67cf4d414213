"""Recipes: checkpoint -> genome. The singular values are used to choose directions, then discarded."""

import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ontogeny.canonical import LATER, plain
from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.genome import Draft, Gene, Genome, Mask, Subspace, drafting, entry
from ontogeny.genome.linalg import (
    LONGEST_REASON,
    Certificate,
    Decomposition,
    Select,
    canonical_basis,
    leading_subspaces_of,
    singular_values,
)
from ontogeny.genome.sites import Site
from ontogeny.genome.spectrum import energy_for_values, rank_for_energy

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[tuple[Any, Any]]]  # (item, result) as each is done

SELECT, BASES, SCOPES = ("top", "middle", "bottom"), ("canonical", "singular"), ("matrix", "global")
PROFILES = ("uniform", "energy")
PARALLEL = 2**24  # entries; matrices up to here are decomposed one a core, larger ones with all cores on each
BATCH = 2**27  # entries that an accelerator decomposes together


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
    """Read a genome; ``device`` is where matrices are decomposed. In memory at a time: two matrices, or two a core
    where none has more than ``PARALLEL`` entries. Cores are counted by ``torch.get_num_threads()``.

    Every subspace comes with a certificate in ``provenance["certificates"]``, also where it failed.
    Raises InputError for a rank that a site can't have, CheckpointError for weights that can't be read.
    """
    reading, recipe_json = _plan(checkpoint, recipe, device, progress)
    genes: dict[Site, Gene] = {}
    certificates: dict[str, Any] = {}
    for site, gene, certificate in progress(_genes(None, reading), len(checkpoint.sites)):
        # converted here: what stays would fragment a worker's heap
        genes[site] = gene if isinstance(gene, Mask) else Subspace(gene.U.to(dtype), gene.V.to(dtype))
        certificates |= {site.name: certificate} if certificate else {}
    genes = {site: genes[site] for site in checkpoint.sites}  # an accelerator takes them by shape
    return Genome(genes, {"recipe": recipe_json, "source": checkpoint.source(), "certificates": certificates})


def extract_to(
    path: str | Path,
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: Progress = lambda items, total: items,
    mapper: Mapper | None = None,
) -> dict[str, Any]:
    """``extract`` straight into a genome file, however large: no gene stays in memory. Returns the certificates.

    The file is laid out first and appears whole, or not at all (``drafting``). A ``mapper`` (lab/engines.py) spreads
    the stored tensors over processes that see the same folders; a mask of all matrices together is made in this one.
    """
    reading, recipe_json = _plan(checkpoint, recipe, device, progress)
    provenance = {"recipe": recipe_json, "source": checkpoint.source()}
    widest = {site.name: reading.widest(site) for site in checkpoint.sites}
    with drafting(path, widest, provenance, dtype) as (draft, entries):
        if mapper is None or recipe.scope == "global":
            parts: Iterable[tuple[str, Any]] = _put(None, reading, draft)
        else:
            groups = list(checkpoint.stored_sites.values())
            parts = chain.from_iterable(
                part for _, part in mapper(partial(_part, reading=reading, draft=draft), groups)
            )
        entries |= progress(parts, len(widest))
    return {name: entry["certificate"] for name, entry in entries.items() if "certificate" in entry}


@dataclass(frozen=True)
class Reading:
    """What one process needs to read genes: ``ranks`` by site name, none for masks."""

    checkpoint: Checkpoint
    recipe: Recipe
    ranks: Mapping[str, int]
    device: str

    def widest(self, site: Site) -> dict[str, Any]:
        """What a genome file's header says of this site, with the longest certificate or number of entries."""
        if not self.ranks:
            return {"shape": site.shape, "kept": site.shape[0] * site.shape[1]}
        certificate = Certificate(*4 * (-sys.float_info.min,), method="gram", reason="x" * LONGEST_REASON)
        return {"shape": site.shape, "rank": self.ranks[site.name], "certificate": certificate.to_json()}


def _plan(checkpoint: Checkpoint, recipe: Recipe, device: str, progress: Progress) -> tuple[Reading, dict[str, Any]]:
    """How to read each site, and the recipe as a file says it. Ranks that follow from energies take a pass.

    What can't be read is refused here, before any matrix is decomposed.
    """
    checkpoint.check_types()
    recipe_json = {key: value for key, value in plain(recipe).items() if value is not None}
    ranks: dict[str, int] = {}
    for site in checkpoint.sites:
        try:
            if recipe.rank is not None:
                ranks[site.name] = rank_of(recipe.rank, min(site.shape))
        except InputError as error:
            raise InputError(f"site {site.name} {site.shape}: {error}") from None
    if recipe.energy is not None or recipe.profile == "energy":
        weights = site_weights(checkpoint, recipe.fold_norms)
        read = _ahead(lambda weight: singular_values(weight[1]), weights, _workers(checkpoint))
        spectra, share = list(progress(read, len(checkpoint.sites))), recipe.energy
        if share is None:
            recipe_json["energy_share"] = share = energy_for_values(spectra, _values(recipe, checkpoint.sites))
        ranks = {s.name: rank_for_energy(values, share) for s, values in zip(checkpoint.sites, spectra, strict=True)}
    elif recipe.mask:
        ranks = {}
    return Reading(replace(checkpoint), recipe, ranks, device), recipe_json  # replaced: without what it has cached


def _genes(names: Collection[str] | None, reading: Reading) -> Iterator[tuple[Site, Gene, dict[str, Any] | None]]:
    """These sites' genes, or all sites', one after the other, with their certificates as JSON."""
    weights = site_weights(reading.checkpoint, reading.recipe.fold_norms, names)
    if not reading.ranks:
        yield from ((site, mask, None) for site, mask in _masks(weights, reading.recipe))
        return
    if reading.device == "cpu":
        found = _ahead(partial(_gene_of, reading=reading), weights, _workers(reading.checkpoint))
    else:  # batch after batch there; the bases of the one before meanwhile here
        decomposed = _ahead(partial(_decompose, reading=reading), _batches(names, reading), 1)
        found = _ahead(partial(_gene, reading=reading), chain.from_iterable(decomposed), torch.get_num_threads())
    for site, gene, certificate in found:
        yield site, gene, certificate.to_json()


def _put(names: Collection[str] | None, reading: Reading, draft: Draft) -> Iterator[tuple[str, Any]]:
    """Write these sites' genes; yields each name with what the header says of it."""
    for site, gene, certificate in _genes(names, reading):
        draft.put(site, gene)
        yield site.name, entry(site, gene, certificate)


def _part(names: Collection[str], reading: Reading, draft: Draft) -> list[tuple[str, Any]]:
    return list(_put(names, reading, draft))


def _batches(names: Collection[str] | None, reading: Reading) -> Iterator[list[tuple[Site, Tensor]]]:
    """Weights by shape, as many together as have ``BATCH`` entries."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for site in reading.checkpoint.sites:
        if names is None or site.name in names:
            by_shape.setdefault((*site.shape, reading.ranks[site.name]), []).append(site.name)
    for (d_out, d_in, _), same in by_shape.items():
        size = max(1, BATCH // (d_out * d_in))
        for i in range(0, len(same), size):
            yield list(site_weights(reading.checkpoint, reading.recipe.fold_norms, same[i : i + size]))


def _decompose(weights: list[tuple[Site, Tensor]], reading: Reading) -> list[tuple[Site, Decomposition]]:
    """Weights of one shape and rank; side by side on an accelerator."""
    matrices = [W.to(reading.device) for _, W in weights]
    rank, batched = reading.ranks[weights[0][0].name], reading.device != "cpu"
    found = leading_subspaces_of(matrices, rank, reading.recipe.select, batched=batched)
    return [(site, one) for (site, _), one in zip(weights, found, strict=True)]


def _gene(decomposed: tuple[Site, Decomposition], reading: Reading) -> tuple[Site, Subspace, Certificate]:
    site, found = decomposed
    if reading.recipe.basis == "singular":
        return site, Subspace(found.U, found.V), found.certificate
    return site, Subspace(canonical_basis(found.U), canonical_basis(found.V)), found.certificate


def _gene_of(weight: tuple[Site, Tensor], reading: Reading) -> tuple[Site, Subspace, Certificate]:
    return _gene(_decompose([weight], reading)[0], reading)


def _workers(checkpoint: Checkpoint) -> int:
    """How many matrices are decomposed side by side: one a core, or one at a time with all cores on it."""
    small = all(site.shape[0] * site.shape[1] <= PARALLEL for site in checkpoint.sites)
    return torch.get_num_threads() if small else 1


def _ahead(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """``map(function, items)`` on this many threads, in order; the next item is read meanwhile.

    Where there are several, each has no threads of its own.
    """
    pending: deque[Future[Any]] = deque()
    with one_thread_each() if workers > 1 else nullcontext(), ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


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


def site_weights(
    checkpoint: Checkpoint, fold_norms: bool, names: Collection[str] | None = None
) -> Iterator[tuple[Site, Tensor]]:
    """Every site's weight, or these sites'; ``fold_norms``: as it acts on what the norm before it lets through,
    W·diag(γ), float64."""
    for site, W in checkpoint.weights(names):
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
