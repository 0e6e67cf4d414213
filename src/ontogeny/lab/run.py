"""One arm × one replicate -> one result. ``run`` tells the whole story; the rest are its sentences."""

import resource
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ontogeny.files import read_json
from ontogeny.genome.genome import Genome
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab, build, describe_genome, distilled, own_donor, save_network
from ontogeny.lab.store import RESULT, begin, claim, finish
from ontogeny.lab.survivors import described
from ontogeny.lab.tasks import Task, make_task, replicate_seed
from ontogeny.lab.tracking import Tell, telling
from ontogeny.model.cost import flops_per_token, parameter_counts
from ontogeny.model.grow import flops
from ontogeny.model.vision import ImageClassifier, flops_per_image
from ontogeny.training import together
from ontogeny.training.branch import train_branched
from ontogeny.training.develop import develop, schedule
from ontogeny.training.train import History, TrainConfig, train


def run(run: Run, lab: Lab) -> dict[str, Any]:
    """Build the arm's network, train it on the replicate's data, score it, and store the result.

    A run that is already stored is read; one that was interrupted goes on. Replicate r fixes independent streams of
    initialisation, data order and control draws; every arm of r shares all that apply to it.
    """
    directory = lab.store.run_directory(run.id, run.replicate)
    with claim(directory):
        if (directory / RESULT).exists():
            return read_json(directory / RESULT)
        announce(run, lab)
        ready, history, developed = together.call(fit, run, lab)
        return conclude(ready, history, developed, run, lab)


def fit(run: Run, lab: Lab) -> tuple["Ready", History, dict[str, Any]]:
    """The run's network, trained; what happened, and what development found."""
    with together.leader_first():
        ready = make_ready(run, lab)
    with telling_of(run, ready, lab) as tell:
        return ready, *learn(ready, run, lab, tell)


def telling_of(run: Run, ready: "Ready", lab: Lab) -> AbstractContextManager[Tell]:
    """Where the run's evaluated rows go."""
    name = f"{run.embeddings} {run.arm.name} {run.split} {run.id}-{run.replicate}"
    return telling(lab.store.run_directory(run.id, run.replicate), name, ready.config, lab)


@dataclass(frozen=True, eq=False)
class Ready:
    """A run that is about to train."""

    model: nn.Module
    genome: Genome | None
    task: Task
    config: TrainConfig


def announce(run: Run, lab: Lab, **circumstance: Any) -> None:
    """Say in the run's directory what is done there, and how: nothing that changes the result."""
    about = {"recipe": run.recipe, "replicate": run.replicate, "host": host()} | circumstance
    begin(lab.store.run_directory(run.id, run.replicate), about)


def make_ready(run: Run, lab: Lab) -> Ready:
    """The run's network, its task, and how it trains."""
    model, genome = build(run, lab)
    task = make_task(run, lab.store)
    setting, rates = run.setting, run.rates
    only_the_end = run.split == "tune" and not setting.horizons  # of a curve a rate search would read the end alone
    config = TrainConfig(
        setting.steps,
        rates.body,
        rates.rest,
        () if only_the_end else setting.evaluate_at,
        weight_decay=run.arm.weight_decay,
        precision=setting.precision,
        optimizer=setting.optimizer,
    )
    return Ready(model, genome, task, config)


def learn(ready: Ready, run: Run, lab: Lab, tell: Tell) -> tuple[History, dict[str, Any]]:
    """Train on the task, straight to the end, by cool-downs at horizons, or developing: what lived stands beside."""
    model, task, config = ready.model, ready.task, ready.config
    directory = lab.store.run_directory(run.id, run.replicate)
    options: dict[str, Any] = {
        "loss": distilled(run, lab, task.batches) if run.arm.teacher else task.loss,
        "evaluate": task.evaluate,
        "directory": directory / "checkpoint",
        "on_evaluation": tell,
    }
    if run.setting.horizons:
        return train_branched(model, task.batches, config, run.setting.horizons, **options), {}
    if run.arm.develop is None:
        return train(model, task.batches, config, **options), {}
    plan = schedule(config.steps, **run.arm.develop)
    found = develop(model, task.batches, config, plan, seed=replicate_seed(run.replicate), **options)
    return found.history, {"lived": described(found)}


