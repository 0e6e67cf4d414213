"""Figures and tables of reachability: the gap over training beside the published one, every horizon, the rescues."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.lab.curves import Curve, FloorFit, fit_floor
from ontogeny.lab.experiments.reachability import (
    GAP,
    RESCUE,
    RESCUES,
    against_donor,
    contrast_named,
    curve,
    fit,
    gaps,
    outcomes,
    published_series,
)
from ontogeny.lab.judge import Assessment, ContrastSummary
from ontogeny.lab.report.figures import (
    ARMS,
    BAND,
    GREY,
    Drawing,
    Figure,
    arm_style,
    canvas,
    label_ends,
    line_styles,
    setting_line,
    signed,
    styled,
)
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import DELTA, Interval, paired_interval

TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # nats, on a log axis
CHART = "Chart: Pythia-14M, donor and random, one run an arm"


def drawings(name: str, assessment: Assessment) -> tuple[Drawing, ...]:
    """Every figure whose numbers are there; file names start with ``name``."""
    modes = list(assessment.experiment.embeddings)
    found = [_gap_drawing(name, assessment, mode, found) for mode in modes if (found := fit(assessment, mode))]
    found += [_horizons_drawing(name, assessment, mode) for mode in modes if _trained(assessment, mode)]
    return (*found, *([_rescue_drawing(name, assessment)] if outcomes(assessment) else []))


# The gap ------------------------------------------------------------------------------------------------------


def _gap_drawing(name: str, assessment: Assessment, mode: str, found: FloorFit) -> Drawing:
    steps, chart, (at, said) = published_series()
    of_chart = fit_floor(steps, np.array([chart]))
    alt = (
        f"Gap random minus donor by training steps, embeddings {mode}, nats a token: {_listed(assessment, mode)}. "
        f"Floor {show(found.interval, '±+.3f')}. {_fits(found)}."
    )
    caption = "Gap at the end of every cool-down, mean and 95 % t band over replicates, and the curves fitted to it."
    if mode == "fresh":
        series = ", ".join(f"{gap} at {step}" for step, gap in zip(steps, chart, strict=True))
        alt += f" Published: {series}; in the text {said} at {at}. {_fits(of_chart)}."
        caption += " Published: one run an arm, its text and its chart; neither rates nor schedule are stated."
    return Drawing(
        partial(gap_figure, assessment, mode, found, of_chart), f"{name}-gap-{mode}", alt, caption, numbers="floors"
    )


def _listed(assessment: Assessment, mode: str) -> str:
    values = gaps(assessment, mode)
    assert values is not None
    horizons = assessment.experiment.setting.horizons
    return ", ".join(f"{signed(mean, 3)} at {step}" for step, mean in zip(horizons, values.mean(axis=0), strict=True))


def _fits(found: FloorFit) -> str:
    return (
        f"With a floor of {signed(found.with_floor.constant, 3)} AICc {_short(found.with_floor.aicc)}, without one "
        f"{_short(found.without_floor.aicc)}"
    )


def _short(value: float) -> str:
    """One decimal; a dash where too few points give no AICc."""
    return show(value if math.isfinite(value) else None, ".1f")


@styled
def gap_figure(assessment: Assessment, mode: str, found: FloorFit, of_chart: FloorFit) -> Figure:
    """Random − donor by training steps with both fits; with fresh embeddings the published series with its below."""
    experiment, values = assessment.experiment, gaps(assessment, mode)
    assert values is not None
    line = setting_line(experiment, f"embeddings {mode}", arms=("donor", "random"))
    rows = 2 if mode == "fresh" else 1
    figure, panels = canvas("Random − donor over training: does the gap close?", line, 0.5 + 2.9 * rows, rows=rows)
    horizons, axes = experiment.setting.horizons, panels[0, 0]
    intervals = [paired_interval(column) for column in values.T]
    bounds = np.array([(i.low, i.high) for i in intervals])
    if np.isfinite(bounds).all():
        axes.fill_between(horizons, *bounds.T, color=ARMS["random"][0], alpha=0.18, linewidth=0)
    _series(axes, horizons, [i.mean for i in intervals], found, show(found.interval, "±+.3f"))
    axes.set_xticks(horizons, [str(step) for step in horizons])
    _legend(axes, f"Measured: mean of {len(values)} replicates" + (", 95 % band" if len(values) > 1 else ""))
    if mode == "fresh":
        _published_panel(panels[1, 0], of_chart)
    for axes in panels[:, 0]:
        axes.minorticks_off()
        axes.set(xlabel="training step", ylabel="gap (nats a token)")
    return figure


def _published_panel(axes: Any, fitted: FloorFit) -> None:
    steps, chart, (at, said) = published_series()
    axes.plot(at, said, "D", color=ARMS["random"][0], mfc="white", ms=6, label=f"in the text: {said} at {at}")
    _series(axes, steps, chart, fitted, signed(fitted.with_floor.constant, 3))
    ticks = (1000, 2000, 5000, 10_000, 20_000, 40_000)
    axes.set_xticks(ticks, [str(step) for step in ticks])
    _legend(axes, CHART)


def _series(axes: Any, steps: Sequence[int], means: Sequence[float], fitted: FloorFit, floor: str) -> None:
    """Points and both fitted curves, on log axes if all of them are positive."""
    colour, marker = ARMS["random"]
    x = np.geomspace(steps[0], steps[-1], 100)
    with_floor, without = (_at(c, x / steps[0]) for c in (fitted.with_floor, fitted.without_floor))
    axes.plot(steps, means, marker, color=colour, markersize=5, zorder=3)
    label = f"with a floor of {floor}: AICc {_short(fitted.with_floor.aicc)}"
    axes.plot(x, with_floor, color="black", linewidth=1.3, label=label)
    label = f"without: t^−{fitted.without_floor.rate:.2f}, AICc {_short(fitted.without_floor.aicc)}"
    axes.plot(x, without, color=GREY, linewidth=1.3, linestyle="--", label=label)
    axes.axhline(DELTA, color=GREY, linewidth=0.8, linestyle=":", label=f"{DELTA} nats: counts as closed")
    axes.set_xscale("log")
    if min(*means, *with_floor, *without) > 0:
        top = 1.3 * max(*means, *axes.get_ylim())
        bottom = min(DELTA / 1.5, *means)
        axes.set_yscale("log")
        ticks = [tick for tick in TICKS if bottom <= tick <= top]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(bottom, top)


def _at(fitted: Curve, times: np.ndarray) -> np.ndarray:
    """A fitted curve at multiples of its first step."""
    return np.asarray(fitted.constant + fitted.amplitude * times**-fitted.rate)


def _legend(axes: Any, title: str) -> None:
    """Above the axes, where no curve can be."""
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, title=title, alignment="left", handlelength=1.6
    )
    legend.get_title().set_fontsize(9)


# The horizons -------------------------------------------------------------------------------------------------


def _trained(assessment: Assessment, mode: str) -> list[str]:
    """The arms of a mode with a loss at every horizon, in order of declaration."""
    experiment = assessment.experiment
    names = [name for name in experiment.embeddings[mode] if not experiment.arm(name).after]
    return [name for name in names if curve(assessment, mode, name) is not None]


def _horizons_drawing(name: str, assessment: Assessment, mode: str) -> Drawing:
    arms = [assessment.arms[mode, arm] for arm in _trained(assessment, mode)]
    told = "; ".join(
        f"{arm.arm} " + ", ".join(f"{mean:.3f} at {step}" for step, mean, *_ in arm.curve if step) for arm in arms
    )
    alt = f"Cooled test loss by horizon, embeddings {mode}, nats a token: {told}."
    caption = f"Test loss at the end of every cool-down, embeddings {mode}; bands are 95 % t intervals over replicates."
    return Drawing(
        partial(horizons_figure, assessment, mode), f"{name}-horizons-{mode}", alt, caption, numbers="horizons"
    )


@styled
def horizons_figure(assessment: Assessment, mode: str) -> Figure:
    """Every arm's test loss at the end of the cool-down at each horizon."""
    experiment, names = assessment.experiment, _trained(assessment, mode)
    line = setting_line(experiment, f"embeddings {mode}", arms=names)
    figure, panels = canvas("Cooled losses by horizon: mean, 95 % band", line, 3.9)
    axes, ends = panels[0, 0], []
    for name, style in zip(names, line_styles(names, experiment), strict=True):
        steps, mean, low, high = np.array([row for row in assessment.arms[mode, name].curve if row[0]]).T
        axes.plot(steps, mean, markersize=4, linewidth=1.4, **style)
        if np.isfinite(low).all():
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
        ends.append((steps[-1], mean[-1], f"{name} {mean[-1]:.3f}", style["color"]))
    if (bigram := assessment.references.get("bigram")) is not None:
        axes.axhline(bigram, color=GREY, linestyle="--", linewidth=1)
        ends.append((float(experiment.setting.steps), bigram, f"bigram {bigram:.3f}", GREY))
    horizons = experiment.setting.horizons
    axes.set_xscale("log")
    axes.set_xticks(horizons, [str(step) for step in horizons])
    axes.minorticks_off()
    axes.set(xlabel="horizon (training steps)", ylabel="test loss (nats a token)")
    label_ends(axes, ends, 3.0)
    return figure


