"""Grow a standard model from a checkpoint's structure: shape, develop, write a Hugging Face directory with its card."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ontogeny import __version__
from ontogeny.canonical import digest, file_digest, plain
from ontogeny.errors import InputError
from ontogeny.files import clear_leftovers, place_folder, read_json, replacing, write_json
from ontogeny.genome.checkpoint import locate, open_checkpoint
from ontogeny.genome.extract import Recipe, extract, one_thread_each
from ontogeny.genome.genome import Genome, load
from ontogeny.lab.experiment import Rates
from ontogeny.lab.rates import START
from ontogeny.lab.run import outcome
from ontogeny.model.constrain import constrain, merge
from ontogeny.model.grow import Shape, budgeted, check_config, flops, grown_model, parameters, resized, shape_of
from ontogeny.model.initialise import fresh_model
from ontogeny.model.prune import compact, surviving
from ontogeny.training.batches import Batches, evaluation_windows
from ontogeny.training.develop import DevelopConfig, Development, develop, schedule
from ontogeny.training.references import reference_losses
from ontogeny.training.text import Tokens, end_token, load_tokenizer, read_corpus, tokenise
from ontogeny.training.train import TrainConfig, evaluation_loss

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
CHARACTERS_PER_TOKEN = 6  # an upper estimate, for how much of a text to read
EPOCHS = 4  # at most, over the text
CONFIG = "give a config.json of the donor's architecture"
REQUEST = "growth.json"  # what grows in a work folder
RANK = "50%"
LEAST_CHARACTERS = 4_000_000  # of a text, so that every split has documents
SMALL = 5_000_000  # parameters
WINDOWS = 128  # of the test split

Say = Callable[[str], None]


@dataclass(frozen=True)
class Growth:
    """What to grow, and how.

    ``donor``: a checkpoint (``revision``: of a hub id) or a genome file. ``budget``: ("params" or "flops", share), or
    the path of a configuration. ``rank``: the directions that a checkpoint's genome takes (``RANK``), all of which live
    at first; ``keep``: the share of them that lives in the end. ``overproduce``: steps for which a network of the
    donor's own size develops first, whose survivors are the genome that is grown (0: none).
    """

    donor: str
    budget: tuple[str, float] | Path
    text: tuple[str, ...]
    steps: int = 1000
    rank: str = ""
    keep: float = 0.5
    rates: Rates = START
    length: int = 128
    batch: int = 16
    seed: int = 0
    revision: str | None = None
    overproduce: int = 0


@dataclass(frozen=True)
class Parent:
    """Where a genome comes from: its configuration, provenance, the folder of its tokenizer, and how to read it."""

    config: Mapping[str, Any]
    source: Mapping[str, Any]
    folder: Path
    read: Callable[[], Genome]  # of a large checkpoint it takes minutes


def grow(growth: Growth, out: Path, say: Say = lambda line: None) -> dict[str, Any]:
    """Grow, develop and write a standard model directory to ``out``; returns the numbers of its card.

    Everything that can be wrong is told before the genome is read: the budget, the tokenizer, the text, the folder.
    What is under way lies in ``<out>.growing``, and the same call goes on from there; ``out`` appears whole or not at
    all.
    """
    out = out.absolute()
    for steps in (growth.overproduce or growth.steps, growth.steps):
        schedule(steps, keep=growth.keep).check(steps)
    with _work_folder(out) as work:
        numbers = _grow(growth, work, say)
        place_folder(work / "model", out)
    return numbers


def _grow(growth: Growth, work: Path, say: Say) -> dict[str, Any]:
    parent = open_parent(growth)
    target = target_config(growth, parent.config)
    tokens = _tokens(growth, parent, target, work)
    request = _request(work, growth, parent, target, tokens)
    whole = parent.read()
    write_json(work / REQUEST, request)
    windows = evaluation_windows(tokens.test, growth.length, WINDOWS)
    donor_loss = _donor_loss(parent, windows, work)
    survivors = _overproduced(growth, parent, whole, tokens, windows, work, say) if growth.overproduce else {}
    genome = surviving(whole, survivors) if survivors else whole
    config = target_config(growth, parent.config, genome)
    say(f"{_sizes(shape_of(parent.config))} → {_sizes(shape_of(config))}")
    model, grown = grown_model(genome, parent.config, config, seed=growth.seed)
    with _threads(config):
        rounds = schedule(growth.steps, keep=growth.keep)
        found = _develop(model, growth, rounds, tokens, windows, work / "checkpoint", say)
    numbers = _numbers(growth, parent, config, found, tokens, windows) | {
        "donor_loss": donor_loss,
        "genome": genome.provenance.get("recipe", {}),
        "overproduced": _shares(survivors),
        "drawn": grown.provenance["drawn"],
    }
    _write(merge(compact(model)), parent, numbers, work / "model")
    return numbers


def _overproduced(
    growth: Growth, parent: Parent, genome: Genome, tokens: Tokens, windows: Tensor, work: Path, say: Say
) -> dict[str, Tensor]:
    """Site -> which of the genome's directions survive in a network of the donor's own size that starts with them all.

    Layers compete, kinds of matrices don't: ranks become a profile over layers. The answer is kept in the work folder.
    """
    path = work / "survivors.json"
    if not path.exists():
        model = constrain(fresh_model(parent.config, growth.seed), genome)
        rounds, steps = schedule(growth.overproduce, keep=growth.keep, scope="role"), growth.overproduce

        def tell(line: str) -> None:
            say(f"overproduction, {line}")

        with _threads(parent.config):
            folder = work / "overproduction"
            found = _develop(model, replace(growth, steps=steps), rounds, tokens, windows, folder, tell)
        write_json(path, {name: alive.tolist() for name, alive in found.survivors.items()})
    return {name: torch.tensor(alive) for name, alive in read_json(path).items()}


def _shares(survivors: Mapping[str, Tensor]) -> dict[str, float]:
    """Layer -> the share of its directions that survived."""
    layers: dict[str, list[Tensor]] = {}
    for name, alive in survivors.items():
        layers.setdefault(name.split(".")[1], []).append(alive)
    return {layer: float(torch.cat(alive).double().mean()) for layer, alive in layers.items()}


def _threads(config: Mapping[str, Any]) -> AbstractContextManager[None]:
    """One for a small model: a second one gains little, and on a busy machine costs many times over."""
    return one_thread_each() if parameters(config) < SMALL else nullcontext()


def _develop(
    model: nn.Module, growth: Growth, rounds: DevelopConfig, tokens: Tokens, windows: Tensor, folder: Path, say: Say
) -> Development:
    """Train in a folder of the work folder; InputError, and no growth under way any more, where the model diverges."""

    def tell(rows: list[dict[str, Any]]) -> None:
        say(f"step {rows[-1]['step']:,}: test loss {rows[-1]['loss']:.3f} nats a token, {rows[-1]['seconds']:.0f} s")

    marks = tuple(dict.fromkeys(max(1, round(growth.steps * share)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)))
    found = develop(
        model,
        Batches(tokens.train, growth.length, growth.batch, growth.seed),
        TrainConfig(growth.steps, growth.rates.body, growth.rates.rest, marks),
        rounds,
        seed=growth.seed,
        evaluate=lambda model: {"loss": evaluation_loss(model, windows)},
        directory=folder,
        on_evaluation=tell,
    )
    if found.history.stop_reason == "non-finite":
        (folder.parent / REQUEST).unlink()  # other rates are another growth
        raise InputError(
            f"the model diverged after step {found.history.stopped_at}: give lower --rates; the call starts anew"
        )
    return found


def _numbers(
    growth: Growth, parent: Parent, config: Mapping[str, Any], found: Development, tokens: Tokens, windows: Tensor
) -> dict[str, Any]:
    """What the card tells of the donor, the model and its development."""
    vocabulary, survivors = int(parent.config["vocab_size"]), found.survivors.values()
    return {
        "donor": parent.source,
        "growth": plain(growth),
        "shape": asdict(shape_of(config)),
        "donor_shape": asdict(shape_of(parent.config)),
        "parameters": parameters(config),
        "donor_parameters": parameters(parent.config),
        "flops_per_token": flops(config, growth.length),
        "donor_flops_per_token": flops(parent.config, growth.length),
        "directions": sum(alive.numel() for alive in survivors),
        "directions_alive": sum(int(alive.sum()) for alive in survivors),
        "tokens": found.history.stopped_at * growth.batch * growth.length,
        "loss": found.history.losses[-1],
        "references": reference_losses(
            tokens.train, evaluation_windows(tokens.tune, growth.length, WINDOWS), windows, vocabulary
        )["test"],
        "curve": outcome(found.history)["losses"],
        "ontogeny": __version__,
    }


def open_parent(growth: Growth) -> Parent:
    """Where the genome comes from; a genome file names its checkpoint, whose tokenizer is needed.

    A genome file is read at once, a checkpoint's genome only when it is asked for.
    """
    path = Path(growth.donor)
    if os.path.isfile(growth.donor):
        genome = load(path)
        source: Mapping[str, Any] = {"id": "", "revision": None, "files": {}} | dict(genome.provenance["source"])
        if growth.rank:
            raise InputError(f"--rank {growth.rank}: a genome file has its ranks; give --rank with a checkpoint")
        if growth.revision:
            raise InputError(f"--revision {growth.revision}: a genome file names its own; give it with a hub id")
        if (basis := genome.provenance["recipe"].get("basis")) not in (None, "singular"):
            raise InputError(f"{path}: basis {basis}: no direction has a partner; extract with --basis singular")
        folder, config = Path(str(source["id"])), source.get("config")
        if source["revision"]:
            folder, _ = locate(str(source["id"]), source["revision"])
        if not isinstance(config, Mapping):
            raise InputError(
                f"{path}: its header holds no configuration of the donor; grow from the checkpoint instead"
            )
        read = partial(Genome, genome.genes, genome.provenance)
    else:
        checkpoint = open_checkpoint(growth.donor, revision=growth.revision)
        source, folder, config = checkpoint.source(), checkpoint.directory, checkpoint.config
        read = partial(extract, checkpoint, Recipe(rank=growth.rank or RANK, basis="singular"))
    if config.get("model_type") == "vit":
        raise InputError("expected a language model's structure, found a ViT's: growing trains on text")
    _check_tokenizer(folder)
    return Parent(config, source, folder, read)


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise InputError(
            f"{folder}/tokenizer.json: no such file; the grown model takes the donor's tokenizer, in that format"
        )


def target_config(growth: Growth, donor: Mapping[str, Any], genome: Genome | None = None) -> dict[str, Any]:
    """The configuration to grow: the one given, or within a budget; without the genome to see whether there is one."""
    if isinstance(growth.budget, Path):
        if not growth.budget.is_file():
            raise InputError(f"--config {growth.budget}: no such file; {CONFIG}")
        config = dict(donor) | read_json(growth.budget, CONFIG)
        check_config(donor, config)
        config = resized(config, shape_of(config))
    else:
        kind, share = growth.budget
        cost = parameters if kind == "params" else partial(flops, length=growth.length)
        config = budgeted(donor, share, cost, genome)
    parameters(config)  # transformers refuses what it can't build
    return config


def _sizes(shape: Shape) -> str:
    return f"{shape.layers} layers of width {shape.width}, {shape.heads} heads ({shape.groups} groups), FFN {shape.ffn}"


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Where what is under way lies, held by this process alone; gone once the growth is whole, or was refused.

    InputError for an ``out`` that could not be written in the end, and for a folder that isn't ours.
    """
    if out.is_symlink() or out.is_mount() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise InputError(f"--out {out}: exists and isn't an empty folder; give another, or move it aside")
    work = out.with_name(f"{out.name}.growing")
    try:
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()) and not (work / "lock").exists():
            raise InputError(f"{work}: exists and holds no growth; move it aside, what is under way is kept there")
        with FileLock(work / "lock", timeout=0):
            try:
                clear_leftovers(work.rglob(".*"))
                yield work
            except InputError:
                if not (work / REQUEST).exists():
                    shutil.rmtree(work)
                raise
            shutil.rmtree(work)
    except Timeout:
        raise InputError(f"{work}: another process grows there; wait for it, or give another --out") from None
    except PermissionError as error:
        raise InputError(f"--out {out}: can't be written ({error}); give a folder of your own") from None


