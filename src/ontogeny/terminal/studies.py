"""run, describe and dry run of studies."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

from ontogeny.canonical import plain
from ontogeny.errors import InputError
from ontogeny.lab.engines import find_engine
from ontogeny.lab.experiments import GROUPS, STUDIES
from ontogeny.lab.findings import findings
from ontogeny.lab.progress import progress
from ontogeny.lab.store import Store, claimed, in_use, interrupted, open_store
from ontogeny.lab.study import Measurements, Study, conduct_study, declare_study, gather
from ontogeny.terminal.output import console, duration, table
from ontogeny.training import together

Mode = Literal["run", "dry run", "describe"]


def find_studies(name: str) -> list[ModuleType]:
    """The studies of a name: a group's, one, or none where it is no study."""
    return [STUDIES[study] for study in GROUPS.get(name, (name,)) if study in STUDIES]


def refuse(name: str, **options: Sequence[str] | str) -> None:
    """InputError for the first option given that a study has no use for."""
    for option, value in options.items():
        if value:
            raise InputError(f"--{option}: {name} makes its own networks and data; leave it out")


def run_study(
    module: ModuleType,
    scale: str,
    root: Path,
    settings: Sequence[str] = (),
    *,
    engine: str = "processes",
    workers: int | None = None,
    address: str | None = None,
    mode: Mode = "run",
) -> None:
    """Declare, compute, judge and print one study; whatever is stored is not computed again."""
    start = find_engine(engine, workers, address, root)
    if together.count() > 1:
        raise InputError(f"accelerate launch: {module.NAME} has no networks to train together; run it without")
    study = declare_study(module, scale, settings)
    if mode == "describe":
        show_settings(study)
    elif mode == "dry run":
        show_plan(study, Store(root), workers or os.cpu_count() or 1)
    else:
        store, shown = open_store(root), console()
        with in_use(store):
            store.declare(plain(study))
            if not gather(study, store).complete:
                with progress(shown) as report, start() as mapper:
                    conduct_study(study, module.compute, store, mapper, report)
        show_verdicts(gather(study, store), store)


def show_verdicts(found: Measurements, store: Store) -> None:
    """What a study answers."""
    rows = [(claim, f["verdict"], f["measured"], f["why"]) for claim, f in findings(found, store).items()]
    title = f"{found.experiment.name}, {found.experiment.scale}, {found.experiment.replicates} replicates"
    console().print(table(title, ("claim", "verdict", "measured", "why"), rows))


def show_settings(study: Study) -> None:
    """Every setting of a study's scale."""
    rows = [(key, str(value)) for key, value in study.settings.items()]
    console().print(table(f"{study.name}, scale {study.scale}", ("setting", "value"), rows))


def show_plan(study: Study, store: Store, workers: int) -> None:
    """Every condition with its runs, and the time of one where the store has some; nothing is computed or written."""
    rows, left, seconds = [], 0, 0.0
    for condition in study.conditions:
        runs = [run for run in study.runs() if run.condition == condition]
        known = [result["seconds"] for run in runs if (result := store.result(run.id, run.replicate))]
        each = sum(known) / len(known) if known else math.nan
        rows.append((condition.name, str(len(runs)), str(len(known)), duration(each) if known else "–"))
        left += len(runs) - len(known)
        seconds += each * (len(runs) - len(known))
    time = "–" if math.isnan(seconds) else duration(seconds / workers)
    rows.append(("total", str(len(study.runs())), f"{left} left", time))
    title = f"{study.name} at {study.scale}: time a run as stored runs took, in total what is left on {workers} workers"
    console().print(table(title, ("condition", "runs", "stored", "time"), rows))


def study_status(found: Measurements, store: Store) -> tuple[str, ...]:
    """A study's row of ``status``: it has no rank, donors or tuning."""
    study = found.experiment
    missing = [
        store.run_directory(run.id, run.replicate)
        for run in study.runs()
        if store.result(run.id, run.replicate) is None
    ]
    figures = (found.done, sum(map(claimed, missing)), sum(map(interrupted, missing)), 0, len(missing))
    return study.name, study.scale, "–", "–", "–", *map(str, figures)