# The rescues --------------------------------------------------------------------------------------------------


def _rescue_rows(assessment: Assessment) -> list[ContrastSummary]:
    found = [contrast_named(assessment, against_donor(name)) for name in (*RESCUES, "dense continued")]
    return [contrast for contrast in found if contrast.interval]


def _rescue_drawing(name: str, assessment: Assessment) -> Drawing:
    found, gap = outcomes(assessment), contrast_named(assessment, GAP).interval
    told = "; ".join(
        f"{row.contrast.control} {show(row.interval, '±+.3f')}, {found.get(row.contrast.control, 'for comparison')}"
        for row in _rescue_rows(assessment)
    )
    before = f" Before: {show(gap, '±+.3f')}." if gap else ""
    alt = f"Loss minus the donor's after going on for as long, nats a token: {told}.{before}"
    caption = (
        "What the trained random arm comes to when it goes on as it is, with its directions freed, ten times as fast, "
        "or from a projected dense optimum; the donor goes on for as long. Dashed: the gap before."
    )
    return Drawing(partial(rescue_figure, assessment), f"{name}-rescues", alt, caption, numbers="contrasts")


@styled
def rescue_figure(assessment: Assessment) -> Figure:
    """Every rescue's loss − the donor's, both gone on for as long, with its interval and what came of it."""
    experiment, rows, found = assessment.experiment, _rescue_rows(assessment), outcomes(assessment)
    going_on = experiment.settings[RESCUE]
    line = setting_line(experiment, f"after {going_on.skip} steps", "embeddings fresh", arms=("donor continued",))
    figure, panels = canvas("Rescues: is the donor's loss reached?", line, 1.7 + 0.3 * len(rows))
    axes, gap = panels[0, 0], contrast_named(assessment, GAP).interval
    axes.axvspan(-DELTA, DELTA, color=BAND, label=f"±{DELTA} nats of the donor")
    axes.axvline(0, color=GREY, linewidth=0.8)
    if gap:
        axes.axvline(gap.mean, color=ARMS["random"][0], linestyle="--", linewidth=1.2, label="random, before")
    for y, row in enumerate(rows):
        assert row.interval is not None
        _rescue_row(axes, y, row.interval, arm_style(row.contrast.control, experiment)[0])
        text = found.get(row.contrast.control, "(comparison)")
        axes.annotate(text, (1.03, y), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)
    axes.set_yticks(range(len(rows)), [row.contrast.control for row in rows])
    axes.locator_params(axis="x", nbins=5)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="loss − the donor's, continued (nats a token)")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


