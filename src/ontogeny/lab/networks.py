"""An arm's network: fresh, in its donor's genome or a control's, ready to train."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import making, read_json, replacing, write_json
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.controls import transform
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.frames import frame_statistics
from ontogeny.genome.genome import Genome, Mask, load, save
from ontogeny.genome.quantise import quantise
from ontogeny.lab.experiment import Arm, Run, Setting
from ontogeny.lab.store import Store
from ontogeny.lab.survivors import survivors
from ontogeny.lab.tasks import replicate_seed, run_tokens
from ontogeny.model.activations import activation_genome
from ontogeny.model.baselines import mimetic, projected_weights, weight_subset
from ontogeny.model.constrain import (
    CoreGuess,
    constrain,
    effective_weights,
    free_subspaces,
    guess_cores,
    low_rank,
    merge,
    project_weights,
    start_cores,
)
from ontogeny.model.grow import grown_genome, layer_shapes
from ontogeny.model.initialise import donor_embeddings, fresh_model, matched_gain, set_final_gain
from ontogeny.model.prune import set_alive
from ontogeny.model.topk import use_top
from ontogeny.model.vision import ImageClassifier, donor_body, freeze_body, fresh_classifier
from ontogeny.streams import stream_seed
from ontogeny.training.batches import evaluation_windows
from ontogeny.training.distillation import distillation_loss, remembered
from ontogeny.training.train import LossFunction, evaluation_loss

ACTIVATION_TOKENS = 100_000
GAIN_WINDOWS = 32


@dataclass(frozen=True)
class Lab:
    """Circumstance: where the store is, where each donor id lies, how many runs train in one stack, who tracks.

    Changes no result, but for rounding.
    """

    store: Store
    donors: Mapping[str, Path]
    stack: int = 1
    track: str | None = None  # a tracker that Accelerate knows


def build(run: Run, lab: Lab) -> tuple[nn.Module, Genome | None]:
    """The arm's network, ready to train, and its genome if it has one."""
    arm, setting = run.arm, run.setting
    seed = replicate_seed(run.replicate)
    if run.parent:
        model, genome = trained_network(run.parent, lab)
        if arm.rescue == "on":
            return model, genome
        if arm.rescue == "free":
            return free_subspaces(model), genome
        if arm.rescue == "released":
            return merge(model), None
        weights, model = effective_weights(model), merge(model)  # its layers projected on the genome, the rest as it is
        genome = make_genome(run, lab)
        return project_weights(constrain(model, genome, arm.reading), weights), genome
    model = fresh_network(setting, seed)
    if arm.top:
        use_top(model, arm.top)
    if run.embeddings != "fresh":
        donor = own_donor(run, lab)
        donor_embeddings(model, donor, trainable=run.embeddings == "trainable")
        set_final_gain(model, donor_gain(setting, lab, own_donor_id(run)))
    if arm.constraint in WHOLE:
        return WHOLE[arm.constraint](model, run, lab), None
    genome = make_genome(run, lab)
    if arm.constraint in ("low-rank", "low-rank-equal"):
        ranks = {site.name: gene.rank for site, gene in genome.genes.items()}  # type: ignore[union-attr]
        if arm.constraint == "low-rank-equal":
            shapes = {site.name: site.shape for site in genome.genes}
            ranks = {name: max(1, round(k * k / sum(shapes[name]))) for name, k in ranks.items()}
        return low_rank(model, ranks, seed=seed), None
    constrain(model, genome, arm.reading)
    if arm.core in get_args(CoreGuess):
        guess_cores(model, arm.core)  # type: ignore[arg-type]
    elif arm.core != "fresh":
        folded = bool(arm.recipe.get("fold_norms"))
        start_cores(model, own_donor(run, lab), arm.core, seed=seed, fold_norms=folded)  # type: ignore[arg-type]
    return model, genome


def _mimetic(model: nn.Module, run: Run, lab: Lab) -> nn.Module:
    found: nn.Module = mimetic(model, replicate_seed(run.replicate))
    return found


def _donor_body(model: nn.Module, run: Run, lab: Lab) -> nn.Module:
    assert isinstance(model, ImageClassifier)
    return donor_body(model, own_donor(run, lab), trainable=False)


