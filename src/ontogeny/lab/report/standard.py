"""The figures of every experiment: gaps, learning curves, learning rates; each for one embedding mode."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import ArmSummary, Assessment, ContrastSummary
from ontogeny.lab.rates import GRID
from ontogeny.lab.report.figures import (
    BAND,
    GREY,
    Drawing,
    Figure,
    Published,
    arm_style,
    blank,
    canvas,
    contrast_label,
    label_ends,
    legend_columns,
    line_styles,
    setting_line,
    styled,
    unit_of,
)
from ontogeny.lab.report.tables import ordered_contrasts, show

MOST_LINES = 8  # in one axes
PUBLISHED_MARKS = (("D", 5), ("|", 6), ("s", 5), ("^", 5))  # marker and size, by source
MARK_LABELS = ("primary, simultaneous interval", "exploratory or check, 95 %")
RATES_PART = "Learning rates"
Panel = tuple[str, list[ArmSummary]]  # title, arms


def standard_drawings(name: str, assessment: Assessment, published: Published) -> list[Drawing]:
    """Gaps, curves and rates of every mode; those without numbers are left out."""
    arms = assessment.arms.values()
    modes = list(assessment.experiment.embeddings)
    trained = [mode for mode in modes if any(a.curve for a in arms if a.embeddings == mode)]
    tuned = [mode for mode in modes if any(panel_arms for _, panel_arms in _tuned_panels(assessment, mode))]
    return [
        *(_forest(name, assessment, mode, published) for mode in trained),
        *(_curves(name, assessment, mode) for mode in trained),
        *(_rates(name, assessment, mode) for mode in tuned),
    ]


def primary_arms(assessment: Assessment, mode: str) -> list[ArmSummary]:
    """The arms of a mode's primary contrasts, in order of declaration."""
    wanted = {
        name
        for c in assessment.experiment.contrasts
        if c.primary and c.embeddings == mode
        for name in (c.control, c.treatment)
    }
    return [arm for (m, name), arm in assessment.arms.items() if m == mode and name in wanted]


def panels(assessment: Assessment, arms: Sequence[ArmSummary]) -> list[Panel]:
    """The arms of one axes each: by setting, and where those are more than eight, by what primary contrasts link."""
    experiment = assessment.experiment
    by_setting: dict[str, list[ArmSummary]] = {}
    for arm in arms:
        by_setting.setdefault(experiment.arm(arm.arm).setting, []).append(arm)
    groups = []
    for found in by_setting.values():
        groups += [found] if len(found) <= MOST_LINES else _linked(experiment, found)
    if len(groups) == 1:
        return [("", groups[0])]
    return [(_title(experiment, group), group) for group in groups]


def _linked(experiment: Experiment, arms: list[ArmSummary]) -> list[list[ArmSummary]]:
    """The arms in groups that primary contrasts hold together."""
    group_of = {arm.arm: {arm.arm} for arm in arms}
    for c in experiment.contrasts:
        if c.primary and {c.control, c.treatment} <= set(group_of):
            joined = group_of[c.control] | group_of[c.treatment]
            group_of |= dict.fromkeys(joined, joined)
    groups = {frozenset(group): None for group in group_of.values()}
    return [[arm for arm in arms if arm.arm in group] for group in groups]


def _title(experiment: Experiment, arms: Sequence[ArmSummary]) -> str:
    """What the arms' names have in common, else their setting."""
    common = _common([arm.arm for arm in arms])
    return " ".join(common) or experiment.arm(arms[0].arm).setting or "main setting"


def _common(names: Sequence[str]) -> list[str]:
    """The words that all names hold."""
    return [word for word in names[0].split(" ") if all(word in name.split(" ") for name in names)]


def _short(names: Sequence[str]) -> list[str]:
    """Names without the words that all of them hold."""
    common = _common(names) if len(names) > 1 else []
    short = [" ".join(word for word in name.split(" ") if word not in common) for name in names]
    return short if all(short) else list(names)


