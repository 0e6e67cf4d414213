"""From what the user asked for to a plan: text to tokens, donors to ids, settings to a declared experiment."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.extract import rank_of
from ontogeny.lab.conduct import Plan
from ontogeny.lab.donors import DonorRecipe, given_donor, write_tokenizer
from ontogeny.lab.experiment import Experiment, Rates, Setting
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.run import Lab
from ontogeny.lab.scales import Scale
from ontogeny.lab.store import Store
from ontogeny.training.batches import Batches, evaluation_windows
from ontogeny.training.text import end_token, load_tokenizer, read_corpus, tokenise, train_tokenizer

Declare = Callable[..., Experiment]

CHARACTERS_PER_TOKEN = 6  # an upper estimate, for how much of a text to read
LEAST_CHARACTERS = 1_000_000  # so that the tune and test splits hold several documents


def find_experiment(name: str) -> Declare:
    """An experiment of the table, or the ``declare`` of a Python file of the user's own."""
    if name in EXPERIMENTS:
        known: Declare = EXPERIMENTS[name].declare
        return known
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        module_name = f"ontogeny_experiment_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's own code raises
            raise InputError(f"{name}: can't be loaded, {type(error).__name__}: {error}") from error
        if not hasattr(module, "declare"):
            raise InputError(f"{name}: no function 'declare' in it; docs/how-to-add-an-experiment.md shows one")
        declare: Declare = module.declare
        return declare
    raise InputError(
        f"no experiment {name!r}: known are {', '.join(EXPERIMENTS)}, or give a Python file with 'declare'"
    )


def prepare(
    name: str,
    scale: Scale,
    store: Store,
    *,
    donors: Sequence[str] = (),
    text: Sequence[str] = (),
    table: str = "primary",
    rates: Mapping[str, Mapping[str, Rates]] | None = None,
) -> Plan:
    """Read the text, tokenise it once, name the donors, and declare the experiment in the store.

    Raises InputError for everything that would go wrong later: an unknown experiment or text, a text too small for
    the steps, a rank that the donor's sites can't have.
    """
    declare = find_experiment(name)
    given = _given(donors or scale.hub_donors)
    _check_rank(scale, given)
    corpus = read_corpus(tuple(text) or (scale.text,), max_characters=_characters(scale))
    tokenizer = load_tokenizer(given[0][1]) if given else train_tokenizer(corpus, scale.vocabulary)
    tokens = tokenise(corpus, tokenizer, end_token(tokenizer, given[0][1] if given else None), store.root / "tokens")
    model = _donor_model(given[0][2], scale, tokens.vocabulary) if given else scale.model(tokens.vocabulary)
    recipes = () if given else tuple(_recipe(scale, model, tokens.digest, index) for index in range(scale.donors))
    ids = tuple(one[0] for one in given) or tuple(recipe.id for recipe in recipes)
    setting = _setting(scale, model, tokens.digest, ids)
    for arm_or_donor, steps, epochs in (
        ("an arm", scale.steps, 1),
        ("a donor", scale.donor_steps if recipes else 0, 2),
    ):
        _check_text(Batches(tokens.train, scale.length, scale.batch, 0), arm_or_donor, steps, epochs)
    for part in (tokens.tune, tokens.test):
        evaluation_windows(part, scale.length, scale.windows)
    paths = {one[0]: one[1] for one in given} or {recipe.id: store.root / "donors" / recipe.id for recipe in recipes}
    for recipe in recipes:
        paths[recipe.id].mkdir(parents=True, exist_ok=True)
        write_tokenizer(paths[recipe.id], tokenizer.to_str())
    characters = sum(map(len, corpus.documents))
    experiment = declare(
        scale=scale.name,
        decisive=scale.decisive,
        setting=setting,
        replicates=scale.replicates,
        text={
            "source": corpus.source,
            "sha256": corpus.digest,
            "characters": characters,
            "train_tokens": len(tokens.train),
        },
        donor_records=tuple(_given_record(*one) for one in given) or tuple(asdict(recipe) for recipe in recipes),
        given=bool(given),
        table=table,
        audit=scale.audit,
        rates=rates,
    )
    store.declare(asdict(experiment))
    return Plan(experiment, Lab(store, paths), recipes)


