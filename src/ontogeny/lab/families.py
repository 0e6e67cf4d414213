"""One donor family: its text and tokens, its donors, and the setting that its arms run in."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import making
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.extract import rank_of
from ontogeny.lab.donors import DonorRecipe, given_donor, write_tokenizer
from ontogeny.lab.experiment import Setting, Vision
from ontogeny.lab.scales import Scale, Variant
from ontogeny.lab.store import Store
from ontogeny.model.grow import budgeted, fewer_units, parameters
from ontogeny.training.batches import Batches, evaluation_windows
from ontogeny.training.text import (
    Corpus,
    Tokens,
    end_token,
    load_tokenizer,
    read_corpus,
    shuffled,
    tokenise,
    train_tokenizer,
)

Given = Sequence[tuple[str, Path, Checkpoint]]  # id, directory, checkpoint

CHARACTERS_PER_TOKEN = 6  # an upper estimate, for how much of a text to read
LEAST_CHARACTERS = 1_000_000  # so that the tune and test splits hold several documents


@dataclass(frozen=True)
class Family:
    """A family ready to run. ``recipes``: donors to train; none where checkpoints were given."""

    setting: Setting
    text: Mapping[str, Any]
    recipes: tuple[DonorRecipe, ...]
    records: tuple[Mapping[str, Any], ...]
    paths: Mapping[str, Path]


def make_family(variant: Variant, given: Given, store: Store) -> Family:
    """Read the text and tokenise it once, name the donors, and check that everything fits.

    Raises InputError for an unknown text or images, a text too small for the steps, and a rank that the donor's sites
    can't have.
    """
    scale = variant.scale
    check_rank(scale, given)
    tokens, tokenizer, text = _tokens(variant, given, store)
    model = _donor_model(given[0][2], scale, tokens.vocabulary) if given else scale.model(tokens.vocabulary)
    numbers = range(0 if given else scale.donors)
    recipes = tuple(donor_recipe(scale, model, tokens.digest, variant.first_donor - 1 + number) for number in numbers)
    ids = tuple(one[0] for one in given) or tuple(recipe.id for recipe in recipes)
    setting = make_setting(variant, model, tokens.digest, ids, _vision(scale, store))
    learnt = tokens
    if variant.learnt or variant.shuffled:
        learnt, text = _learnt(variant, given, tokenizer, store)
        setting = replace(setting, tokens=learnt.digest, earlier=tokens.digest if variant.earlier else "")
    _check_tokens(variant, tokens, learnt, setting, trained=bool(recipes))
    paths = {one[0]: one[1] for one in given} or {recipe.id: store.root / "donors" / recipe.id for recipe in recipes}
    for recipe in recipes:
        paths[recipe.id].mkdir(parents=True, exist_ok=True)
        write_tokenizer(paths[recipe.id], tokenizer.to_str())
    records = tuple(_given_record(*one) for one in given) or tuple(asdict(recipe) for recipe in recipes)
    return Family(setting, text, recipes, records, paths)


def outline_family(variant: Variant, given: Given) -> Setting:
    """The setting as ``make_family`` would make it, without reading a text or images: for its costs."""
    scale = variant.scale
    check_rank(scale, given)
    model = _donor_model(given[0][2], scale, 0) if given else scale.model(scale.vocabulary)
    ids = tuple(one[0] for one in given) or tuple(f"donor-{index + 1}" for index in range(scale.donors))
    side, channels = (8, 1) if scale.images == "digits" else (32, 3)
    patch = scale.patch or side // 8
    vision = Vision("", side, channels, 10, patch, scale.attention) if scale.images else None
    learnt = ", ".join(variant.learnt) + ", words shuffled" * variant.shuffled  # in place of the tokens' id
    return make_setting(variant, model, learnt, ids, vision)


def make_setting(
    variant: Variant, model: Mapping[str, Any], tokens: str, donors: tuple[str, ...], vision: Vision | None = None
) -> Setting:
    """What the arms of a variant share, for these tokens and donors."""
    scale = variant.scale
    names = ("rank", "length", "batch", "steps", "evaluate_at", "windows", "precision", "horizons", "tuning_horizon")
    shared = {name: getattr(scale, name) for name in (*names, "optimizer")}
    smaller = budgeted(model, variant.budget, parameters) if variant.budget else model
    smaller = fewer_units(smaller, variant.units) if variant.units else smaller
    shared |= {name: getattr(variant, name) for name in ("skip", "repeats", "kept", "probed", "activity")}
    shared |= {"grown": smaller is not model}
    setting = Setting(model=smaller, tokens=tokens, donors=donors, **shared)
    return replace(setting, vision=vision, batch=scale.image_batch, windows=scale.test_images) if vision else setting


def read_given(donors: Sequence[str]) -> list[tuple[str, Path, Checkpoint]]:
    """The user's checkpoints; InputError where two are the same, or differ in shape or vocabulary."""
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