def _random_body(model: nn.Module, run: Run, lab: Lab) -> nn.Module:
    assert isinstance(model, ImageClassifier)
    return freeze_body(model)


def _projected(model: nn.Module, run: Run, lab: Lab) -> nn.Module:
    genome = cached_genome(own_donor_id(run), Recipe(rank=run.setting.rank), lab)
    found: nn.Module = projected_weights(model, own_donor(run, lab), genome)
    return found


WHOLE: dict[str, Callable[[nn.Module, Run, Lab], nn.Module]] = {  # arms without a genome
    "dense": lambda model, run, lab: model,
    "mimetic": _mimetic,
    "donor-body": _donor_body,
    "random-body": _random_body,
    "weight-subset": lambda model, run, lab: weight_subset(model, own_donor(run, lab)),
    "weight-subset-body": lambda model, run, lab: weight_subset(model, own_donor(run, lab), embeddings=False),
    "projected-weights": _projected,
}


def fresh_network(setting: Setting, seed: int) -> nn.Module:
    """A fresh language model, or a classifier of images on the same body."""
    if setting.vision is None:
        return fresh_model(setting.model, seed)
    vision = setting.vision
    return fresh_classifier(
        setting.model,
        image_size=vision.size,
        channels=vision.channels,
        classes=vision.classes,
        patch=vision.patch,
        attention=vision.attention,
        seed=seed,
    )


def save_network(model: nn.Module, directory: Path) -> None:
    """Keep what was trained, for runs that start from it."""
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    with replacing(directory / "network.safetensors") as temporary:
        save_file(trained, temporary)


@torch.no_grad()
def trained_network(run: Run, lab: Lab) -> tuple[nn.Module, Genome | None]:
    """A run's network with the values, and living directions, that it ended with.

    InputError where the store hasn't kept them.
    """
    model, genome = build(run, lab)
    if run.arm.develop is not None:
        result = read_json(lab.store.result_path(run.id, run.replicate))
        set_alive(model, {site: torch.from_numpy(kept) for site, kept in survivors(result).items()})
    path = lab.store.run_directory(run.id, run.replicate) / "network.safetensors"
    if not path.exists():
        raise InputError(f"{path} is missing: delete {path.parent / 'result.json'} and rerun to train it again")
    stored = load_file(path)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(stored[name])
    return model, genome


