"""What an experiment will cost, before it runs: FLOPs, memory, disk and time on this machine."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ontogeny.canonical import digest
from ontogeny.genome.extract import rank_of
from ontogeny.lab.conduct import axes, overlap_tasks, tuned_cells
from ontogeny.lab.experiment import Arm, Embeddings, Experiment, Run, Setting
from ontogeny.lab.families import characters, donor_recipe
from ontogeny.lab.networks import mixed_donors
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
FROZEN = ("donor-body", "random-body")  # under which none of the layers' does
MASKS = {"density", "mask"}  # options of a recipe that make one
STATE = 12  # bytes of a training checkpoint a trained parameter: float32 weight, and AdamW's two moments
BYTES_PER_RUN = 20_000  # of JSON and lock files
CHARACTERS_PER_TOKEN = 2  # at least, of a small vocabulary
IMAGES = {"digits": 1797, "other": 60_000}  # of a data set; as many as CIFAR's where it isn't known


@dataclass(frozen=True)
class Estimate:
    """One line of a plan: so many runs of this kind, each at this cost. Bytes, seconds and FLOPs a run.

    ``disk``: what a finished run leaves; ``state``: its training checkpoint while it is under way.
    """

    what: str
    runs: int
    flops: int
    memory: int
    disk: int
    seconds: float
    state: int


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
    for mode, arm, found in _cells(experiment):
        cost = costs[arm.setting]
        runs = {(run.id, run.replicate) for run in found} - counted  # some arms share runs
        counted |= runs
        lines.append(cost.arm(f"{mode} {arm.name}", mode, arm, len(runs), experiment.setting_of(arm)))
        if (mode, arm.name) in searched:
            guess = sum(TUNING_RUNS[axis] for axis in axes(mode, arm))
            tuning = experiment.setting_of(arm).tuning
            lines.append(cost.arm(f"{mode} {arm.name}, tuning (about)", mode, arm, guess, tuning, tuned=True))
    return lines


def _cells(experiment: Experiment) -> Iterator[tuple[Embeddings, Arm, list[Run]]]:
    """Every cell with its evaluated runs, at some rates."""
    parents: dict[tuple[str, str], list[Run]] = {}
    for mode, arm in sorted(experiment.cells(), key=lambda cell: bool(cell[1].after)):
        parents[mode, arm.name] = experiment.runs(mode, arm, START, parents.get((mode, arm.after), ()))
        yield mode, arm, parents[mode, arm.name]


def storage(experiment: Experiment, variants: Mapping[str, Variant], *, given: bool) -> dict[str, int]:
    """Bytes on disk that are no run's own, at most: genome files, downloaded donors, tokens, images.

    ``variants``: every donor family by setting; ``given``: their donors are the user's own.
    """
    downloads: dict[str, int] = {}
    tokens: dict[Any, int] = {}
    images: dict[str, int] = {}
    for name, setting in experiment.all_settings().items():
        variant, scale, words = variants[name], variants[name].scale, setting.model["vocab_size"]
        if not given:
            size = 4 * _donor_shapes(setting, scale).parameters
            downloads |= dict.fromkeys(scale.hub_donors, size)
        sources = variant.text or (scale.text,)
        for texts in {(sources, False), (variant.learnt or sources, variant.shuffled)}:
            read = len(texts[0]) * characters(variant)
            tokens[texts, read, words] = read // CHARACTERS_PER_TOKEN * (2 if words <= 1 << 16 else 4)
        if setting.vision:
            pixels = setting.vision.size**2 * setting.vision.channels
            images[scale.images] = pixels * IMAGES.get(scale.images, IMAGES["other"])
    genomes = genome_files(experiment, variants, given=given)
    parts = {"genome files": genomes, "downloaded donors": downloads, "tokens": tokens, "images": images}
    return {name: sum(sizes.values()) for name, sizes in parts.items() if sizes}


def genome_files(experiment: Experiment, variants: Mapping[str, Variant], *, given: bool) -> dict[str, int]:
    """The bytes of every genome file, by digest of donor and recipe: those that arms and overlaps read."""
    settings = experiment.all_settings()
    made = [_made_of(variants[name]) for name in settings]
    family = {name: 0 if given else made.index(made[index]) for index, name in enumerate(settings)}
    shapes = {name: _donor_shapes(s, None if given else variants[name].scale) for name, s in settings.items()}
    needed = [
        (arm.setting, donor, {"rank": run.setting.rank} | dict(run.arm.recipe))
        for _, arm, runs in _cells(experiment)
        for run in runs
        if _reads_genome(run)
        for donor in mixed_donors(run)
    ]
    needed += [
        (name, donor, {"rank": task.rank, "fold_norms": True})
        for task in overlap_tasks(experiment)
        for donor in (task.first, task.second)
        for name, setting in settings.items()
        if donor in setting.donors
    ]
    return {digest([family[name], donor, recipe]): shapes[name].genome(recipe) for name, donor, recipe in needed}


def _reads_genome(run: Run) -> bool:
    if run.parent is not None:
        return run.arm.rescue == "projected"
    return run.arm.constraint in ("subspace", "low-rank", "low-rank-equal", "projected-weights")


def _made_of(variant: Variant) -> tuple[Any, ...]:
    """What a family's donors are made of."""
    scale = variant.scale
    return variant.text, variant.tokenizer_text, donor_recipe(scale, scale.model(scale.vocabulary), "", 0)


