"""Figures of ``rule``: a product inside and outside its range; sizes, ambiguous sentences, and causes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ontogeny.evolution.causes import ARMS as RECORDS
from ontogeny.evolution.published_costs import PUBLISHED
from ontogeny.evolution.sentences import ARMS
from ontogeny.lab.experiments.rule_tables import LINE, NOTHING
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS as STYLES
from ontogeny.lab.report.figures import GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

COLOURS = [STYLES["donor"], STYLES["random"], STYLES["rotated"], STYLES["coherent"], OTHER_ARMS[0]]
Loss = Callable[[Measurements, int, int], np.ndarray]


def _line(
    ax: Any, x: list[int], cells: list[np.ndarray], style: tuple[str, str], label: str, dashes: str = "-"
) -> None:
    """Means with intervals on a logarithmic scale: ``cells`` hold logarithms."""
    intervals = [student_interval(values) for values in cells]
    ax.fill_between(x, [10**i.low for i in intervals], [10**i.high for i in intervals], color=style[0], alpha=0.15)
    ax.plot(x, [10**i.mean for i in intervals], dashes, color=style[0], marker=style[1], markersize=4, label=label)


def _logarithmic(ax: Any) -> None:
    """Logarithmic axes, neurons in powers of 2, with plain numbers: the style has no formulas."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


