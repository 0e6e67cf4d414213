"""A store with one small convergence experiment in it, run once a session whatever the number of test processes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from ontogeny.lab.experiment import Experiment, from_json
from ontogeny.lab.rates import START, Search
from ontogeny.lab.store import Store, open_store
from ontogeny.streams import numpy_stream

SETTINGS = ("steps=3", "donor_steps=4", "windows=4", "batch=4", "replicates=2", "evaluate_at=2,3")
WORDS = ("the", "of", "a", "gene", "net", "axis", "rank", "core", "mask", "layer", "token", "grows", "keeps", "drops")


def one_rate(patch: pytest.MonkeyPatch) -> None:
    """Every rate search finds one pair to try: for runs whose results nobody reads."""
    patch.setattr(
        "ontogeny.lab.conduct.search",
        lambda scores, axes: Search(best=START) if START in scores else Search(needed=(START,)),
    )


def few_refits(patch: pytest.MonkeyPatch) -> None:
    """Chance values of an alignment come from few draws: where nobody reads them."""
    patch.setattr("ontogeny.genome.compare.REFITS", 9)


def write_text(path: Path, documents: int = 400, words: int = 60, seed: int = 0) -> Path:
    """Many short documents of a chain over a few words, so that no split is empty."""
    rng = numpy_stream(seed, "smoke text")
    follow = rng.integers(0, len(WORDS), (len(WORDS), 3))
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            at, chosen = 0, []
            for step in rng.integers(0, 3, words):
                at = follow[at, step]
                chosen.append(WORDS[at])
            file.write(json.dumps({"text": " ".join(chosen)}) + "\n")
    return path


def write_tokenizer(directory: Path, vocabulary: int) -> None:
    """A word-level tokenizer over the smoke text's words, of any vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(["<unk>", "</s>", *WORDS])}
    words |= {f"unused{index}": index for index in range(len(words), vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a session share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def smoke_store(factory: pytest.TempPathFactory) -> Store:
    """The session's store; its text is ``text.jsonl`` beside it. Read it, change nothing in it."""
    from ontogeny.terminal.lab import run_experiment

    def run(store: Path) -> None:
        text = write_text(store.parent / "text.jsonl")
        with pytest.MonkeyPatch.context() as patch:
            few_refits(patch)
            run_experiment("convergence", "smoke", store, SETTINGS, text=[str(text)], engine="local")

    return once(factory, "smoke", run)


def once(factory: pytest.TempPathFactory, name: str, run: Callable[[Path], None]) -> Store:
    """A store that ``run`` fills once a session, whatever the number of test processes."""
    folder = session_folder(factory)
    with FileLock(folder / f"{name}.lock"):
        if not (folder / f"{name}.done").exists():
            run(folder / name)
            (folder / f"{name}.done").touch()
    return open_store(folder / name)


def declared(store: Store) -> Experiment:
    """The one experiment of a store."""
    ((_, value),) = store.experiments()
    return from_json(value)