@styled
def curves(assessment: Assessment, mode: str) -> Figure:
    """Mean of the measure by step with its 95 % t band over replicates, beside what knows little reaches.

    Step 0 is left out: every arm starts near ln V, which the arms table shows.
    """
    shown = panels(assessment, [arm for arm in primary_arms(assessment, mode) if arm.curve])
    measure = assessment.experiment.setting.measure
    names = [arm.arm for _, arms in shown for arm in arms]
    line = setting_line(assessment.experiment, f"embeddings {mode}", arms=names)
    heights = [3.1] if len(shown) == 1 else [max(1.45, 0.25 + 0.2 * len(arms)) for _, arms in shown]
    overhead = 0.6 if len(shown) > 1 else 0.4  # of a panel's title and ticks
    total = 0.4 + sum(heights) + overhead * len(shown)
    title = f"Test {measure.key}: mean, 95 % interval"
    figure, axes = canvas(title, line, total, len(shown), height_ratios=heights)
    for axis, (title, arms), height in zip(axes[:, 0], shown, heights, strict=True):
        _curve_panel(axis, assessment.experiment, arms, height, short=len(shown) > 1)
        axis.set_title(title, loc="left")
    axes[-1, 0].set_xlabel("training step")
    figure.supylabel(f"test {measure.key} ({measure.unit})", fontsize=9)
    return figure


def _curve_panel(axes: Any, experiment: Experiment, arms: list[ArmSummary], height: float, *, short: bool) -> None:
    names = [arm.arm for arm in arms]
    setting = experiment.setting_of(experiment.arm(names[0]))
    ends = []
    for arm, label, style in zip(arms, _short(names) if short else names, line_styles(names, experiment), strict=True):
        steps, mean, low, high = np.array([row for row in arm.curve if row[0] > 0]).reshape(-1, 4).T
        if not len(steps):
            continue
        axes.plot(steps, mean, markersize=4, linewidth=1.4, **style)
        if np.isfinite(low).all():
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
        ends.append((steps[-1], mean[-1], f"{label} {mean[-1]:.3f}", style["color"]))
    _references(axes, arms[0].references, setting.measure.gate)
    axes.set_xscale("log")
    axes.set_xticks(setting.evaluate_at, [str(step) for step in setting.evaluate_at])
    axes.minorticks_off()
    label_ends(axes, ends, height)


def _references(axes: Any, references: Mapping[str, float], gate: str) -> None:
    """The gate dashed, others dotted; what lies above all curves is named, not drawn."""
    top = axes.get_ylim()[1]
    above = []
    for name, value in sorted(references.items(), key=lambda item: item[0] != gate):
        if value <= top:
            axes.axhline(value, color=GREY, linestyle="--" if name == gate else ":", linewidth=1)
            place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "color": GREY}
            axes.annotate(f"{name} {value:.3f}", (0, value), (3, 2), **place)
        elif name != "uniform":
            above.append(f"{name} {value:.3f} ↑")
    axes.annotate(", ".join(above), (0.99, 0.97), xycoords="axes fraction", color=GREY, ha="right", va="top")


def _curves(name: str, assessment: Assessment, mode: str) -> Drawing:
    measure = assessment.experiment.setting.measure
    arms = primary_arms(assessment, mode)
    ends = ", ".join(f"{arm.arm} {arm.interval.mean:.3f}" for arm in arms if arm.interval)
    lines = ", ".join(f"{key} {value:.3f}" for key, value in assessment.references.items())
    alt = (
        f"Test {measure.key} by step, embeddings {mode}. Mean at the last step, {measure.unit}: {ends}. "
        f"References: {lines}."
    )
    caption = (
        f"Test {measure.key} by step, arms of the primary contrasts, embeddings {mode}; bands are 95 % t intervals "
        f"over replicates. Step 0 left out. {lines}."
    )
    return Drawing(partial(curves, assessment, mode), f"{name}-curves-{mode}", alt, caption, numbers="curves")


