"""A small experiment whose donors are trained, ready to run arms that take a second or two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import smoke

from ontogeny.lab.conduct import Plan
from ontogeny.lab.donors import train_donor
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab
from ontogeny.lab.prepare import find_scale, prepare
from ontogeny.lab.rates import START
from ontogeny.lab.store import open_store

STEPS = 16
SETTINGS = (
    f"steps={STEPS}",
    "evaluate_at=" + ",".join(map(str, range(4, STEPS + 1, 4))),
    "donor_steps=4",
    "windows=32",
)
CIRCUMSTANCE = ("seconds", "peak_memory", "tokens_per_second", "host", "sha256")


def prepared(root: Path) -> Plan:
    """Text, tokens and donors in a store; nothing else has run."""
    text = smoke.write_text(root.parent / "text.jsonl")
    plan = prepare("convergence", find_scale("convergence", "smoke", SETTINGS), open_store(root), text=[str(text)])
    for recipe in plan.recipes:
        train_donor(recipe, plan.lab)
    return plan


def one_run(plan: Plan) -> Run:
    """An arm in its donor's genome, which keeps its network."""
    first = plan.experiment.runs("fresh", plan.experiment.arm("donor"), START)[0]
    return replace(first, setting=replace(first.setting, kept=True))


def beside(plan: Plan, root: Path) -> Lab:
    """The same donors and tokens, in a store of its own."""
    store = open_store(root)
    (root / "tokens").rmdir()
    (root / "tokens").symlink_to(plan.lab.store.root / "tokens")
    return Lab(store, plan.lab.donors)


def science(result: dict[str, Any]) -> dict[str, Any]:
    """A result without circumstance."""
    return {key: value for key, value in result.items() if key not in CIRCUMSTANCE}
