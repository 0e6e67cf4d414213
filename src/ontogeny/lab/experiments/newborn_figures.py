"""What newborn draws and lists: what a readout of every arm gets wrong, by step, and all that is measured at birth."""

import math
from collections.abc import Mapping
from functools import partial

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.judge import ArmSummary
from ontogeny.lab.report.figures import GREY, Drawing, Figure, arm_style, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table
from ontogeny.lab.statistics import Interval, paired_interval

Cells = Mapping[tuple[str, str], ArmSummary]  # embeddings, arm -> what it came to
AT_BIRTH = {
    "loss": "test loss, nats a token [95 %]",
    "seen": "loss on train text, nats a token [95 %]",
    "probe": "readout's error, share of tokens [95 %]",
    "embedded": "the same of the embeddings [95 %]",
    "alignment": "kernel–target alignment [95 %]",
}


def series(arm: ArmSummary, what: str) -> dict[int, Interval]:
    """Step -> an arm's mean of a measured quantity over replicates."""
    found = arm.curves if what == "loss" else arm.further.get(what, {})
    return {step: paired_interval(values) for step, values in found.items()}


def readout_drawings(name: str, cells: Cells, experiment: Experiment) -> tuple[Drawing, ...]:
    """What can be read before the first step, and after: where anything is probed."""
    at_birth = {key: found[0] for key, cell in cells.items() if 0 in (found := series(cell, "probe"))}
    if not at_birth:
        return ()
    told = "; ".join(f"embeddings {mode}, {arm} {interval.mean:.3f}" for (mode, arm), interval in at_birth.items())
    steps = ", ".join(map(str, series(next(iter(cells.values())), "probe")))
    return (
        Drawing(
            partial(birth_figure, {arm: cell for (mode, arm), cell in cells.items() if mode == "frozen"}, experiment),
            f"{name}-birth",
            f"Share of next tokens that a linear readout gets wrong before the first step: {told}.",
            "What a linear readout of the last hidden states gets wrong before the first step, the donor's embeddings "
            "frozen; means and 95 % t intervals. Lines: a readout of the embeddings alone (dashed), and "
            "guessing the commonest token (dotted).",
            numbers="at-birth",
        ),
        Drawing(
            partial(readout_figure, {key: cell for key, cell in cells.items() if key[1] in PRIMARY}, experiment),
            f"{name}-readout",
            f"Share of next tokens that a linear readout gets wrong, at steps {steps}, starting from: {told}.",
            "The same over the first steps; the dotted line guesses the commonest token.",
            numbers="at-birth",
        ),
    )


@styled
def birth_figure(cells: Mapping[str, ArmSummary], experiment: Experiment) -> Figure:
    """A row an arm."""
    line = setting_line(experiment, "embeddings frozen", arms=cells)
    figure, grid = canvas("What can be read off a newborn network", line, 1.2 + 0.24 * len(cells))
    axes = grid[0, 0]
    for row, (arm, cell) in enumerate(cells.items()):
        colour, marker = arm_style(arm, experiment)
        interval = series(cell, "probe")[0]
        axes.plot((interval.low, interval.high), (row, row), color=colour, linewidth=1)
        axes.plot(interval.mean, row, color=colour, marker=marker, ms=5)
    first = next(iter(cells.values()))
    for what, style in (("embedded", "--"), ("guess", ":")):
        axes.axvline(series(first, what)[0].mean, color=GREY, linewidth=0.8, linestyle=style)
    axes.set_yticks(range(len(cells)), list(cells))
    axes.invert_yaxis()
    axes.set_xlabel("readout's error before the first step (share of tokens)")
    return figure


@styled
def readout_figure(cells: Cells, experiment: Experiment) -> Figure:
    """A panel for each way that embeddings start."""
    modes = list(dict.fromkeys(mode for mode, _ in cells))
    line = setting_line(experiment, arms={arm for _, arm in cells})
    figure, grid = canvas("What can be read off it as it learns", line, 3.6, 1, len(modes))
    for axes, mode in zip(grid[0], modes, strict=True):
        shown = {arm: cell for (where, arm), cell in cells.items() if where == mode}
        for position, (arm, cell) in enumerate(shown.items()):
            colour, marker = arm_style(arm, experiment)
            found = series(cell, "probe")
            x = [place + 0.04 * (position - (len(shown) - 1) / 2) for place in range(len(found))]
            axes.plot(x, [i.mean for i in found.values()], color=colour, marker=marker, ms=4, lw=1.1, label=arm)
            for place, interval in zip(x, found.values(), strict=True):
                if math.isfinite(interval.low):
                    axes.plot((place, place), (interval.low, interval.high), color=colour, linewidth=1)
        axes.axhline(series(next(iter(shown.values())), "guess")[0].mean, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(found)), [str(step) for step in found])
        axes.set(xlabel="training steps", title=f"embeddings {mode}")
    grid[0, 0].set_ylabel("readout's error (share of tokens)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def step0_table(cells: Cells) -> Table:
    """One row an arm: everything before its first step."""
    columns = {"embeddings": "", "arm": ""} | dict.fromkeys(AT_BIRTH.values(), "±.4f")
    rows = tuple(
        (mode, arm, *(series(cell, what).get(0) for what in AT_BIRTH))
        for (mode, arm), cell in cells.items()
        if all(series(cell, what) for what in AT_BIRTH)
    )
    return Table("at-birth", "Before the first step", columns, rows, grouped=True)
