"""How every figure looks: one canvas, one style, an arm's marks, its title; a ``Drawing`` is SVG and PNG of it.

Colours are Okabe & Ito's (2008), told apart by colour-blind readers; every kind of arm keeps its colour and marker
throughout. The same numbers always give the same bytes. Experiments draw their own figures with these.
"""

import html
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from io import BytesIO, StringIO
from typing import Any, ParamSpec

import numpy as np

from ontogeny.lab.experiment import Arm, Contrast, Experiment, Measure, Setting
from ontogeny.lab.statistics import Interval

Figure = Any  # matplotlib.figure.Figure: matplotlib is imported only where something is drawn
P = ParamSpec("P")
Published = Mapping[str, Sequence[tuple[float, str]]]  # name of a contrast -> (published gap, its source)

WIDTH = 5.0  # inches: fits a phone's width and half a desktop's without shrinking the text much
LINE = 70  # characters of a title that fit the width
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
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
OTHER_ARMS = (("#E69F00", "P"), ("#56B4E9", "X"), ARMS["rotated"], ARMS["coherent"])
GREY = "#595959"
BAND = "#dfe8ee"  # what counts as no difference
WITHOUT_SIZE = ("dense", "mimetic", "donor-body", "random-body")  # constraints that keep no rank or density


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name stem, alternative text and caption; drawn and rendered when first asked for.

    ``part``: the heading of the page it stands under, "" for the main figures. ``numbers``: the table it draws.
    """

    draw: Callable[[], Figure]
    name: str
    alt: str
    caption: str
    part: str = ""
    numbers: str = ""

    @property
    def svg(self) -> str:
        """Markup for inlining; ids are made unique by the figure's name."""
        return self._rendered[0]

    @property
    def png(self) -> bytes:
        """200 dots an inch."""
        return self._rendered[1]

    @cached_property
    def _rendered(self) -> tuple[str, bytes]:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        text, image, figure = StringIO(), BytesIO(), self.draw()
        with mpl.rc_context(STYLE):
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")  # laid out once; the canvases draw once each, savefig draws twice
            FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Title": self.alt})
            figure.set_dpi(200)
            FigureCanvasAgg(figure).print_png(image, metadata={"Software": None, "Description": self.alt})
        svg = text.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        prefix = re.sub(r"\W", "-", self.name)
        svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
        svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(self.alt)}" ', 1)
        return svg, image.getvalue()


@dataclass(frozen=True)
class Unit:
    """How gaps of a measure are shown: its numbers times ``factor``, in ``name`` or ``short``, with this format."""

    factor: int
    name: str
    short: str
    form: str

    def of(self, interval: Interval) -> Interval:
        """A gap's interval in this unit."""
        if self.factor == 1:
            return interval
        scaled = {key: self.factor * getattr(interval, key) for key in ("mean", "sd", "low", "high")}
        return replace(interval, **scaled)


UNITS = {
    "loss": Unit(1, "nats a token", "nats", "+.3f"),
    "error": Unit(100, "points of accuracy", "points", "+.1f"),  # a point is a hundredth of the images
}


def unit_of(measure: Measure) -> Unit:
    """The unit of a measure's gaps."""
    return UNITS[measure.key]


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under ``STYLE``, whatever the reader's own matplotlib settings are."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def blank(title: str, subtitle: str, height: float) -> Figure:
    """An empty figure under its title, which is wrapped to its width; ``height`` in inches for two lines of title."""
    from matplotlib.figure import Figure as MatplotlibFigure

    lines = [line for text in (title, subtitle) for line in wrapped(text)]
    figure = MatplotlibFigure(figsize=(WIDTH, height + 0.18 * (len(lines) - 2)), layout="constrained")
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5, linespacing=1.4)
    return figure


