"""A gap against the donor's size, measured by width here, beside what was published by checkpoint: E4 and E5."""

import math
import re
from collections.abc import Mapping
from functools import partial

import numpy as np

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import ContrastSummary
from ontogeny.lab.report.figures import BAND, GREY, OTHER_ARMS, Drawing, Figure, canvas, setting_line, styled, unit_of
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import Interval, paired_interval

Measured = Mapping[str, Mapping[int, Interval]]  # what -> width -> gap, in its unit
Published = Mapping[str, Mapping[str, float]]  # what and where -> checkpoint -> gap, in the same unit
STYLES = (("#D55E00", "s"), ("#0072B2", "o"), *OTHER_ARMS)


def gaps_by_width(contrasts: Mapping[str, Mapping[int, ContrastSummary]], experiment: Experiment) -> Measured:
    """Means and 95 % intervals over replicates, in the experiment's unit; what isn't measured is left out."""
    unit = unit_of(experiment.setting.measure)
    found = {
        what: {width: unit.of(paired_interval(c.differences)) for width, c in by_width.items() if c.differences}
        for what, by_width in contrasts.items()
    }
    return {what: dict(sorted(by_width.items())) for what, by_width in found.items() if by_width}


def size_drawing(name: str, measured: Measured, published: Published, experiment: Experiment) -> tuple[Drawing, ...]:
    """The figure, where anything is measured."""
    if not measured:
        return ()
    unit = unit_of(experiment.setting.measure)
    told = "; ".join(
        f"{what} " + ", ".join(f"d {width} {show(i, f'±{unit.form}')}" for width, i in by_width.items())
        for what, by_width in measured.items()
    )
    said = "; ".join(
        f"{what} " + ", ".join(f"{donor} {show(gap, '+g')}" for donor, gap in by_donor.items())
        for what, by_donor in published.items()
    )
    alt = f"Gap by size of the donor, {unit.name}: {told}. Published: {said}."
    caption = (
        "Above: gaps by width of the donor, embeddings fresh, means and 95 % t intervals over replicates. Below: as "
        "published, checkpoints in order of size; one run an arm, and they differ in family and training too."
    )
    drawn = partial(size_figure, measured, published, experiment)
    return (Drawing(drawn, f"{name}-gap-by-size", alt, caption, numbers="gap-by-size"),)


@styled
def size_figure(measured: Measured, published: Published, experiment: Experiment) -> Figure:
    """Measured gaps by width (top), published ones in order of parameters (bottom)."""
    unit = unit_of(experiment.setting.measure)
    figure, grid = canvas("Gap by size of the donor", setting_line(experiment, "embeddings fresh"), 5.6, 2)
    ours, theirs = grid[:, 0]
    for position, (what, by_width) in enumerate(measured.items()):
        colour, marker = STYLES[position % len(STYLES)]
        x = np.array(list(by_width)) * 1.012 ** (2 * position - len(measured) + 1)  # intervals beside each other
        ours.plot(x, [i.mean for i in by_width.values()], color=colour, marker=marker, ms=5, lw=1.2, label=what)
        for place, interval in zip(x, by_width.values(), strict=True):
            if math.isfinite(interval.low):
                ours.plot((place, place), (interval.low, interval.high), color=colour, linewidth=1.2)
    widths = sorted({width for by_width in measured.values() for width in by_width})
    ours.set_xscale("log")
    ours.set_xticks(widths, [str(width) for width in widths])
    ours.set(xlabel="width of the donor", ylabel=f"gap ({unit.name})")
    donors = sorted({donor for by_donor in published.values() for donor in by_donor}, key=parameters)
    for position, (what, by_donor) in enumerate(published.items()):
        colour, marker = STYLES[position % len(STYLES)]
        theirs.plot(
            [donors.index(donor) for donor in by_donor],
            list(by_donor.values()),
            marker,
            color=colour,
            mfc="white",
            ms=6,
            label=f"published: {what}",
        )
    theirs.set_xticks(range(len(donors)), donors)
    theirs.set(xlabel="checkpoint, in order of parameters", ylabel=f"gap ({unit.name})")
    delta = unit.factor * experiment.setting.measure.delta
    for axes in (ours, theirs):
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.axhspan(-delta, delta, color=BAND)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, handlelength=1.6)
    return figure


def parameters(checkpoint: str) -> float:
    """How many a checkpoint's name says that it has: SmolLM2-1.7B, 1.7e9."""
    number, letter = re.findall(r"([\d.]+)([MB])\b", checkpoint)[-1]
    return float(number) * {"M": 1e6, "B": 1e9}[letter]


def size_table(measured: Measured, experiment: Experiment) -> Table:
    """The measured gaps."""
    unit = unit_of(experiment.setting.measure)
    columns = {"gap of": "", "width": "d", f"gap, {unit.short} [95 %]": f"±{unit.form}"}
    rows = tuple((what, width, interval) for what, by_width in measured.items() for width, interval in by_width.items())
    return Table("gap-by-size", "Gap by width of the donor", columns, rows, grouped=True)