def conclude(ready: Ready, history: History, developed: Mapping[str, Any], run: Run, lab: Lab) -> dict[str, Any]:
    """Keep the trained network where something will go on from it, and store the result."""
    model, task, setting = ready.model, ready.task, run.setting
    directory = lab.store.run_directory(run.id, run.replicate)
    keeps = bool(setting.horizons or setting.kept or developed)
    if keeps and run.split == "test" and history.stop_reason != "non-finite":
        save_network(model, directory)
    cost = describe_cost(model, history, setting.batch, task.length)
    if run.arm.teacher:  # its forward pass, a third of a training step's, kept or not
        cost["flops"] += flops(own_donor(run, lab).config, task.length) // 3 * cost["tokens"]
    beside = {"references": task.references, "frames": describe_genome(ready.genome, run, lab)} | dict(developed)
    identity = {"kind": "arm", "id": run.id, "replicate": run.replicate, "host": host()}
    result = identity | run.recipe | outcome(history, setting.measure.key) | beside | cost
    result = finish(directory, result | {"arm": run.arm.name, "arm_recipe": run.recipe["arm"]})
    clear_checkpoint(directory)
    return result


ROW = ("step", "loss", "train_loss", "seconds")  # what every row of a history has


def outcome(history: History, measure: str = "loss") -> dict[str, Any]:
    """The losses of a history as a result holds them; ``final``: the last of the measure, None if it diverged.

    ``further``: whatever else was evaluated, by name.
    """
    losses = [[row["step"], row["loss"]] for row in history.rows]
    measured = [[row["step"], row[measure]] for row in history.rows]
    others = [key for key in history.rows[0] if key not in (*ROW, measure)]
    further = {key: [[row["step"], row[key]] for row in history.rows] for key in others}
    return {
        "losses": losses,
        **({} if measure == "loss" else {f"{measure}s": measured}),
        **({"further": further} if further else {}),
        "train_losses": [[row["step"], row["train_loss"]] for row in history.rows if row["train_loss"] is not None],
        "step0_loss": losses[0][1],
        "best": min(loss for _, loss in losses),
        "final": None if history.stop_reason == "non-finite" else measured[-1][1],
        "stopped_at": history.stopped_at,
        "stop_reason": history.stop_reason,
        "seconds": history.seconds,
    }


def describe_cost(model: nn.Module, history: History, batch: int, length: int) -> dict[str, Any]:
    """Parameters, FLOPs (training, evaluation not counted), throughput, and the process's peak memory in bytes.

    ``batch``: sequences a step, ``length``: tokens or patches a sequence. With horizons: one run to the last of them.
    """
    tokens = history.stopped_at * batch * length
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    image = isinstance(model, ImageClassifier)
    flops_per_sequence = flops_per_image(model) if image else flops_per_token(model, length) * length  # type: ignore[arg-type]
    return parameter_counts(model) | {
        "flops": flops_per_sequence * tokens // length,
        "tokens": tokens,
        "tokens_per_second": tokens / history.seconds if history.seconds else None,
        "peak_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak,
    }


def host() -> dict[str, Any]:
    """The machine and versions of a run: circumstance, recorded beside it."""
    import platform

    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": dict(_versions()),
    }


@cache  # reading a package's metadata takes milliseconds, and every run tells the versions twice
def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    from ontogeny import __version__

    return {
        "ontogeny": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),  # to import it takes a second
    }


def clear_checkpoint(directory: Path) -> None:
    """A finished run needs no training state, nor what a killed writer left of one."""
    if (directory / "checkpoint").exists():
        shutil.rmtree(directory / "checkpoint")
