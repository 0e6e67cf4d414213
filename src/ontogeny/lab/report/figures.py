"""The figures. Each function draws stored numbers as one matplotlib figure; ``render`` makes it SVG and PNG.

Colours are Okabe & Ito's (2008), told apart by colour-blind readers; every arm keeps its colour and marker throughout.
The same numbers always give the same bytes.
"""

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from io import BytesIO, StringIO
from typing import Any, ParamSpec

import numpy as np

from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import ArmSummary, Assessment, ContrastSummary
from ontogeny.lab.rates import GRID
from ontogeny.lab.statistics import DELTA, Attribution, Interval

Figure = Any  # matplotlib.figure.Figure: matplotlib is imported only where something is drawn
P = ParamSpec("P")

WIDTH = 5.0  # inches: fits a phone's width and half a desktop's without shrinking the text much
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.parse_math": False,  # names may hold a dollar sign
    "svg.fonttype": "path",  # looks the same on every machine
    "svg.hashsalt": "ontogeny",
}
ARMS = {
    "donor": ("#0072B2", "o"),
    "random": ("#D55E00", "s"),
    "rotated": ("#009E73", "^"),
    "coherent": ("#CC79A7", "D"),
    "dense": ("#000000", "v"),
}
OTHER_ARMS = (("#E69F00", "P"), ("#56B4E9", "X"))
GREY = "#595959"
FACTORS = {"layers": "layer identity", "frame": "frame", "internal": "internal sides"}
ROLES = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.gate", "mlp.up", "mlp.down")
ALIGNMENTS = {"none": "raw", "permute": "aligned by permutation", "orthogonal": "aligned orthogonally"}


@dataclass(frozen=True)
class Drawing:
    """A rendered figure: file name stem, alternative text, caption, SVG markup for inlining, and PNG bytes."""

    name: str
    alt: str
    caption: str
    svg: str
    png: bytes


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under ``STYLE``, whatever the reader's own matplotlib settings are."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def render(figure: Figure, name: str, alt: str, caption: str) -> Drawing:
    """SVG and PNG (200 dots an inch) of a figure, without dates; ids are made unique by the figure's name."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text, image = StringIO(), BytesIO()
    with mpl.rc_context(STYLE):
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")  # laid out once; the canvases draw once each, where savefig draws twice
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Title": alt})
        figure.set_dpi(200)
        FigureCanvasAgg(figure).print_png(image, metadata={"Software": None, "Description": alt})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
    return Drawing(name, alt, caption, svg, image.getvalue())


def arm_style(name: str, experiment: Experiment) -> tuple[str, str]:
    """Colour and marker of an arm: the battery's own; another colour for others in primary contrasts; else grey."""
    primary = [arm for c in experiment.contrasts if c.primary for arm in (c.control, c.treatment)]
    others = list(dict.fromkeys(arm for arm in primary if arm not in ARMS))
    return ARMS.get(name) or dict(zip(others, OTHER_ARMS, strict=False)).get(name, (GREY, "."))


def primary_arms(assessment: Assessment, mode: str) -> list[ArmSummary]:
    """The arms of a mode's primary contrasts, in order of declaration."""
    wanted = {
        name
        for c in assessment.experiment.contrasts
        if c.primary and c.embeddings == mode
        for name in (c.control, c.treatment)
    }
    return [arm for (m, name), arm in assessment.arms.items() if m == mode and name in wanted]


def ordered_contrasts(assessment: Assessment) -> list[ContrastSummary]:
    """Mode by mode: primary contrasts, then exploratory ones, then checks."""
    modes = list(assessment.experiment.embeddings)
    return sorted(
        assessment.contrasts,
        key=lambda c: (modes.index(c.contrast.embeddings), c.contrast.check, not c.contrast.primary),
    )


def published_gaps() -> dict[str, list[float]]:
    """Control -> its published loss minus that of each of the four donors (nats), from the text of claim E6."""
    text = next(claim.published for claim in load_claims() if claim.id == "E6")
    *donors, random, dense = map(float, re.findall(r"\d\.\d{3}", text))
    return {"random": [random - loss for loss in donors], "dense": [dense - loss for loss in donors]}


