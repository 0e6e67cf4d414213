"""What stage 2 draws and lists: the loss of every builder by how much text it reads."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import numpy as np

from ontogeny.lab.experiment import Arm
from ontogeny.lab.experiments.economy_costs import token_cost
from ontogeny.lab.experiments.economy_figures import busy
from ontogeny.lab.judge import ArmSummary, Assessment
from ontogeny.lab.report.figures import Drawing, Figure, arm_style, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table, show

Series = Mapping[str, Mapping[int, ArmSummary]]  # builder -> distinct tokens -> its arm


def by_data(assessment: Assessment, sizes: Mapping[str, int]) -> Series:
    """Every builder's arms by the tokens of distinct text that they read; those that have a loss."""
    experiment = assessment.experiment
    found: dict[str, dict[int, ArmSummary]] = {}
    for arm in assessment.arms.values():
        kind, _, size = arm.arm.partition(" ")
        if arm.interval is not None and size in sizes:
            setting = experiment.setting_of(experiment.arm(arm.arm))
            tokens = setting.steps * setting.batch * setting.length // sizes[size]
            found.setdefault(kind, {})[tokens] = arm
    return {kind: dict(sorted(arms.items())) for kind, arms in found.items()}


def data_drawings(name: str, assessment: Assessment, sizes: Mapping[str, int]) -> tuple[Drawing, ...]:
    """The figure, where anything is measured."""
    series = by_data(assessment, sizes)
    if not series:
        return ()
    told = "; ".join(
        f"{kind} " + ", ".join(f"{tokens:,} tokens {show(arm.interval, '±.3f')}" for tokens, arm in arms.items())
        for kind, arms in series.items()
    )
    alt = f"Test loss by distinct tokens of text, nats a token: {told}."
    caption = (
        "Test loss after as many steps on as much text as the axis says, read once, 4 and 16 times; means and 95 % t "
        "intervals over replicates. All train the same small model; fine-tuned (full table) is the donor, trained on."
    )
    drawn = partial(data_figure, series, assessment)
    return (Drawing(drawn, f"{name}-loss-by-data", alt, caption, numbers="loss-by-data"),)


# Rivals that no primary contrast names would be grey. A variant of one has its marks, open.
RIVALS = {"subset": ("#009E73", "^"), "distilled": ("#56B4E9", "X"), "fine-tuned": ("#000000", "v")}


@styled
def data_figure(series: Series, assessment: Assessment) -> Figure:
    """Loss against text, a line a builder."""
    line = setting_line(assessment.experiment, "embeddings fresh")
    figure, grid = canvas("What a small network learns from how much text", line, 4.4)
    axes, experiment = grid[0, 0], assessment.experiment
    for position, (kind, arms) in enumerate(series.items()):
        base = kind.removesuffix("-body").removesuffix("-shorter")
        colour, marker = RIVALS.get(base) or arm_style(kind, experiment)
        face = colour if kind == base else "white"
        x = [tokens * 1.03 ** (2 * position - len(series) + 1) for tokens in arms]
        intervals = [arm.interval for arm in arms.values() if arm.interval]
        axes.plot(x, [i.mean for i in intervals], color=colour, marker=marker, mfc=face, ms=5, lw=1.2, label=kind)
        for place, interval in zip(x, intervals, strict=True):
            if math.isfinite(interval.low):
                axes.plot((place, place), (interval.low, interval.high), color=colour, linewidth=1.1)
    for label, loss in assessment.references.items():
        if label == "bigram":
            axes.axhline(loss, color="#595959", linewidth=0.8, linestyle=":", label=f"bigram, {loss:.2f}")
    ticks = sorted({tokens for arms in series.values() for tokens in arms})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tokens:,}" for tokens in ticks])
    axes.minorticks_off()
    axes.set(xlabel="distinct tokens of text", ylabel="test loss (nats a token)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False)
    return figure


def data_tables(assessment: Assessment, sizes: Mapping[str, int]) -> tuple[Table, ...]:
    """Losses by builder and text, beside what the builder trains and costs."""
    columns = {
        "builder": "", "distinct tokens": ",d", "test loss, nats a token [95 %]": "±.3f", "trained values": ",d",
        "training FLOPs": ".2e", "loss at the grown one's FLOPs": ".3f", "tokens to the loss from scratch": ",.0f",
        "past the bigram": "",
    }  # fmt: skip
    series = by_data(assessment, sizes)
    setting = assessment.experiment.setting
    rows = tuple(
        (
            kind,
            tokens,
            arm.interval,
            arm.trainable_parameters,
            arm.flops,
            loss_at(arm, series.get("grown", {}).get(tokens)),
            tokens_to(arm, series.get("scratch", {}).get(tokens), setting.batch * setting.length),
            arm.passed_gate,
        )
        for kind, arms in series.items()
        for tokens, arm in arms.items()
    )
    note = (
        "Losses between evaluated steps by linear interpolation of the mean curve, whose rates are not cooled down "
        "there: what a run of that length would have reached is lower, so this column favours what costs less."
    )
    return (Table("loss-by-data", "Loss by how much text a builder reads", columns, rows, grouped=True, note=note),)


def loss_at(arm: ArmSummary, other: ArmSummary | None) -> float | None:
    """An arm's mean loss where its training has cost as many FLOPs as all of another's; None beyond its last step."""
    if other is None or not arm.flops or not other.flops or not arm.curve:
        return None
    steps, losses, *_ = zip(*arm.curve, strict=True)
    step = steps[-1] * other.flops / arm.flops
    return float(np.interp(step, steps, losses)) if step <= steps[-1] else None


def tokens_to(arm: ArmSummary, other: ArmSummary | None, a_step: int) -> float | None:
    """Tokens until an arm's mean loss is as low as another's last; None if it never is. ``a_step``: tokens a step."""
    if other is None or other.interval is None:
        return None
    target = other.interval.mean
    if not arm.curve or arm.curve[0][1] <= target:
        return 0.0 if arm.curve else None
    for (before, high, *_), (after, low, *_) in pairwise(arm.curve):
        if low <= target:
            return a_step * (before + (after - before) * (high - target) / (high - low))
    return None


def cost_table(assessment: Assessment) -> Table:
    """What a token costs the small network, merged as it is handed out, and the donor where it is trained on."""
    columns = {
        "network": "", "values": ",d", "FLOPs a token": ".2e", "bytes read a token": ",d",
        "joules a token, estimated": ".2e", "units that do 90 % [95 %]": "±.3f",
    }  # fmt: skip
    experiment = assessment.experiment
    rows = []
    for (mode, name), arm in assessment.arms.items():
        setting = experiment.setting_of(experiment.arm(name))
        if setting.activity:
            cost = token_cost(Arm(name, constraint="dense"), setting, mode)  # type: ignore[arg-type]
            rows.append((name, cost.stored, cost.forward, cost.read, cost.joules, busy(arm)[0]))
    note = "Merged into plain matrices, so alike for all of one size. A forward pass of one sequence."
    return Table("energy", "What a token costs once it is trained", columns, tuple(rows), note=note)