@styled
def forest(assessment: Assessment, mode: str, published: Published) -> Figure:
    """Every contrast of a mode: the measure of the control − that of the treatment, its interval and verdict.

    ``published`` gaps are open marks above the measured row, one mark a source.
    """
    experiment = assessment.experiment
    rows = [c for c in ordered_contrasts(assessment) if c.contrast.embeddings == mode]
    unit = unit_of(experiment.setting.measure)
    delta = unit.factor * experiment.setting.measure.delta
    beside = {c.contrast.name: published[c.contrast.name] for c in rows if c.contrast.name in published}
    sources = list(dict.fromkeys(source for values in beside.values() for _, source in values))
    names = [name for c in rows for name in (c.contrast.control, c.contrast.treatment)]
    line = setting_line(experiment, f"embeddings {mode}", arms=names)
    columns = legend_columns([*MARK_LABELS, *(f"published: {source}" for source in sources)], most=2)
    legend = 0.2 * math.ceil((3 + len(sources)) / columns)
    title = "Gaps: measured" + (" beside published" if beside else "")
    figure, grid = canvas(title, line, 1.1 + legend + (0.29 if len(rows) <= 20 else 0.23) * len(rows))
    axes = grid[0, 0]
    limits = _limits(rows, [unit.factor * value for values in beside.values() for value, _ in values], unit.factor)
    axes.axvspan(-delta, delta, color=BAND)
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, row in enumerate(rows):
        _forest_row(axes, y, row, arm_style(row.contrast.control, experiment)[0], limits, unit.factor)
        for value, source in beside.get(row.contrast.name, ()):
            marker, size = PUBLISHED_MARKS[sources.index(source) % len(PUBLISHED_MARKS)]
            axes.plot(unit.factor * value, y - 0.3, marker, mfc="white", mec="black", ms=size)
    axes.set_yticks(range(len(rows)), [contrast_label(c.contrast) for c in rows])
    axes.set(xlim=limits, ylim=(len(rows) - 0.4, -0.7), xlabel=f"gap ({unit.name}); right of 0 favours the second arm")
    axes.xaxis.get_label().set(x=1.0, ha="right")  # long labels leave the axes narrow
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="y", visible=False)
    _forest_legend(figure, f"±{delta:g} {unit.short}", sources, columns)
    return figure


def _limits(rows: Sequence[ContrastSummary], published: Sequence[float], factor: int) -> tuple[float, float]:
    """The range of means and published gaps, with the ends of intervals that are not far off."""
    found = [c.interval for c in rows if c.interval]
    values = [0.0, *published, *(factor * interval.mean for interval in found)]
    reach = 1.5 * max(0.1 if factor == 1 else 5.0, *map(abs, values))
    ends = [factor * end for i in found for end in (i.low, i.high) if abs(factor * end) < reach]
    return min(values + ends) - 0.06 * reach, max(values + ends) + 0.06 * reach


def _forest_row(axes: Any, y: int, row: ContrastSummary, colour: str, limits: tuple[float, float], factor: int) -> None:
    interval = row.interval
    text = "missing" if interval is None else row.verdict.word if row.contrast.primary else f"({row.word})"
    if row.contrast.check:
        text = "check"
    axes.annotate(text, (1.04, y), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)
    if interval is None:
        return
    filled = row.contrast.primary
    axes.plot(factor * interval.mean, y, "o", color=colour, mfc=colour if filled else "white", ms=6, zorder=3)
    if not math.isfinite(interval.low):
        return
    low, high = factor * interval.low, factor * interval.high
    ends = max(low, limits[0]), min(high, limits[1])
    axes.plot(ends, (y, y), color=colour, linewidth=2.2 if filled else 1.1)
    for end, clipped, marker in ((ends[0], low < limits[0], "<"), (ends[1], high > limits[1], ">")):
        if clipped:
            axes.plot(end, y, marker, color=colour, ms=5, clip_on=False)


