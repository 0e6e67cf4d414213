"""One arm × one replicate -> one result. ``run`` tells the whole story; the rest are its sentences."""

import functools
import math
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.controls import transform
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.frames import frame_statistics
from ontogeny.genome.genome import Genome, load, save
from ontogeny.lab.experiment import Run, Setting
from ontogeny.lab.store import Store, claim, read_json, write_json
from ontogeny.model.activations import activation_genome
from ontogeny.model.constrain import constrain, low_rank, start_cores
from ontogeny.model.cost import flops_per_token, parameter_counts
from ontogeny.model.initialise import donor_embeddings, fresh_model, matched_gain, set_final_gain
from ontogeny.streams import stream_seed
from ontogeny.training.batches import Batches, evaluation_windows
from ontogeny.training.references import reference_losses
from ontogeny.training.text import Tokens, open_tokens
from ontogeny.training.train import History, TrainConfig, evaluation_loss, train

ACTIVATION_TOKENS = 100_000
GAIN_WINDOWS = 32


@dataclass(frozen=True)
class Lab:
    """Circumstance: where the store is and where each donor id lies. Changes no result."""

    store: Store
    donors: Mapping[str, Path]


def run(run: Run, lab: Lab) -> dict[str, Any]:
    """Build the arm's network, train it on the replicate's data, score it, and store the result.

    A run that is already stored is read; one that was interrupted goes on. Replicate r fixes independent streams of
    initialisation, data order and control draws; every arm of r shares all that apply to it.
    """
    directory = lab.store.run_directory(run.id, run.replicate)
    with claim(directory):
        if (directory / "result.json").exists():
            return read_json(directory / "result.json")
        write_json(directory / "run.json", {"recipe": run.recipe, "replicate": run.replicate, "host": host()})
        tokens = run_tokens(run.setting, lab)
        model, genome = build(run, lab)
        batches = Batches(tokens.train, run.setting.length, run.setting.batch, replicate_seed(run.replicate))
        batches.check_budget(run.setting.steps, max_epochs=1)
        windows = scoring_windows(run.setting, tokens, run.split)
        config = TrainConfig(
            run.setting.steps, run.rates.body, run.rates.rest, run.setting.evaluate_at, precision=run.setting.precision
        )
        history = train(
            model,
            batches,
            config,
            evaluate=lambda model: evaluation_loss(model, windows),
            directory=directory / "checkpoint",
            on_evaluation=history_writer(directory),
        )
        cost = describe_cost(model, history, run.setting)
        references = lab_references(run.setting, lab)[run.split]
        frames = frame_statistics(genome, _embedding(run, lab)) if genome else {}
        identity = {"kind": "arm", "id": run.id, "replicate": run.replicate, "host": host()}
        result = identity | run.recipe | outcome(history) | {"references": references, "frames": frames} | cost
        write_json(directory / "result.json", result | {"arm": run.arm.name, "arm_recipe": run.recipe["arm"]})
        clear_checkpoint(directory)
    return read_json(directory / "result.json")


def replicate_seed(replicate: int) -> int:
    """The seed of a replicate's streams (initialisation, data order, control draws)."""
    return stream_seed(replicate, "replicate")


def build(run: Run, lab: Lab) -> tuple[nn.Module, Genome | None]:
    """The arm's network, ready to train, and its genome if it has one."""
    arm, setting = run.arm, run.setting
    seed = replicate_seed(run.replicate)
    model = fresh_model(setting.model, seed)
    if run.embeddings != "fresh":
        donor = own_donor(run, lab)
        donor_embeddings(model, donor, trainable=run.embeddings == "trainable")
        set_final_gain(model, donor_gain(setting, lab, own_donor_id(run)))
    if arm.constraint == "dense":
        return model, None
    genome = make_genome(run, lab)
    if arm.constraint in ("low-rank", "low-rank-equal"):
        ranks = {site.name: gene.rank for site, gene in genome.genes.items()}  # type: ignore[union-attr]
        if arm.constraint == "low-rank-equal":
            shapes = {site.name: site.shape for site in genome.genes}
            ranks = {name: max(1, round(k * k / sum(shapes[name]))) for name, k in ranks.items()}
        return low_rank(model, ranks, seed=seed), None
    constrain(model, genome)
    if arm.core != "fresh":
        start_cores(model, own_donor(run, lab), arm.core, seed=seed)
    return model, genome