class _Costs:
    """Costs in one setting: of its donors, and of its arms."""

    def __init__(self, setting: Setting, flops_per_second: float) -> None:
        self.shapes = _shapes(setting.model, setting.length)
        self.setting, self.flops_per_second = setting, flops_per_second
        self.sequence = (setting.vision.size // setting.vision.patch) ** 2 if setting.vision else setting.length

    def donor(self, what: str, scale: Scale) -> Estimate:
        shapes, tokens = _donor_shapes(self.setting, scale), scale.batch * scale.length * scale.donor_steps
        trained = shapes.parameters
        return self._line(what, shapes, scale.donors, shapes.dense * tokens, 4 * trained, STATE * trained)

    def arm(
        self, what: str, mode: Embeddings, arm: Arm, runs: int, setting: Setting, *, tuned: bool = False
    ) -> Estimate:
        """Of ``runs`` runs of an arm; ``tuned``: they only score rates, so their network isn't kept."""
        steps = branched_steps(setting.horizons) if setting.horizons else setting.steps
        rank = str(arm.recipe.get("rank", setting.rank))
        a_token = self.shapes.flops(arm, rank)
        if setting.vision:
            a_token -= 6 * self.shapes.width * setting.model["vocab_size"]  # no head over the vocabulary
        trained = self.shapes.trained(arm, rank)
        if mode == "frozen" or setting.vision:
            trained -= self.shapes.embeddings
        kept = 0 if tuned else 4 * trained * bool(setting.horizons or setting.kept or arm.develop)
        states = STATE * trained * (1 + len(setting.horizons))  # the trunk's and every branch's
        flops = a_token * setting.batch * self.sequence * steps
        return self._line(what, self.shapes, runs, flops, BYTES_PER_RUN + kept, states)

    def _line(self, what: str, shapes: "_Shapes", runs: int, flops: int, disk: int, state: int) -> Estimate:
        tokens = self.setting.batch * self.sequence
        memory = shapes.parameters * BYTES_PER_PARAMETER + 4 * tokens * (
            shapes.layers * shapes.width * ACTIVATIONS_PER_LAYER
            + (0 if self.setting.vision else 3 * self.setting.model["vocab_size"])
        )
        return Estimate(what, runs, flops, memory, disk, flops / self.flops_per_second, state)


@dataclass(frozen=True)
class _Shapes:
    parameters: int
    embeddings: int  # and head
    width: int
    layers: int
    dense: int
    body: Mapping[str, tuple[int, int]]

    def flops(self, arm: Arm, rank: str) -> int:
        """Training FLOPs a token of an arm."""
        if _whole(arm):
            return self.dense  # masks save no product here
        if arm.constraint in FROZEN:
            return self.dense - 2 * sum(m * n for m, n in self.body.values())
        return self.dense + sum(self._constrained(arm, rank, m, n) - 6 * m * n for m, n in self.body.values())

    def _constrained(self, arm: Arm, rank: str, m: int, n: int) -> int:
        k = _width(arm, rank, m, n)
        if arm.constraint.startswith("low-rank") or arm.rescue == "free":
            return 6 * k * (m + n)
        one_sided = {"left": 4 * k * m + 6 * k * n, "right": 6 * k * m + 4 * k * n, "diagonal": 4 * k * (m + n)}
        return one_sided.get(arm.reading, 4 * k * (m + n) + 6 * k * k)

    def trained(self, arm: Arm, rank: str) -> int:
        """Values that an arm trains, its embeddings among them."""
        if _whole(arm):
            return self.parameters
        return self.parameters + sum(self._values(arm, rank, m, n) - m * n for m, n in self.body.values())

    def _values(self, arm: Arm, rank: str, m: int, n: int) -> int:
        k = _width(arm, rank, m, n)
        if arm.constraint in FROZEN:
            return 0
        if arm.constraint.startswith("low-rank") or arm.rescue == "free":
            return k * (m + n)
        return {"left": k * n, "right": k * m, "diagonal": k}.get(arm.reading, k * k)

    def genome(self, recipe: Mapping[str, Any]) -> int:
        """Bytes of a genome file: float32 bases, or a bit an entry."""
        if set(recipe) & MASKS:
            return sum(m * -(-n // 8) for m, n in self.body.values())
        return sum(4 * rank_of(recipe["rank"], min(m, n)) * (m + n) for m, n in self.body.values())


def _whole(arm: Arm) -> bool:
    """Whether every weight of the layers trains."""
    released = arm.reading == "start" or arm.rescue == "released"
    return arm.constraint in DENSE or released or bool(set(arm.recipe) & MASKS)


def _width(arm: Arm, rank: str, m: int, n: int) -> int:
    """The directions that an arm has of one matrix."""
    k = rank_of(rank, min(m, n))
    return max(1, round(k * k / (m + n))) if arm.constraint == "low-rank-equal" else k


def _donor_shapes(setting: Setting, scale: Scale | None) -> _Shapes:
    """The donors' of a setting; without their scale its own model's, which may be smaller."""
    return _shapes(scale.model(scale.vocabulary) if scale and setting.grown else setting.model, setting.length)


def _shapes(config: Mapping[str, Any], length: int) -> _Shapes:
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {key: value for key, value in config.items() if key not in ("auto_map", "dtype", "torch_dtype")}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(plain.pop("model_type"), **plain))
        ends = {id(e.weight): e.weight.numel() for e in (model.get_input_embeddings(), model.get_output_embeddings())}
        return _Shapes(
            parameters=sum(p.numel() for p in model.parameters()),
            embeddings=sum(ends.values()),
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
