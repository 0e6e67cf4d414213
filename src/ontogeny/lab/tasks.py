"""What an arm learns: text or images, as batches, a loss, an evaluation, and the references beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import making, read_json, write_json
from ontogeny.lab.experiment import Run, Setting, Vision
from ontogeny.lab.probe import Probe
from ontogeny.lab.store import Store
from ontogeny.model.fast import next_token_loss
from ontogeny.model.topk import busy_share
from ontogeny.streams import numpy_stream, stream_seed
from ontogeny.training.batches import Batches, evaluation_windows
from ontogeny.training.references import reference_losses
from ontogeny.training.text import Tokens, open_tokens
from ontogeny.training.train import evaluation_loss

BUSY_WINDOWS = 32  # evaluation windows on which units are watched


@runtime_checkable
class TextSetting(Protocol):
    """What an evaluation on text depends on; settings and donor recipes have it."""

    @property
    def model(self) -> Mapping[str, Any]: ...
    @property
    def tokens(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def windows(self) -> int: ...


@dataclass(frozen=True)
class Task:
    """``length``: tokens or patches a sequence; ``references``: the measure's value for models that learn little."""

    batches: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    references: Mapping[str, float]
    length: int


def make_task(run: Run, store: Store) -> Task:
    """The task of a run: its data stream, and the split that it is scored on."""
    seed = replicate_seed(run.replicate)
    return _images(run, run.setting.vision, store, seed) if run.setting.vision else _text(run, store, seed)


def replicate_seed(replicate: int) -> int:
    """The seed of a replicate's streams (initialisation, data order, control draws)."""
    return stream_seed(replicate, "replicate")


def _text(run: Run, store: Store, seed: int) -> Task:
    setting = run.setting
    tokens = run_tokens(setting, store)
    often, start = setting.repeats, text_start(setting, tokens, run.replicate)
    batches = Batches(tokens.train[start : start + _read(setting, tokens)], setting.length, setting.batch, seed)
    batches.check_budget(setting.skip + setting.steps, max_epochs=1 if often == 1 else often + 1)
    return Task(
        batches=lambda step: batches(setting.skip + step),
        loss=next_token_loss,
        evaluate=_evaluation(run, tokens, store),
        references=text_references(setting, store, run.replicate)[run.split],
        length=setting.length,
    )


def _evaluation(run: Run, tokens: Tokens, store: Store) -> Callable[[nn.Module], dict[str, float]]:
    """The loss on a split's windows; of evaluated runs also whatever else the setting asks for."""
    setting = run.setting
    windows = {"loss": scoring_windows(setting, tokens, run.split)}
    if run.split == "tune":
        return lambda model: {"loss": evaluation_loss(model, windows["loss"])}
    if setting.earlier:
        windows["earlier"] = scoring_windows(setting, open_stored(setting.earlier, store), run.split)
    if setting.probed:
        windows["seen"] = evaluation_windows(tokens.train, setting.length, setting.windows)
    probe = Probe(tokens, setting.length, run.split) if setting.probed else None

    def evaluate(model: nn.Module) -> dict[str, float]:
        losses = {name: evaluation_loss(model, found) for name, found in windows.items()}
        losses |= probe(model) if probe else {}
        return losses | ({"busy": busy_share(model, windows["loss"][:BUSY_WINDOWS, :-1])} if setting.activity else {})

    return evaluate


def _images(run: Run, vision: Vision, store: Store, seed: int) -> Task:
    from ontogeny.model.vision import classification_loss, evaluate_images
    from ontogeny.training.images import ImageBatches, evaluation_images, image_references, open_images

    images = open_images(store.root / "images", vision.images)
    if images is None:
        raise InputError(f"{store.root}/images/{vision.images} is missing or damaged: rerun to make it again")
    scored = {split: evaluation_images(images, split, run.setting.windows) for split in ("tune", "test")}
    path = store.root / "images" / f"references-{digest([vision.images, run.setting.windows])[:16]}.json"
    with making(path) as temporary:
        if temporary:
            write_json(temporary, image_references(images, scored["tune"], scored["test"]))
    references, measure = read_json(path)[run.split], run.setting.measure.key
    return Task(
        batches=ImageBatches(images, run.setting.batch, seed, augment=run.arm.augment),
        loss=classification_loss,
        evaluate=lambda model: evaluate_images(model, scored[run.split]),
        references={name: values[measure] for name, values in references.items()},
        length=(vision.size // vision.patch) ** 2,
    )


def run_tokens(setting: TextSetting, store: Store) -> Tokens:
    """The memory-mapped tokens of a setting; InputError if the store has lost them."""
    return open_stored(setting.tokens, store)


def open_stored(identity: str, store: Store) -> Tokens:
    """The tokens of an id; InputError if the store has lost them."""
    tokens = open_tokens(store.root / "tokens", identity)
    if tokens is None:
        raise InputError(f"{store.root}/tokens/{identity}.bin is missing or damaged: rerun to make it again")
    return tokens


def scoring_windows(setting: TextSetting, tokens: Tokens, split: str) -> Tensor:
    """The windows that a split's losses are measured on."""
    return evaluation_windows(getattr(tokens, split), setting.length, setting.windows)


def text_start(setting: TextSetting, tokens: Tokens, replicate: int) -> int:
    """Where a replicate's text starts in the train split: at 0, or where arms read a part again and again, anywhere."""
    spare = len(tokens.train) - _read(setting, tokens)
    return int(numpy_stream(replicate, "text").integers(spare + 1)) if getattr(setting, "repeats", 1) > 1 else 0


def _read(setting: TextSetting, tokens: Tokens) -> int:
    """How many train tokens there are to read."""
    if (often := getattr(setting, "repeats", 1)) == 1:
        return len(tokens.train)
    assert isinstance(setting, Setting)
    return min(len(tokens.train), setting.steps * setting.batch * setting.length // often + 1)


def text_references(setting: TextSetting, store: Store, replicate: int = 0) -> dict[str, dict[str, float]]:
    """Uniform, unigram and bigram losses on the scoring windows of tune and test; computed once a store.

    Fitted on the train tokens that there are to read: all of them, or the replicate's part.
    """
    vocabulary, tokens = setting.model["vocab_size"], run_tokens(setting, store)
    start, length = text_start(setting, tokens, replicate), _read(setting, tokens)
    part = [] if length == len(tokens.train) else [start, length]
    name = digest([setting.tokens, setting.length, setting.windows, vocabulary, *part])[:16]
    path = store.root / "tokens" / f"references-{name}.json"
    with making(path) as temporary:
        if temporary:
            tune, test = (scoring_windows(setting, tokens, split) for split in ("tune", "test"))
            write_json(temporary, reference_losses(tokens.train[start : start + length], tune, test, vocabulary))
    return read_json(path)
