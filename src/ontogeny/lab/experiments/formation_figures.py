"""Figures of ``formation``: when axes settle, and what they owe to architecture, corpus and seed."""

from collections.abc import Callable
from functools import partial

import numpy as np

from ontogeny.evolution.continents import COMPONENTS, PARTS
from ontogeny.evolution.language_models import SITES
from ontogeny.lab.experiments.formation_answers import SETTLED, gained, loss_gained, shares
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS, GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements, PerReplicate

LINES: tuple[tuple[str, Callable[[Measurements, str], PerReplicate], tuple[str, str]], ...] = (
    ("axes, twin with the same start", gained, ARMS["donor"]),
    ("axes, network of another start", lambda found, name: gained(found, name, "foreign "), OTHER_ARMS[0]),
    ("loss", loss_gained, ARMS["dense"]),
)
COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73")  # of all components but the seed's, which is the rest


@styled
def draw_settling(found: Measurements) -> Figure:
    """Agreement with the twin and with a network of another start, and losses, by share of steps and of text."""
    figure, (row,) = canvas(
        "How much of the structure is there, by share of the data", study_line(found), 3.5, 1, 2, sharey=True
    )
    each = {condition.name: condition.options for condition in found.experiment.conditions}["settling"]["shares"]
    for ax, kind in zip(row, ("steps", "tokens"), strict=True):
        names = [*(f"{kind} {share:g}" for share in each), "final"]
        for label, quantity, (colour, marker) in LINES:
            whole = quantity(found, "final")
            if student_interval(whole).low <= 0:
                continue  # training adds nothing that a share could be of
            intervals = [student_interval(quantity(found, name) / whole.mean()) for name in names]
            low, high = [i.low for i in intervals], [i.high for i in intervals]
            ax.fill_between([*each, 1.0], low, high, color=colour, alpha=0.15)
            ax.plot([*each, 1.0], [i.mean for i in intervals], color=colour, marker=marker, markersize=4, label=label)
            if quantity is not loss_gained:
                height = quantity(found, "shuffled").mean() / whole.mean()
                ax.axhline(height, color=colour, linestyle=":", linewidth=1, label=None)
        ax.axhline(SETTLED, color=GREY, linestyle="--", linewidth=1, label="settled: 0.8")
        ax.set_xscale("log")
        ax.set_xticks([*each, 1.0], [f"{100 * share:g} %" for share in (*each, 1.0)])
        ax.minorticks_off()
        ax.set_xlabel(f"share of the {'steps' if kind == 'steps' else 'text, read for all steps'}")
    row[0].set_ylabel("share of what training adds")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


@styled
def draw_shares(found: Measurements) -> Figure:
    """Variance components of the core and of the margins, by layer and role; the seed's is the rest to 1."""
    figure, (row,) = canvas(
        "What the axes owe to what",
        study_line(found).replace("95 % intervals", "means"),
        4.2,
        1,
        len(PARTS),
        sharey=True,
        sharex=True,
    )
    heights = np.arange(len(SITES)) + np.array([0.6 * layer for layer, _ in SITES])
    for ax, part in zip(row, PARTS, strict=True):
        left = np.zeros(len(SITES))
        for component, colour in zip(COMPONENTS, COLOURS, strict=False):
            width = np.maximum(shares(found, part, component).mean(0), 0)
            ax.barh(heights, width, 0.8, left=left, color=colour, label=LABELS[component])
            left = left + width
        ax.set_title(f"{part}: axes {PARTS[part][0] + 1} to {PARTS[part][1]}", loc="left")
        ax.set_xlabel("share of the variance")
    row[0].set_xlim(0, 1.03 * max(bar.get_x() + bar.get_width() for ax in row for bar in ax.patches))
    row[0].set_yticks(heights, [f"{role} {layer + 1}" for layer, role in SITES])
    row[0].invert_yaxis()
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False)
    return figure


LABELS = {"common": "common", "architecture": "architecture", "corpus": "corpus", "both": "their pairing"}


def settling_drawing(name: str, found: Measurements) -> Drawing:
    """When axes settle."""
    return Drawing(
        partial(draw_settling, found),
        f"{name}-settling",
        "Shares of the final agreement of axes and of the final loss, by share of the steps and of the text.",
        "What training adds to the agreement of a network's axes with those of a network on other text, as a share of "
        "what it has added in the end: with the same start, whose own part is subtracted, and with another. Left: "
        "after a share of the steps. Right: of networks that read a share of the text for all steps. Black: the same "
        "of the held-out loss. Dotted: of networks on shuffled text.",
        numbers="measured",
    )


def shares_drawing(name: str, found: Measurements) -> Drawing:
    """What axes owe to what."""
    return Drawing(
        partial(draw_shares, found),
        f"{name}-shares",
        "Variance shares of axes by layer and role, of the six leading axes and of the next six.",
        "Variance components of axes over three architectures, three corpora and two seeds a cell, as shares of the "
        "variance of random subspaces, for every matrix of both layers; what is missing to 1 is the seed's. Negative "
        "estimates are drawn as 0.",
        numbers="measured",
    )