def setting_line(experiment: Experiment, *more: str) -> str:
    """Experiment, scale, rank and steps: in the title of every figure."""
    setting = experiment.setting
    return " · ".join(
        (f"{experiment.name}, {experiment.scale}", f"rank {setting.rank}", f"{setting.steps} steps", *more)
    )


def _canvas(title: str, subtitle: str, height: float, width: float = WIDTH, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{title}\n{subtitle}", x=0.01, ha="left", fontsize=9.5, linespacing=1.4)
    return figure, figure.subplots(1, columns, sharey=True)


@styled
def loss_curves(assessment: Assessment, mode: str) -> Figure:
    """Mean test loss by step with its 95 % t band over replicates, beside the unigram's and bigram's loss.

    Step 0 is left out: every arm starts near ln V, which the arms table shows.
    """
    experiment = assessment.experiment
    figure, axes = _canvas("Loss curves: mean, 95 % interval", setting_line(experiment, f"embeddings {mode}"), 3.9)
    ends = []
    for arm in primary_arms(assessment, mode):
        steps, mean, low, high = np.array([row for row in arm.curve if row[0] > 0]).reshape(-1, 4).T
        if not len(steps):
            continue
        colour, marker = arm_style(arm.arm, experiment)
        axes.plot(steps, mean, color=colour, marker=marker, markersize=4, linewidth=1.4)
        if np.isfinite(low).all():
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        ends.append((steps[-1], mean[-1], f"{arm.arm} {mean[-1]:.3f}", colour))
    _references(axes, assessment.references)
    axes.set_xscale("log")
    axes.set_xticks(experiment.setting.evaluate_at, [str(step) for step in experiment.setting.evaluate_at])
    axes.minorticks_off()
    axes.set(xlabel="training step", ylabel="test loss (nats a token)")
    _label_ends(axes, ends)
    return figure


def _references(axes: Any, references: Mapping[str, float]) -> None:
    """The bigram's loss, and the unigram's where the curves reach it: above them all it is named, not drawn."""
    top = axes.get_ylim()[1]
    for name, style in (("bigram", "--"), ("unigram", ":")):
        loss = references.get(name)
        if loss is not None and (name == "bigram" or loss <= top):
            axes.axhline(loss, color=GREY, linestyle=style, linewidth=1)
            place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "color": GREY}
            axes.annotate(f"{name} {loss:.3f}", (0, loss), (3, 2), **place)
        elif loss is not None:
            axes.annotate(f"{name} {loss:.3f} ↑", (0.99, 0.97), xycoords="axes fraction", color=GREY, ha="right")