def _tokens(growth: Growth, parent: Parent, config: Mapping[str, Any], work: Path) -> Tokens:
    """The text as the donor's tokens; InputError for a text too small for the steps."""
    readers = (config, parent.config) if growth.overproduce else (config,)
    positions = min(one.get("max_position_embeddings") or one.get("n_positions") or growth.length for one in readers)
    if growth.length > positions:
        raise InputError(f"--length {growth.length}: the model reads {positions} tokens at most")
    tokenizer = load_tokenizer(parent.folder)
    steps = max(growth.steps, growth.overproduce)  # two networks, which read the same text
    needed = steps * growth.batch * growth.length * CHARACTERS_PER_TOKEN
    corpus = read_corpus(growth.text, max_characters=max(needed, LEAST_CHARACTERS))
    tokens = tokenise(corpus, tokenizer, end_token(tokenizer, parent.folder), work / "tokens")
    if tokens.vocabulary > int(config["vocab_size"]):
        raise InputError(
            f"the donor's tokenizer has {tokens.vocabulary} tokens, the model {config['vocab_size']}: they don't "
            "belong together"
        )
    Batches(tokens.train, growth.length, growth.batch, growth.seed).check_budget(steps, EPOCHS)
    for part in (tokens.tune, tokens.test):
        evaluation_windows(part, growth.length, WINDOWS)
    return tokens


