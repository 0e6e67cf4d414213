"""What sparsity draws and lists: the gap by sparsity to every control, E2's fits, and the published series."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ontogeny.lab.claims import load_claims
from ontogeny.lab.curves import FORMS, ValueCurve
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.figures import (
    ARMS,
    BAND,
    GREY,
    OTHER_ARMS,
    Drawing,
    Figure,
    arm_style,
    canvas,
    setting_line,
    styled,
)
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import DELTA, Interval, paired_interval

Gaps = Mapping[str, Mapping[int, Interval]]  # kind of control -> sparsity (%) -> gap to the magnitude mask
Series = Mapping[str, Mapping[int, float]]  # source -> sparsity (%) -> published gap of random to magnitude, nats

DENSITY, LAYERS, DEGREES = "uniform", "layer-density", "degree"
DRAWN = (DENSITY, LAYERS, DEGREES, "permuted", "erk")
FORM_LINES = {"exponential": "-", "power": "--"}


def gaps_by_control(assessment: Assessment, mode: str = "fresh") -> Gaps:
    """Control − magnitude at every sparsity, mean and 95 % interval over replicates."""
    found: dict[str, dict[int, Interval]] = {}
    for c in assessment.contrasts:
        kind, _, size = c.contrast.control.partition(" ")
        same = c.contrast.treatment == f"magnitude {size}" and c.contrast.embeddings == mode
        if same and kind in DRAWN and c.interval:
            found.setdefault(kind, {})[int(size.removesuffix("%"))] = paired_interval(c.differences)
    return {kind: dict(sorted(found[kind].items())) for kind in DRAWN if kind in found}


def published_series() -> Series:
    """Both published series, from the text of claim E2; what a source gives as ~0 counts as 0."""
    text = next(claim.published for claim in load_claims() if claim.id == "E2")
    head, _, rest = text.partition(" % sparsity: ")
    sparsities = [int(number) for number in re.findall(r"\d+", head)]
    series = {}
    for part in rest.rstrip(".").split("; "):
        values, _, source = part.partition(" (")
        numbers = [value.strip().replace("−", "-").replace("~0", "0") for value in values.split(",")]
        pairs = zip(sparsities, numbers, strict=True)
        series[source.rstrip(")")] = {sparsity: float(value) for sparsity, value in pairs if value != "–"}
    return series


def published_gaps() -> tuple[tuple[float, str], ...]:
    """What is published for one cell, random − magnitude at 90 %, and where: from the text of claim E1."""
    text = next(claim.published for claim in load_claims() if claim.id == "E1")
    return tuple((float(gap), source) for gap, source in re.findall(r"\+(\d\.\d+) \(([^)]+)\)", text))


def gap_drawings(name: str, assessment: Assessment, curve: ValueCurve | None) -> tuple[Drawing, ...]:
    """The figure, where anything is measured."""
    gaps, series = gaps_by_control(assessment), published_series()
    if not gaps:
        return ()
    told = "; ".join(
        f"{kind} " + ", ".join(f"{size} % {show(i, '±+.3f')}" for size, i in by_size.items())
        for kind, by_size in gaps.items()
    )
    published = "; ".join(
        f"{source} " + ", ".join(f"{size} % {show(gap, '+.2f')}" for size, gap in by_size.items())
        for source, by_size in series.items()
    )
    alt = f"Gap to the magnitude mask by sparsity, nats a token: {told}. {_told(curve)}Published: {published}."
    caption = (
        "Loss in a control's mask − loss in the magnitude mask, fresh embeddings; means and 95 % t intervals over "
        "replicates (primary contrasts carry wider, simultaneous ones in the table). Below: random − magnitude as "
        "published in two places, SmolLM2-135M, 500 steps, one run an arm."
    )
    drawn = partial(gap_figure, gaps, curve, series, assessment.experiment)
    return (Drawing(drawn, f"{name}-gap-by-sparsity", alt, caption, numbers="gap-by-sparsity"),)


def _told(curve: ValueCurve | None) -> str:
    if curve is None:
        return ""
    parameters = "; ".join(f"{name} {_equation(name, curve)}" for name in curve.forms)
    return f"Fits to uniform: {parameters}; Akaike weight of the exponential {curve.akaike_weight:.2f}. "


def _equation(name: str, curve: ValueCurve) -> str:
    fit = curve.forms[name]
    return f"{fit.amplitude:.2g}·" + (f"exp({fit.rate:.2g}·s)" if name == "exponential" else f"d^(−{fit.rate:.2g})")


@styled
def gap_figure(gaps: Gaps, curve: ValueCurve | None, series: Series, experiment: Experiment) -> Figure:
    """Above: measured gaps and both fits to the first control's. Below: what was published, on the same axis."""
    line = setting_line(experiment, "embeddings fresh")
    figure, grid = canvas(
        "What the magnitude mask is worth, by sparsity", line, 6.4, 2, sharex=True, height_ratios=(1.7, 1)
    )
    measured, published = grid[:, 0]
    for position, (kind, by_size) in enumerate(gaps.items()):
        shift = 0.9 * (position - (len(gaps) - 1) / 2)  # so that intervals at one sparsity stand beside each other
        _plot_gaps(measured, by_size, shift, *_style(kind, experiment), f"{kind} − magnitude")
    if curve:
        _plot_fits(measured, curve, max(gaps[DENSITY]))
    measured.set_ylabel("gap (nats a token)")
    measured.legend(loc="upper left", frameon=False, handlelength=2.2)
    for (source, known), (colour, marker) in zip(series.items(), (("#000000", "D"), (GREY, "s")), strict=False):
        published.plot(*zip(*known.items(), strict=True), marker=marker, mfc="white", color=colour, label=source)
    published.set(ylabel="published", xlabel="sparsity (%)")
    published.legend(loc="upper left", frameon=False, title="random − magnitude, published", alignment="left")
    for axes in (measured, published):
        axes.axhspan(-DELTA, DELTA, color=BAND)
        axes.axhline(0, color=GREY, linewidth=0.8)
    sizes = sorted({size for by_size in (*gaps.values(), *series.values()) for size in by_size} - {98})
    published.set_xticks(sizes, [str(size) for size in sizes])
    return figure


