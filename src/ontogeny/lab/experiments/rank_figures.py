"""What rank draws and lists: the gap by width at fixed fractions and fixed numbers, over the donors' overlap."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ontogeny.lab.conduct import overlap_tasks
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.figures import (
    BAND,
    GREY,
    Drawing,
    Figure,
    canvas,
    label_ends,
    setting_line,
    styled,
    width_of,
)
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import DELTA, Interval, paired_interval
from ontogeny.lab.store import Store

Cell = tuple[str, int]  # label of the rank ("10%", "k8"), width
End = tuple[float, float, str, str]  # x, y, label, colour of a line's end
Overlap = tuple[float, float]  # measured, by chance; means over pairs of donors and residual-stream sides
COLOURS = ("#E69F00", "#009E73", "#0072B2", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def gaps_by_cell(assessment: Assessment) -> dict[Cell, Interval]:
    """random − donor at every rank and width, mean and 95 % interval over replicates."""
    found = {}
    for c in assessment.contrasts:
        _, width, label = c.contrast.treatment.split(" ")
        if c.interval:
            found[label, int(width.removeprefix("d"))] = paired_interval(c.differences)
    return found


def overlaps_by_cell(assessment: Assessment, store: Store) -> dict[Cell, Overlap]:
    """Mean overlap of pairs of donors and what chance gives, on sides of the residual stream, whose dimension is d."""
    experiment = assessment.experiment
    widths = {donor: width_of(s) for s in experiment.all_settings().values() for donor in s.donors}
    rows: dict[Cell, list[Mapping[str, Any]]] = {}
    for task in overlap_tasks(experiment):
        label = task.rank if task.rank.endswith("%") else f"k{task.rank}"
        if result := store.result(task.id, 0):
            residual = [row for row in result["rows"] if row["residual"]]
            rows.setdefault((label, widths[task.first]), []).extend(residual)
    return {
        cell: (float(np.mean([r["overlap"] for r in found])), float(np.mean([r["chance"] for r in found])))
        for cell, found in rows.items()
        if found
    }


def width_drawings(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """The figure, where anything is measured."""
    gaps, overlaps = gaps_by_cell(assessment), overlaps_by_cell(assessment, store)
    if not gaps:
        return ()
    told = "; ".join(f"{label} of d {width} {show(i, '±+.3f')}" for (label, width), i in gaps.items())
    beside = "; ".join(f"{label} of d {width} {o:.3f} against {c:.3f}" for (label, width), (o, c) in overlaps.items())
    alt = f"Gap random minus donor by width, nats a token: {told}. Donors' overlap against chance: {beside}."
    caption = (
        "Above: random − donor at the last step, means and 95 % t intervals over replicates. Below: how far two "
        "donors' directions overlap (marks) beside what chance gives, k/d (dashed): constant at a fixed share of the "
        "width, falling at a fixed number of directions."
    )
    drawn = partial(width_figure, gaps, overlaps, assessment.experiment)
    return (Drawing(drawn, f"{name}-gap-by-width", alt, caption, numbers="gap-by-width"),)


@styled
def width_figure(gaps: Mapping[Cell, Interval], overlaps: Mapping[Cell, Overlap], experiment: Experiment) -> Figure:
    """Gap (top) and overlap (bottom) by width, at fixed shares of the width (left) and fixed numbers (right)."""
    labels = list(dict.fromkeys(label for label, _ in gaps))
    columns = [part for part in (_group(labels, numbers=False), _group(labels, numbers=True)) if part]
    rows = 2 if overlaps else 1
    line = setting_line(experiment, "embeddings fresh")
    figure, grid = canvas(
        "Worth of the donor's directions by width", line, 0.5 + 2.4 * rows, rows, len(columns), sharey="row"
    )
    widths = sorted({width for _, width in gaps})
    ends = {}  # labelled once both columns are drawn, since they share their range
    for column, part in enumerate(columns):
        ends[grid[0, column]] = _gap_panel(grid[0, column], gaps, part, widths)
        grid[0, column].set_title("fixed number of directions" if part[0][0] == "k" else "fixed share", loc="left")
        if overlaps:
            ends[grid[1, column]] = _overlap_panel(grid[1, column], overlaps, part, widths)
        grid[-1, column].set_xlabel("width d")
    grid[0, 0].set_ylabel("random − donor\n(nats a token)")
    if overlaps:
        grid[1, 0].set(ylabel="overlap of two donors", ylim=(0, None))
    for axes, labelled in ends.items():
        label_ends(axes, labelled, 1.7)
    return figure


def _group(labels: Iterable[str], *, numbers: bool) -> list[str]:
    found = [label for label in labels if label.startswith("k") is numbers]
    return sorted(found, key=lambda label: float(label.strip("k%")))


def _gap_panel(axes: Any, gaps: Mapping[Cell, Interval], labels: list[str], widths: list[int]) -> list[End]:
    axes.axhspan(-DELTA, DELTA, color=BAND)
    axes.axhline(0, color=GREY, linewidth=0.8)
    ends = []
    for position, label in enumerate(labels):
        colour, marker = COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]
        here = {width: gaps[label, width] for width in widths if (label, width) in gaps}
        x = np.array(list(here)) * 1.012 ** (2 * position - len(labels) + 1)  # intervals beside each other
        axes.plot(x, [i.mean for i in here.values()], color=colour, marker=marker, ms=4.5, lw=1.2)
        for place, interval in zip(x, here.values(), strict=True):
            if math.isfinite(interval.low):
                axes.plot((place, place), (interval.low, interval.high), color=colour, linewidth=1.1)
        ends.append((float(x[-1]), here[max(here)].mean, label, colour))
    _width_axis(axes, widths)
    return ends


def _overlap_panel(axes: Any, overlaps: Mapping[Cell, Overlap], labels: list[str], widths: list[int]) -> list[End]:
    ends = []
    for position, label in enumerate(labels):
        colour, marker = COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]
        here = {width: overlaps[label, width] for width in widths if (label, width) in overlaps}
        if here:
            axes.plot(list(here), [chance for _, chance in here.values()], color=colour, linestyle="--", linewidth=1)
            axes.plot(list(here), [overlap for overlap, _ in here.values()], color=colour, marker=marker, ms=4.5, lw=0)
            ends.append((float(max(here)), here[max(here)][0], label, colour))
    _width_axis(axes, widths)
    return ends


def _width_axis(axes: Any, widths: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.margins(x=0.12)


def width_tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The gap at every rank and width, beside overlap and chance."""
    gaps, overlaps = gaps_by_cell(assessment), overlaps_by_cell(assessment, store)
    columns = {
        "rank": "", "width": "d", "random − donor, nats [95 %]": "±+.3f", "overlap": ".3f", "chance": ".3f",
        "donors' loss, nats": ".3f",
    }  # fmt: skip
    losses = {donor["id"]: donor["loss"] for donor in assessment.donors}
    by_width = {
        width_of(setting): float(np.mean([losses[donor] for donor in setting.donors]))
        for setting in assessment.experiment.all_settings().values()
        if losses.keys() >= set(setting.donors)
    }
    rows = tuple(
        (label, width, interval, *overlaps.get((label, width), (None, None)), by_width.get(width))
        for (label, width), interval in sorted(gaps.items(), key=lambda item: _cell_order(item[0]))
    )
    caption = "Gap by rank and width; overlap of two donors on residual-stream sides, mean over pairs and sites"
    return (Table("gap-by-width", caption, columns, rows, grouped=True),)


def _cell_order(cell: Cell) -> tuple[bool, float, int]:
    label, width = cell
    return label.startswith("k"), float(label.strip("k%")), width
