"""What the economy of structure draws and lists: what a genome of how many bits is worth, and what a token costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ontogeny.genome.quantise import FULL, genome_bits
from ontogeny.lab.experiments.economy_costs import Cost, token_cost
from ontogeny.lab.judge import ArmSummary, Assessment
from ontogeny.lab.report.figures import BAND, GREY, Drawing, Figure, arm_style, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import Interval, paired_interval
from ontogeny.model.grow import layer_shapes

WEIGHT = 16  # bits that a weight is said to take
Costs = Mapping[tuple[str, str], Cost]  # embeddings and arm -> its cost


@dataclass(frozen=True)
class Point:
    """A genome of ``bits`` an entry: its size in bits a weight of the layer matrices, and random − it, nats."""

    arm: str
    bits: int
    size: float
    gap: Interval


def rate_distortion(assessment: Assessment) -> list[Point]:
    """The donor's genome as it is and in fewer bits, where anything is measured; 95 % paired intervals."""
    setting, random = assessment.experiment.setting, assessment.arms["frozen", "random"]
    shapes = layer_shapes(setting.model).values()
    weights = sum(m * n for m, n in shapes)
    found = []
    for arm in map(assessment.experiment.arm, assessment.experiment.embeddings["frozen"]):
        gap = _gap(random, assessment.arms["frozen", arm.name])
        if arm.constraint == "subspace" and not arm.controls and gap is not None:
            bits = arm.bits or FULL
            found.append(Point(arm.name, bits, genome_bits(shapes, setting.rank, bits) / weights, gap))
    return found


def _gap(control: ArmSummary, treatment: ArmSummary) -> Interval | None:
    pairs = zip(control.losses, treatment.losses, strict=False)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return paired_interval(differences) if differences else None


def costs(assessment: Assessment) -> Costs:
    """Every arm's cost a token, by embeddings."""
    experiment = assessment.experiment
    return {(mode, arm.name): token_cost(arm, experiment.setting_of(arm), mode) for mode, arm in experiment.cells()}


def economy_drawings(name: str, assessment: Assessment) -> tuple[Drawing, ...]:
    """Two figures, each where anything is measured."""
    drawings = []
    if points := rate_distortion(assessment):
        told = "; ".join(f"{p.arm} {p.size:.2f} bits a weight {show(p.gap, '±+.3f')}" for p in points)
        caption = (
            "What the donor's genome is worth over a random one, which takes no bits, by the bits of its bases for "
            "every weight of the layers; 95 % paired intervals. Left of the line it takes a tenth of the weights' bits."
        )
        drawn = partial(_rate_figure, points, assessment)
        alt = f"Gap random − genome, nats a token, by size: {told}."
        drawings.append(Drawing(drawn, f"{name}-rate-distortion", alt, caption, numbers="rate-distortion"))
    primary = [c for c in assessment.experiment.contrasts if c.primary]
    asked: set[tuple[str, str]] = {(c.embeddings, name) for c in primary for name in (c.control, c.treatment)}
    found = {key: arm for key, arm in assessment.arms.items() if key in asked and arm.interval is not None}
    if found:
        spent = costs(assessment)
        told = "; ".join(f"{a.arm} {1e6 * spent[k].joules:.0f} µJ {show(a.interval, '±.3f')}" for k, a in found.items())
        caption = (
            "Test loss by the estimated energy of one token's forward pass, weights read once; means and 95 % t "
            "intervals over replicates; arms of primary contrasts. Prices are of 45 nm: only ratios mean anything."
        )
        drawn = partial(_energy_figure, found, spent, assessment)
        alt = f"Test loss, nats a token, by estimated energy a token: {told}."
        drawings.append(Drawing(drawn, f"{name}-energy", alt, caption, numbers="energy"))
    return tuple(drawings)


