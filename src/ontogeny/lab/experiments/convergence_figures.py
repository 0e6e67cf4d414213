"""What only convergence draws and lists: donors beside draws, their variance and equivalence, the attribution."""

import math
from collections.abc import Sequence
from functools import partial

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.report.figures import ARMS, GREY, Drawing, Figure, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import Attribution, Equivalence, Interval, VarianceComponents

INTERCHANGEABLE = "Are the donors interchangeable?"
ATTRIBUTION = "Attribution"
FACTORS = {"layers": "layer identity", "frame": "frame", "internal": "internal sides"}


def units_drawing(name: str, donors: Sequence[float], draws: Sequence[float], experiment: Experiment) -> Drawing:
    """Losses of every donor and of as many random draws on the same streams."""
    listed = [", ".join(f"{loss:.3f}" for loss in losses) for losses in (donors, draws)]
    alt = f"Losses on common streams, nats a token: donors {listed[0]}; random draws {listed[1]}."
    caption = "One point a donor, one a random draw."
    drawn = partial(donors_and_draws, donors, draws, experiment)
    return Drawing(drawn, f"{name}-donors-and-draws", alt, caption, INTERCHANGEABLE, "arms")


@styled
def donors_and_draws(donors: Sequence[float], draws: Sequence[float], experiment: Experiment) -> Figure:
    """Are donors closer to each other than random draws are?"""
    title = "Donors beside random draws, streams of replicate 1"
    figure, grid = canvas(title, setting_line(experiment), 1.9)
    axes = grid[0, 0]
    for y, (losses, arm) in enumerate(((donors, "donor"), (draws, "random"))):
        colour, marker = ARMS[arm]
        axes.plot(losses, [y] * len(losses), marker, color=colour, alpha=0.75, markersize=7)
    axes.set_yticks((0, 1), ("donors", "random draws"))
    axes.set(xlabel="test loss (nats a token), embeddings fresh", ylim=(1.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


def attribution_drawing(name: str, found: Attribution, experiment: Experiment) -> Drawing:
    """What the donor's properties are worth."""
    parts = {"total": found.total, "coherence": found.coherence} | dict(found.shapley)
    alt = "Attribution, nats: " + "; ".join(f"{key} {show(i, '±+.3f')}" for key, i in parts.items()) + "."
    caption = "Means and 95 % intervals, embeddings frozen; grey: the interactions behind the Shapley values."
    return Drawing(
        partial(attribution, found, experiment), f"{name}-attribution", alt, caption, ATTRIBUTION, "attribution"
    )


@styled
def attribution(found: Attribution, experiment: Experiment) -> Figure:
    """Shapley values with coherence, and the interactions behind them (nats)."""
    parts: list[tuple[str, Interval, str]] = [
        ("donor − random", found.total, ARMS["donor"][0]),
        ("coherence", found.coherence, ARMS["coherent"][0]),
        *((FACTORS.get(f, f), interval, ARMS["rotated"][0]) for f, interval in found.shapley.items()),
        *((factor_names(s), i, "#9a9a9a") for s, i in found.interactions.items() if len(s) > 1),
    ]
    line = setting_line(experiment, "embeddings frozen")
    figure, grid = canvas("What the structure is made of: mean, 95 % interval", line, 1.2 + 0.3 * len(parts))
    axes = grid[0, 0]
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


def variances_table(found: VarianceComponents) -> Table:
    """E6: the variance between donors beside that between random draws."""
    columns = {"between": "", "units": "d", "streams": "d"}
    columns |= {"variance, nats²": ".2e", "low (95 %)": ".2e", "high (95 %)": ".2e"}
    rows = tuple(
        (name, c.units, c.streams, c.variance, c.low, c.high)
        for name, c in (("donors", found.donors), ("random draws", found.draws))
    )
    caption = f"Variance components. Donors closer to each other than draws are: p = {found.p_closer:.3f}"
    return Table("variances", caption, columns, rows, part=INTERCHANGEABLE)


def pairs_table(found: Equivalence) -> Table:
    """E6: the two one-sided tests of every pair of donors."""
    columns = {"donors": "", "¼ gap + difference, nats [90 %]": "±+.3f", "¼ gap − difference, nats [90 %]": "±+.3f"}
    columns |= {"equivalent": ""}
    rows = tuple((f"{p.donors[0] + 1} and {p.donors[1] + 1}", *p.contrasts, p.equivalent) for p in found.pairs)
    ratio = f"std/gap = {found.std:.3f}/{found.gap:.3f} = {found.std_over_gap:.3f}"
    caption = f"Pairs of donors are equivalent where both intervals lie above 0; {ratio}"
    return Table("pairs", caption, columns, rows, part=INTERCHANGEABLE)


def attribution_table(found: Attribution) -> Table:
    """Total, coherence, Shapley values and interactions."""
    shares = found.percentages or {}
    rows = [("donor − random", found.total, None), ("coherence", found.coherence, shares.get("coherence"))]
    rows += [(FACTORS.get(f, f) + " (Shapley)", interval, shares.get(f)) for f, interval in found.shapley.items()]
    rows += [
        (("interaction of " if len(s) > 1 else "alone: ") + factor_names(s), interval, None)
        for s, interval in found.interactions.items()
    ]
    caption = (
        "Coherence and the Shapley values sum to donor − random; shares only where its lower bound exceeds 0.02 nats"
    )
    columns = {"part": "", "worth, nats [95 %]": "±+.3f", "share, %": ".0f"}
    return Table("attribution", caption, columns, tuple(rows), part=ATTRIBUTION)