def _label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Labels at the lines' ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, places = 0.062 * (high - low), [-math.inf]
    ends = sorted(ends, key=lambda end: end[1])
    for _, y, _, _ in ends:
        places.append(max(y, places[-1] + gap))
    shift = float(np.mean([place - end[1] for place, end in zip(places[1:], ends, strict=True)])) if ends else 0.0
    for place, (x, y, text, colour) in zip(places[1:], ends, strict=True):
        axes.annotate(
            text,
            (x, y),
            (1.03, place - shift),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
    axes.set_ylim(low, high)


@styled
def forest(assessment: Assessment, mode: str, published: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """Every contrast of a mode: gap = loss(control) − loss(treatment) with its interval and verdict.

    ``published``: control -> published gaps to the donor, drawn as open marks above the measured row.
    """
    rows = [c for c in ordered_contrasts(assessment) if c.contrast.embeddings == mode]
    published = published or {}
    line = setting_line(assessment.experiment, f"embeddings {mode}")
    figure, axes = _canvas("Gaps: measured" + (" beside published" if published else ""), line, 1.5 + 0.29 * len(rows))
    values = [
        0.0,
        *(gap for gaps in published.values() for gap in gaps),
        *(c.interval.mean for c in rows if c.interval),
    ]
    reach = 1.5 * max(0.1, *map(abs, values))
    ends = [end for c in rows if c.interval for end in (c.interval.low, c.interval.high) if abs(end) < reach]
    limits = min(values + ends) - 0.06 * reach, max(values + ends) + 0.06 * reach
    axes.axvspan(-DELTA, DELTA, color="#dfe8ee", label=f"±{DELTA} nats")
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, row in enumerate(rows):
        _forest_row(axes, y, row, arm_style(row.contrast.control, assessment.experiment)[0], limits)
        gaps = published.get(row.contrast.control, ()) if row.contrast.treatment == "donor" else ()
        axes.plot(gaps, [y - 0.3] * len(gaps), "|", color="#000000", markersize=6)
        axes.plot([np.mean(gaps)] if gaps else [], [y - 0.3] if gaps else [], "D", mfc="white", mec="black", ms=5)
    axes.set_yticks(range(len(rows)), [f"{c.contrast.control} − {c.contrast.treatment}" for c in rows])
    axes.set(xlim=limits, ylim=(len(rows) - 0.4, -0.7), xlabel="gap (nats a token); right of 0 favours the second arm")
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", visible=False)
    _forest_legend(figure, bool(published))
    return figure


def _forest_row(axes: Any, y: int, row: ContrastSummary, colour: str, limits: tuple[float, float]) -> None:
    interval = row.interval
    text = "missing" if interval is None else row.verdict.word if row.contrast.primary else f"({row.word})"
    if row.contrast.check:
        text = "check"
    axes.annotate(text, (1.04, y), xycoords=axes.get_yaxis_transform(), va="center", annotation_clip=False)
    if interval is None:
        return
    filled = row.contrast.primary
    axes.plot(interval.mean, y, "o", color=colour, mfc=colour if filled else "white", ms=6, zorder=3)
    if not math.isfinite(interval.low):
        return
    ends = max(interval.low, limits[0]), min(interval.high, limits[1])
    axes.plot(ends, (y, y), color=colour, linewidth=2.2 if filled else 1.1)
    for end, clipped, marker in ((ends[0], interval.low < limits[0], "<"), (ends[1], interval.high > limits[1], ">")):
        if clipped:
            axes.plot(end, y, marker, color=colour, ms=5, clip_on=False)


def _forest_legend(figure: Figure, published: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Line2D([], [], color="black", marker="o", lw=2.2, label="primary, simultaneous interval"),
        Line2D([], [], color="black", marker="o", mfc="white", lw=1.1, label="exploratory or check, 95 %"),
        Patch(color="#dfe8ee", label=f"±{DELTA} nats"),
    ]
    if published:
        marks.append(
            Line2D([], [], color="black", marker="D", mfc="white", lw=0, label="published mean (| each donor)")
        )
    figure.legend(handles=marks, loc="outside lower left", ncols=2, frameon=False)


@styled
def overlap_map(pairs: Sequence[Mapping[str, Any]], experiment: Experiment) -> Figure:
    """Mean z of the overlap of two donors' subspaces over pairs, by role and side (rows) and layer (columns).

    z is against Haar-random subspaces, after an alignment against layer-permuted refits; 0 is what chance gives.
    """
    cells: dict[tuple[str, str, int], list[float]] = {}
    for row in (row for pair in pairs for row in pair["rows"]):
        role, layer = site_role(row["site"])
        cells.setdefault((role, row["side"], layer), []).append(row["z"])
    order = {role: i for i, role in enumerate(ROLES)}
    labels = sorted({key[:2] for key in cells}, key=lambda key: (order.get(key[0], len(ROLES)), key))
    layers = sorted({key[2] for key in cells})
    z = np.array([[np.mean(cells.get((*label, layer), [math.nan])) for layer in layers] for label in labels])
    title = f"Donors' overlap, {ALIGNMENTS[pairs[0]['align']]}: mean z (pairs: {len(pairs)})"
    figure, axes = _canvas(title, setting_line(experiment), 1.3 + 0.26 * len(labels))
    bound = max(3.0, float(np.nanmax(np.abs(z))))
    places = range(len(layers)), range(len(labels))
    image = axes.pcolormesh(*places, z, cmap="PuOr", vmin=-bound, vmax=bound, shading="nearest", edgecolor="face")
    axes.invert_yaxis()
    if len(layers) <= 12:
        for (i, j), value in np.ndenumerate(z):
            shade = "white" if abs(value) > 0.55 * bound else "black"
            axes.annotate(_signed(value, 1), (j, i), ha="center", va="center", color=shade, fontsize=8.5)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(
        range(len(labels)), [f"{role} · {'U (out)' if side == 'out' else 'V (in)'}" for role, side in labels]
    )
    axes.set(xlabel="layer")
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, label="z (standard deviations above chance)", pad=0.02)
    bar.solids.set(rasterized=False, edgecolor="face")  # no image inside the SVG, and no hairlines
    return figure


def site_role(site: str) -> tuple[str, int]:
    """``layers.3.mlp.up`` -> (``mlp.up``, 3); a site of no layer has layer 0."""
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", site)
    return (found[2], int(found[1])) if found else (site, 0)


@styled
def rates(assessment: Assessment, mode: str) -> Figure:
    """Tuning loss by each rate, the other at its chosen value; chosen rates ringed, the grid's edges dotted."""
    experiment = assessment.experiment
    line = setting_line(experiment, f"embeddings {mode}")
    axis_names = ("body",) if mode == "frozen" else ("body", "rest")
    figure, panels = _canvas("Learning rates tried; the chosen ones ringed", line, 3.5, columns=len(axis_names))
    arms = [arm for arm in primary_arms(assessment, mode) if arm.tried and arm.rates]
    for index, (axes, axis) in enumerate(zip(np.atleast_1d(panels), axis_names, strict=True)):
        for arm in arms:
            _rate_line(axes, arm, index, *arm_style(arm.arm, experiment))
        for edge in (GRID[0], GRID[-1]):
            axes.axvline(edge, color=GREY, linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(GRID, [f"{rate:g}" for rate in GRID], rotation=45)
        axes.minorticks_off()
        axes.set(xlabel=f"peak rate of {axis}", ylabel="tuning loss (nats a token)" if index == 0 else "")
    handles, labels = np.atleast_1d(panels)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False, columnspacing=1.0)
    return figure


def _rate_line(axes: Any, arm: ArmSummary, axis: int, colour: str, marker: str) -> None:
    assert arm.rates is not None
    chosen = (arm.rates.body, arm.rates.rest)
    points = sorted((row[axis], row[2]) for row in arm.tried if row[1 - axis] == chosen[1 - axis])
    points = [point for point in points if math.isfinite(point[1])]
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, linewidth=1.2, label=arm.arm)
    best = [point for point in points if point[0] == chosen[axis]]
    axes.plot(*zip(*best, strict=True), "o", mfc="none", mec=colour, markersize=10, mew=1.4)


