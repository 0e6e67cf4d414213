"""Figures of ``timescales``: levels and innate shares; machinery that is kept, and re-adaptation."""

from functools import partial
from typing import Any

import numpy as np

from ontogeny.evolution.machinery import GENES
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS, GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

MARKS = (ARMS["donor"], ARMS["random"], *OTHER_ARMS)
SHORT = {"instant": "frozen instant", "law": "frozen law", "drifting": "drifting", "mixture": "mixture", "none": "none"}


def _line(ax: Any, x: list[float], cells: list[np.ndarray], mark: tuple[str, str], label: str) -> None:
    """Means with a band of intervals."""
    intervals = [student_interval(cell) for cell in cells]
    ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=mark[0], alpha=0.15, lw=0)
    ax.plot(x, [i.mean for i in intervals], color=mark[0], marker=mark[1], markersize=4, label=label)


@styled
def draw_genome(found: Measurements) -> Figure:
    """Loss by number of levels for every planted number (left); innate share by rate of change (right)."""
    settings = found.experiment.settings
    figure, (row,) = canvas("How many levels, and how much is innate", study_line(found), 3.5, 1, 2)
    for mark, count in zip(MARKS, settings["planted"], strict=False):
        losses = found.values(f"levels {count} apart 8", "losses")  # (replicates, levels)
        excess = 100 * (losses / losses[:, count - 1 : count] - 1)
        levels = [float(level) for level in range(1, losses.shape[1] + 1)]
        _line(row[0], levels, list(excess.T), mark, f"{count} planted")
    row[0].set_yscale("symlog", linthresh=0.1)
    ticks = [0.0, 0.1, 1.0, 10.0]  # text is drawn without mathematics, so powers are written out
    row[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    row[0].set_xticks(levels)
    row[0].set_xlabel("levels of memory")
    row[0].set_ylabel("loss beyond as many levels\nas time scales (%)")
    changes = [0.0, *settings["changes"]]
    places = [float(place) for place in range(len(changes))]
    for mark, mutation in zip(MARKS, settings["mutations"], strict=False):
        cells = [f"innate, change {change:g}, mutation {mutation:g}" for change in changes]
        _line(row[1], places, [found.values(cell, "optimum") for cell in cells], mark, f"mutation {mutation:g}")
        row[1].plot(
            -0.2, found.values(cells[0], "closed form").mean(), color=mark[0], marker=mark[1], markersize=5, mfc="none"
        )
    row[1].set_xticks(places, [f"{change:g}" for change in changes])
    row[1].set_xlabel("changes a locus, a generation")
    row[1].set_ylabel("optimum innate share")
    row[1].set_ylim(0, 1.05)
    for ax in row:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), frameon=False)
    return figure


@styled
def draw_machinery(found: Measurements) -> Figure:
    """Share kept of three genes by drift in three kinds of world; steps to re-adapt and dormant units by world."""
    drifts = sorted(found.experiment.settings["drifts"], reverse=True)
    titles = {"rhythm": "rhythm", "shuffled": "the same, shuffled"}
    figure, axes = canvas("Machinery that is kept, and what is left of learning", study_line(found), 5.0, 2, 2)
    for ax, (kind, title) in zip(axes[0], titles.items(), strict=True):
        cells = ["genes frozen", *(f"genes {kind} {drift:g}" for drift in drifts)]
        places = [float(place) for place in range(len(cells))]
        for mark, gene in zip(MARKS, GENES, strict=False):
            _line(ax, places, [found.values(cell, gene) for cell in cells], mark, gene)
        ax.set_xticks(places, ["∞", *(f"{drift:g}" for drift in drifts)])
        ax.set_ylim(-0.05, 1.05)
        ax.set_title(title, loc="left")
        ax.set_xlabel("time scale (steps), ∞: frozen")
    axes[0, 0].set_ylabel("share that keeps the gene")
    axes[0, 1].legend(frameon=False)
    for ax, (quantity, label) in zip(
        axes[1], (("steps", "steps to re-adapt"), ("dormant", "dormant units (share)")), strict=True
    ):
        intervals = [student_interval(found.values(f"world {world}", quantity)) for world in SHORT]
        places = np.arange(len(SHORT))[::-1].astype(float).tolist()
        errors = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
        ax.errorbar([i.mean for i in intervals], places, xerr=errors, fmt="o", color=GREY, markersize=4)
        ax.set_yticks(places, list(SHORT.values()) if quantity == "steps" else [])
        ax.set_ylim(-0.5, len(SHORT) - 0.5)
        ax.set_xlim(left=0)
        ax.set_xlabel(label)
    axes[1, 0].set_ylabel("trained before on")
    return figure


def genome_drawing(name: str, found: Measurements) -> Drawing:
    """Levels of memory, and innate shares."""
    return Drawing(
        partial(draw_genome, found),
        f"{name}-levels",
        "Loss by number of memory levels, and optimum innate share by rate of change.",
        "Left: loss out of sample by the number of memory levels, for every planted number of time scales, eightfold "
        "apart. Right: the innate share of highest fitness by how often what is right changes; hollow: the closed form "
        "where nothing changes.",
        numbers="measured",
    )


def machinery_drawing(name: str, found: Measurements) -> Drawing:
    """Genes that are kept, and re-adaptation."""
    return Drawing(
        partial(draw_machinery, found),
        f"{name}-machinery",
        "Share of populations that keeps each of three costly genes, by drift; steps to re-adapt and dormant units.",
        "Above: the share that keeps each gene, from a frozen world to a fast one (a life has 20 steps), where drift "
        "can be foretold and where the same places come in random order. Below: networks trained on a world, then "
        "asked to learn another: steps they need, and units dormant before it.",
        numbers="measured",
    )