def make_genome(run: Run, lab: Lab) -> Genome:
    """The arm's genome: read from its donor (or donors), then through its controls."""
    arm, setting = run.arm, run.setting
    draw = replicate_seed(run.replicate if arm.draw is None else arm.draw)
    if arm.constraint == "activations":
        tokens = run_tokens(setting, lab.store)
        windows = evaluation_windows(tokens.train, setting.length, -(-ACTIVATION_TOKENS // setting.length))
        return activation_genome(own_donor(run, lab), windows, setting.rank)
    recipe = genome_recipe(arm, setting)
    genomes = [cached_genome(donor, recipe, lab) for donor in mixed_donors(run)]
    for control in arm.controls:
        genomes = [transform(control, genomes, seed=draw)]
    genome = quantise(genomes[0], arm.bits) if arm.bits else genomes[0]
    if not setting.grown:
        return genome
    return grown_genome(genome, own_donor(run, lab).config, setting.model, layer_shapes(setting.model), seed=draw)


def genome_recipe(arm: Arm, setting: Setting) -> Recipe:
    """What an arm's genome is read by: its own recipe, of the setting's rank unless it names a size."""
    sized = any(size in arm.recipe for size in ("rank", "energy", "density"))
    options: dict[str, Any] = dict(arm.recipe) | ({} if sized else {"rank": setting.rank})
    return Recipe(**options)


def mixed_donors(run: Run) -> list[str]:
    """The donors whose genomes the arm reads, the replicate's own first."""
    setting, own = run.setting, own_donor_id(run)
    if run.arm.donors in ("own", "other"):
        return [own]
    rest = [donor for donor in setting.donors if donor != own]
    return [own, *rest, *(setting.others if run.arm.donors == "both" else ())]


def cached_genome(donor: str, recipe: Recipe, lab: Lab) -> Genome:
    """A donor's genome, extracted once a store."""
    path = genome_path(donor, recipe, lab.store)
    with making(path) as temporary:
        if temporary:
            save(extract(open_donor(donor, lab), recipe), temporary)
    return load(path)


def genome_path(donor: str, recipe: Recipe, store: Store) -> Path:
    """Where a store keeps a donor's genome."""
    return store.root / "genomes" / f"{digest({'donor': donor, 'recipe': recipe})[:16]}.safetensors"


def own_donor_id(run: Run) -> str:
    """The donor of the run's replicate: 1, 2, … in turn; the tuning replicate uses the first."""
    donors = run.setting.others if run.arm.donors == "other" else run.setting.donors
    index = run.arm.donor if run.arm.donor is not None else max(0, run.replicate - 1)
    return donors[index % len(donors)]


def own_donor(run: Run, lab: Lab) -> Checkpoint:
    """The checkpoint of ``own_donor_id``."""
    return open_donor(own_donor_id(run), lab)


def open_donor(donor: str, lab: Lab) -> Checkpoint:
    """The checkpoint behind a donor id."""
    return open_checkpoint(lab.donors[donor])


def donor_gain(setting: Setting, lab: Lab, donor: str) -> float:
    """The final norm's gain, one scalar a donor, that starts a dense model with its embeddings near ln V."""
    path = gain_path(donor, setting, lab.store)
    with making(path) as temporary:
        if temporary:
            tokens = run_tokens(setting, lab.store)
            model = fresh_model(setting.model, stream_seed(0, "gain"))
            donor_embeddings(model, open_donor(donor, lab), trainable=False)
            windows = evaluation_windows(tokens.tune, setting.length, GAIN_WINDOWS)
            uniform = math.log(setting.model["vocab_size"])
            gain = matched_gain(model, lambda model: evaluation_loss(model, windows), uniform)
            write_json(temporary, {"gain": gain})
    return float(read_json(path)["gain"])


def gain_path(donor: str, setting: Setting, store: Store) -> Path:
    """Where a store keeps the gain of a donor's final norm."""
    return store.root / "donors" / f"gain-{digest([donor, setting.tokens, setting.length])[:16]}.json"


def describe_genome(genome: Genome | None, run: Run, lab: Lab) -> dict[str, float]:
    """Covariates beside an arm: how its layers agree in the residual stream; of a mask its density and overlap."""
    if genome is None:
        return {}
    masks = [gene.keep for gene in genome.genes.values() if isinstance(gene, Mask)]
    if not masks:
        return frame_statistics(genome, _embedding(run, lab))
    density = sum(int(keep.sum()) for keep in masks) / sum(keep.numel() for keep in masks)
    overlap = genome.provenance.get("overlap")
    return {"density": density} | ({} if overlap is None else {"overlap": overlap})


@functools.lru_cache(maxsize=8)
def _donor_embedding(path: Path) -> Tensor:
    return next(iter(open_checkpoint(path).embeddings().values()))


def _embedding(run: Run, lab: Lab) -> Tensor:
    return _donor_embedding(lab.donors[own_donor_id(run)])


TEACHER = {"temperature": 2.0, "share": 0.5}  # ours: Hinton et al. leave both to the task


def distilled(run: Run, lab: Lab, batches: Callable[[int], Tensor]) -> LossFunction:
    """The next-token loss, half of it replaced by the divergence from the donor's predictions."""
    from transformers import AutoModelForCausalLM

    path = lab.donors[own_donor_id(run)]
    donor = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False).float().eval()

    @torch.no_grad()
    def predict(windows: Tensor) -> Tensor:
        found: Tensor = donor.to(windows.device)(input_ids=windows[:, :-1], use_cache=False).logits
        return found

    teacher = remembered(predict, batches, run.setting.steps)

    def both(model: nn.Module, windows: Tensor) -> Tensor:
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits.flatten(0, 1)
        return distillation_loss(logits, teacher(windows).flatten(0, 1), windows[:, 1:].flatten(), **TEACHER)

    return both
