"""What a store holds that none of its declarations refers to, and its removal."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import leftover, read_json
from ontogeny.genome.extract import Recipe
from ontogeny.lab.conduct import overlap_tasks
from ontogeny.lab.donors import audit_folder
from ontogeny.lab.experiment import Experiment, Rates, from_json
from ontogeny.lab.networks import gain_path, genome_path, genome_recipe
from ontogeny.lab.store import ABOUT, RESULT, Store, claimed
from ontogeny.lab.study import KIND, study_from_json

KEPT = (
    "references-*",
    "*.tokenizer.json*",
    "*.documents.json*",
)  # of tokens and images: small, and good for others too
ANY = Rates(0.0, 0.0)


def unreferred(store: Store) -> list[Path]:
    """Every run, donor, genome, and file of tokens or images that no declaration refers to; and half-written files.

    An experiment refers to the runs of its arms in its settings at any rates, for its searches may be unfinished.
    InputError for a store without a declaration, of which nothing would be left.
    """
    declarations = [value for _, value in store.experiments()]
    if not declarations:
        raise InputError(
            f"--store {store.root}: no declaration in it, so that nothing would be kept; delete the folder"
        )
    studies = [study_from_json(value) for value in declarations if value.get("kind") == KIND]
    experiments = [from_json(value) for value in declarations if value.get("kind") != KIND]
    kept = {store.run_directory(run.id, run.replicate) for study in studies for run in study.runs()}
    kept |= {path for experiment in experiments for path in _named(experiment, store)}
    kept |= _runs(store, kept, experiments)
    found = {*store.root.glob("runs/*/replicate-*/"), *store.root.glob("donors/*/")}
    found |= {*store.root.glob("donors/gain-*.json"), *store.root.glob("genomes/*.safetensors")}
    for folder in ("tokens", "images"):
        found |= {path for path in store.root.glob(f"{folder}/[!.]*") if not any(map(path.match, KEPT))}
    found = {path for path in found if _whole(path) not in kept}
    beside = {other for path in found if path.is_file() for other in path.parent.glob(f"*{path.name}.*")}
    left = {path for path in store.root.rglob(".*") if leftover(path) and found.isdisjoint(path.parents)}
    return sorted(found | beside | left)


def _whole(path: Path) -> Path:
    """What a file belongs to: its genome, tokens or images without the endings, its sha256 among them."""
    return path if path.is_dir() else path.with_name(path.name.partition(".")[0])


def _named(experiment: Experiment, store: Store) -> Iterable[Path]:
    """What the declaration says outright: donors, their gains and genomes, overlaps, tokens and images."""
    for setting in experiment.all_settings().values():
        yield from (store.root / "tokens" / tokens for tokens in (setting.tokens, setting.earlier) if tokens)
        if setting.vision:
            yield store.root / "images" / setting.vision.images
        recipes = [genome_recipe(arm, setting) for arm in experiment.arms if experiment.setting_of(arm) == setting]
        for donor in setting.donors + setting.others:
            yield from (store.root / "donors" / name for name in (donor, audit_folder(donor, setting)))
            yield _whole(gain_path(donor, setting, store))
            yield from (_whole(genome_path(donor, r, store)) for r in (*recipes, Recipe(rank=setting.rank)))
    yield from (store.root / "tokens" / str(one["tokens"]) for one in experiment.donor_records if "tokens" in one)
    for task in overlap_tasks(experiment):
        yield store.run_directory(task.id, 0)
        recipe = Recipe(task.rank, fold_norms=True)
        yield from (_whole(genome_path(donor, recipe, store)) for donor in (task.first, task.second))


def _runs(store: Store, kept: set[Path], experiments: Iterable[Experiment]) -> set[Path]:
    """The folders of runs of the experiments' arms, and of comparisons of two of them."""
    asked = {kind for experiment in experiments for kind in _kinds(experiment)}
    found, pairs = set[Path](), dict[Path, list[Path]]()
    for directory in set(store.root.glob("runs/*/replicate-*/")) - kept:
        made = _made_from(directory)
        if _kind(made) in asked:
            found.add(directory)
        if "runs" in made:
            pairs[directory] = [store.run_directory(run, replicate) for run, replicate in made["runs"]]
    return found | {directory for directory, pair in pairs.items() if found.issuperset(pair)}


def _kinds(experiment: Experiment) -> Iterable[str]:
    for mode, arm in experiment.cells():
        tuning = experiment.tuning_run(mode, arm, ANY)
        for run in (tuning, *experiment.runs(mode, arm, ANY, [tuning] * experiment.replicates)):  # any parents will do
            yield _kind(run.recipe)


def _kind(recipe: Mapping[str, Any]) -> str:
    """What a run has in common with those of its arm at other rates and replicates."""
    return digest([recipe.get(key) for key in ("setting", "arm", "embeddings")])


def _made_from(directory: Path) -> dict[str, Any]:
    """The recipe of a run, or what there is of it in its result; nothing of one that never began."""
    about = read_json(directory / ABOUT) if (directory / ABOUT).exists() else {}
    if "recipe" in about:
        return dict(about["recipe"])
    result = read_json(directory / RESULT) if (directory / RESULT).exists() else {}
    pair = {"runs": [result["first"], result["second"]]} if result.get("kind") == "comparison" else {}
    return result | {"arm": result.get("arm_recipe")} | pair


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.lstat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def remove(store: Store, paths: list[Path]) -> None:
    """Remove them, a run's result first, so that none is ever found without its files. InputError where one is held."""
    for path in paths:
        if path.is_dir() and claimed(path):
            raise InputError(f"{path}: a process works on it; wait for it, or stop it")
    for path in paths:
        (path / RESULT if path.is_dir() else path).unlink(missing_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
            if path.parent.parent == store.root / "runs" and not any(path.parent.iterdir()):
                path.parent.rmdir()
