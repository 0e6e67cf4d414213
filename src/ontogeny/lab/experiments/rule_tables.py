"""The published costs of ``rule`` beside those of every variant, at seed 1 and over seeds."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

from ontogeny.evolution.published_costs import ORDERS, PUBLISHED
from ontogeny.lab.report.tables import Table
from ontogeny.lab.statistics import student_interval
from ontogeny.lab.study import Measurements

LINE, NOTHING = 137.4, 1369.0  # E[y²] − E[y(m+a)]²/E[(m+a)²] and E[y²] of y = m·a, m and a uniform in [1, 10]


def hits(found: Measurements) -> tuple[int, int, int]:
    """The most published costs that a variant gives at seed 1, how many there are, and how many variants were tried."""
    variants = [cell for cell in found.named("variant ") if any(found.found[cell])]
    most = max((int(found.values(cell, "hits")[0]) for cell in variants), default=0)
    orders = len(list(product(*ORDERS)))
    return most, len(found.experiment.settings["published_widths"]), orders * len(variants)


def costs_table(found: Measurements) -> Table:
    """A row a variant; at seed 1 the order of draws whose costs are closest to the published ones in logarithms."""
    widths = found.experiment.settings["published_widths"]
    published = [PUBLISHED[width] for width in widths]
    columns = {
        "variant": "", "over seeds [95 %]": "±.0f", "sd of networks": ".0f", "at the line": ".0%",
        "at nothing": ".0%", "order of draws": "", f"cost at seed 1, widths {_list(widths)}": "", "given": "",
    }  # fmt: skip
    rows: list[tuple[Any, ...]] = [("published", "", None, None, None, "not stated", _list(published), "")]
    for cell in found.named("variant "):
        if not all(one is not None for one in found.found[cell]):
            continue
        at_one = {orders: found.values(cell, f"seed 1, {', '.join(orders)}")[0] for orders in product(*ORDERS)}
        order = min(at_one, key=lambda key: float(np.abs(np.log(at_one[key] / published)).sum()))
        given = int((np.abs(at_one[order] - published) <= 0.5).sum())
        costs = found.values(cell, "costs")
        shares = [float(found.values(cell, key).mean()) for key in ("line", "nothing")]
        interval = student_interval(costs.mean(1))
        text = _list(round(cost) for cost in at_one[order])
        row = (cell.removeprefix("variant "), interval, float(costs.std()), *shares)
        rows.append((*row, ", ".join(order), text, f"{given} of {len(published)}"))
    note = (
        "The published costs of m·a beside every variant that their description leaves open. At the line: within a "
        f"fifth of the cost of the best multiple of m + a, {LINE} in the mean over pairs; at nothing: of the mean of "
        f"(m·a)², {NOTHING:.0f}"
    )
    return Table("published-costs", note, columns, tuple(rows), part="Published costs")


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
