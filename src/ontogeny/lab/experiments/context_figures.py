"""Figures of ``context``: errors by the number of pairs, and what behaviour is due to."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.evolution.in_context import FACTORS
from ontogeny.evolution.regressions import LEARNERS, LOOKUPS
from ontogeny.lab.experiments.context_answers import (
    DIGITS,
    GENOMES,
    IN_CONTEXT,
    OF_SEED,
    TOLD_ARMS,
    routed,
    share_of,
)
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS, GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

BLUE, ORANGE, GREEN, PURPLE = (ARMS[arm] for arm in ("donor", "random", "rotated", "coherent"))
LINES = (  # quantity, label, mark, dashes
    ("network errors", "trained", BLUE, "-"),
    ("grown errors", "grown", GREEN, "-"),
    ("network rolled", "trained, labels rolled", ORANGE, "-"),
    ("ridge errors", "ridge", (GREY, ""), "--"),
    ("k-NN errors", "k-NN", (GREY, ""), ":"),
)
DECADES = (0.03, 0.1, 0.3, 1, 3)  # shares of the mean squared answer


@styled
def draw_learning(found: Measurements) -> Figure:
    """Errors by the number of pairs, and the trained network's distance from learners and lookups."""
    figure, (row,) = canvas("Learning in context: errors on new tasks", study_line(found), 3.4, 1, 2)
    left, right = row
    for quantity, label, (colour, marker), dashes in LINES:
        values = found.values(IN_CONTEXT, quantity)
        first = found.experiment.settings["pairs"] + 1 - values.shape[1]  # of rivals: 1
        intervals = [student_interval(column) for column in values.T]
        x = range(first, first + len(intervals))
        low = [max(i.low, DECADES[0] / 10) for i in intervals]
        left.fill_between(x, low, [i.high for i in intervals], color=colour, alpha=0.15)
        left.plot(x, [i.mean for i in intervals], dashes, color=colour, marker=marker, markersize=3.5, label=label)
    left.set_yscale("log")
    left.set_yticks(DECADES, [f"{value:g}" for value in DECADES])
    left.minorticks_off()
    left.set_xticks(range(0, found.experiment.settings["pairs"] + 1, 2))
    left.set_xlabel("pairs in the context")
    left.set_ylabel("error ÷ mean squared answer")
    names = [*LEARNERS, *LOOKUPS]
    intervals = [student_interval(found.values(IN_CONTEXT, f"{name} distance")) for name in names]
    colours = [BLUE[0]] * len(LEARNERS) + [ORANGE[0]] * len(LOOKUPS)
    means, reach = [i.mean for i in intervals], [min(i.high - i.mean, i.mean) for i in intervals]
    right.barh(names, means, xerr=reach, color=colours, height=0.7, ecolor=GREY)
    right.invert_yaxis()
    right.set_xlabel("mean squared difference from\nwhat the trained network says")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


@styled
def draw_behaviour(found: Measurements) -> Figure:
    """Shares of the variance of behaviour in two designs, and errors by how directions are chosen."""
    figure, axes = canvas("What behaviour is due to", study_line(found), 5.4, 2, 2)
    _stacked(axes[0, 0], _of_product(found), (*FACTORS, "interactions"))
    axes[0, 0].set_title("in context, by spread", loc="left")
    parts = {"genome": ("genome",), "environment": ("environment",), "both": ("genome × environment",), "seed": OF_SEED}
    skews = found.experiment.settings["skews"]
    bars = {
        f"{genomes}, {skew:g}": [float(share_of(found, genomes, skew, effects).mean()) for effects in parts.values()]
        for genomes in GENOMES
        for skew in skews
    }
    _stacked(axes[0, 1], bars, tuple(parts))
    axes[0, 1].set_title("twins, by genome and skew", loc="left")
    for ax, worlds, label in (
        (axes[1, 0], (*DIGITS, "plain"), "digits: share named wrongly"),
        (axes[1, 1], ("planted",), "planted: share of variance left"),
    ):
        for number, (world, (colour, marker)) in enumerate(zip(worlds, (BLUE, ORANGE, GREEN), strict=False)):
            intervals = [student_interval(found.values(routed(world), arm)) for arm in TOLD_ARMS]
            x = np.arange(len(TOLD_ARMS)) + 0.2 * (number - (len(worlds) - 1) / 2)
            reach = [[min(i.mean - i.low, i.mean) for i in intervals], [i.high - i.mean for i in intervals]]
            means = [i.mean for i in intervals]
            ax.errorbar(x, means, reach, fmt=marker, color=colour, markersize=4, linewidth=1, label=world)
        ax.set_xticks(range(len(TOLD_ARMS)), TOLD_ARMS, rotation=30)
        ax.set_ylim(bottom=0)
        ax.set_title(label, loc="left")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def _of_product(found: Measurements) -> dict[str, list[float]]:
    names = (*FACTORS, "interactions")
    return {
        f"{spread:g}": [float(found.values(IN_CONTEXT, f"spread {spread:g} {name}").mean()) for name in names]
        for spread in found.experiment.settings["spreads"]
    }


def _stacked(ax: Any, bars: Mapping[str, Sequence[float]], parts: Sequence[str]) -> None:
    """One horizontal bar a design, its parts end to end."""
    start = np.zeros(len(bars))
    for number, (part, (colour, _)) in enumerate(zip(parts, (BLUE, ORANGE, OTHER_ARMS[1], PURPLE), strict=True)):
        widths = np.array([values[number] for values in bars.values()])
        ax.barh(list(bars), widths, left=start, color=colour, height=0.7, label=part)
        start = start + widths
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the variance")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.32), ncols=2, frameon=False, columnspacing=1, handlelength=1)


def learning_drawing(name: str, found: Measurements) -> Drawing:
    """Learning in context, beside learners and lookups."""
    return Drawing(
        partial(draw_learning, found),
        f"{name}-learning",
        "Error of networks that learn regressions in context by the number of pairs, beside ridge and k-NN; and how "
        "far what the trained one says is from what learners and lookups say.",
        "Mean squared error on new tasks, 1 without a context; logarithmic. Rolled: every label at another pair of its "
        "task. Grown: from the trained one's subspaces, with fresh cores. Right, over all numbers of pairs: ridge and "
        "gradient steps (blue) beside lookups (orange), each at its best.",
        numbers="measured",
    )


def behaviour_drawing(name: str, found: Measurements) -> Drawing:
    """What behaviour is due to: shares, and errors of chosen directions."""
    return Drawing(
        partial(draw_behaviour, found),
        f"{name}-behaviour",
        "Shares of the variance of behaviour over context, weights and hyperparameters, and over genome, environment "
        "and seed; test errors of layers whose directions are chosen at run time or not.",
        "Above: shares of the variance of what networks say; left of main effects and all interactions, right with the "
        "seed's interactions as the seed's. Below: test errors of layers with directions chosen by the context "
        "(gated), fixed, chosen by a hash of the row (random), with all directions, and of the gated one with every "
        "row's choice dealt to another.",
        numbers="measured",
    )