@styled
def _rate_figure(points: list[Point], assessment: Assessment) -> Figure:
    """Worth over random against size, the donor's own gap as a band."""
    experiment = assessment.experiment
    line = setting_line(experiment, "embeddings frozen", arms=[point.arm for point in points])
    figure, grid = canvas("What a genome of so few bits is worth", line, 3.0)
    axes, (colour, marker) = grid[0, 0], arm_style("donor", experiment)
    whole = next((p.gap for p in points if p.bits == FULL), None)
    if whole is not None and math.isfinite(whole.low):
        axes.axhspan(whole.low, whole.high, color=BAND, label="donor as it is, 95 %")
    axes.axhline(0, color=arm_style("random", experiment)[0], linewidth=1, label="random: no bits")
    axes.axvline(WEIGHT / 10, color=GREY, linewidth=0.8, linestyle=":", label="a tenth of the weights' bits")
    for p in points:
        if math.isfinite(p.gap.low):
            axes.plot((p.size, p.size), (p.gap.low, p.gap.high), color=colour, linewidth=1.1)
        axes.plot(p.size, p.gap.mean, color=colour, marker=marker, ms=5)
        axes.annotate(f"{p.bits} bit", (p.size, p.gap.mean), (5, 4), textcoords="offset points", color=colour)
    axes.set_xscale("log")
    ticks = [p.size for p in points]
    axes.set_xticks(ticks, [f"{size:.2g}" for size in ticks])
    axes.set_xlim(min(ticks) / 1.5, max(ticks) * 2.2)
    axes.minorticks_off()
    axes.set(xlabel="bits of the genome for every weight it builds", ylabel="random − genome (nats a token)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False)
    return figure


@styled
def _energy_figure(found: Mapping[tuple[str, str], ArmSummary], spent: Costs, assessment: Assessment) -> Figure:
    """Loss against joules, a panel for each embedding mode."""
    experiment = assessment.experiment
    modes = list(dict.fromkeys(mode for mode, _ in found))
    line = setting_line(experiment, arms=[arm.arm for arm in found.values()])
    figure, grid = canvas("Loss by what a token costs", line, 1.0 + 2.3 * len(modes), rows=len(modes))
    for axes, mode in zip(grid[:, 0], modes, strict=True):
        here = sorted((arm for (m, _), arm in found.items() if m == mode), key=lambda arm: spent[mode, arm.arm].joules)
        for position, arm in enumerate(here):
            assert arm.interval is not None
            x, (colour, marker) = 1e6 * spent[mode, arm.arm].joules, arm_style(arm.arm, experiment)
            if math.isfinite(arm.interval.low):
                axes.plot((x, x), (arm.interval.low, arm.interval.high), color=colour, linewidth=1.1)
            axes.plot(x, arm.interval.mean, color=colour, marker=marker, ms=5)
            above = (5, 5) if position % 2 else (5, -11)
            axes.annotate(arm.arm, (x, arm.interval.mean), above, textcoords="offset points", color=colour, fontsize=8)
        axes.margins(x=0.22, y=0.2)
        axes.set_title(f"embeddings {mode}", loc="left")
        axes.set(ylabel="test loss (nats a token)")
    figure.align_ylabels()
    grid[-1, 0].set_xlabel("estimated energy of a token's forward pass (µJ)")
    return figure


def economy_tables(assessment: Assessment) -> tuple[Table, ...]:
    """Bits against loss recovered; and every arm's cost a token beside how few units do its work."""
    return (_rate_table(assessment), _cost_table(assessment))


def _rate_table(assessment: Assessment) -> Table:
    columns = {
        "genome": "", "bits an entry": "d", "bits a weight": ".2f", "share of the weights' bits": ".1%",
        "random − genome, nats [95 %]": "±+.3f", "loss recovered": ".0%",
    }  # fmt: skip
    points = rate_distortion(assessment)
    whole = next((p.gap.mean for p in points if p.bits == FULL and p.gap.low > 0), None)
    rows = tuple(
        (p.arm, p.bits, p.size, p.size / WEIGHT, p.gap, None if whole is None else p.gap.mean / whole) for p in points
    )
    note = f"Weights at {WEIGHT} bits. Loss recovered: of the donor's own gap, where that is above 0; a ratio of means."
    return Table("rate-distortion", "What a genome of how many bits is worth", columns, rows, note=note)


def _cost_table(assessment: Assessment) -> Table:
    columns = {
        "embeddings": "", "arm": "", "test loss, nats a token [95 %]": "±.3f", "stored values": ",d",
        "used by a token": ",d", "FLOPs a token": ".2e", "training FLOPs a token": ".2e", "bytes read a token": ",d",
        "joules a token, estimated": ".2e", "units that do 90 % [95 %]": "±.3f", "before training": ".3f",
    }  # fmt: skip
    rows = []
    for (mode, name), cost in costs(assessment).items():
        arm = assessment.arms[mode, name]
        spent = (cost.stored, cost.used, cost.forward, cost.training, cost.read, cost.joules)
        rows.append((mode, name, arm.interval, *spent, *busy(arm)))
    note = "Joules are estimated from FLOPs and bytes read; training FLOPs count every product that was computed."
    return Table("energy", "What a token costs", columns, tuple(rows), grouped=True, note=note)


def busy(arm: ArmSummary) -> tuple[Interval | None, float | None]:
    """The smallest share of units that carries 90 % of the squared activation: at the end, and before training."""
    steps = arm.further.get("busy")
    if not steps:
        return None, None
    found = list(steps.values())
    return paired_interval(found[-1]), sum(found[0]) / len(found[0])
