"""Overlaps of two donors' subspaces, measured once and stored as a result (E7)."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ontogeny.canonical import digest
from ontogeny.files import read_json
from ontogeny.genome.alignment import Alignment
from ontogeny.genome.compare import SubspaceComparison, compare
from ontogeny.genome.extract import Recipe
from ontogeny.lab.networks import Lab, cached_genome
from ontogeny.lab.store import RESULT, begin, claim, finish

Align = Literal["none"] | Alignment
ALIGNMENTS: tuple[Align, ...] = ("none", "permute", "orthogonal")


@dataclass(frozen=True)
class OverlapTask:
    """Two donors at one rank, under one alignment of their residual streams."""

    first: str
    second: str
    rank: str
    align: Align

    @property
    def id(self) -> str:
        return digest({"kind": "overlap", **asdict(self)})[:16]


def measure_overlap(task: OverlapTask, lab: Lab) -> dict[str, Any]:
    """Every site and side of the pair beside its null; gains of the norms folded in, so that readers act as used."""
    directory = lab.store.run_directory(task.id, 0)
    with claim(directory):
        if not (directory / RESULT).exists():
            begin(directory, {"recipe": asdict(task)})
            recipe = Recipe(task.rank, fold_norms=True)
            genomes = [cached_genome(donor, recipe, lab) for donor in (task.first, task.second)]
            rows = [asdict(row) for row in compare(genomes, align=task.align) if isinstance(row, SubspaceComparison)]
            finish(directory, {"kind": "overlap", "id": task.id, "replicate": 0, "rows": rows, **asdict(task)})
    return read_json(directory / RESULT)
