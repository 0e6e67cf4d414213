"""What an experiment will cost, before it runs: FLOPs, memory, disk and time on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ontogeny.genome.extract import rank_of
from ontogeny.lab.conduct import axes, tuned_cells
from ontogeny.lab.experiment import Arm, Experiment
from ontogeny.lab.rates import START
from ontogeny.lab.scales import SCALES, Scale
from ontogeny.model.constrain import site_shapes
from ontogeny.model.cost import flops_per_token
from ontogeny.model.initialise import fresh_model
from ontogeny.training.train import TrainConfig, train

TUNING_RUNS = {"body": 4, "rest": 3}  # points a search takes along one axis, as seen; two more than the least at most
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and AdamW's two moments
ACTIVATIONS_PER_LAYER = 24  # float32 values of the model's width kept a token and layer for the backward pass
BYTES_PER_RUN = 20_000  # of JSON and lock files


@dataclass(frozen=True)
class Estimate:
    """One line of a plan: so many runs of this kind, each at this cost. Bytes, seconds and FLOPs a run."""

    what: str
    runs: int
    flops: int
    memory: int
    disk: int
    seconds: float


def estimate(experiment: Experiment, scale: Scale, flops_per_second: float, *, trained_donors: bool) -> list[Estimate]:
    """Every kind of run that the experiment asks for; tuning runs are a guess, since the search decides."""
    with torch.device("meta"):
        shapes = _shapes(experiment.setting.model, experiment.setting.length)
    tokens = experiment.setting.batch * experiment.setting.length
    memory = shapes.parameters * BYTES_PER_PARAMETER + 4 * tokens * (
        shapes.layers * shapes.width * ACTIVATIONS_PER_LAYER + 3 * experiment.setting.model["vocab_size"]
    )

    def line(what: str, runs: int, flops_per_token: int, steps: int, disk: int = BYTES_PER_RUN) -> Estimate:
        flops = flops_per_token * tokens * steps
        return Estimate(what, runs, flops, memory, disk, flops / flops_per_second)

    lines = []
    if trained_donors:
        lines.append(line("donor", scale.donors, shapes.dense, scale.donor_steps, 4 * shapes.parameters))
    searched = {(mode, arm.name) for mode, arm in tuned_cells(experiment)} if experiment.rates is None else set()
    counted: set[tuple[str, int]] = set()
    for mode, arm in experiment.cells():
        cost = shapes.flops(arm, experiment.setting.rank)
        runs = {(run.id, run.replicate) for run in experiment.runs(mode, arm, START)} - counted  # some arms share runs
        counted |= runs
        lines.append(line(f"{mode} {arm.name}", len(runs), cost, experiment.setting.steps))
        if (mode, arm.name) in searched:
            guess = sum(TUNING_RUNS[axis] for axis in axes(mode))
            lines.append(line(f"{mode} {arm.name}, tuning (about)", guess, cost, experiment.setting.steps))
    return lines


@dataclass(frozen=True)
class _Shapes:
    parameters: int
    width: int
    layers: int
    dense: int
    body: Mapping[str, tuple[int, int]]

    def flops(self, arm: Arm, rank: str) -> int:
        """Training FLOPs a token of an arm."""
        if arm.constraint == "dense":
            return self.dense
        total = self.dense
        for m, n in self.body.values():
            k = rank_of(rank, min(m, n))
            if arm.constraint == "low-rank-equal":
                k = max(1, round(k * k / (m + n)))
            constrained = 4 * k * (m + n) + 6 * k * k if arm.constraint == "subspace" else 6 * k * (m + n)
            total += constrained - 6 * m * n
        return total


def _shapes(config: Mapping[str, Any], length: int) -> _Shapes:
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {key: value for key, value in config.items() if key not in ("auto_map", "dtype", "torch_dtype")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(plain.pop("model_type"), **plain))
    return _Shapes(
        parameters=sum(p.numel() for p in model.parameters()),
        width=config.get("hidden_size") or config["n_embd"],
        layers=config.get("num_hidden_layers") or config["n_layer"],
        dense=flops_per_token(model, length),
        body=site_shapes(model),
    )


def measured_flops_per_second() -> float:
    """Training FLOPs a second that one single-threaded worker reaches here on the laptop shape: six real steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shape = SCALES["laptop"]
    model = fresh_model(shape.model(shape.vocabulary), seed=0)
    tokens = torch.arange(8 * (shape.length + 1)).view(8, -1) % shape.vocabulary
    config = TrainConfig(steps=6, body_rate=1e-3, rest_rate=1e-3)
    cost = flops_per_token(model, shape.length) * 8 * shape.length
    times = []
    train(
        model,
        lambda step: tokens,
        config,
        evaluate=lambda model: 0.0,
        on_step=lambda step: times.append(time.monotonic()),
    )
    torch.set_num_threads(threads)
    return cost * (len(times) - 2) / (times[-1] - times[1])
