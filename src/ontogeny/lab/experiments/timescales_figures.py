"""Figures of ``timescales``: levels, innate shares and re-adaptation; machinery that is kept."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.evolution.machinery import GENES
from ontogeny.evolution.rigidity import worlds
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.experiments.timescales_answers import TREND, WORLDS, innate_name, kept, levels_name
from ontogeny.lab.report.figures import ARMS, GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

MARKS = (ARMS["donor"], ARMS["random"], *OTHER_ARMS)
EXCESSES = (0.0, 0.1, 1.0, 10.0, 100.0)  # %
SHORT = {"instant": "frozen instant", "law": "frozen law", "none": "untrained"}


def _line(ax: Any, x: Sequence[float], cells: Sequence[np.ndarray], mark: tuple[str, str], label: str) -> None:
    """Means with a band of intervals."""
    intervals = [student_interval(cell) for cell in cells]
    ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=mark[0], alpha=0.15, lw=0)
    ax.plot(x, [i.mean for i in intervals], color=mark[0], marker=mark[1], markersize=4, label=label)


def _named_places(ax: Any, names: Sequence[str], label: str) -> list[float]:
    places = [float(place) for place in range(len(names))]
    ax.set_xticks(places, names)
    ax.set_xlabel(label)
    return places


def _levels(ax: Any, found: Measurements) -> None:
    for mark, count in zip(MARKS, found.experiment.settings["planted"], strict=False):
        losses = found.values(levels_name(count), "losses")  # (replicates, levels)
        excess = 100 * (losses / losses[:, count : count + 1] - 1)
        _line(ax, np.arange(float(losses.shape[1])).tolist(), list(excess.T), mark, f"{count} planted")
    ax.set_yscale("symlog", linthresh=0.1)
    ax.set_yticks(EXCESSES, [f"{tick:g}" for tick in EXCESSES])  # text is drawn without mathematics
    ax.set_xticks(range(losses.shape[1]))
    ax.set_xlabel("levels of memory")
    ax.set_ylabel("loss beyond that of as many\nlevels as time scales (%)")


def _innate(ax: Any, found: Measurements) -> None:
    changes = (0.0, *found.experiment.settings["changes"])
    places = _named_places(
        ax, [f"{change:g}" for change in changes], "changes of what is right\n(a locus, a generation)"
    )
    for mark, mutation in zip(MARKS, found.experiment.settings["mutations"], strict=False):
        cells = [innate_name(change, mutation) for change in changes]
        _line(ax, places, [found.values(cell, "optimum") for cell in cells], mark, f"mutation {mutation:g}")
        closed = found.values(cells[0], "closed form").mean()
        ax.plot(-0.25, closed, color=mark[0], marker=mark[1], markersize=5, mfc="none")
    ax.set_ylabel("optimum innate share")
    ax.set_ylim(-0.05, 1.05)


def _by_world(ax: Any, found: Measurements, quantity: str, label: str) -> None:
    names = worlds(found.experiment.settings["turns"])
    values = [found.values(WORLDS, f"{name} {quantity}") for name in names]
    intervals = [student_interval(each.reshape(len(each), -1).mean(1)) for each in values]
    errors = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
    places = np.arange(len(names))[::-1]
    ax.errorbar([i.mean for i in intervals], places, xerr=errors, fmt="o", color=GREY, markersize=4)
    turns = {name: name.replace("drifting", "drift, turns:") for name in names}
    ax.set_yticks(places, [SHORT.get(name, turns[name]) for name in names] if quantity == "steps" else [])
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.set_xlabel(label)


@styled
def draw_genome(found: Measurements) -> Figure:
    """Loss by number of levels, innate share by rate of change; steps to re-adapt and dormant units by world."""
    figure, axes = canvas("Levels of memory, innate shares, re-adaptation", study_line(found), 6.6, 2, 2)
    _levels(axes[0, 0], found)
    _innate(axes[0, 1], found)
    for ax in axes[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), frameon=False)
    _by_world(axes[1, 0], found, "steps", "log₂ steps to re-adapt")
    _by_world(axes[1, 1], found, "dormant", "dormant units (share)")
    return figure


@styled
def draw_machinery(found: Measurements) -> Figure:
    """Share kept of three genes by drift in three kinds of world, and by price."""
    settings = found.experiment.settings
    drifts = np.argsort(settings["drifts"])[::-1]
    names = ["∞", *(f"{settings['drifts'][place]:g}" for place in drifts)]
    titles = dict(zip((*TREND, "shuffled"), ("rhythm", "trend", "the rhythm, shuffled"), strict=True))
    figure, axes = canvas("Machinery that is kept", study_line(found), 5.2, 2, 2, sharey=True)
    panels = axes.ravel()
    for ax, (kind, title) in zip(panels, titles.items(), strict=False):
        places = _named_places(ax, names, "time scale (steps), ∞: frozen")
        for mark, gene in zip(MARKS, GENES, strict=False):
            moving = kept(found, kind, gene).mean((2, 3))[:, drifts]
            still = kept(found, "frozen", gene).mean((2, 3))
            _line(ax, places, list(np.concatenate([still, moving], axis=1).T), mark, gene)
        ax.set_title(title, loc="left")
    places = _named_places(panels[3], [f"{price:g}" for price in settings["prices"]], "price (squared errors)")
    for mark, gene in zip(MARKS, GENES, strict=False):
        moving = np.mean([kept(found, kind, gene).mean((1, 2)) for kind in TREND], axis=0)
        _line(panels[3], places, list(moving.T), mark, gene)
    panels[3].set_title("rhythm and trend, by price", loc="left")
    panels[3].tick_params(axis="x", rotation=90)
    for ax in axes[:, 0]:
        ax.set_ylabel("share that keeps the gene")
        ax.set_ylim(-0.05, 1.05)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def genome_drawing(name: str, found: Measurements) -> Drawing:
    """Levels of memory, innate shares, re-adaptation."""
    return Drawing(
        partial(draw_genome, found),
        f"{name}-levels",
        "Loss by number of memory levels, optimum innate share by rate of change, and re-adaptation by world.",
        "Above left: loss out of sample by the number of memory levels, for every planted number of time scales, "
        "eightfold apart. Above right: the innate share of highest fitness by how often what is right changes; hollow: "
        "the closed form where nothing changes. Below: networks trained on a world, then asked to learn another: log₂ "
        "steps they need, averaged over four goals, and units dormant before it.",
        numbers="measured",
    )


def machinery_drawing(name: str, found: Measurements) -> Drawing:
    """Genes that are kept."""
    return Drawing(
        partial(draw_machinery, found),
        f"{name}-machinery",
        "Share of populations that keeps each of three costly genes, by drift and by price.",
        "The share that keeps each gene, averaged over prices and noises, from a frozen world to a fast one (a life "
        "has 20 steps): where drift has a rhythm, where it has trends alone, and where the same places come in random "
        "order. Below right: by the price of a gene, averaged over drifts and noises.",
        numbers="measured",
    )
