"""Figures of ``outerloop``: losses by what was searched or inherited; ranks and donors that grow."""

from functools import partial
from typing import Any

import numpy as np

from ontogeny.evolution.growing_rank import LANDSCAPES, SCHEDULES
from ontogeny.evolution.hyperparameters import GENES
from ontogeny.lab.experiments.outerloop_answers import AXES, PROFILES, axis
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements, PerReplicate

DONOR, EVOLVED = "#0072B2", OTHER_ARMS[0][0]


def _bars(ax: Any, values: dict[str, PerReplicate], colours: list[str]) -> None:
    """A dot with its interval for every name, from the top down."""
    for place, (own, colour) in enumerate(zip(values.values(), colours, strict=True)):
        interval = student_interval(own)
        ax.plot([interval.low, interval.high], [place, place], color=colour)
        ax.plot(interval.mean, place, "o", color=colour, markersize=4)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)


@styled
def draw_profiles(found: Measurements) -> Figure:
    """Log₁₀ loss of every profile, and the genes that evolved, in doublings."""
    figure, (row,) = canvas("Evolved hyperparameters and inherited weights", study_line(found), 2.9, 1, 2)
    losses = {name: found.values(arm[0], f"{arm[1]} loss".strip()) for name, arm in PROFILES.items()}
    colours = [DONOR if name.startswith("donor") else EVOLVED if name == "evolved" else GREY for name in losses]
    _bars(row[0], losses, colours)
    row[0].set_xlabel("log₁₀ loss on new tasks")
    genes = found.values("profile evolved", "genes")
    _bars(row[1], dict(zip(GENES, genes.T, strict=True)), [EVOLVED] * len(GENES))
    row[1].axvline(0, color=GREY, linestyle=":")
    row[1].set_xlabel("evolved gene, doublings")
    return figure


@styled
def draw_growth(found: Measurements) -> Figure:
    """Log₁₀ loss by rank, fixed, growing and shrinking; a donor's worth by its width and its training."""
    figure, axes = canvas("Genomes and donors that grow", study_line(found), 4.4, 2, 2)
    for ax, landscape in zip(axes[0], LANDSCAPES, strict=True):
        losses = {name: found.values(f"growth {landscape}", f"{name} loss") for name in SCHEDULES}
        _bars(ax, losses, [EVOLVED if name == "growing" else GREY for name in losses])
        ax.set_title(landscape, loc="left")
        ax.set_xlabel("log₁₀ loss")
    axes[0, 1].set_yticklabels([])
    for ax, which in zip(axes[1], AXES, strict=True):
        sizes, gaps = axis(found, which)
        intervals = [student_interval(own) for own in np.asarray(gaps).T]
        ax.fill_between(sizes, [i.low for i in intervals], [i.high for i in intervals], color=DONOR, alpha=0.15)
        ax.plot(sizes, [i.mean for i in intervals], color=DONOR, marker="o", markersize=4)
        ax.axhline(0, color=GREY, linestyle=":")
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        ax.minorticks_off()
        ax.set_xlabel("donor's width" if which == "width" else "donor's training, steps")
    axes[1, 0].set_ylabel("gap, log₁₀ loss")
    return figure


def profile_drawing(name: str, found: Measurements) -> Drawing:
    """What evolution and pretraining reach."""
    return Drawing(
        partial(draw_profiles, found),
        f"{name}-profiles",
        "Loss on new tasks with default, evolved, randomly searched and blindly evolved hyperparameters and with what "
        "is inherited of a donor; evolved genes.",
        "Left: log₁₀ loss on tasks that no search has met, a constant's is 0; dealt: evolved with losses dealt out at "
        "random. Donors were pretrained with the compute of all inner trainings of a search. Right: ranks, initial "
        "scales and learning rates of the layers that CMA-ES settles on, in doublings of the default, 0.",
        numbers="measured",
    )


def growth_drawing(name: str, found: Measurements) -> Drawing:
    """Ranks and donors that grow."""
    return Drawing(
        partial(draw_growth, found),
        f"{name}-growth",
        "Loss of fixed, growing and shrinking ranks after as many evaluations; gap between random and donor's "
        "subspaces by the donor's width and training.",
        "Above: an evolution strategy over matrices of fixed rank, of a rank that grows from 1 to 16, and the "
        "reverse. Below: by how much newcomers in a donor's subspaces end below those in as many random ones.",
        numbers="measured",
    )
