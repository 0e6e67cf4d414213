"""Experiments with made-up results, to draw and to time reports of: what is planted in them is known."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from ontogeny.canonical import plain
from ontogeny.files import write_json
from ontogeny.lab.conduct import evaluated_runs, overlap_tasks, searches
from ontogeny.lab.experiment import Arm, Experiment, Run, Setting
from ontogeny.lab.experiments import convergence
from ontogeny.lab.prepare import find_scale, outline
from ontogeny.lab.store import Store
from ontogeny.streams import numpy_stream

VOCABULARY, STEPS = 1024, (25, 50, 100, 200, 300, 400)
REFERENCES = {"uniform": math.log(VOCABULARY), "unigram": 5.85, "bigram": 4.62}
IMAGE_REFERENCES = {"uniform": 0.9, "prior": 0.9, "linear": 0.62}
# Planted worth in nats: of an arm over random, and of its learning rates' optimum (body, rest).
WORTH = {"donor": 0.11, "rotated": 0.10, "coherent": 0.05, "dense": 0.145, "chimera": 0.1, "residual-only": 0.07}
NAME = 'donor <script>alert("1")</script> & $x$'


def declared(scale: str = "laptop", table: str = "primary", donors: int = 5, **changes: Any) -> Experiment:
    """A convergence experiment over donors that exist in name alone."""
    setting = Setting(
        model={"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 96, "num_hidden_layers": 3},
        tokens="f" * 64,
        donors=tuple(f"{i:016x}" for i in range(1, donors + 1)),
        rank="25%",
        length=64,
        batch=32,
        steps=400,
        evaluate_at=STEPS,
        windows=256,
    )
    rates = {"body": 3e-3, "rest": 3e-2}
    recipe = {"steps": 1000, "batch": 32, "length": 64, "rates": rates, "precision": "fp32"}
    records = tuple({"id": donor, "index": i, **recipe} for i, donor in enumerate(setting.donors, start=1))
    records = ({"id": setting.donors[0], "name": NAME, "revision": "", "sha256": {"a": "0" * 64}}, *records[1:])
    choices: dict[str, Any] = {
        "scale": scale,
        "decisive": scale == "laptop",
        "setting": setting,
        "replicates": 5,
        "text": {"source": "<script>text</script>", "sha256": "e" * 64, "characters": 10**6, "train_tokens": 3 * 10**6},
        "donor_records": records,
        "given": False,
        "table": table,
        "audit": True,
    }
    return convergence.declare(**(choices | changes))


def outlined(name: str, scale: str = "laptop", table: str = "primary") -> Experiment:
    """An experiment of the laboratory as it would be declared, each setting with donors of its own."""
    experiment = outline(name, find_scale(name, scale), (), table)
    named = {key: _own_donors(key or "main", setting) for key, setting in experiment.all_settings().items()}
    records = tuple({"id": donor, "name": donor} for setting in named.values() for donor in setting.donors)
    return replace(experiment, setting=named.pop(""), settings=named, donor_records=records, text={"source": "made up"})


def _own_donors(name: str, setting: Setting) -> Setting:
    return replace(setting, tokens="f" * 64, donors=tuple(f"{name}-{donor}" for donor in setting.donors))


def worth(arm: Arm) -> float:
    """Nats that an arm's last loss lies below the random one's; donors and draws of E6 are as their kind."""
    return WORTH.get(arm.name, WORTH["donor"] if arm.name.startswith("donor ") else 0.0)


def result(run: Run, worth: Callable[[Arm], float] = worth, noise: float = 0.004) -> dict[str, Any]:
    """A run's made-up result: worth of the arm, cost of a wrong rate, noise of the replicate and of the run."""
    shared = 0.02 * float(numpy_stream(run.replicate, "shared").normal())
    own = noise * float(numpy_stream(run.replicate, run.arm.name, str(run.arm.draw), run.embeddings).normal())
    wrong = sum(0.12 * math.log10(rate / best) ** 2 for rate, best in ((run.rates.body, 1e-2), (run.rates.rest, 1e-2)))
    final = 4.5 + (run.embeddings == "fresh") * 0.05 - worth(run.arm) + shared + own + wrong
    identity = {"kind": "arm", "id": run.id, "replicate": run.replicate, "arm": run.arm.name}
    counts = {"trainable_parameters": 123_456, "parameters": 234_567, "flops": 1_234_567_890_123, "seconds": 12.5}
    frames = {f"{kind}_{key}": 0.4 for kind in ("readers", "writers") for key in ("effective_rank", "chance")}
    outcome = _of_images(run, final - 4.0) if run.setting.vision else _of_text(run, final)
    return identity | counts | outcome | {"frames": {} if run.arm.name == "dense" else frames}


