"""Donors trained on the spot, and the user's own: train or open, check the gate, keep the record."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import filling, read_json, replacing
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.lab.experiment import Experiment, Rates, Setting
from ontogeny.lab.networks import Lab
from ontogeny.lab.run import (
    clear_checkpoint,
    describe_cost,
    host,
    outcome,
)
from ontogeny.lab.store import RESULT, begin, claim, finish
from ontogeny.lab.tasks import TextSetting, run_tokens, scoring_windows, text_references
from ontogeny.lab.tracking import telling
from ontogeny.model.initialise import fresh_model
from ontogeny.streams import stream_seed
from ontogeny.training import together
from ontogeny.training.batches import Batches
from ontogeny.training.train import History, TrainConfig, evaluation_loss, train

GATE = 0.3  # nats a donor must beat its bigram by


@dataclass(frozen=True)
class DonorRecipe:
    """What a donor trained on the spot is made from; ``index`` fixes its initialisation and data order."""

    model: Mapping[str, Any]
    tokens: str
    length: int
    batch: int
    steps: int
    rates: Rates
    windows: int
    index: int
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def id(self) -> str:
        return digest(asdict(self))[:16]


def train_donor(recipe: DonorRecipe, lab: Lab) -> dict[str, Any]:
    """Train one donor, save it as a Hugging Face directory in the store, and record its losses. Reads a stored one."""
    directory = lab.store.root / "donors" / recipe.id
    with claim(directory):
        if (directory / RESULT).exists():
            return read_json(directory / RESULT)
        begin(directory, {"recipe": asdict(recipe), "host": host()})
        model, history = together.call(fit_donor, recipe, lab)
        if history.stop_reason == "non-finite":
            raise InputError(f"donor {recipe.index} diverged after step {history.stopped_at}: lower donor_rates")
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        with filling(directory) as temporary:
            model.save_pretrained(temporary)
        record = _record(recipe.id, history.losses[-1], recipe, lab) | {"index": recipe.index}
        result = record | outcome(history) | describe_cost(model, history, recipe.batch, recipe.length)
        result |= {"recipe": asdict(recipe), "host": host()}
        result = finish(directory, result)
        clear_checkpoint(directory)
    return result


def fit_donor(recipe: DonorRecipe, lab: Lab) -> tuple[nn.Module, History]:
    """A fresh network of the recipe, trained."""
    tokens = run_tokens(recipe, lab.store)
    seed = stream_seed(recipe.index, "donor")
    model = fresh_model(recipe.model, seed)
    batches = Batches(tokens.train, recipe.length, recipe.batch, seed)
    batches.check_budget(recipe.steps, max_epochs=2)
    windows = scoring_windows(recipe, tokens, "test")
    marks = tuple(round(recipe.steps * share) for share in (0.1, 0.25, 0.5, 0.75, 1))
    config = TrainConfig(recipe.steps, recipe.rates.body, recipe.rates.rest, marks, precision=recipe.precision)
    directory = lab.store.root / "donors" / recipe.id
    with telling(directory, f"donor {recipe.id}", config, lab) as tell:
        history = train(
            model,
            batches,
            config,
            evaluate=lambda model: {"loss": evaluation_loss(model, windows)},
            directory=directory / "checkpoint",
            on_evaluation=tell,
        )
    return model, history


def audit_donor(donor: str, setting: Setting, lab: Lab) -> dict[str, Any]:
    """Measure a given checkpoint's own loss on this text, beside the references; stored once."""
    directory = lab.store.root / "donors" / audit_folder(donor, setting)
    with claim(directory):
        if not (directory / RESULT).exists():
            from transformers import AutoModelForCausalLM

            begin(directory, {"donor": donor, "tokens": setting.tokens})
            path = lab.donors[donor]
            model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
            loss = evaluation_loss(model.float(), scoring_windows(setting, run_tokens(setting, lab.store), "test"))
            if not math.isfinite(loss):
                raise InputError(f"donor {path}: its loss on this text is {loss}; the checkpoint is damaged")
            finish(directory, _record(donor, loss, setting, lab) | {"folder": directory.name})
    return read_json(directory / RESULT)


def audit_folder(donor: str, setting: Setting) -> str:
    """Where the store keeps a given checkpoint's audit: it depends on what it was measured on."""
    return f"{donor}-{digest([setting.tokens, setting.length, setting.windows])[:8]}"


def _record(donor: str, loss: float, setting: TextSetting, lab: Lab) -> dict[str, Any]:
    references = text_references(setting, lab.store)["test"]
    return {
        "kind": "donor",
        "id": donor,
        "replicate": 0,
        "loss": loss,
        "references": references,
        "passed_gate": bool(math.isfinite(loss) and loss <= references["bigram"] - GATE),
    }


def learnt_nothing(donor: Mapping[str, Any]) -> bool:
    """Whether a donor's stored loss isn't below its unigram's: it knows no more than how frequent tokens are."""
    return not donor["loss"] < donor["references"]["unigram"]


def donor_name(donor: Mapping[str, Any], experiment: Experiment) -> str:
    """What a stored donor is called: as the user named it, or by its number."""
    names: dict[str, str] = {r["id"]: r["name"] for r in experiment.donor_records if "name" in r}
    return names.get(donor["id"], f"donor {donor.get('index')}")


def warning(donor: Mapping[str, Any], experiment: Experiment) -> str:
    """One line on a donor that has learnt nothing."""
    loss, unigram = donor["loss"], donor["references"]["unigram"]
    advice = "more --set donor_steps=…" if "recipe" in donor else "give a donor trained on such text, or other --text"
    told = f"its loss {loss:.2f} is not below the unigram's {unigram:.2f}: it has learnt nothing"
    return f"{donor_name(donor, experiment)}: {told}; {advice}"


def given_donor(source: str) -> tuple[str, Path, Checkpoint]:
    """A user's checkpoint as a donor: its id (over the sha256 of its weights), where it lies, and the checkpoint.

    The checkpoint goes by the name that the user gave it, the revision included.
    """
    checkpoint = replace(open_checkpoint(source), name=source)
    if checkpoint.config["model_type"] == "vit":
        raise InputError(f"{source}: a vision model can't be trained on text; give a language model's checkpoint")
    checkpoint.embeddings()
    checkpoint.check()  # damaged weights are found before any training
    return digest(checkpoint.source()["files"])[:16], checkpoint.directory, checkpoint


def write_tokenizer(directory: Path, text: str) -> None:
    """Put a tokenizer beside a donor, so that its directory is a complete Hugging Face model."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    for name, content in (("tokenizer.json", text), ("tokenizer_config.json", json.dumps(settings))):
        if not (directory / name).exists():
            with replacing(directory / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