def make_genome(run: Run, lab: Lab) -> Genome:
    """The arm's genome: read from its donor (or donors), then through its controls."""
    arm, setting = run.arm, run.setting
    draw = replicate_seed(run.replicate if arm.draw is None else arm.draw)
    if arm.constraint == "activations":
        tokens = run_tokens(setting, lab)
        windows = evaluation_windows(tokens.train, setting.length, -(-ACTIVATION_TOKENS // setting.length))
        return activation_genome(own_donor(run, lab), windows, setting.rank)
    sized = "energy" in arm.recipe or "density" in arm.recipe
    options: dict[str, Any] = dict(arm.recipe) | ({} if sized else {"rank": setting.rank})
    recipe = Recipe(**options)
    own = own_donor_id(run)
    others = [donor for donor in setting.donors if donor != own] if arm.donors == "all" else []
    genomes = [cached_genome(donor, recipe, lab) for donor in (own, *others)]
    for control in arm.controls:
        genomes = [transform(control, genomes, seed=draw)]
    return genomes[0]


def cached_genome(donor: str, recipe: Recipe, lab: Lab) -> Genome:
    """A donor's genome, extracted once a store."""
    path = lab.store.root / "genomes" / f"{digest({'donor': donor, 'recipe': recipe})[:16]}.safetensors"
    if not path.exists():
        save(extract(open_donor(donor, lab), recipe), path)
    return load(path)


def own_donor_id(run: Run) -> str:
    """The donor of the run's replicate: 1, 2, … in turn; the tuning replicate uses the first."""
    index = run.arm.donor if run.arm.donor is not None else max(0, run.replicate - 1)
    return run.setting.donors[index % len(run.setting.donors)]


def own_donor(run: Run, lab: Lab) -> Checkpoint:
    """The checkpoint of ``own_donor_id``."""
    return open_donor(own_donor_id(run), lab)


def open_donor(donor: str, lab: Lab) -> Checkpoint:
    """The checkpoint behind a donor id."""
    return open_checkpoint(lab.donors[donor])


def donor_gain(setting: Setting, lab: Lab, donor: str) -> float:
    """The final norm's gain, one scalar a donor, that starts a dense model with its embeddings near ln V."""
    name = digest([donor, setting.tokens, setting.length])[:16]
    path = lab.store.root / "donors" / f"gain-{name}.json"
    if not path.exists():
        tokens = run_tokens(setting, lab)
        model = fresh_model(setting.model, stream_seed(0, "gain"))
        donor_embeddings(model, open_donor(donor, lab), trainable=False)
        windows = evaluation_windows(tokens.tune, setting.length, GAIN_WINDOWS)
        uniform = math.log(setting.model["vocab_size"])
        gain = matched_gain(model, lambda model: evaluation_loss(model, windows), uniform)
        write_json(path, {"gain": gain})
    return float(read_json(path)["gain"])


def run_tokens(setting: Setting, lab: Lab) -> Tokens:
    """The memory-mapped tokens of a setting; InputError if the store has lost them."""
    tokens = open_tokens(lab.store.root / "tokens", setting.tokens)
    if tokens is None:
        raise InputError(f"{lab.store.root}/tokens/{setting.tokens}.bin is missing or damaged: rerun to make it again")
    return tokens


def scoring_windows(setting: Setting, tokens: Tokens, split: str) -> Tensor:
    """The windows that a split's losses are measured on."""
    return evaluation_windows(getattr(tokens, split), setting.length, setting.windows)


def lab_references(setting: Setting, lab: Lab) -> dict[str, dict[str, float]]:
    """Uniform, unigram and bigram losses on the scoring windows of tune and test; computed once a store."""
    vocabulary = setting.model["vocab_size"]
    name = digest([setting.tokens, setting.length, setting.windows, vocabulary])[:16]
    path = lab.store.root / "tokens" / f"references-{name}.json"
    if not path.exists():
        tokens = run_tokens(setting, lab)
        tune, test = (scoring_windows(setting, tokens, split) for split in ("tune", "test"))
        write_json(path, reference_losses(tokens.train, tune, test, vocabulary))
    return read_json(path)


def outcome(history: History) -> dict[str, Any]:
    """The losses of a history as a result holds them; ``final`` is None where the run diverged."""
    losses = [[row["step"], row["loss"]] for row in history.rows]
    return {
        "losses": losses,
        "train_losses": [[row["step"], row["train_loss"]] for row in history.rows if row["train_loss"] is not None],
        "step0_loss": losses[0][1],
        "best": min(loss for _, loss in losses),
        "final": None if history.stop_reason == "non-finite" else losses[-1][1],
        "stopped_at": history.stopped_at,
        "stop_reason": history.stop_reason,
        "seconds": history.seconds,
    }


def describe_cost(model: nn.Module, history: History, setting: Setting) -> dict[str, Any]:
    """Parameters, FLOPs (training, evaluation not counted), throughput, and the process's peak memory in bytes."""
    tokens = history.stopped_at * setting.batch * setting.length
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return parameter_counts(model) | {
        "flops": flops_per_token(model, setting.length) * tokens,
        "tokens": tokens,
        "tokens_per_second": tokens / history.seconds if history.seconds else None,
        "peak_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak,
    }


def host() -> dict[str, Any]:
    """The machine and versions of a run: circumstance, recorded beside it."""
    import platform

    import transformers

    from ontogeny import __version__

    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": {
            "ontogeny": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def history_writer(directory: Path) -> Callable[[list[dict[str, Any]]], None]:
    """Writes the evaluated steps so far as ``history.jsonl``, whole or not at all."""
    from ontogeny.canonical import canonical_json

    def write(rows: list[dict[str, Any]]) -> None:
        temporary = directory / ".history.jsonl"
        temporary.write_text("".join(canonical_json(row) + "\n" for row in rows))
        temporary.replace(directory / "history.jsonl")

    return write


def clear_checkpoint(directory: Path) -> None:
    """A finished run needs no training state, nor what a killed writer left of one."""
    if (directory / "checkpoint").exists():
        shutil.rmtree(directory / "checkpoint")


@functools.lru_cache(maxsize=8)
def _donor_embedding(path: Path) -> Tensor:
    return next(iter(open_checkpoint(path).embeddings().values()))


def _embedding(run: Run, lab: Lab) -> Tensor:
    return _donor_embedding(lab.donors[own_donor_id(run)])