def _request(work: Path, growth: Growth, parent: Parent, config: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    """What grows here; another growth's work is not gone on with, whatever its files are called."""
    genome = file_digest(Path(growth.donor)) if os.path.isfile(growth.donor) else parent.source["files"]
    request = {"id": digest([plain(growth), config, tokens.digest, genome, __version__])}
    path = work / REQUEST
    if path.exists() and read_json(path) != request:
        raise InputError(f"{work}: another growth is under way there; repeat its call, or delete the folder")
    return request


def _donor_loss(parent: Parent, windows: Tensor, work: Path) -> float | None:
    """The donor's own loss on the test windows, measured once; None where its weights aren't here, or others are."""
    path = work / "donor.json"
    if not path.exists():
        write_json(path, {"loss": _measured(parent, windows)})
    loss: float | None = read_json(path)["loss"]
    return loss


def _measured(parent: Parent, windows: Tensor) -> float | None:
    files = parent.source["files"]
    if not files or any(not (parent.folder / name).is_file() for name in files):
        return None
    if any(file_digest(parent.folder / name) != sha256 for name, sha256 in files.items()):
        return None
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    donor = AutoModelForCausalLM.from_pretrained(parent.folder, use_safetensors=True, trust_remote_code=False)
    return evaluation_loss(donor.float(), windows, 16)


def _write(model: nn.Module, parent: Parent, numbers: Mapping[str, Any], folder: Path) -> None:
    """A standard directory: configuration, weights, tokenizer, generation configuration, card, and the numbers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (parent.folder / name).is_file():
            shutil.copyfile(parent.folder / name, folder / name)
    if (own := folder / "tokenizer_config.json").is_file():  # names of code that isn't here
        write_json(own, {key: value for key, value in read_json(own).items() if key != "auto_map"})
    model.eval().save_pretrained(folder)  # type: ignore[operator]
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors writes 0600
    if (parent.folder / "generation_config.json").is_file():
        shutil.copyfile(parent.folder / "generation_config.json", folder / "generation_config.json")
    with replacing(folder / "growth.json") as temporary:
        temporary.write_text(json.dumps(plain(numbers), indent=1))
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(card(numbers), encoding="utf-8")


def card(numbers: Mapping[str, Any]) -> str:
    """The model card."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ontogeny.lab.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template("card.md.j2").render(**numbers)
