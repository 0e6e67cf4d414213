"""Every file of a store against what was recorded of it; what is broken can be moved aside, so that a rerun makes it.

No fault: a run that is unfinished, and what a killed process left half-written, for nothing reads it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ontogeny.canonical import digest, file_digest
from ontogeny.errors import SchemaError
from ontogeny.files import leftover, read_json, record_of
from ontogeny.genome.genome import load
from ontogeny.lab.experiment import from_json
from ontogeny.lab.store import ABOUT, RESULT, Store, claimed, declaration_name, read_stored
from ontogeny.lab.study import KIND, study_from_json

BROKEN = "broken"  # the folder of a store that broken files are moved to
UNHASHED = "without a recorded hash"
CACHES = ("genomes/*", "tokens/*", "images/*", "donors/*.json")

# What a result of each kind must hold to be of use.
NEEDED = {
    "donor": ("id", "loss", "references", "passed_gate"),
    "arm": ("id", "replicate", "final", "losses", "step0_loss", "references", "seconds"),
    "overlap": ("id", "first", "second", "rows"),
    "measurement": ("id", "replicate", "study", "options", "measured", "seconds"),
    "comparison": ("id", "first", "second", "divergence", "agreement", "alignment"),
}
# What a result of some kinds holds of the recipe that its id is made from; some hold it as "recipe".
RECIPE = {
    "arm": ("setting", "rates", "embeddings", "split", "schema"),
    "overlap": ("kind", "first", "second", "rank", "align"),
    "measurement": ("study", "version", "options", "schema"),
}


@dataclass(frozen=True)
class Finding:
    """Something in a store, by its path in there, and what is wrong with it."""

    path: Path
    what: str


@dataclass
class Inspection:
    """``counts``: what was looked at; ``broken``: what is wrong; ``left``: half-written files of killed processes."""

    counts: Counter[str] = field(default_factory=Counter)
    broken: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)


def verify(store: Store) -> Inspection:
    """Look at every declaration, run, donor and cache of a store. InputError where a newer version wrote in it.

    Runs that some process works on are left alone.
    """
    root, found = store.root, Inspection()

    def look(path: Path, check: Callable[[], object]) -> None:
        try:
            check()
        except SchemaError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, SafetensorError) as error:
            if not path.exists():  # finished or begun anew just now
                return
            what = f"no {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
            found.broken.append(Finding(path.relative_to(root), what))

    for path in sorted((root / "experiments").glob("*.json")):
        found.counts["declarations"] += 1
        look(path, lambda path=path: check_declaration(path))  # type: ignore[misc]
    for directory in sorted([*root.glob("runs/*/replicate-*/"), *root.glob("donors/*/")]):
        found.counts[state := _state(directory)] += 1
        if state == "finished":
            about: dict[str, Any] = {}
            look(directory / ABOUT, lambda d=directory, a=about: a.update(_about(d)))  # type: ignore[misc]
            look(directory, lambda d=directory, a=about: found.counts.update({UNHASHED: check_run(d, a)}))  # type: ignore[misc]
        elif state == "unfinished":
            for path in directory.glob("checkpoint/**/*.safetensors"):
                look(path, lambda path=path: safe_open(path, "pt").keys())  # type: ignore[misc, no-untyped-call]
            look(directory / "history.jsonl", lambda d=directory: check_history(d / "history.jsonl"))  # type: ignore[misc]
    for path in sorted(path for pattern in CACHES for path in root.glob(pattern)):
        if path.is_file() and path.name[0] != "." and path.suffix != ".sha256":
            found.counts["caches"] += 1
            look(path, lambda path=path: found.counts.update({UNHASHED: check_cache(path)}))  # type: ignore[misc]
    left = (path.relative_to(root) for path in root.rglob(".*") if leftover(path))
    found.left += [
        Finding(path, "half-written by a process that is no more") for path in left if path.parts[0] != BROKEN
    ]
    return found


def _state(directory: Path) -> str:
    return "running" if claimed(directory) else "finished" if (directory / RESULT).exists() else "unfinished"


def check_declaration(path: Path) -> None:
    """ValueError, KeyError or TypeError for a file that holds no declaration, or another than its name says."""
    value = read_stored(path)
    (study_from_json if value.get("kind") == KIND else from_json)(value)
    if (name := declaration_name(value)) != path.name:
        raise ValueError(f"its content is that of {name}")


def check_run(directory: Path, about: Mapping[str, Any]) -> int:
    """Of a finished run or donor: its result, and every file that it left; ValueError or KeyError says what is wrong.

    ``about``: what its run.json says. Returns how many hashes are missing: results of early versions have none.
    """
    result = read_stored(directory / RESULT)
    check_result(result)
    expected = result["id"], f"replicate-{result.get('replicate', 0)}"
    lies = (directory.parent.name, directory.name) if result["kind"] != "donor" else (directory.name, expected[1])
    if result["kind"] == "donor":
        expected = result.get("folder", expected[0]), expected[1]
    if lies != expected:
        raise ValueError(f"{RESULT} is that of {'/'.join(expected)}")
    for name, sha256 in about.get("files", {}).items():
        if not (directory / name).is_file():
            raise ValueError(f"{name} is missing")
        if file_digest(directory / name) != sha256:
            raise ValueError(f"{name} is not what was written: its sha256 is another")
    if (directory / "history.jsonl").exists():
        check_history(directory / "history.jsonl", result)
    return int("sha256" not in result)


def _about(directory: Path) -> dict[str, Any]:
    return read_json(directory / ABOUT) if (directory / ABOUT).exists() else {}


def check_result(result: Mapping[str, Any]) -> None:
    """ValueError or KeyError for a result that isn't whole, isn't what was written, or isn't of its id's recipe."""
    for key in NEEDED[result["kind"]]:
        result[key]
    content = {key: value for key, value in result.items() if key != "sha256"}
    if "sha256" in result and result["sha256"] != digest(content):
        raise ValueError("the result is not what was written: its sha256 is another")
    recipe = result.get("recipe")
    if keys := RECIPE.get(result["kind"]):
        recipe = {key: result[key] for key in keys} | {key: result[key] for key in ("parent",) if key in result}
        recipe |= {"arm": result["arm_recipe"]} if result["kind"] == "arm" else {}
    if recipe and digest(recipe)[:16] != result["id"]:
        raise ValueError(f"its recipe's id is {digest(recipe)[:16]}, not {result['id']}")


def check_history(path: Path, result: Mapping[str, Any] | None = None) -> None:
    """ValueError for a line that isn't whole, and for a history that ends before its result does."""
    lines = path.read_text(encoding="utf-8") if path.exists() else ""
    steps = [json.loads(line)["step"] for line in lines.splitlines()]
    if lines and not lines.endswith("\n"):
        raise ValueError("its last line has no end")
    if result and steps[-1:] != [row[0] for row in result["losses"][-1:]]:
        raise ValueError(f"history.jsonl ends at step {steps[-1] if steps else 0}, not where its result ends")


def check_cache(path: Path) -> int:
    """ValueError for a file that isn't what was recorded, or of its kind; returns how many hashes are missing."""
    record = record_of(path)
    if record.exists():
        if record.read_text(encoding="utf-8").split()[:1] != [file_digest(path)]:
            raise ValueError(f"it is not what was written: {record.name} has another sha256")
        return 0
    if path.suffix == ".json":
        read_json(path)
    elif path.suffix == ".safetensors":
        load(path)
    return 1


def repair(store: Store, inspection: Inspection) -> Path:
    """Move what is broken or left over to the store's folder ``broken``, where nothing reads it; returns the folder."""
    for finding in (*inspection.broken, *inspection.left):
        for path in (finding.path, record_of(finding.path)):
            if (store.root / path).exists():
                _move(store.root / path, store.root / BROKEN / path)
    return store.root / BROKEN


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while to.exists():
        number += 1
        to = to.with_name(f"{path.name}-{number}")
    path.rename(to)
