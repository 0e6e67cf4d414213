"""Fabricated stores: results with planted losses for every run that a declared experiment asks for."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ontogeny.files import write_json
from ontogeny.lab.conduct import axes, evaluated_runs, tuned_cells
from ontogeny.lab.donors import audit_folder
from ontogeny.lab.experiment import LOSS, Experiment, Measure, Rates, Setting
from ontogeny.lab.experiments.convergence import declare
from ontogeny.lab.judge import Assessment, ContrastSummary, assess
from ontogeny.lab.rates import START, search
from ontogeny.lab.store import Store
from ontogeny.streams import numpy_stream

BIGRAM = 3.3
REFERENCES = {"uniform": 6.0, "unigram": 5.0, "bigram": BIGRAM}
GAP, DENSE, KEPT = "random − donor (fresh)", "dense − donor (fresh)", "values-permuted − values-kept (fresh)"

# Mean test losses by arm: the donor beats random by 0.15 and coherent by 0.10, dense beats it by 0.3.
LOSSES = {"donor": 3.0, "random": 3.15, "rotated": 3.0, "coherent": 3.10, "dense": 2.7}
LOSSES |= {"values-kept": 2.95, "values-permuted": 2.95}
NOISE = 0.002  # sd over replicates, each arm's own


def mean_loss(arm: str) -> float:
    return LOSSES.get({"donor ": "donor", "draw ": "random"}.get(arm[:-1], arm), 3.2)


def planted(mode: str, arm: str, replicate: int) -> float | None:
    return mean_loss(arm) + NOISE * float(numpy_stream(replicate, mode, arm).standard_normal())


def tuned(mode: str, arm: str, rates: Rates) -> float:
    """A bowl around the start, deeper for better arms; every arm's second best is rest 1e-2 (frozen: body 3e-3)."""
    off = abs(math.log(rates.body / START.body)) + abs(math.log(rates.rest / START.rest) + 0.01)
    return mean_loss(arm) + off


def experiment(donors: int = 5, given: bool = False, **changes: Any) -> Experiment:
    ids = tuple(f"donor{i + 1}" for i in range(donors))
    setting = Setting({"model_type": "llama", "vocab_size": 400}, "t" * 64, ids, "25%", 64, 32, 400, (200, 400), 256)
    records = tuple({"id": i, "name": f"my/{i}"} if given else {"index": n + 1} for n, i in enumerate(ids))
    options: dict[str, Any] = {"scale": "laptop", "decisive": True, "setting": setting, "replicates": 5}
    options |= {"text": {}, "donor_records": records, "given": given, "table": "primary", "audit": True}
    return declare(**options | changes)


Loss = Callable[[str, str, int], float | None]


def plant(
    store: Store,
    experiment: Experiment,
    loss: Loss = planted,
    tune: Callable[[str, str, Rates], float] = tuned,
    step0: Mapping[str, float] | None = None,
    passed_gate: bool = True,
) -> Assessment:
    """Write donors, tuning results until every search ends, and the evaluated results; None: diverged; nan: missing."""
    settings = experiment.all_settings().values()
    for index, donor in enumerate(dict.fromkeys(d for s in settings for d in (*s.donors, *s.others))):
        given = index < len(experiment.donor_records) and "id" in experiment.donor_records[index]
        folder = audit_folder(donor, experiment.setting) if given else donor
        record = {"kind": "donor", "id": donor, "loss": 2.9, "references": REFERENCES, "passed_gate": passed_gate}
        record |= {} if given else {"index": index + 1, "recipe": {}}
        write_json(store.root / "donors" / folder / "result.json", record)
    for mode, arm in tuned_cells(experiment) if experiment.rates is None else ():
        known: dict[Rates, float] = {}
        while needed := search(known, axes(mode, arm)).needed:
            for rates in needed:
                known[rates] = tune(mode, arm.name, rates)
                run = experiment.tuning_run(mode, arm, rates)
                write_result(store, run.id, 0, known[rates], measure=run.setting.measure)
    for (mode, _), runs in evaluated_runs(experiment, store).items():
        for run in runs:
            value = loss(mode, run.arm.name, run.replicate)
            if value is None or math.isfinite(value):
                start, measure = (step0 or {}).get(run.arm.name, 6.0), run.setting.measure
                write_result(store, run.id, run.replicate, value, start, measure)
    return assess(experiment, store)


def write_result(
    store: Store, identity: str, replicate: int, final: float | None, step0: float = 6.0, measure: Measure = LOSS
) -> None:
    """What a run leaves; diverged where ``final`` is None or infinite."""
    diverged = final is None or math.isinf(final)
    last = 9.0 if final is None or diverged else final
    result = {"kind": "arm", "id": identity, "replicate": replicate, "final": None if diverged else final}
    result |= {"losses": [[0, step0], [200, last + 1], [400, last]], "step0_loss": step0, "references": REFERENCES}
    result |= {"trainable_parameters": 10, "parameters": 100, "flops": 1000, "seconds": 2.0, "frames": {"x": 0.5}}
    if measure.key != "loss":
        result |= {f"{measure.key}s": result["losses"], "references": {measure.gate: BIGRAM}}
    write_json(store.run_directory(identity, replicate) / "result.json", result)


def contrast(assessment: Assessment, name: str) -> ContrastSummary:
    return next(c for c in assessment.contrasts if c.contrast.name == name)