def outline(
    name: str,
    scale: Scale,
    donors: Sequence[str],
    table: str,
    rates: Mapping[str, Mapping[str, Rates]] | None = None,
) -> Experiment:
    """The experiment as ``prepare`` would declare it, without reading a text or writing a store: for its costs."""
    given = _given(donors)
    _check_rank(scale, given)
    model = _donor_model(given[0][2], scale, 0) if given else scale.model(scale.vocabulary)
    ids = tuple(one[0] for one in given) or tuple(f"donor-{index + 1}" for index in range(scale.donors))
    return find_experiment(name)(
        scale=scale.name,
        decisive=scale.decisive,
        setting=_setting(scale, model, "", ids),
        replicates=scale.replicates,
        text={},
        donor_records=(),
        given=bool(given),
        table=table,
        audit=scale.audit,
        rates=rates,
    )


def _check_rank(scale: Scale, given: Sequence[tuple[str, Path, Checkpoint]]) -> None:
    for short in {min(site.shape) for *_, donor in given for site in donor.sites} or {min(scale.width, scale.ffn)}:
        rank_of(scale.rank, short)


def _given(donors: Sequence[str]) -> list[tuple[str, Path, Checkpoint]]:
    given = [given_donor(source) for source in donors]
    if len({identity for identity, _, _ in given}) < len(given):
        raise InputError("--donor: the same weights were given twice; donors must differ")
    for _, _, donor in given[1:]:
        first = given[0][2]
        if donor.sites != first.sites or donor.config.get("vocab_size") != first.config.get("vocab_size"):
            raise InputError(
                f"--donor {donor.name}: not of {first.name}'s shape and vocabulary; donors must share both"
            )
    return given


def _setting(scale: Scale, model: Mapping[str, Any], tokens: str, donors: tuple[str, ...]) -> Setting:
    shared = {name: getattr(scale, name) for name in ("rank", "length", "batch", "steps", "evaluate_at", "windows")}
    return Setting(model=model, tokens=tokens, donors=donors, precision=scale.precision, **shared)


def _check_text(batches: Batches, whose: str, steps: int, epochs: int) -> None:
    try:
        batches.check_budget(steps, epochs)
    except InputError as error:
        raise InputError(f"{whose} would need more text: {error}") from None


def _recipe(scale: Scale, model: Mapping[str, Any], tokens: str, index: int) -> DonorRecipe:
    return DonorRecipe(
        model=model,
        tokens=tokens,
        length=scale.length,
        batch=scale.batch,
        steps=scale.donor_steps,
        rates=scale.donor_rates,
        windows=scale.windows,
        index=index + 1,
        precision=scale.precision,
    )


def _characters(scale: Scale) -> int:
    """How much of a text is read: enough for one epoch of an arm and two of a donor, the splits counted."""
    steps = max(scale.steps, scale.donor_steps / 2)
    return max(LEAST_CHARACTERS, round(steps * scale.batch * scale.length * CHARACTERS_PER_TOKEN / 0.9))


def _given_record(donor: str, path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    source = checkpoint.source()
    return {"id": donor, "name": source["id"], "revision": source["revision"], "sha256": source["files"]}


def _donor_model(donor: Checkpoint, scale: Scale, vocabulary: int) -> dict[str, Any]:
    """The arms' configuration: the donor's own."""
    config = donor.config
    positions = config.get("max_position_embeddings") or config.get("n_positions") or scale.length
    if positions < scale.length:
        raise InputError(f"the donor reads {positions} tokens at most; give --set length={positions} or less")
    if config.get("vocab_size", 0) < vocabulary:
        raise InputError(
            f"the donor's tokenizer has {vocabulary} tokens, its embeddings {config.get('vocab_size')}: "
            "they don't belong together"
        )
    return dict(config)