def _of_text(run: Run, final: float) -> dict[str, Any]:
    start = REFERENCES["uniform"] + 0.01
    losses = [[0, start], *([s, final + 1.3 * _left(run, s)] for s in run.setting.evaluate_at)]
    return {"losses": losses, "step0_loss": start, "final": final, "best": final, "references": REFERENCES}


def _of_images(run: Run, final: float) -> dict[str, Any]:
    errors = [[0, 0.9], *([s, final + 0.2 * _left(run, s)] for s in run.setting.evaluate_at)]
    losses = [[0, math.log(10)], *([s, 1.5] for s in run.setting.evaluate_at)]
    outcome = {"losses": losses, "step0_loss": math.log(10), "final": final, "best": 1.5, "errors": errors}
    return outcome | {"references": IMAGE_REFERENCES}


def _left(run: Run, step: int) -> float:
    """The share of the fall that is still to come."""
    return 1 - math.log(step) / math.log(run.setting.steps)


def conduct(
    experiment: Experiment,
    store: Store,
    keep: Callable[[Run], bool] = lambda run: True,
    worth: Callable[[Arm], float] = worth,
) -> None:
    """Declare it and store a made-up result for every donor, overlap and run that ``keep`` lets through."""
    store.declare(plain(experiment))
    for setting in experiment.all_settings().values():
        for index, donor in enumerate(setting.donors, start=1):
            record = {"kind": "donor", "id": donor, "index": index, "loss": 3.59 + 0.01 * index, "passed_gate": True}
            write_json(store.root / "donors" / donor / "result.json", record | {"references": REFERENCES})
    for task in overlap_tasks(experiment):
        value = asdict(task) | {"kind": "overlap", "rows": overlap_rows(task.align, task.first + task.second)}
        write_json(store.run_directory(task.id, 0) / "result.json", value)
    while tuning := [
        run
        for (mode, name), state in searches(experiment, store).items()
        for rates in state.needed
        if keep(run := experiment.tuning_run(mode, experiment.arm(name), rates))
    ]:
        save(tuning, store, worth)
    save([run for runs in evaluated_runs(experiment, store).values() for run in runs if keep(run)], store, worth)


def save(runs: list[Run], store: Store, worth: Callable[[Arm], float] = worth) -> None:
    """Store the made-up result of every run."""
    versions = {"torch": "2.13.0"}
    host = {"machine": "x86_64", "processor": "AVX2", "accelerator": None, "threads": 1, "versions": versions}
    for run in runs:
        write_json(store.run_directory(run.id, run.replicate) / "run.json", {"host": host})
        write_json(store.run_directory(run.id, run.replicate) / "result.json", result(run, worth))


def overlap_rows(align: str, pair: str) -> list[dict[str, Any]]:
    """What an overlap of two donors would hold: a planted z at every site, beyond chance after a rotation."""
    rows = []
    rng = numpy_stream(0, align, pair)
    for layer in (0, 2) if align != "none" else (0, 1, 2):
        for role in ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.gate", "mlp.down"):
            for side in ("out", "in"):
                z = float(rng.normal()) + (6 if align == "orthogonal" else 1.5 * (side == "in"))
                angles = {"smallest_angle": 0.4, "largest_angle": 1.5, "other_layers": 0.26}
                null = {"chance": 0.25, "sd": 0.02, "z": z, "p": 0.01, "overlap": 0.25 + 0.02 * z, "residual": True}
                rows.append({"first": 0, "second": 1, "site": f"layers.{layer}.{role}", "side": side} | null | angles)
    return rows
