"""The types of a genome: sites, and what each site's gene keeps (directions or connections, never values)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One linear map under its canonical name, e.g. ``layers.3.attention.query``; always (d_out, d_in)."""

    name: str
    shape: tuple[int, int]
    reads_residual: bool = False
    writes_residual: bool = False


@dataclass(frozen=True, eq=False)
class Subspace:
    """Leading singular subspaces of a matrix: orthonormal columns, the singular values discarded."""

    U: Float[Tensor, "d_out k"]
    V: Float[Tensor, "d_in k"]

    @property
    def rank(self) -> int:
        return self.U.shape[1]


@dataclass(frozen=True, eq=False)
class Mask:
    """Which connections exist."""

    keep: Bool[Tensor, "d_out d_in"]


Gene = Subspace | Mask


@dataclass(frozen=True, eq=False)
class Genome:
    """Site -> gene, with where it came from. ``provenance`` is plain JSON."""

    genes: Mapping[Site, Gene]
    provenance: Mapping[str, Any]
