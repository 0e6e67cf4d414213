"""What corpora draws and lists: how alike survivors are over corpora, and every corpus beside the first."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.report.figures import Drawing, Figure, arm_style, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import Interval

Maps = Mapping[str, Mapping[tuple[str, str], float]]  # kind of genome -> two corpora -> mean likeness


class Row(NamedTuple):
    """A corpus under a kind of genome; ``like`` and ``apart``: its runs beside those on the first corpus."""

    kind: str
    corpus: str
    source: str
    tokens: int
    loss: Interval | None
    like: Interval | None
    apart: Interval | None


def corpus_name(corpus: str) -> str:
    """The first corpus is A."""
    return corpus or "A"


def corpora_drawings(name: str, maps: Maps, rows: Sequence[Row], experiment: Experiment) -> tuple[Drawing, ...]:
    """Both figures, where anything is measured."""
    if not maps:
        return ()
    told = "; ".join(
        f"{kind} genomes, {what} {np.mean([v for (a, b), v in found.items() if (a == b) is same]):.3f}"
        for kind, found in maps.items()
        for what, same in (("one corpus", True), ("two corpora", False))
        if any((a == b) is same for a, b in found)
    )
    alike = Drawing(
        partial(likeness_figure, maps, experiment),
        f"{name}-corpora-likeness",
        f"Mean likeness of survivors over corpora: {told}.",
        "Cosine of the survivors of one genome's runs on two corpora, or on one twice (diagonal), in different "
        "environments, mean over genomes. A is the donors' corpus; shuffled, 1% and page are made of it. White: not "
        "run.",
        numbers="corpora-likeness",
    )
    told = "; ".join(
        f"{row.kind} on {corpus_name(row.corpus)} {show(row.like, '±.3f')}, {show(row.apart, '±.3f')} nats"
        for row in rows
        if row.like
    )
    far = Drawing(
        partial(beside_figure, rows, experiment),
        f"{name}-corpora",
        f"Likeness to the runs on the first corpus, and divergence from them: {told}.",
        "Runs on a corpus beside the same genome's on corpus A in another environment: likeness of survivors, and mean "
        "of both KL of the predictions on A's text, nats a token; means and 95 % t intervals over genomes. Rich "
        "corpora above, poor ones below.",
        numbers="corpora",
    )
    return alike, far


@styled
def likeness_figure(maps: Maps, experiment: Experiment) -> Figure:
    """A heat map of corpora × corpora for every kind of genome, on one scale."""
    line = setting_line(experiment, "embeddings frozen")
    figure, grid = canvas("How alike survivors are, corpus by corpus", line, 3.1, 1, len(maps))
    corpora = list(dict.fromkeys(corpus for found in maps.values() for pair in found for corpus in pair))
    values = [value for found in maps.values() for value in found.values()]
    for axes, (kind, found) in zip(grid[0], maps.items(), strict=True):
        cells = np.full((len(corpora), len(corpora)), np.nan)
        for (a, b), value in found.items():
            i, j = corpora.index(a), corpora.index(b)
            cells[i, j] = cells[j, i] = value
        image = axes.imshow(cells, cmap="cividis", vmin=min(values), vmax=max(values))
        names = list(map(corpus_name, corpora))
        axes.set_xticks(range(len(corpora)), names, rotation=90)
        axes.set_yticks(range(len(corpora)), names if axes is grid[0, 0] else [""] * len(names))
        axes.set(title=f"{kind} genomes")
        axes.grid(visible=False)
    figure.colorbar(image, ax=list(grid[0]), label="cosine", shrink=0.7)
    return figure


@styled
def beside_figure(rows: Sequence[Row], experiment: Experiment) -> Figure:
    """Likeness to the first corpus's runs and divergence from them, a line a corpus."""
    corpora = list(dict.fromkeys(row.corpus for row in rows))
    line = setting_line(experiment, "embeddings frozen")
    figure, grid = canvas("Every corpus beside the first", line, 1.5 + 0.25 * len(corpora), 1, 2, sharey=True)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    for row in rows:
        colour, marker = arm_style(row.kind, experiment)
        y = corpora.index(row.corpus) + 0.24 * (kinds.index(row.kind) - (len(kinds) - 1) / 2)
        for axes, found in zip(grid[0], (row.like, row.apart), strict=True):
            if found is None:
                continue
            label = f"{row.kind} genomes" if row.corpus == corpora[0] else None
            axes.plot(found.mean, y, color=colour, marker=marker, ms=5, linestyle="", label=label)
            if math.isfinite(found.low):
                axes.plot((found.low, found.high), (y, y), color=colour, linewidth=1.1)
    grid[0, 0].set_yticks(range(len(corpora)), list(map(corpus_name, corpora)))
    grid[0, 0].set_ylim(len(corpora) - 0.5, -0.5)
    grid[0, 0].set(xlabel="likeness (cosine)", ylabel="corpus")
    grid[0, 1].set(xlabel="divergence (nats)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


def corpora_tables(maps: Maps, rows: Sequence[Row]) -> tuple[Table, ...]:
    """Every corpus, and every two of them."""
    columns = {
        "genomes": "", "corpus": "", "text": "", "distinct tokens": ",d", "test loss, nats a token [95 %]": "±.3f",
        "likeness to A [95 %]": "±.3f", "divergence from A, nats a token [95 %]": "±.3f",
    }  # fmt: skip
    every = Table(
        "corpora",
        "Every corpus, rich ones first: what is read, the loss on its own test text, and its runs beside those on A",
        columns,
        tuple((row.kind, corpus_name(row.corpus), *row[2:]) for row in rows),
        grouped=True,
    )
    pairs = Table(
        "corpora-likeness",
        "Cosine of the survivors of one genome's runs on two corpora, in different environments",
        {"genomes": "", "corpus": "", "other corpus": "", "likeness": ".3f"},
        tuple((kind, corpus_name(a), corpus_name(b), v) for kind, found in maps.items() for (a, b), v in found.items()),
        grouped=True,
        listed=False,
    )
    return every, pairs
