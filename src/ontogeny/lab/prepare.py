"""From what the user asked for to a plan: text to tokens, donors to ids, settings to a declared experiment."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ontogeny.errors import InputError
from ontogeny.lab.conduct import Plan
from ontogeny.lab.donors import DonorRecipe, given_donor, write_tokenizer
from ontogeny.lab.experiment import Experiment, Rates, Setting
from ontogeny.lab.experiments import convergence
from ontogeny.lab.run import Lab, rank_count
from ontogeny.lab.scales import Scale
from ontogeny.lab.store import Store
from ontogeny.training.text import end_token, load_tokenizer, read_corpus, tokenise, train_tokenizer

Declare = Callable[..., Experiment]

EXPERIMENTS: dict[str, Declare] = {"convergence": convergence.declare}
CHARACTERS_PER_TOKEN = 6  # an upper estimate, for how much of a streamed text to read


def find_experiment(name: str) -> Declare:
    """An experiment of the table, or the ``declare`` of a Python file of the user's own."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
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
    given = [given_donor(source) for source in donors]
    if len({identity for identity, _, _ in given}) < len(given):
        raise InputError("--donor: the same weights were given twice; donors must differ")
    sources = tuple(text) or (scale.text,)
    corpus = read_corpus(sources, max_characters=_characters(scale))
    tokenizer = load_tokenizer(given[0][1]) if given else train_tokenizer(corpus, scale.vocabulary)
    tokens = tokenise(corpus, tokenizer, end_token(tokenizer, given[0][1] if given else None), store.root / "tokens")
    model = _donor_model(given[0][2].config, scale, tokens.vocabulary) if given else scale.model(tokens.vocabulary)
    setting = Setting(
        model=model,
        tokens=tokens.digest,
        donors=(),
        rank=scale.rank,
        length=scale.length,
        batch=scale.batch,
        steps=scale.steps,
        evaluate_at=scale.evaluate_at,
        windows=scale.windows,
        precision=scale.precision,
    )
    recipes = () if given else tuple(_recipe(scale, model, tokens.digest, index) for index in range(scale.donors))
    ids = tuple(one[0] for one in given) or tuple(recipe.id for recipe in recipes)
    setting = replace(setting, donors=ids)
    for _, _, checkpoint in given:
        for site in checkpoint.sites:
            rank_count(setting, min(site.shape))
    paths = {one[0]: one[1] for one in given} or {recipe.id: store.root / "donors" / recipe.id for recipe in recipes}
    for recipe in recipes:
        paths[recipe.id].mkdir(parents=True, exist_ok=True)
        write_tokenizer(paths[recipe.id], tokenizer.to_str())
    experiment = declare(
        scale=scale.name,
        decisive=scale.decisive,
        setting=setting,
        replicates=scale.replicates,
        text={
            "source": corpus.source,
            "sha256": corpus.digest,
            "characters": sum(map(len, corpus.documents)),
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


def _recipe(scale: Scale, model: Mapping[str, Any], tokens: str, index: int) -> DonorRecipe:
    return DonorRecipe(
        model, tokens, scale.length, scale.batch, scale.donor_steps, scale.donor_rates, index + 1, scale.precision
    )


def _characters(scale: Scale) -> int:
    """How much of a text is read: enough for one epoch of an arm and two of a donor, the splits counted."""
    steps = max(scale.steps, scale.donor_steps / 2)
    return round(steps * scale.batch * scale.length * CHARACTERS_PER_TOKEN / 0.9)


def _given_record(donor: str, path: Path, checkpoint: Any) -> dict[str, Any]:
    source = checkpoint.source()
    return {"id": donor, "name": source["id"], "revision": source["revision"], "sha256": source["files"]}


def _donor_model(config: Mapping[str, Any], scale: Scale, vocabulary: int) -> dict[str, Any]:
    """The arms' configuration: the donor's own."""
    positions = config.get("max_position_embeddings") or config.get("n_positions") or scale.length
    if positions < scale.length:
        raise InputError(f"the donor reads {positions} tokens at most; give --set length={positions} or less")
    if config.get("vocab_size", 0) < vocabulary:
        raise InputError(
            f"the donor's tokenizer has {vocabulary} tokens, its embeddings {config.get('vocab_size')}: "
            "they don't belong together"
        )
    return dict(config)
