"""grow."""

import math
from pathlib import Path
from typing import Any

from ontogeny.errors import InputError
from ontogeny.genome.extract import share_of
from ontogeny.lab.experiment import Rates
from ontogeny.lab.growing import Growth, grow
from ontogeny.lab.rates import START
from ontogeny.terminal.output import console, count, table


def grow_model(
    donor: str, out: Path, budgets: dict[str, str | None], config: Path | None, rates: str | None, **options: Any
) -> None:
    """Grow, and print what came out beside the donor."""
    given = {kind: value for kind, value in budgets.items() if value is not None}
    if len(given) + (config is not None) != 1:
        raise InputError("expected one of --params, --flops and --config")
    budget = config or next((kind, _share(f"--{kind}", value)) for kind, value in given.items())
    growth = Growth(donor, budget, rates=_rates(rates) if rates else START, **options)
    shown = console()
    numbers = grow(growth, out, lambda line: shown.print(line, highlight=False))
    rows = [
        ("parameters", *(count(numbers[key]) for key in ("parameters", "donor_parameters"))),
        ("FLOPs a token", *(count(numbers[key]) for key in ("flops_per_token", "donor_flops_per_token"))),
        ("test loss, nats a token", *(_loss(numbers[key]) for key in ("loss", "donor_loss"))),
    ]
    references = ", ".join(f"{name} {loss:.3f}" for name, loss in numbers["references"].items())
    shown.print(table("", ("", "grown", "donor"), rows))
    shown.print(f"references on the same test windows, nats a token: {references}", highlight=False)
    shown.print(f"{out.absolute()}: a standard model; README.md is its card", highlight=False, soft_wrap=True)


def _share(option: str, text: str) -> float:
    return share_of(text, option)


def _rates(text: str) -> Rates:
    try:
        body, rest = map(float, text.split(","))
    except ValueError:
        body = rest = 0.0
    if not (0 < body < math.inf and 0 < rest < math.inf):
        raise InputError(f"--rates {text}: expected two positive numbers, BODY,REST")
    return Rates(body, rest)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