def check_rank(scale: Scale, given: Given) -> None:
    """InputError for a rank that some site can't have."""
    for short in {min(site.shape) for *_, donor in given for site in donor.sites} or {min(scale.width, scale.ffn)}:
        rank_of(scale.rank, short)


def _tokens(variant: Variant, given: Given, store: Store) -> tuple[Tokens, Tokenizer, dict[str, Any]]:
    scale = variant.scale
    corpus = _corpus(variant.text or (scale.text,), variant, store)
    if given:
        tokenizer = load_tokenizer(given[0][1])
    else:
        learnt = variant.tokenizer_text
        of = _corpus(learnt, variant, store) if learnt else corpus
        tokenizer = _tokenizer(of, scale.vocabulary, store)
    tokens, described = _tokenised(corpus, tokenizer, given, store)
    return tokens, tokenizer, described


def _corpus(sources: Sequence[str], variant: Variant, store: Store) -> Corpus:
    return read_corpus(sources, max_characters=characters(variant), keep=store.root / "tokens")


def _tokenizer(corpus: Corpus, vocabulary: int, store: Store) -> Tokenizer:
    """The tokenizer of a corpus, trained once a store."""
    path = store.root / "tokens" / f"{digest([corpus.digest, vocabulary])}.tokenizer.json"
    with making(path) as temporary:
        if temporary:
            train_tokenizer(corpus, vocabulary).save(str(temporary))
    return Tokenizer.from_file(str(path))


def _learnt(variant: Variant, given: Given, tokenizer: Tokenizer, store: Store) -> tuple[Tokens, dict[str, Any]]:
    """What arms learn where it isn't the donors' text, in the donors' tokens."""
    sources = variant.learnt or variant.text or (variant.scale.text,)
    corpus = _corpus(sources, variant, store)
    return _tokenised(shuffled(corpus) if variant.shuffled else corpus, tokenizer, given, store)


def _tokenised(corpus: Corpus, tokenizer: Tokenizer, given: Given, store: Store) -> tuple[Tokens, dict[str, Any]]:
    tokens = tokenise(corpus, tokenizer, end_token(tokenizer, given[0][1] if given else None), store.root / "tokens")
    characters = sum(map(len, corpus.documents))
    described = {"source": corpus.source, "sha256": corpus.digest, "characters": characters}
    return tokens, described | {"train_tokens": len(tokens.train)}


def _check_tokens(variant: Variant, tokens: Tokens, learnt: Tokens, setting: Setting, *, trained: bool) -> None:
    """``tokens`` are the donors', ``learnt`` the arms'."""
    scale = variant.scale
    for whose, read, steps, epochs in (
        ("an arm", learnt, 0 if setting.vision else setting.skip + scale.steps, 1),
        ("a donor", tokens, scale.donor_steps if trained else 0, 2),
    ):
        try:
            Batches(read.train, scale.length, scale.batch, 0).check_budget(steps, epochs)
        except InputError as error:
            raise InputError(f"{whose} would need more text: {error}") from None
    for part in (tokens.tune, tokens.test, learnt.tune, learnt.test):
        evaluation_windows(part, scale.length, scale.windows)


def _vision(scale: Scale, store: Store) -> Vision | None:
    if not scale.images:
        return None
    from ontogeny.training.images import read_images

    images = read_images(scale.images, store.root / "images")
    _, side, _, channels = images.train.pixels.shape
    patch = scale.patch or max(1, side // 8)
    if side % patch:
        raise InputError(f"patch {patch}: expected a divisor of the images' {side} pixels; --set patch")
    return Vision(images.digest, side, channels, images.classes, patch, scale.attention)


def donor_recipe(scale: Scale, model: Mapping[str, Any], tokens: str, index: int) -> DonorRecipe:
    """The recipe of one donor of a family; ``index`` from 0."""
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


def characters(variant: Variant) -> int:
    """How much of a text is read: enough for one epoch of an arm, two of a donor, and the windows of the test split.

    Where donors are published (``hub_donors``) none is trained; elsewhere a given one's arms read what they would read
    beside trained ones.
    """
    scale = variant.scale
    donor_steps = 0 if scale.hub_donors else scale.donor_steps
    steps = max(0 if scale.images else variant.skip + scale.steps + variant.ahead, donor_steps / 2)
    trained = steps * scale.batch * scale.length * CHARACTERS_PER_TOKEN / 0.9
    return max(LEAST_CHARACTERS, round(trained), round(scale.windows * scale.length * CHARACTERS_PER_TOKEN / 0.05))


def _given_record(donor: str, path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    source = checkpoint.source()
    return {"id": donor, "name": checkpoint.name, "revision": source["revision"], "sha256": source["files"]}


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
