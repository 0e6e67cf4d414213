"""What development draws and lists: how alike survivors are, run by run, and where in the network they are."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.likeness import Likeness
from ontogeny.lab.report.figures import Drawing, Figure, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table

Keys = Sequence[tuple[int, int]]  # (genome, environment)
Matrices = Mapping[str, tuple[Keys, NDArray[np.float64]]]  # kind of genome -> its runs and their likeness
Grids = Mapping[str, Mapping[tuple[int, int], Mapping[str, NDArray[np.bool_]]]]
PART = "Survivors"


def likeness_drawings(name: str, matrices: Matrices, grids: Grids, experiment: Experiment) -> tuple[Drawing, ...]:
    """Likeness matrices, and shares that live by layer and role; where anything is measured."""
    if not matrices:
        return ()
    told = "; ".join(
        f"{kind} genomes, mean of other runs {(m.sum() - len(m)) / (len(m) * (len(m) - 1)):.3f}"
        for kind, (_, m) in matrices.items()
    )
    alike = Drawing(
        partial(likeness_figure, matrices, experiment),
        f"{name}-likeness",
        f"Likeness of survivors, run by run: {told}.",
        "Cosine of two runs' survivors, index by index; lines part genomes. Blocks on the diagonal: one genome in "
        "several environments; off it: what the order of singular values alone gives.",
        numbers="likeness",
    )
    shares = {kind: shares_by_site(grid) for kind, grid in grids.items() if grid}
    where = "; ".join(
        f"{kind} " + ", ".join(f"{site} {share:.0%}" for site, share in found.items()) for kind, found in shares.items()
    )
    lives = Drawing(
        partial(leading_figure, shares, experiment),
        f"{name}-survivors",
        f"Share of the leading half that lives, by site: {where}.",
        "Of the survivors, the share in the leading half of the genome's directions, mean over runs; 50 % if the order "
        "of singular values doesn't matter.",
        part=PART,
        numbers="survivors",
    )
    return alike, lives


@styled
def likeness_figure(matrices: Matrices, experiment: Experiment) -> Figure:
    """A heat map for every kind of genome, on one scale."""
    line = setting_line(experiment, "embeddings frozen")
    figure, grid = canvas("How alike survivors are", line, 3.4, 1, len(matrices))
    off = [m[~np.eye(len(m), dtype=bool)] for _, m in matrices.values()]
    low, high = min(values.min() for values in off), max(values.max() for values in off)
    for axes, (kind, (keys, matrix)) in zip(grid[0], matrices.items(), strict=True):
        shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
        image = axes.imshow(shown, cmap="cividis", vmin=low, vmax=high)
        genomes = [genome for genome, _ in keys]
        for edge in (i for i in range(1, len(genomes)) if genomes[i] != genomes[i - 1]):
            axes.axhline(edge - 0.5, color="white", linewidth=1)
            axes.axvline(edge - 0.5, color="white", linewidth=1)
        middles = {g: float(np.mean([i for i, own in enumerate(genomes) if own == g])) for g in dict.fromkeys(genomes)}
        axes.set_xticks(list(middles.values()), [str(g) for g in middles])
        axes.set_yticks(list(middles.values()), [str(g) for g in middles])
        axes.set(xlabel="genome", title=f"{kind} genomes")
        axes.grid(visible=False)
    grid[0, 0].set_ylabel("genome")
    figure.colorbar(image, ax=list(grid[0]), label="cosine", shrink=0.7)
    return figure


def shares_by_site(grid: Mapping[Any, Mapping[str, NDArray[np.bool_]]]) -> dict[str, float]:
    """Of each site's survivors, the share in the leading half of its directions; mean over runs."""
    runs = list(grid.values())
    return {site: float(np.mean([_leading(run[site]) for run in runs])) for site in runs[0]}


def _leading(kept: NDArray[np.bool_]) -> float:
    return float(kept[: len(kept) // 2].sum() / kept.sum())


@styled
def leading_figure(shares: Mapping[str, Mapping[str, float]], experiment: Experiment) -> Figure:
    """A heat map of layers × roles for every kind of genome."""
    figure, grid = canvas("Where survivors are", setting_line(experiment, "embeddings frozen"), 3.6, 1, len(shares))
    for axes, (kind, found) in zip(grid[0], shares.items(), strict=True):
        places = [(site.split(".")[1], ".".join(site.split(".")[2:])) for site in found]
        layers, roles = (list(dict.fromkeys(column)) for column in zip(*places, strict=True))
        cells = np.full((len(roles), len(layers)), np.nan)
        for (layer, role), share in zip(places, found.values(), strict=True):
            cells[roles.index(role), layers.index(layer)] = share
        image = axes.imshow(cells, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(layers)), layers)
        axes.set_yticks(range(len(roles)), roles if axes is grid[0, 0] else [""] * len(roles))
        axes.set(xlabel="layer", title=f"{kind} genomes")
        axes.grid(visible=False)
    figure.colorbar(image, ax=list(grid[0]), label="survivors in the leading half", shrink=0.8)
    return figure


def likeness_tables(alike: Mapping[str, Likeness], grids: Grids, shared: Mapping[str, float]) -> tuple[Table, ...]:
    """Likeness within and between genomes, by what genomes share where that is measured; survivors by site."""
    columns = {"genomes": "", "within a genome": ".3f", "between genomes": ".3f", "p": ".2g"}
    rows = tuple((kind, found.within, found.between, found.p) for kind, found in alike.items())
    likeness = Table("likeness", "Cosine of two runs' survivors; p by permuting genome labels", columns, rows)
    shares = {kind: shares_by_site(grid) for kind, grid in grids.items() if grid}
    lives = Table(
        "survivors",
        "Of the survivors of a site, the share in the leading half of its directions",
        {"genomes": "", "site": "", "in the leading half": ".0%"},
        tuple((kind, site, share) for kind, found in shares.items() for site, share in found.items()),
        grouped=True,
        part=PART,
    )
    twins = Table(
        "twins",
        "Cosine of two runs' survivors by how many of their genomes' sites they share",
        {"sites shared": "", "cosine": ".3f"},
        tuple(shared.items()),
    )
    return (likeness, *([twins] if shared else []), lives)
