"""What phases draws and lists: what every network forgets of the first text, beside how well it learns the second."""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.figures import ARMS, OTHER_ARMS, Drawing, Figure, canvas, setting_line, styled
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.statistics import Interval
from ontogeny.training.develop import DevelopConfig, schedule

Retention = Mapping[str, tuple[Interval, Interval]]  # arm -> forgetting, loss on the second text; nats a token


def retention_drawings(name: str, found: Retention, experiment: Experiment) -> tuple[Drawing, ...]:
    """The figure, where anything is measured."""
    if not found:
        return ()
    told = "; ".join(
        f"{arm}: forgets {show(lost, '±+.3f')}, second text {show(loss, '±.3f')}" for arm, (lost, loss) in found.items()
    )
    return (
        Drawing(
            partial(retention_figure, found, experiment),
            f"{name}-retention",
            f"Forgetting of the first text and loss on the second, nats a token. {told}.",
            "After a second phase on another text: what was lost on the first, against the loss on the second. Means "
            "and 95 % t intervals over replicates; lower is better on both axes.",
            numbers="retention",
        ),
    )


@styled
def retention_figure(found: Retention, experiment: Experiment) -> Figure:
    """A cross for every arm."""
    figure, grid = canvas("Learning and forgetting", setting_line(experiment, "embeddings frozen"), 4.0)
    axes = grid[0, 0]
    others = iter(OTHER_ARMS)
    for arm, (lost, loss) in found.items():
        colour, marker = ARMS.get(arm) or next(others)
        axes.plot((loss.low, loss.high), (lost.mean, lost.mean), color=colour, linewidth=1)
        axes.plot((loss.mean, loss.mean), (lost.low, lost.high), color=colour, linewidth=1)
        axes.plot(loss.mean, lost.mean, color=colour, marker=marker, ms=6, linestyle="none", label=arm)
    axes.set(xlabel="test loss on the second text (nats a token)", ylabel="forgotten of the first (nats a token)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def retention_table(found: Retention) -> Table:
    """One row an arm."""
    columns = {"arm": "", "forgotten of the first text, nats a token [95 %]": "±+.3f"}
    columns |= {"test loss on the second, nats a token [95 %]": "±.3f"}
    rows = tuple((arm, lost, loss) for arm, (lost, loss) in found.items())
    return Table("retention", "A second phase on another text", columns, rows)


def tempo_table(assessment: Assessment, tempi: Mapping[str, tuple[Mapping[str, Any], str]]) -> Table:
    """One row a way of pruning: how much lives on average, and the loss at the end of the first phase."""
    columns = {"arm": "", "how": "", "directions alive, mean over steps": ".0%"}
    columns |= {"test loss after the first phase, nats a token [95 %]": "±.3f"}
    steps = assessment.experiment.setting.steps
    rows = tuple(
        (name, what, mean_alive(schedule(steps, **options), steps), assessment.arms["frozen", name].interval)
        for name, (options, what) in tempi.items()
    )
    return Table("tempi", "Ways of pruning to the same share of directions", columns, rows)


def mean_alive(plan: DevelopConfig, steps: int) -> float:
    """The share of directions that live, averaged over a run's steps."""
    edges = [0, *plan.rounds_at, steps]
    return sum((after - before) * plan.share(done) for done, (before, after) in enumerate(pairwise(edges))) / steps