def _rescue_row(axes: Any, y: int, interval: Interval, colour: str) -> None:
    axes.plot(interval.mean, y, "o", color=colour, ms=6, zorder=3)
    if math.isfinite(interval.low):
        axes.plot((interval.low, interval.high), (y, y), color=colour, linewidth=2.2)


# Tables -------------------------------------------------------------------------------------------------------


def all_tables(assessment: Assessment) -> tuple[Table, ...]:
    """The tables that hold something."""
    found = (floors(assessment), horizons(assessment), early_stopping(assessment))
    return tuple(table for table in found if table.rows)


def floors(assessment: Assessment) -> Table:
    """Both fits to the measured gaps and to the published ones."""
    columns = {
        "gap": "", "floor, nats [95 %]": "±+.3f", "exponent": ".2f", "AICc with a floor": ".1f",
        "exponent without": ".2f", "AICc without": ".1f", "p of the fit": ".2f", "last ÷ first step": "g",
    }  # fmt: skip
    measured = {f"embeddings {mode}": fit(assessment, mode) for mode in assessment.experiment.embeddings}
    steps, chart, _ = published_series()
    series = measured | {"published chart": fit_floor(steps, np.array([chart])) if any(measured.values()) else None}
    rows = tuple((name, *_fit_row(found)) for name, found in series.items() if found)
    note = "gap = floor + a·t^(−b) and a·t^(−b), fitted to replicate means; the smaller AICc by 6 or more wins"
    return Table("floors", note, columns, rows)


