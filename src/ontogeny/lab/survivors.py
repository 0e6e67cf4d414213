"""Which directions of a developed run live: as results hold them, and how alike two runs' survivors are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ontogeny.genome.compare import overlap
from ontogeny.genome.controls import transform
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.sites import make_site
from ontogeny.training.develop import Development

Survivors = Mapping[str, Bool[np.ndarray, " k"]]  # site -> which of its directions live in the end


def described(found: Development) -> dict[str, Any]:
    """Site -> its number of directions, and which of them lived at first and after every round, as bits in hex."""
    return {
        site: {"directions": rows.shape[1], "lived": [np.packbits(row.numpy()).tobytes().hex() for row in rows]}
        for site, rows in found.lived.items()
    }


def survivors(result: Mapping[str, Any]) -> Survivors:
    """What lives in the end of a run, from its result."""
    return {site: _alive(entry) for site, entry in result["lived"].items()}


def _alive(entry: Mapping[str, Any]) -> Bool[np.ndarray, " k"]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["lived"][-1]), np.uint8))
    return bits[: entry["directions"]].astype(bool)


def likeness_matrix(runs: Mapping[Any, Survivors]) -> Float[np.ndarray, "runs runs"]:
    """Cosine of the survivors of every two runs, all matrices together, in the mapping's order."""
    rows = np.array([np.concatenate(list(sites.values())) for sites in runs.values()], dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: Float[np.ndarray, "runs runs"] = rows @ rows.T
    return found


def chance(one: Survivors) -> float:
    """The cosine that masks with as many survivors in every matrix have by chance."""
    lived = sum(int(kept.sum()) for kept in one.values())
    return sum(int(kept.sum()) ** 2 / len(kept) for kept in one.values()) / lived


def bases(one: Survivors, turned: int | None = None) -> dict[tuple[str, str], Float[Tensor, "k k"]]:
    """(site, side) -> the basis that runs develop in, in coordinates of the genome's own.

    ``turned``: the seed of the control ``in-subspace`` that the genome went through; it acts on coordinates alone, so
    it is drawn again here, without the donor. None: the genome's own.
    """
    whole = {name: torch.eye(len(kept), dtype=torch.float64) for name, kept in one.items()}
    genome = Genome({make_site(name, (len(Q), len(Q))): Subspace(Q, Q) for name, Q in whole.items()}, {})
    if turned is not None:
        genome = transform("in-subspace", [genome], seed=turned)
    return {(site.name, side): getattr(gene, side) for site, gene in genome.genes.items() for side in ("U", "V")}


def span_overlap(
    first: Survivors, of_first: Mapping[Any, Tensor], second: Survivors, of_second: Mapping[Any, Tensor]
) -> float:
    """‖Q₁ᵀQ₂‖²/min(k₁, k₂) of the spans that live in two runs' bases, mean over sites and sides.

    By chance max(k₁, k₂)/k: the share of directions that lives.
    """
    found = [
        overlap(Q[:, torch.from_numpy(first[site])], of_second[site, side][:, torch.from_numpy(second[site])])
        for (site, side), Q in of_first.items()
    ]
    return float(np.mean(found))