def canvas(
    title: str, subtitle: str, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, Any]:
    """A figure under its title and its rows × columns array of axes; ``grid``: options of ``subplots``."""
    figure = blank(title, subtitle, height)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def wrapped(text: str) -> list[str]:
    """Lines that fit a figure's width, broken between the parts of a title where it has any."""
    kept = " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in text.split(" · ")) if " · " in text else text
    lines = textwrap.wrap(kept, LINE, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ").removesuffix(" ·") for line in lines]


def setting_line(experiment: Experiment, *more: str, arms: Iterable[str] | None = None) -> str:
    """Experiment, scale, what the arms keep, and steps: in the title of every figure. ``arms``: those it shows."""
    shown = [experiment.arm(name) for name in arms] if arms is not None else list(experiment.arms)
    settings = [experiment.setting_of(arm) for arm in shown] or [experiment.setting]
    widths = {width_of(setting) for setting in experiment.all_settings().values()}
    parts = [f"{experiment.name}, {experiment.scale}"]
    if len(widths) > 1:
        parts.append("width " + _listed(str(width) for width in sorted({width_of(s) for s in settings})))
    parts += sizes(experiment, shown)
    parts.append(_listed(str(steps) for steps in sorted({s.steps for s in settings})) + " steps")
    return " · ".join((*parts, *more))


def width_of(setting: Setting) -> int:
    """The width of a setting's models; 0 where the declaration doesn't say."""
    return int(setting.model.get("hidden_size") or setting.model.get("n_embd") or 0)


def sizes(experiment: Experiment, arms: Iterable[Arm]) -> list[str]:
    """What arms keep of every matrix, each size once: ``rank 10%, 25% and 8``, ``sparsity 50%, 90%``.

    Nothing of arms that keep it all.
    """
    found: dict[str, dict[str, None]] = {}
    for arm in arms:
        if arm.constraint not in WITHOUT_SIZE:
            key, size = _size(arm, experiment.setting_of(arm))
            found.setdefault(key, {})[size] = None
    return [f"{key} {_sizes(values)}" for key, values in found.items()]


def _size(arm: Arm, setting: Setting) -> tuple[str, str]:
    if density := arm.recipe.get("density"):
        return "sparsity", f"{100 - float(density.rstrip('%')):g}%"
    if energy := arm.recipe.get("energy"):
        return "energy", f"{100 * energy:g}%"
    return "rank", str(arm.recipe.get("rank") or setting.rank)


def _sizes(values: Iterable[str]) -> str:
    ordered = sorted(values, key=lambda value: float(value.rstrip("%")))
    shares, numbers = ([value for value in ordered if value.endswith("%") is so] for so in (True, False))
    return " and ".join(_listed(group) for group in (shares, numbers) if group)


def _listed(values: Iterable[str]) -> str:
    each = list(values)
    return ", ".join(each) if len(each) <= 4 else f"{each[0]} … {each[-1]}"


def arm_style(name: str, experiment: Experiment) -> tuple[str, str]:
    """Colour and marker of an arm: of its kind, the first word of its name.

    The battery's own kinds have theirs. Of others in primary contrasts those that hold the donor's structure take the
    donor's, those that hold as much at random the random arm's, and the rest what is left; any others are grey.
    """
    primary = dict.fromkeys(arm for c in experiment.contrasts if c.primary for arm in (c.control, c.treatment))
    styles: dict[str, tuple[str, str] | None] = {}
    for arm in primary:
        styles.setdefault(kind_of(arm), ARMS.get(kind_of(arm)) or _meant(experiment.arm(arm)))
    free = iter([style for style in OTHER_ARMS if style not in styles.values()])
    found = {kind: style or next(free, (GREY, ".")) for kind, style in styles.items()}
    return ARMS.get(kind_of(name)) or found.get(kind_of(name), (GREY, "."))


def kind_of(name: str) -> str:
    """An arm's kind: ``donor d96 10%`` is a donor."""
    return name.split(" ")[0]


def _meant(arm: Arm) -> tuple[str, str] | None:
    """The style of what an arm stands for: the donor's own structure, or a random one."""
    if arm.constraint != "subspace" or arm.core != "fresh" or arm.donors != "own" or arm.after:
        return None
    if not arm.controls:
        return ARMS["donor"]
    return ARMS["random"] if set(arm.controls) <= {"random", "mask-random"} else None


def line_styles(names: Sequence[str], experiment: Experiment) -> list[dict[str, Any]]:
    """How to plot each arm of one axes: a second arm of a colour is dashed and open, a third dotted."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        colour, marker = arm_style(name, experiment)
        fill = "white" if seen[colour] else colour
        dashes = ("-", "--", ":", "-.")[seen[colour] % 4]
        found.append({"color": colour, "marker": marker, "linestyle": dashes, "markerfacecolor": fill})
        seen[colour] += 1
    return found


def contrast_label(contrast: Contrast) -> str:
    """``control − treatment``, with the words that both names end in said once."""
    control, treatment = contrast.control.split(" "), contrast.treatment.split(" ")
    shared = 0
    while shared < min(len(control), len(treatment)) - 1 and control[-1 - shared] == treatment[-1 - shared]:
        shared += 1
    if not shared:
        return f"{contrast.control} − {contrast.treatment}"
    left, right = (" ".join(words[:-shared]) for words in (control, treatment))
    return f"{left} − {right}, {' '.join(control[-shared:])}"


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], height: float) -> None:
    """Labels (x, y, text, colour) at the lines' ends, moved apart where they would overlap; axes' height in inches."""
    low, high = axes.get_ylim()
    gap, places = 0.165 / height * (high - low), [-math.inf]
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


def legend_columns(labels: Iterable[str], most: int = 4) -> int:
    """How many columns of a legend over the whole width hold these labels."""
    return max(1, min(most, 78 // (max(map(len, labels), default=0) + 7)))


def signed(value: float, digits: int) -> str:
    """A number with its sign, never −0; a dash where there is none."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
