"""Figures of ``critical``: harm by onset and length of deprivation; senses, codes, items and missing senses."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.windows import ARMS as GROWN
from ontogeny.lab.experiments.critical_answers import CHANNELS, CODES, asked, case, costs, grown, harm
from ontogeny.lab.experiments.selection_figures import study_line
from ontogeny.lab.report.figures import ARMS, GREY, OTHER_ARMS, Drawing, Figure, canvas, styled
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

MARKS = (ARMS["donor"], ARMS["random"], OTHER_ARMS[0])
UNITS = {"eye": "accuracy lost,\nthat eye alone", "skill": "nats lost\non its text"}


@styled
def draw_windows(found: Measurements) -> Figure:
    """What deprivation costs against as many other steps, by onset; a line a length, a column an arm."""
    settings = found.experiment.settings
    figure, axes = canvas(
        "Harm left by deprivation, by its onset", study_line(found), 3.7, 2, 3, sharex=True, sharey="row"
    )
    for row, kind in zip(axes, UNITS, strict=True):
        for ax, arm in zip(row, GROWN, strict=True):
            harmed = harm(found, grown(kind, arm))
            for place, length in enumerate(settings["lengths"]):
                _line(ax, settings["onsets"], harmed[:, :, place], MARKS[place % 3], f"{length} steps deprived")
            ax.axhline(0, color=GREY, linewidth=0.8)
            ax.set_xticks(settings["onsets"])
        row[0].set_ylabel(UNITS[kind])
    for ax, arm in zip(axes[0], GROWN, strict=True):
        ax.set_title({"genome": "donor's axes", "random": "random axes"}.get(arm, arm), loc="left")
    axes[1, 1].set_xlabel("onset, steps")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


def _line(
    ax: Any, x: Sequence[int], values: Float[np.ndarray, "replicates points"], mark: tuple[str, str], label: str
) -> None:
    intervals, (colour, marker) = [student_interval(column) for column in values.T], mark
    ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.15)
    ax.plot(x, [i.mean for i in intervals], color=colour, marker=marker, markersize=4, label=label)


Row = tuple[str, Float[np.ndarray, " replicates"]]


@styled
def draw_senses(found: Measurements) -> Figure:
    """Four panels of named intervals, one a claim."""
    figure, axes = canvas("Senses, codes, early items, missing senses", study_line(found), 5.2, 2, 2)
    worlds, codes, items, missing = axes.ravel()
    quantities = {"trained": "cka", "untrained": "cka untrained"}
    sets = [[(kind, found.values(f"channels {kind}", what)) for kind in CHANNELS] for what in quantities.values()]
    _rows(worlds, sets, tuple(quantities), "CKA, within − between")
    told = ("permuted", *CODES, "dealt")
    sets = [[(code, found.values("codes", f"{what} {code}")) for code in told] for what in ("cka", "left over")]
    _rows(codes, sets, ("CKA", "left over"), "from pixels, beyond seeds")
    shares = found.experiment.settings["shares"]
    kept = asked(found)[1]
    places = {"never": 0} | {
        f"{how} {s:.0%}": case(found, how, s) for s in shares for how in ("early", "random", "late")
    }
    sets = [[(name, kept[age][:, place]) for name, place in places.items()] for age in ("early", "late")]
    _rows(items, sets, ("early items", "late items"), "share of items kept, by pruning")
    sets = [list(costs(found, world).items()) for world in ("redundant", "separate")]
    _rows(missing, sets, ("redundant", "separate"), "nats lost without sense")
    return figure


def _rows(ax: Any, sets: Sequence[Sequence[Row]], labels: Sequence[str], quantity: str) -> None:
    """Intervals of named values, from top to bottom; sets side by side in the same rows."""
    names = [name for name, _ in sets[0]]
    for place, (rows, label) in enumerate(zip(sets, labels, strict=True)):
        intervals = [student_interval(values) for _, values in rows]
        y = [index + 0.3 * (place - (len(sets) - 1) / 2) for index in range(len(rows))]
        reach = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
        colour, marker = MARKS[place]
        ax.errorbar(
            [i.mean for i in intervals],
            y,
            xerr=reach,
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=1.2,
            label=label,
        )
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(quantity)
    above = (1.08, 0.98)
    ax.legend(loc="lower right", bbox_to_anchor=above, ncols=2, frameon=False, handletextpad=0.1, columnspacing=0.8)


def windows_drawing(name: str, found: Measurements) -> Drawing:
    """Harm by onset and length."""
    return Drawing(
        partial(draw_windows, found),
        f"{name}-windows",
        "Harm that deprivation leaves after recovery, by its onset and length, for an eye and for a skill.",
        "What a network that was deprived for a while lacks after recovery, against one that took the same other "
        "steps: accuracy through the eye that was closed, nats on the text that was withheld. Rates are constant. A "
        "critical period would lie high on the left and fall to the right.",
        numbers="measured",
    )


def senses_drawing(name: str, found: Measurements) -> Drawing:
    """Channels, codes, items and missing senses."""
    return Drawing(
        partial(draw_senses, found),
        f"{name}-senses",
        "Likeness across senses and codes, items kept after pruning, and the cost of missing senses.",
        "Top left: how much less alike networks are across two senses than within one, trained and untrained. Top "
        "right: how far other codes of the same data, and other statistics (dealt), are from pixels beyond two seeds. "
        "Bottom left: items kept after an interval, where connections were pruned never, before late items were "
        "learnt, at random then, or after them; to these shares. Bottom right: what a network loses without one "
        "distant sense, or two.",
        numbers="measured",
    )
