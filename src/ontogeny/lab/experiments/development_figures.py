"""What development draws and lists: how alike survivors are, run by run, and where in the network they are.

In the full table also: survivors' spans in turned bases, what relatives have in common, and the gap by width.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ontogeny.lab.answers import find_contrast
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.experiments.widths import declared_widths
from ontogeny.lab.experiments.widths_figures import gaps_by_width, size_table
from ontogeny.lab.judge import Assessment
from ontogeny.lab.likeness import Likeness, correlation_apart
from ontogeny.lab.report.figures import Drawing, Figure, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table
from ontogeny.lab.survivors import Survivors, bases, chance, likeness_matrix, span_overlap
from ontogeny.lab.tasks import replicate_seed

Keys = Sequence[tuple[int, int]]  # (genome, environment)
Matrices = Mapping[str, tuple[Keys, NDArray[np.float64]]]  # kind of genome -> its runs and their likeness
Grid = Mapping[tuple[int, int], Survivors]
Grids = Mapping[str, Grid]
PART = "Survivors"
MARK = "#D55E00"  # on a colour bar


def likeness_drawings(
    name: str,
    matrices: Matrices,
    alike: Mapping[str, Likeness],
    grids: Grids,
    experiment: Experiment,
) -> tuple[Drawing, ...]:
    """Likeness matrices, and shares that live by layer and role; where anything is measured."""
    if not matrices:
        return ()
    by_chance = _by_chance(grids)
    told = [f"{kind} genomes within {own.within:.3f}, between {own.between:.3f}" for kind, own in alike.items()]
    order = ", ".join(f"{own.between:.3f} for {kind} genomes" for kind, own in alike.items())
    map_ = Drawing(
        partial(likeness_figure, matrices, by_chance, experiment),
        f"{name}-likeness",
        f"Likeness of survivors, run by run: {'; '.join([*told, f'by chance {by_chance:.3f}'])}.",
        "Cosine of two runs' survivors, index by index; lines part genomes. Blocks on the diagonal: one genome in "
        f"several environments; off it: what the order of singular values alone gives{f' ({order})' if order else ''}. "
        f"By chance {by_chance:.3f}, the line on the colour bar.",
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
    return map_, lives


@styled
def likeness_figure(matrices: Matrices, by_chance: float, experiment: Experiment) -> Figure:
    """A heat map for every kind of genome, on one scale."""
    line = setting_line(experiment, "embeddings frozen", arms=matrices)
    figure, grid = canvas("How alike survivors are", line, 2.9, 1, len(matrices))
    off = [m[~np.eye(len(m), dtype=bool)] for _, m in matrices.values()]
    low, high = min(by_chance, *(values.min() for values in off)), max(by_chance, *(values.max() for values in off))
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
    bar = figure.colorbar(image, ax=list(grid[0]), label=f"cosine; line: {by_chance:.3f}, by chance", shrink=0.7)
    bar.ax.axhline(by_chance, color=MARK, linewidth=2)
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
    line = setting_line(experiment, "embeddings frozen", arms=shares)
    figure, grid = canvas("Where survivors are", line, 3.6, 1, len(shares))
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


def likeness_tables(
    alike: Mapping[str, Likeness],
    grids: Grids,
    spans: Mapping[str, tuple[float, float]],
    relatives: Mapping[str, tuple[float, float]],
) -> tuple[Table, ...]:
    """Likeness within and between genomes beside chance, of spans too and by what genomes share (both full table);
    survivors by site."""
    columns = {"of": "", "within a genome": ".3f", "between genomes": ".3f", "by chance": ".3f", "p": ".2g"}
    names = {"donor": "donor genomes, spans", "turned": "donor genomes, spans, bases turned"}
    rows = [
        *((f"{kind} genomes", own.within, own.between, _by_chance(grids), own.p) for kind, own in alike.items()),
        *((names[kind], within, None, share, None) for kind, (within, share) in spans.items()),
    ]
    note = "Between genomes: what the order of singular values alone gives; p by permuting genome labels"
    apart = ". Spans: overlap of what lives; no two turned bases hold one span, so its largest value is below 1"
    likeness = Table(
        "likeness",
        "Cosine of two runs' survivors, index by index, in different environments",
        columns,
        tuple(rows),
        note=note + (apart if spans else ""),
    )
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
        "A donor's genome and another genome in different environments, by what the two share",
        {"shared": "", "cosine of survivors": ".3f", "correlation of final losses": ".2f"},
        tuple((what, *numbers) for what, numbers in relatives.items()),
        note="Losses are taken from their environment's mean, so where nothing is shared the correlation is a little "
        "below 0: minus the twins' divided by the number of genomes less one",
    )
    return (likeness, *([twins] if relatives else []), lives)


def _by_chance(grids: Grids) -> float:
    """Every run keeps as many directions of every matrix, so the first of them tells."""
    return chance(next(kept for grid in grids.values() for kept in grid.values()))


def span_likeness(grid: Grid, turned: bool) -> tuple[float, float]:
    """Overlap of the spans that live in two runs of one genome, in different environments, and what chance gives.

    ``turned``: every environment has a basis of its own.
    """
    one, environments = next(iter(grid.values())), dict.fromkeys(environment for _, environment in grid)
    own = {e: bases(one, replicate_seed(e) if turned else None) for e in environments}
    twins = [(a, b) for a, b in combinations(grid, 2) if a[0] == b[0]]
    found = [span_overlap(grid[a], own[a[1]], grid[b], own[b[1]]) for a, b in twins]
    shares = [kept.mean() for sites in grid.values() for kept in sites.values()]
    return float(np.mean(found)), float(np.mean(shares))


def relatives(
    grids: Grids, losses: Mapping[str, NDArray[np.float64]], donor: Likeness
) -> dict[str, tuple[float, float]]:
    """What two genomes share -> cosine of survivors and correlation of losses, of runs in different environments.

    A donor's genome with itself, with the one made of half of its sites, with the random one beside the same frozen
    embeddings, and with other donors' genomes. ``losses``: environments × genomes.
    """
    together = {kind: correlation_apart(losses["donor"], found) for kind, found in losses.items()}
    own = {kind: float(np.diag(found).mean()) for kind, found in together.items()}
    others = float(together["donor"][~np.eye(len(together["donor"]), dtype=bool)].mean())
    return {
        "all sites": (donor.within, own["donor"]),
        "half of the sites, embeddings": (_between_kinds(grids["donor"], grids["half"]), own["half"]),
        "embeddings": (_between_kinds(grids["donor"], grids["random"]), own["random"]),
        "nothing": (donor.between, others),
    }


def _between_kinds(first: Grid, second: Grid) -> float:
    """Mean cosine of two kinds' genomes of one number, in different environments."""
    matrix = likeness_matrix({(0, *cell): kept for cell, kept in first.items()} | dict(second))
    found = matrix[: len(first), len(first) :]
    pairs = [found[i, j] for i, a in enumerate(first) for j, b in enumerate(second) if a[0] == b[0] and a[1] != b[1]]
    return float(np.mean(pairs))


def width_tables(assessment: Assessment) -> tuple[Table, ...]:
    """Random − donor by width, where several were declared."""
    experiment = assessment.experiment
    widths = {f" {name}".rstrip(): w for name, w in declared_widths(experiment.setting, experiment.settings).items()}
    found = {w: find_contrast(assessment, f"random{name} − donor{name} (frozen)") for name, w in widths.items()}
    measured = gaps_by_width({"random − donor": {w: c for w, c in found.items() if c}}, experiment)
    return (size_table(measured, experiment),) if experiment.settings else ()
