"""What an experiment will cost, before it runs: FLOPs, memory, disk and time on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ontogeny.genome.extract import rank_of
from ontogeny.lab.conduct import axes, tuned_cells
from ontogeny.lab.experiment import Arm, Experiment, Run, Setting
from ontogeny.lab.families import donor_recipe
from ontogeny.lab.rates import START
from ontogeny.lab.scales import SCALES, Scale, Variant
from ontogeny.model.constrain import site_shapes
from ontogeny.model.cost import flops_per_token
from ontogeny.model.initialise import fresh_model
from ontogeny.training.branch import branched_steps
from ontogeny.training.train import TrainConfig, train

TUNING_RUNS = {"body": 4, "rest": 3}  # points a search takes along one axis, as seen; two more than the least at most
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and AdamW's two moments
ACTIVATIONS_PER_LAYER = 24  # float32 values of the model's width kept a token and layer for the backward pass
# Constraints under which every weight trains.
DENSE = ("dense", "mimetic", "weight-subset", "weight-subset-body", "projected-weights")
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


def estimate(experiment: Experiment, variants: Mapping[str, Variant], flops_per_second: float) -> list[Estimate]:
    """Every kind of run that the experiment asks for; tuning runs are a guess, since the search decides.

    ``variants``: the donor families to be trained on the spot, by setting; none of them where checkpoints are given.
    """
    costs = {name: _Costs(setting, flops_per_second) for name, setting in experiment.all_settings().items()}
    lines = []
    made = [_made_of(variant) for variant in variants.values()]
    for index, (name, variant) in enumerate(variants.items()):
        if not variant.scale.hub_donors and made.index(made[index]) == index:  # some families share their donors
            lines.append(costs[name].donor(f"donor {name}".strip(), variant.scale))
    searched = {(mode, arm.name) for mode, arm in tuned_cells(experiment)} if experiment.rates is None else set()
    counted: set[tuple[str, int]] = set()
    parents: dict[tuple[str, str], list[Run]] = {}
    for mode, arm in sorted(experiment.cells(), key=lambda cell: bool(cell[1].after)):
        cost = costs[arm.setting]
        found = parents[mode, arm.name] = experiment.runs(mode, arm, START, parents.get((mode, arm.after), ()))
        runs = {(run.id, run.replicate) for run in found} - counted  # some arms share runs
        counted |= runs
        lines.append(cost.arm(f"{mode} {arm.name}", arm, len(runs), experiment.setting_of(arm)))
        if (mode, arm.name) in searched:
            guess = sum(TUNING_RUNS[axis] for axis in axes(mode, arm))
            tuning = experiment.setting_of(arm).tuning
            lines.append(cost.arm(f"{mode} {arm.name}, tuning (about)", arm, guess, tuning))
    return lines


def _made_of(variant: Variant) -> tuple[Any, ...]:
    """What a family's donors are made of."""
    scale = variant.scale
    return variant.text, variant.tokenizer_text, donor_recipe(scale, scale.model(scale.vocabulary), "", 0)


class _Costs:
    """Costs in one setting: of its donors, and of its arms."""

    def __init__(self, setting: Setting, flops_per_second: float) -> None:
        with torch.device("meta"):
            self.shapes = _shapes(setting.model, setting.length)
        self.setting, self.flops_per_second = setting, flops_per_second
        self.sequence = (setting.vision.size // setting.vision.patch) ** 2 if setting.vision else setting.length

    def donor(self, what: str, scale: Scale) -> Estimate:
        tokens = scale.batch * scale.length * scale.donor_steps
        shapes = self.shapes
        if self.setting.model.get("hidden_size") != scale.width:  # the arms' model is smaller
            with torch.device("meta"):
                shapes = _shapes(scale.model(scale.vocabulary), scale.length)
        return self._line(what, scale.donors, shapes.dense * tokens, 4 * shapes.parameters)

    def arm(self, what: str, arm: Arm, runs: int, setting: Setting) -> Estimate:
        steps = branched_steps(setting.horizons) if setting.horizons else setting.steps
        a_token = self.shapes.flops(arm, str(arm.recipe.get("rank", setting.rank)))
        if setting.vision:
            a_token -= 6 * self.shapes.width * setting.model["vocab_size"]  # no head over the vocabulary
        return self._line(what, runs, a_token * setting.batch * self.sequence * steps, BYTES_PER_RUN)

    def _line(self, what: str, runs: int, flops: int, disk: int) -> Estimate:
        tokens = self.setting.batch * self.sequence
        memory = self.shapes.parameters * BYTES_PER_PARAMETER + 4 * tokens * (
            self.shapes.layers * self.shapes.width * ACTIVATIONS_PER_LAYER
            + (0 if self.setting.vision else 3 * self.setting.model["vocab_size"])
        )
        return Estimate(what, runs, flops, memory, disk, flops / self.flops_per_second)


@dataclass(frozen=True)
class _Shapes:
    parameters: int
    width: int
    layers: int
    dense: int
    body: Mapping[str, tuple[int, int]]

    def flops(self, arm: Arm, rank: str) -> int:
        """Training FLOPs a token of an arm."""
        released = arm.reading == "start" or arm.rescue == "released"
        if arm.constraint in DENSE or released or set(arm.recipe) & {"density", "mask"}:
            return self.dense  # masks save no product here
        if arm.constraint in ("donor-body", "random-body"):
            return self.dense - 2 * sum(m * n for m, n in self.body.values())
        return self.dense + sum(self._constrained(arm, rank, m, n) - 6 * m * n for m, n in self.body.values())

    def _constrained(self, arm: Arm, rank: str, m: int, n: int) -> int:
        k = rank_of(rank, min(m, n))
        if arm.constraint == "low-rank-equal":
            k = max(1, round(k * k / (m + n)))
        if arm.constraint.startswith("low-rank") or arm.rescue == "free":
            return 6 * k * (m + n)
        one_sided = {"left": 4 * k * m + 6 * k * n, "right": 6 * k * m + 4 * k * n, "diagonal": 4 * k * (m + n)}
        return one_sided.get(arm.reading, 4 * k * (m + n) + 6 * k * k)


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
        evaluate=lambda model: {"loss": 0.0},
        on_step=lambda step: times.append(time.monotonic()),
    )
    torch.set_num_threads(threads)
    return cost * (len(times) - 2) / (times[-1] - times[1])
