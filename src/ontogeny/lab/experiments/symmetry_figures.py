"""Figures of ``symmetry``: what matches by sparsity, and what a wiring is worth."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.evolution.transplant import ARMS
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

BLUE, ORANGE = "#0072B2", "#D55E00"
LINES = {
    "matched": (BLUE, "o", "-", "best permutation"),
    "shuffled": (GREY, "", ":", "the same on a shuffled network"),
    "unmatched": (ORANGE, "s", "-", "names as they are"),
    "same wiring": (*OTHER_ARMS[2], "--", "another training, same wiring"),
}
LABELS = {
    "density": "random, same densities",
    "named": "+ input, output degrees",
    "hubs": "+ hub degrees",
    "degree": "all degrees",
    "clustering": "all degrees, clustering",
    "blocks": "all degrees, blocks",
    "renamed": "donor’s graph, renamed",
    "donor": "donor’s wiring",
    "ticket": "donor’s wiring and start",
}


@styled
def draw_matching(found: Measurements, worlds: Sequence[str]) -> Figure:
    """Cosines and barriers by sparsity, a row a world."""
    figure, axes = canvas("Two networks trained apart: alike but for names?", study_line(found), 4.6, 2, 2, sharex=True)
    sparsities = found.experiment.settings["sparsities"]
    for row, world in zip(axes, worlds, strict=True):
        for ax, suffix, label in zip(row, ("", " barrier"), ("cosine of weights", "loss barrier (nats)"), strict=True):
            for name in LINES:
                if suffix == "" or name != "same wiring":
                    _line(ax, found.values(f"matching {world}", name + suffix), name)
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            ax.set_ylabel(label)
        row[0].set_title(world, loc="left")
    for ax in axes[1]:
        ax.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])
        ax.set_xlabel("sparsity (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


def _line(ax: Any, values: np.ndarray, name: str) -> None:
    colour, marker, dashes, label = LINES[name]
    intervals, x = [student_interval(level) for level in values.T], range(values.shape[1])
    ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, [i.mean for i in intervals], dashes, color=colour, marker=marker, markersize=3.5, label=label)


@styled
def draw_wiring(found: Measurements, worlds: Sequence[str]) -> Figure:
    """By how much each wiring is ahead of a random one of equal densities."""
    figure, (row,) = canvas("What a wiring is worth to a fresh network", study_line(found), 3.1, 1, 2, sharey=True)
    arms = ARMS[1:]
    for ax, world in zip(row, worlds, strict=True):
        base, *rest = (found.values(f"wiring {world}", f"{arm} loss") for arm in ARMS)
        for place, (arm, loss) in enumerate(zip(arms, rest, strict=True)):
            gain = student_interval(base - loss)
            colour = BLUE if arm == "donor" else GREY if arm in ("renamed", "ticket") else ORANGE
            ax.plot([gain.low, gain.high], [place, place], color=colour)
            ax.plot(gain.mean, place, "o", color=colour, markersize=4)
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set_title(world, loc="left")
        ax.locator_params(axis="x", nbins=4)
    row[0].set_yticks(range(len(arms)), [LABELS[arm] for arm in arms])
    row[0].invert_yaxis()
    figure.supxlabel("held-out loss below that of a random wiring (nats)", fontsize=9)
    return figure


def matching_drawing(name: str, found: Measurements, worlds: Sequence[str]) -> Drawing:
    """What matches, beside what matches by accident."""
    return Drawing(
        partial(draw_matching, found, worlds),
        f"{name}-matching",
        "Cosine and loss barrier of two networks under the best permutation of neurons, by sparsity.",
        "Left: cosine of two networks' weights under the best permutation, under the best with the second network "
        "shuffled, unmatched, and of two trainings in one wiring, unmatched. Right: the loss barrier on the straight "
        "line between the two, under the same permutations.",
        numbers="measured",
    )


def wiring_drawing(name: str, found: Measurements, worlds: Sequence[str]) -> Drawing:
    """What wirings are worth."""
    return Drawing(
        partial(draw_wiring, found, worlds),
        f"{name}-wiring",
        "Held-out loss of fresh networks by wiring, below that of a random wiring of equal densities.",
        "Fresh networks trained in the donor's wiring (blue), in random ones that keep more and more of it (orange), "
        "and beside them (grey) in its graph with inputs and outputs renamed, and from the donor's own start.",
        numbers="measured",
    )