@styled
def draw_multiplication(found: Measurements) -> Figure:
    """Training costs by width beside the published ones (left); errors inside and outside the range (right)."""
    figure, (row,) = canvas("A network learns m·a", study_line(found), 3.4, 1, 2)
    widths = list(found.experiment.settings["widths"])
    costs, errors = row
    cells = [np.log10(found.values(f"multiplication {w}", "published training cost")) for w in widths]
    _line(costs, widths, cells, COLOURS[0], "measured")
    costs.plot(list(PUBLISHED), list(PUBLISHED.values()), "x", color="#000000", markersize=5, label="published")
    lines = ((LINE, "best multiple\nof m + a", 26, "center"), (NOTHING, "says 0", widths[0], "left"))
    for value, text, at, side in lines:  # clear of the marks
        costs.axhline(value, color=GREY, linestyle="--", linewidth=0.8)
        costs.text(at, value * 1.1, text, color=GREY, fontsize=8, va="bottom", ha=side)
    costs.set_title("as published", loc="left")
    costs.set_ylabel("training cost")
    costs.set_ylim(50, 2500)
    costs.legend(frameon=False, loc="center left", bbox_to_anchor=(0, 0.62))
    for style, (quantity, label) in zip(
        COLOURS, (("inside", "[1, 10]"), ("outside", "[10, 20]"), ("far", "[20, 40]")), strict=False
    ):
        values = [np.log10(found.values(f"multiplication {w}", quantity)) for w in widths]
        _line(errors, widths, values, style, f"m·a, {label}")
    for (colour, marker), task in zip(COLOURS[3:], ("addition", "logarithms"), strict=True):
        name = "m + a" if task == "addition" else "log m + log a"
        value = found.values(f"{task} 64", "outside").mean()
        errors.plot([64], [value], marker, color=colour, markersize=6, label=f"{name}, [10, 20]", linestyle="none")
    errors.set_title("trained out", loc="left")
    errors.set_ylabel("error ÷ size of the target")
    for ax in row:
        _logarithmic(ax)
        ax.set_xlabel("first layer's neurons")
    figure.legend(*errors.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


@styled
def draw_learnt(found: Measurements, loss: Loss) -> Figure:
    """Loss by neurons and data, and by arrangement (above); shares by the rule and errors about causes (below)."""
    figure, ((surface, depths), (rule, causes)) = canvas("Sizes, sentences and causes", study_line(found), 6.0, 2, 2)
    settings = found.experiment.settings
    neurons, most = list(settings["neurons"]), max(settings["data"])
    for style, data in zip(COLOURS, settings["data"], strict=False):
        _line(surface, neurons, [loss(found, n, data) for n in neurons], style, f"{data} examples")
    for style, depth in zip(COLOURS, settings["depths"], strict=False):
        values = [found.values(f"surface {n} in {depth}", f"loss {most}") for n in neurons]
        _line(depths, neurons, values, style, f"{depth} layer" + "s" * (depth > 1))
    surface.set_title("data, mean over depths", loc="left")
    depths.set_title(f"arrangement, {most} examples", loc="left")
    surface.set_ylabel("held-out loss")
    for ax in (surface, depths):
        _logarithmic(ax)
        ax.set_xlabel("hidden neurons")
        ax.set_ylim(bottom=ax.get_ylim()[0] / 6)  # room for the legend
        ax.legend(frameon=False, fontsize=8, loc="lower left", handlelength=1.2, labelspacing=0.2)
    cell = f"sentences {max(settings['sentences'])}"
    _bars(rule, found, cell, ARMS, ("structure", "words"), lambda arm, test: f"{test} {arm}")
    rule.axhline(0.5, color=GREY, linestyle=":", linewidth=0.8)
    rule.set_ylim(0, 1.35)  # room for the legend
    rule.set_yticks(np.linspace(0, 1, 6))
    rule.set_ylabel("share by the rule")
    rule.legend(frameon=False, fontsize=8, loc="upper left")
    rule.set_title(f"{max(settings['sentences'])} ambiguous sentences", loc="left")
    cell = f"records {max(settings['records'])}"
    questions = ("association", "intervention", "counterfactual")
    _bars(causes, found, cell, tuple(RECORDS), questions, lambda arm, question: f"{arm} {question}")
    causes.set_ylim(0, 0.85)
    causes.legend(frameon=False, fontsize=8, loc="upper right")
    causes.set_ylabel("error of a probability")
    causes.set_title(f"{max(settings['records'])} records", loc="left")
    return figure


NAMES = {
    "interventions": "do",
    "state and interventions": "both",
    "shuffled state and interventions": "both,\nshuffled",
}


def _bars(
    ax: Any,
    found: Measurements,
    cell: str,
    arms: tuple[str, ...],
    groups: tuple[str, ...],
    key: Callable[[str, str], str],
) -> None:
    width = 0.8 / len(groups)
    for place, ((colour, _), group) in enumerate(zip(COLOURS, groups, strict=False)):
        intervals = [student_interval(found.values(cell, key(arm, group))) for arm in arms]
        x = np.arange(len(arms)) + (place - (len(groups) - 1) / 2) * width
        ax.bar(x, [i.mean for i in intervals], width, color=colour, label=group)
        ax.errorbar(
            x,
            [i.mean for i in intervals],
            [(i.high - i.low) / 2 for i in intervals],
            fmt="none",
            color="#000000",
            lw=0.8,
        )
    ax.set_xticks(range(len(arms)), [NAMES.get(arm, arm) for arm in arms], fontsize=7.5)
    ax.grid(visible=False, axis="x")


def multiplication_drawing(name: str, found: Measurements) -> Drawing:
    """The published costs, and what the network says beyond its range."""
    return Drawing(
        partial(draw_multiplication, found),
        f"{name}-multiplication",
        "Training cost of networks that learn a product, by width, and their errors inside and outside its range.",
        "Left: the cost after the published training, mean and 95 % interval over seeds, with the published costs of "
        "one seed; dashed: the cost of the best multiple of m + a, and of saying 0. Right: the root mean squared "
        "error ÷ the target's root mean square, after a longer training, rates tuned; addition, and the product as a "
        "sum of logarithms, show that the test can be passed.",
        numbers="measured",
    )


def learnt_drawing(name: str, found: Measurements, loss: Loss) -> Drawing:
    """Loss over sizes and data; what ambiguous sentences and a simulator's records teach."""
    return Drawing(
        partial(draw_learnt, found, loss),
        f"{name}-learnt",
        "Held-out loss by neurons, data and layers; shares of answers by the rule; errors about causes.",
        "Above: held-out squared error on sums of products, the target's variance being 1. Below left: answers that "
        "follow the rule, where the sentence's structure (structure) or words that went together (words) say the "
        "opposite. Below right: mean absolute errors of probabilities, by what a network's records show; do: "
        "interventions; both: state and interventions.",
        numbers="measured",
    )
