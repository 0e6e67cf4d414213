"""Figures of ``mutation``: what moves σ and Adam's rates, and the course of σ when essentiality moves."""

from functools import partial

import numpy as np

from ontogeny.evolution.adaptation import BOUNDS
from ontogeny.evolution.mutation_rates import fold
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS, GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

SERIES = {
    "evolved σ": ("evolved", "σ", ARMS["donor"]),
    "σ, random selection": ("random", "σ", (GREY, "s")),
    "Adam's rate": ("evolved", "Adam", OTHER_ARMS[0]),
    "Adam's step": ("evolved", "step", OTHER_ARMS[1]),
}
ROWS = {
    "essential: curvature ×400": "essential",
    "optimum drifts ×10": "drift",
    "optimum jitters ×10": "jitter",
    "students: curvature ×400": "",
}
EXPONENT = {"σ": "exponent", "Adam": "Adam exponent", "step": "step exponent"}
GROUPS = ("in neither", "in the first", "in the second", "in both")  # as in the measured course
MARKS = ((GREY, ":"), ("#D55E00", "-"), ("#0072B2", "-"), ("#000000", "--"))


@styled
def draw_effects(found: Measurements) -> Figure:
    """log₁₀ of what genes high in each factor have ÷ those low in it."""
    figure, ((ax,),) = canvas("What makes σ, and Adam's rates, higher or lower", study_line(found), 3.5)
    for place, (label, (arm, of, (colour, marker))) in enumerate(SERIES.items()):
        intervals = [student_interval(_effects(found, arm, of, factor)) for factor in ROWS.values()]
        y = np.arange(len(ROWS)) + 0.16 * (place - 1.5)
        ax.hlines(y, [i.low for i in intervals], [i.high for i in intervals], color=colour, linewidth=1.4)
        ax.plot([i.mean for i in intervals], y, marker, color=colour, markersize=5, label=label)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.axvline(-fold(-0.5), color=GREY, linewidth=0.8, linestyle="--", label="20-fold lower")
    ax.set_yticks(range(len(ROWS)), list(ROWS))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("log₁₀ of high ÷ low")
    figure.legend(loc="outside lower left", ncols=3, frameon=False)
    return figure


def _effects(found: Measurements, arm: str, of: str, factor: str) -> np.ndarray:
    if factor:
        return found.values(f"genes {arm}", f"{of} {factor}")
    return -fold(found.values(f"students {arm}", EXPONENT[of]))


@styled
def draw_course(found: Measurements) -> Figure:
    """Mean σ of genes by where they are essential, under selection and without."""
    figure, (row,) = canvas("σ of genes when others become essential", study_line(found), 3.2, 1, 2, sharey=True)
    for ax, arm in zip(row, ("evolved", "random"), strict=True):
        courses = found.values(f"switch {arm}", "course")  # (replicates, groups, times)
        times = (np.arange(courses.shape[2]) + 0.5) * found.experiment.settings["switching"] / courses.shape[2]
        for group, (label, (colour, line)) in enumerate(zip(GROUPS, MARKS, strict=True)):
            intervals = [student_interval(values) for values in courses[:, group].T]
            low, high = ([getattr(i, end) for i in intervals] for end in ("low", "high"))
            ax.fill_between(times, low, high, color=colour, alpha=0.12, linewidth=0)
            ax.plot(times, [i.mean for i in intervals], line, color=colour, label=label)
        ax.axvline(found.experiment.settings["switching"] / 2, color=GREY, linewidth=0.8)
        ax.set_ylim(*np.log10(BOUNDS))
        ax.set_xlabel("generation")
        ax.set_title({"evolved": "selection", "random": "random survivors"}[arm], loc="left")
    row[0].set_ylabel("log₁₀ σ, mean over genes")
    legend = row[0].get_legend_handles_labels()
    figure.legend(*legend, title="essential", loc="outside lower left", ncols=4, frameon=False, alignment="left")
    return figure


def effects_drawing(name: str, found: Measurements) -> Drawing:
    """Effects on σ beside those on Adam's rates."""
    return Drawing(
        partial(draw_effects, found),
        f"{name}-effects",
        "How essentiality, drift and jitter of a gene's optimum change its evolved mutation size and Adam's rate.",
        "Genes whose essentiality, drift and jitter are crossed, and the weights of small networks: evolved σ, σ where "
        "survivors are drawn at random, and Adam's rates and steps on the same task. Where σ and Adam's rate lie on "
        "different sides of 0 their signs are opposite. Dashed: σ that makes mutations alike in harm.",
        numbers="measured",
    )


def course_drawing(name: str, found: Measurements) -> Drawing:
    """The course of σ."""
    return Drawing(
        partial(draw_course, found),
        f"{name}-course",
        "Evolved mutation sizes of genes, by generation, through a switch of the environment.",
        "At the line other traits come to matter. Genes essential in neither environment, in one of them, or in both; "
        "left under selection, right with survivors drawn at random. Bands: 95 % intervals.",
        numbers="measured",
    )
