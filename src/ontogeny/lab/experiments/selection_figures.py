"""Figures of ``selection``: how near a generation's step is to the gradient, and who is at the goal first."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ontogeny.lab.report.figures import GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

LANDSCAPES = ("quadratic", "network")
MARKS = (("#0072B2", "o"), *OTHER_ARMS[:2])
Exponents = Callable[[Measurements, str], np.ndarray]


def study_line(found: Measurements) -> str:
    """A study's subtitle."""
    study = found.experiment
    return f"{study.name}, {study.scale} · {study.replicates} replicates, 95 % intervals"


@styled
def draw_alignment(found: Measurements, rules: Sequence[str]) -> Figure:
    """Cosine with the descent direction by population (left) and mutation size (right), a row a landscape."""
    settings = found.experiment.settings
    most, least = max(settings["offspring"]), min(settings["sigmas"])
    figure, axes = canvas("A generation's step: cosine with −gradient", study_line(found), 4.4, 2, 2, sharey=True)
    for row, landscape in zip(axes, LANDSCAPES, strict=True):
        sweeps = [
            [(n, f"{n} {least:g}") for n in settings["offspring"]],
            [(sigma, f"{most} {sigma:g}") for sigma in settings["sigmas"]],
        ]
        for ax, sweep in zip(row, sweeps, strict=True):
            for (colour, marker), rule in zip(MARKS, rules, strict=True):
                cells = [f"alignment {landscape} {rule} {end}" for _, end in sweep]
                intervals = [student_interval(found.values(cell, "cosine")) for cell in cells]
                x, mean = [value for value, _ in sweep], [i.mean for i in intervals]
                ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.15)
                ax.plot(x, mean, color=colour, marker=marker, markersize=4, label=rule)
            cells = [f"alignment {landscape} standardised {end}" for _, end in sweep]
            for quantity, dashes, label in (
                ("closed_form", "--", "closed form, plane"),
                ("shuffled", ":", "losses shuffled"),
            ):
                ax.plot(x, [found.values(c, quantity).mean() for c in cells], dashes, color=GREY, label=label)
            ax.set_xscale("log")
            ax.set_ylim(-0.05, 1.05)
        row[0].set_ylabel(landscape)
    axes[1, 0].set_xlabel(f"offspring, σ {least:g}")
    axes[1, 1].set_xlabel(f"σ of mutations, {most} offspring")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


@styled
def draw_races(found: Measurements, exponents: Exponents) -> Figure:
    """Evaluations to a tenth of the start's loss, by dimension."""
    figure, (row,) = canvas("Evaluations to a tenth of the start's loss", study_line(found), 2.9, 1, 2, sharey=True)
    for ax, landscape in zip(row, LANDSCAPES, strict=True):
        cells = found.named(f"race {landscape} ")
        x = [found.values(cell, "dimension").mean() for cell in cells]
        for (colour, marker), searcher in zip(MARKS[:2], ("gradient", "evolution"), strict=True):
            logs = [student_interval(np.log10(found.values(cell, f"{searcher} evaluations"))) for cell in cells]
            ax.fill_between(x, [10**i.low for i in logs], [10**i.high for i in logs], color=colour, alpha=0.15)
            ax.plot(x, [10**i.mean for i in logs], color=colour, marker=marker, markersize=4, label=searcher)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("dimension")
        ax.set_title(f"{landscape}: ratio ∝ d^{exponents(found, landscape).mean():.2f}", loc="left")
    row[0].set_ylabel("evaluations")
    row[0].legend(frameon=False)
    return figure


def alignment_drawing(name: str, found: Measurements, rules: Sequence[str]) -> Drawing:
    """Alignment, beside its closed form and its null."""
    return Drawing(
        partial(draw_alignment, found, rules),
        f"{name}-alignment",
        "Cosine of a generation's step with the descent direction, by population and mutation size.",
        "Where selection moves a population's mean in one generation, against the way down: by the number of offspring "
        "(left) and the size of mutations (right), three kinds of selection. Dashed: the closed form of an antithetic "
        "evolution strategy on a plane. Dotted: the same populations with their losses dealt out at random.",
        numbers="measured",
    )


def race_drawing(name: str, found: Measurements, exponents: Exponents) -> Drawing:
    """Who is at the goal first."""
    return Drawing(
        partial(draw_races, found, exponents),
        f"{name}-races",
        "Evaluations that gradient descent and an evolution strategy need, by dimension.",
        "Evaluations until a tenth of the start's loss, rates tuned for each searcher and dimension by one grid; a "
        "gradient counts as three evaluations. Both axes are logarithmic.",
        numbers="measured",
    )