def _fit_row(found: FloorFit) -> tuple[Any, ...]:
    bend, bare = found.with_floor, found.without_floor
    numbers = (bend.rate, bend.aicc, bare.rate, bare.aicc, found.misfit)
    return (found.interval, *(value if math.isfinite(value) else None for value in numbers), found.span)


def horizons(assessment: Assessment) -> Table:
    """Every arm's cooled loss at every horizon, and its gap to the donor."""
    columns = {
        "embeddings": "", "arm": "", "steps": "d", "test loss, nats a token [95 %]": "±.3f",
        "loss − the donor's, nats [95 %]": "±+.3f",
    }  # fmt: skip
    rows = []
    for mode in assessment.experiment.embeddings:
        for name in _trained(assessment, mode):
            losses, over = _beside_donor(assessment, mode, name)
            for index, step in enumerate(assessment.experiment.setting.horizons):
                gap = "" if over is None else paired_interval(over[:, index])
                rows.append((mode, name, step, paired_interval(losses[:, index]), gap))
    return Table("horizons", "At the end of every cool-down", columns, tuple(rows), grouped=True)


def early_stopping(assessment: Assessment) -> Table:
    """The last horizon beside the best one, replicate by replicate."""
    columns = {
        "embeddings": "", "arm": "", "last horizon, nats a token [95 %]": "±.3f",
        "best horizon, nats a token [95 %]": "±.3f", "best at steps": "",
        "best − the donor's best, nats [95 %]": "±+.3f",
    }  # fmt: skip
    rows = []
    for mode in assessment.experiment.embeddings:
        for name in _trained(assessment, mode):
            losses, over = _beside_donor(assessment, mode, name)
            best = losses.min(axis=1)
            at = sorted({assessment.experiment.setting.horizons[i] for i in losses.argmin(axis=1)})
            gap = "" if over is None else paired_interval(best - (losses - over).min(axis=1))
            ends = paired_interval(losses[:, -1]), paired_interval(best)
            rows.append((mode, name, *ends, ", ".join(map(str, at)), gap))
    return Table("early-stopping", "Early stopping over horizons, chosen on the test split", columns, tuple(rows), True)


def _beside_donor(assessment: Assessment, mode: str, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """An arm's losses (replicates, horizons), and those minus the donor's: None for the donor, or without it."""
    losses, donor = curve(assessment, mode, name), curve(assessment, mode, "donor")
    assert losses is not None
    return losses, None if donor is None or name == "donor" else losses - donor