def _forest_legend(figure: Figure, band: str, sources: Sequence[str], columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = [
        Line2D([], [], color="black", marker="o", lw=2.2, label=MARK_LABELS[0]),
        Line2D([], [], color="black", marker="o", mfc="white", lw=1.1, label=MARK_LABELS[1]),
        Patch(color=BAND, label=band),
    ]
    for (marker, size), source in zip(PUBLISHED_MARKS, sources, strict=False):
        marks.append(
            Line2D([], [], mec="black", marker=marker, mfc="white", ms=size, lw=0, label=f"published: {source}")
        )
    figure.legend(handles=marks, loc="outside lower left", ncols=columns, frameon=False)


def _forest(name: str, assessment: Assessment, mode: str, published: Published) -> Drawing:
    unit = unit_of(assessment.experiment.setting.measure)
    rows = [c for c in ordered_contrasts(assessment) if c.contrast.embeddings == mode and c.interval]
    told = "; ".join(
        f"{c.contrast.control} minus {c.contrast.treatment} {show(unit.of(c.interval), '±' + unit.form)}, "
        f"{c.verdict.word}"
        for c in rows
        if c.interval
    )
    alt = f"Gaps with intervals, embeddings {mode}, {unit.name}: {told}."
    caption = f"Contrasts, embeddings {mode}, coloured by the control; an arrow marks an interval that goes on."
    beside = [c.contrast for c in rows if c.contrast.name in published]
    if beside:
        values = "; ".join(
            f"{contrast_label(c)} "
            + ", ".join(f"{show(unit.factor * v, unit.form)} ({source})" for v, source in published[c.name])
            for c in beside
        )
        alt += f" Published: {values}."
        caption += " Published gaps were measured at another scale and in another setting."
    return Drawing(
        partial(forest, assessment, mode, published), f"{name}-gaps-{mode}", alt, caption, numbers="contrasts"
    )


def _tuned_panels(assessment: Assessment, mode: str) -> list[Panel]:
    """The arms that were tuned for the primary contrasts' arms: each of those, or the one whose rates it shares."""
    experiment = assessment.experiment
    wanted = {experiment.arm(arm.arm).tuned_as or arm.arm for arm in primary_arms(assessment, mode)}
    arms = [a for (m, name), a in assessment.arms.items() if m == mode and name in wanted and a.tried and a.rates]
    return panels(assessment, arms) if arms else []


@styled
def rates(assessment: Assessment, mode: str) -> Figure:
    """Tuning loss by each rate, the other at its chosen value; chosen rates ringed, the grid's edges dotted."""
    experiment = assessment.experiment
    shown = _tuned_panels(assessment, mode)
    line = setting_line(experiment, f"embeddings {mode}", arms=[arm.arm for _, arms in shown for arm in arms])
    height = 0.5 + (3.0 if len(shown) == 1 else 2.6 * len(shown))
    figure = blank("Learning rates tried; the chosen ones ringed", line, height)
    kinds = ("body",) if mode == "frozen" else ("body", "rest")
    for part, (title, arms) in zip(np.atleast_1d(figure.subfigures(len(shown))), shown, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=9)
        grid = part.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for index, (axes, kind) in enumerate(zip(grid, kinds, strict=True)):
            names = [arm.arm for arm in arms]
            labels = _short(names) if len(shown) > 1 else names
            for arm, label, style in zip(arms, labels, line_styles(names, experiment), strict=True):
                _rate_line(axes, arm, index, style, label)
            _rate_axis(axes, kind)
        grid[0].set_ylabel(f"tuning {experiment.setting.measure.key}\n({experiment.setting.measure.unit})")
        handles, labels = grid[0].get_legend_handles_labels()
        options = {"frameon": False, "columnspacing": 1.0, "handlelength": 2.4}
        part.legend(handles, labels, loc="outside lower left", ncols=legend_columns(labels), **options)
    return figure


def _rate_axis(axes: Any, kind: str) -> None:
    for edge in (GRID[0], GRID[-1]):
        axes.axvline(edge, color=GREY, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(GRID, [f"{rate:g}" for rate in GRID], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel(f"peak rate of {kind}")


def _rate_line(axes: Any, arm: ArmSummary, axis: int, style: Mapping[str, Any], label: str) -> None:
    assert arm.rates is not None
    chosen = (arm.rates.body, arm.rates.rest)
    points = sorted((row[axis], row[2]) for row in arm.tried if row[1 - axis] == chosen[1 - axis])
    points = [point for point in points if math.isfinite(point[1])]
    axes.plot(*np.reshape(points, (-1, 2)).T, **style, markersize=4, linewidth=1.2, label=label)
    best = [point for point in points if point[0] == chosen[axis]]
    axes.plot(*np.reshape(best, (-1, 2)).T, "o", mfc="none", mec=style["color"], markersize=10, mew=1.4)


def _rates(name: str, assessment: Assessment, mode: str) -> Drawing:
    measure = assessment.experiment.setting.measure
    arms = [arm for _, found in _tuned_panels(assessment, mode) for arm in found]
    chosen = "; ".join(f"{arm.arm} body {arm.rates.body:g}, rest {arm.rates.rest:g}" for arm in arms if arm.rates)
    alt = f"Tuning {measure.key} by learning rate, embeddings {mode}. Chosen: {chosen}."
    caption = f"Tuning {measure.key} by rate, embeddings {mode}, the other rate as chosen; dotted: the grid's edges."
    return Drawing(partial(rates, assessment, mode), f"{name}-rates-{mode}", alt, caption, RATES_PART, "rates")
