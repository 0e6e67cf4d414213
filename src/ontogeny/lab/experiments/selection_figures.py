"""Figures of ``selection``: how near a generation's step is to the gradient, and who is at the goal first."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.lab.report.figures import GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

MARKS = (("#0072B2", "o"), *OTHER_ARMS[:2])
Races = Callable[[Measurements, str], list[str]]
DECADES = (10, 100, 1000, 10_000)  # evaluations
SWEPT = {"size": "dimension or width", "offspring": "offspring", "sigma": "σ of mutations"}


def study_line(found: Measurements) -> str:
    """A study's subtitle."""
    study = found.experiment
    return f"{study.name}, {study.scale} · {study.replicates} replicates, 95 % intervals"


def swept(found: Measurements, close: str, rule: str, option: str) -> list[tuple[float, str]]:
    """(value, condition) of the conditions that differ from the one looked at closely in one option, and rule."""
    options = {condition.name: condition.options for condition in found.experiment.conditions}
    kept = {**options[close], "rule": rule}
    same = [
        (float(o[option]), name)
        for name, o in options.items()
        if name.startswith("alignment") and {**kept, option: o[option]} == dict(o)
    ]
    return sorted(same)


@styled
def draw_alignment(found: Measurements, rules: Sequence[str], close: Mapping[str, str]) -> Figure:
    """Cosine with the descent direction by population, mutation size and dimension, a row a landscape."""
    figure, axes = canvas("One generation's step: cosine with −gradient", study_line(found), 4.4, 2, 3, sharey=True)
    for row, (landscape, name) in zip(axes, close.items(), strict=True):
        for ax, option in zip(row, ("offspring", "sigma", "size"), strict=True):
            for mark, rule in zip(MARKS, rules, strict=True):
                _line(ax, found, swept(found, name, rule, option), "cosine", mark, rule)
            cells = swept(found, name, rules[0], option)
            for quantity, dashes, label in (
                ("drift", "--", "closed form, small σ"),
                ("dealt", ":", "losses dealt out"),
            ):
                means = [found.values(cell, quantity).mean() for _, cell in cells]
                ax.plot([x for x, _ in cells], means, dashes, color=GREY, label=label)
            ax.set_xscale("log")
            ax.set_xticks([x for x, _ in cells], [f"{x:g}" for x, _ in cells], rotation=90)
            ax.minorticks_off()
            ax.set_ylim(-0.05, 1.05)
        row[0].set_ylabel(landscape)
    for ax, option in zip(axes[1], ("offspring", "sigma", "size"), strict=True):
        ax.set_xlabel(SWEPT[option])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def _line(
    ax: Any, found: Measurements, cells: list[tuple[float, str]], quantity: str, mark: tuple[str, str], label: str
) -> None:
    intervals = [student_interval(found.values(cell, quantity)) for _, cell in cells]
    x, (colour, marker) = [value for value, _ in cells], mark
    ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.15)
    ax.plot(x, [i.mean for i in intervals], color=colour, marker=marker, markersize=3.5, label=label)


@styled
def draw_races(found: Measurements, races: Races) -> Figure:
    """Evaluations to a tenth of the start's loss, by dimension."""
    figure, (row,) = canvas("Evaluations to a tenth of the start's loss", study_line(found), 2.9, 1, 2, sharey=True)
    names = {"gradient": "gradient", "pair": "evolution, one pair", "evolution": "evolution, 16 offspring"}
    for ax, landscape in zip(row, ("quadratic", "network"), strict=True):
        cells = races(found, landscape)
        x = [found.values(cell, "dimension").mean() for cell in cells]
        for (colour, marker), (searcher, label) in zip(MARKS, names.items(), strict=True):
            logs = [student_interval(np.log10(found.values(cell, f"{searcher} evaluations"))) for cell in cells]
            ax.fill_between(x, [10**i.low for i in logs], [10**i.high for i in logs], color=colour, alpha=0.15)
            ax.plot(x, [10**i.mean for i in logs], color=colour, marker=marker, markersize=4, label=label)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(x, [f"{value:.0f}" for value in x])
        ax.set_yticks(DECADES, [f"{value:,}" for value in DECADES])
        ax.minorticks_off()
        ax.set_xlabel("dimension")
        ax.set_title(landscape, loc="left")
    row[0].set_ylabel("evaluations")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def alignment_drawing(name: str, found: Measurements, rules: Sequence[str], close: Mapping[str, str]) -> Drawing:
    """Alignment, beside its closed form and its null."""
    return Drawing(
        partial(draw_alignment, found, rules, close),
        f"{name}-alignment",
        "Cosine of one generation's step with the descent direction, by population, mutation size and dimension.",
        "Where selection moves a population's mean in one generation, against the way down: three kinds of selection, "
        "independent offspring. Dashed: the closed form of proportional selection for small mutations, where the "
        "cosine is lost to drift. Dotted: the same populations with their losses dealt out at random.",
        numbers="measured",
    )


def race_drawing(name: str, found: Measurements, races: Races) -> Drawing:
    """Who is at the goal first."""
    return Drawing(
        partial(draw_races, found, races),
        f"{name}-races",
        "Evaluations that gradient descent and evolution strategies need, by dimension.",
        "Evaluations until a tenth of the start's loss, every searcher at its best rate for the landscape; a gradient "
        "counts as three. Both axes are logarithmic.",
        numbers="measured",
    )