def _style(kind: str, experiment: Experiment) -> tuple[str, str]:
    """Colour and marker; of kinds that no primary contrast has, what is left."""
    return {"permuted": OTHER_ARMS[2], "erk": ARMS["coherent"]}.get(kind) or arm_style(kind, experiment)


def _plot_gaps(axes: Any, by_size: Mapping[int, Interval], shift: float, colour: str, marker: str, label: str) -> None:
    x = np.array(list(by_size)) + shift
    axes.plot(x, [i.mean for i in by_size.values()], color=colour, marker=marker, lw=0, ms=5, label=label, zorder=3)
    for place, interval in zip(x, by_size.values(), strict=True):
        if math.isfinite(interval.low):
            axes.plot((place, place), (interval.low, interval.high), color=colour, linewidth=1.3)


def _plot_fits(axes: Any, curve: ValueCurve, largest: int) -> None:
    sparsity = np.linspace(0.1, largest / 100, 200)
    names = {"exponential": "a·exp(b·sparsity)", "power": "a·density^(−b)"}
    for name, form in curve.forms.items():
        weight = curve.akaike_weight if name == "exponential" else 1 - curve.akaike_weight
        style = {"color": ARMS["random"][0], "linestyle": FORM_LINES[name], "linewidth": 1.2}
        label = f"{names[name]}, Akaike weight {weight:.2f}"
        axes.plot(
            100 * sparsity,
            form.constant + form.amplitude * np.exp(form.rate * FORMS[name](1 - sparsity)),
            label=label,
            **style,
        )


def gap_tables(assessment: Assessment, curve: ValueCurve | None) -> tuple[Table, ...]:
    """The gaps beside the published ones; what density, layers and degrees explain of the pattern; the fits."""
    gaps, series = gaps_by_control(assessment), published_series()
    columns = {"sparsity, %": "d"} | {f"{kind} − magnitude, nats [95 %]": "±+.3f" for kind in gaps}
    columns |= {"explained by layers, %": ".0f", "explained by degrees, %": ".0f"}
    columns |= {f"random − magnitude, published ({source})": "+.2f" for source in series}
    rows = tuple(
        (
            size,
            *(by_size.get(size) for by_size in gaps.values()),
            *(_explained(gaps, kind, size) for kind in (LAYERS, DEGREES)),
            *(by_size.get(size) for by_size in series.values()),
        )
        for size in sorted({size for by_size in gaps.values() for size in by_size})
    )
    note = (
        "Explained: how much of uniform − magnitude goes once a random mask has the magnitude mask's layer densities, "
        "or its rows' and columns' degrees; only where the interval of uniform − magnitude lies above 0.02 nats."
    )
    found = Table("gap-by-sparsity", "Gap to the magnitude mask, fresh embeddings", columns, rows, note=note)
    return (found, *((_fits(curve),) if curve else ()))


def _explained(gaps: Gaps, kind: str, size: int) -> float | None:
    """Per cent of the gap to uniform that a control of this kind closes."""
    whole, rest = (gaps.get(k, {}).get(size) for k in (DENSITY, kind))
    return 100 * (1 - rest.mean / whole.mean) if whole and rest and whole.low > DELTA else None


def _fits(curve: ValueCurve) -> Table:
    columns = {"form": "", "a, nats": ".3g", "b": ".3g", "χ²": ".2f", "AICc": ".2f", "Akaike weight": ".2f"}
    weights = {"exponential": curve.akaike_weight, "power": 1 - curve.akaike_weight}
    labels = {"exponential": "a·exp(b·sparsity)", "power": "a·density^(−b)"}
    rows = tuple(
        (labels[name], form.amplitude, form.rate, form.squares, form.aicc, weights[name])
        for name, form in curve.forms.items()
    )
    note = f"the {curve.winner} form wins" if curve.winner else "no form is ahead by 6, so none wins"
    if curve.held_out:
        note += f"; it misses the gap at the held-out sparsity by {show(curve.held_out, '±+.3f')} nats"
    return Table("value-curve", f"Fits to uniform − magnitude; {note}", columns, rows)
