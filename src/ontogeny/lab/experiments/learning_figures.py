"""Figures of ``learning``: how alike networks are by what they share, and what an inherited start saves."""

from functools import partial
from typing import Any

from ontogeny.evolution.locality import ARMS
from ontogeny.evolution.matched_loss import MEASURES, NEAREST
from ontogeny.lab.experiments.learning_answers import inherited
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS as MARKS
from ontogeny.lab.report.figures import GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

NAMED = {"cka": "CKA", "neighbours": f"mutual {NEAREST}-NN", "axes": "leading axes"}
LOOKS = {"cka": MARKS["donor"], "neighbours": MARKS["random"], "axes": MARKS["rotated"]}
STATES = {
    "seeds": "two seeds of one kind",
    "trained": "CNN and ViT",
    "class": "classes alone",
    "shuffled": "labels dealt out",
    "untrained": "untrained",
    "permuted": "images permuted",
}
PAIRS = {"within": "one searcher", "between": "two searchers", "other": "one searcher,\ntwo worlds"}
LINES = {
    "plain": (*MARKS["dense"], "-"),
    "profile": (*MARKS["donor"], "-"),
    "random locality": (*MARKS["random"], "-"),
    "shuffled profile": (*MARKS["coherent"], "-"),
    "subspaces": (*MARKS["rotated"], "-"),
    "random subspaces": (*OTHER_ARMS[0], "--"),
    "untrained profile": (*OTHER_ARMS[1], "--"),
    "distilled": (GREY, "h", ":"),
}


@styled
def draw_likeness(found: Measurements) -> Figure:
    """Similarity by what two networks share, each with its interval."""
    figure, (axes,) = canvas("How alike two networks are", study_line(found), 3.3, 1, 2, sharex=True)
    for ax, condition, rows, measures in (
        (axes[0], "architectures", STATES, ("cka", "neighbours")),
        (axes[1], "searchers", PAIRS, MEASURES),
    ):
        for shift, measure in enumerate(measures):
            intervals = [student_interval(found.values(condition, f"{measure} {row}")) for row in rows]
            at = [place + 0.2 * (shift - (len(measures) - 1) / 2) for place in range(len(rows))]
            _dots(ax, intervals, at, measure)
        ax.set_yticks(range(len(rows)), list(rows.values()))
        ax.invert_yaxis()
        ax.set_xlim(-0.1, 1.05)
        ax.set_xlabel("similarity")
    axes[0].set_title("architectures", loc="left")
    axes[1].set_title("searchers", loc="left")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def _dots(ax: Any, intervals: list[Any], at: list[float], measure: str) -> None:
    means = [i.mean for i in intervals]
    spans = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
    colour, marker = LOOKS[measure]
    ax.errorbar(means, at, xerr=spans, fmt=marker, color=colour, markersize=4, linewidth=1, label=NAMED[measure])


@styled
def draw_inheritance(found: Measurements) -> Figure:
    """Accuracy by the number of images, a line a start."""
    settings = found.experiment.settings
    figure, ((ax,),) = canvas("A transformer's accuracy by what it starts from", study_line(found), 3.8, 1, 1)
    for arm in ARMS:
        colour, marker, dashes = LINES[arm]
        curves = found.values(inherited(arm), "accuracies")
        intervals = [student_interval(column) for column in curves.T]
        ax.fill_between(
            settings["sizes"],
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=colour,
            alpha=0.08,
            linewidth=0,
        )
        ax.plot(
            settings["sizes"], [i.mean for i in intervals], dashes, color=colour, marker=marker, markersize=4, label=arm
        )
    ax.axhline(settings["accuracy"], color=GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xticks(settings["sizes"], [str(size) for size in settings["sizes"]])
    ax.minorticks_off()
    ax.set_ylim(0, 1)
    ax.set_xlabel("images learnt")
    ax.set_ylabel("right on new images")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def likeness_drawing(name: str, found: Measurements) -> Drawing:
    """What makes networks alike."""
    return Drawing(
        partial(draw_likeness, found),
        f"{name}-likeness",
        "Similarity of two networks by what they share: architectures, searchers, data.",
        "Left: a convolutional network and a vision transformer on the same images, CKA beyond what pixels explain, "
        "beside two seeds of one kind and four nulls. Right: networks stopped at one loss, always of two seeds; one "
        "searcher in one world, two searchers in one world, one searcher in two worlds of other digits.",
        numbers="measured",
    )


def inheritance_drawing(name: str, found: Measurements) -> Drawing:
    """What a start saves."""
    return Drawing(
        partial(draw_inheritance, found),
        f"{name}-inheritance",
        "Accuracy of a vision transformer on new images, by images learnt and by what it starts from.",
        "Every start at its best rate. The grey line is the accuracy whose images are counted. The number of images is "
        "on a logarithmic axis.",
        numbers="measured",
    )
