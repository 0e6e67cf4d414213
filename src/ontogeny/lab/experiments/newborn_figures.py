"""What newborn draws and lists: what a readout of every arm gets wrong, by step, and all that is measured at birth."""

import math
from collections.abc import Mapping
from functools import partial

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import ArmSummary
from ontogeny.lab.report.figures import Drawing, Figure, arm_style, canvas, setting_line, styled
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
    """The figure, where anything is probed."""
    if not cells:
        return ()
    told = "; ".join(
        f"embeddings {mode}, {arm} " + ", ".join(f"{i.mean:.3f}" for i in series(cell, "probe").values())
        for (mode, arm), cell in cells.items()
    )
    steps = ", ".join(map(str, series(next(iter(cells.values())), "probe")))
    return (
        Drawing(
            partial(readout_figure, cells, experiment),
            f"{name}-readout",
            f"Share of next tokens that a linear readout gets wrong, at steps {steps}: {told}.",
            "What a linear readout of the last hidden states gets wrong, before the first step and after; means and "
            "95 % t intervals over replicates. The dotted line guesses the commonest token.",
            numbers="at-birth",
        ),
    )


@styled
def readout_figure(cells: Cells, experiment: Experiment) -> Figure:
    """A panel for each way that embeddings start."""
    modes = list(dict.fromkeys(mode for mode, _ in cells))
    figure, grid = canvas("What can be read off a newborn network", setting_line(experiment), 3.6, 1, len(modes))
    for axes, mode in zip(grid[0], modes, strict=True):
        shown = {arm: cell for (where, arm), cell in cells.items() if where == mode}
        for position, (arm, cell) in enumerate(shown.items()):
            colour, marker = arm_style(arm, experiment)
            found = series(cell, "probe")
            x = [place + 0.08 * (position - (len(shown) - 1) / 2) for place in range(len(found))]
            axes.plot(x, [i.mean for i in found.values()], color=colour, marker=marker, ms=4, lw=1.1, label=arm)
            for place, interval in zip(x, found.values(), strict=True):
                if math.isfinite(interval.low):
                    axes.plot((place, place), (interval.low, interval.high), color=colour, linewidth=1)
        guess = next(iter(series(next(iter(shown.values())), "guess").values()))
        axes.axhline(guess.mean, color="#595959", linewidth=0.8, linestyle=":")
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