@styled
def attribution(found: Attribution, experiment: Experiment) -> Figure:
    """What the donor's properties are worth: Shapley values with coherence, and the interactions behind them (nats)."""
    parts: list[tuple[str, Interval, str]] = [
        ("donor − random", found.total, ARMS["donor"][0]),
        ("coherence", found.coherence, ARMS["coherent"][0]),
        *((FACTORS.get(f, f), interval, ARMS["rotated"][0]) for f, interval in found.shapley.items()),
        *((factor_names(s), i, "#9a9a9a") for s, i in found.interactions.items() if len(s) > 1),
    ]
    line = setting_line(experiment, "embeddings frozen")
    figure, axes = _canvas("What the structure is made of: mean, 95 % interval", line, 1.2 + 0.3 * len(parts))
    for y, (_, interval, colour) in enumerate(parts):
        axes.barh(y, interval.mean, color=colour, height=0.6)
        if math.isfinite(interval.low):
            axes.plot((interval.low, interval.high), (y, y), color="black", linewidth=1.4)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(parts)), [name for name, _, _ in parts])
    axes.set(xlabel="worth (nats a token); grey: interactions", ylim=(len(parts) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    return figure


def factor_names(factors: frozenset[str]) -> str:
    """``layer identity × frame``, in a fixed order."""
    return " × ".join(name for key, name in FACTORS.items() if key in factors)


@styled
def donors_and_draws(donors: Sequence[float], draws: Sequence[float], experiment: Experiment) -> Figure:
    """Losses of every donor and of as many random draws on the same streams: are donors closer than draws are?"""
    figure, axes = _canvas("Donors beside random draws, streams of replicate 1", setting_line(experiment), 1.9)
    for y, (losses, arm) in enumerate(((donors, "donor"), (draws, "random"))):
        colour, marker = ARMS[arm]
        axes.plot(losses, [y] * len(losses), marker, color=colour, alpha=0.75, markersize=7)
    axes.set_yticks((0, 1), ("donors", "random draws"))
    axes.set(xlabel="test loss (nats a token), embeddings fresh", ylim=(1.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


def _signed(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
