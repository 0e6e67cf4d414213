"""Every kind of damage is found, named and moved aside by a repair; stores of earlier versions are whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from golden_store import GOLDEN, golden_store

from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json
from ontogeny.lab.conduct import stored_results
from ontogeny.lab.experiment import from_json
from ontogeny.lab.findings import read, store_findings
from ontogeny.lab.store import SCHEMA, Store, claim
from ontogeny.lab.study import KIND
from ontogeny.lab.verify import BROKEN, Inspection, check_result, repair, verify

DEAD = 2**22 + 1  # no process has such an id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return golden_store(tmp_path)


def arm(store: Store) -> Path:
    """The folder of some finished run of an arm."""
    return next(path for path in sorted(store.root.glob("runs/*/replicate-1")) if (path / "history.jsonl").exists())


def flip(path: Path, at: int = -2) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_there_is_a_store_of_every_schema() -> None:
    assert [path.name for path in GOLDEN] == [f"store-{schema}.tar.gz" for schema in range(1, SCHEMA + 1)]
    assert sum(path.stat().st_size for path in GOLDEN) < 200_000 * SCHEMA


@pytest.mark.parametrize("archive", GOLDEN, ids=lambda path: path.name)
def test_stores_of_earlier_versions_are_whole_and_complete(archive: Path, tmp_path: Path) -> None:
    store = golden_store(tmp_path, archive)
    found = verify(store)
    assert (found.broken, found.left) == ([], [])
    assert found.counts["declarations"] == 2
    for _, value in store.experiments():
        assert read(value, store).complete
        if value.get("kind") != KIND:
            assert {one["kind"] for one in stored_results(from_json(value), store)} == {"donor", "overlap", "arm"}
    findings = store_findings(store)
    assert findings["E8"]["verdict"] == "undecided (smoke)"
    assert findings["G22"]["scale"] == "smoke"


def damaged_result(store: Store) -> Path:
    path = arm(store) / "result.json"
    value = read_json(path)
    write_json(path, value | {"final": value["final"] + 0.25})
    return path.parent


def half_a_result(store: Store) -> Path:
    path = arm(store) / "result.json"
    path.write_bytes(path.read_bytes()[:100])
    return path.parent


def result_without_its_losses(store: Store) -> Path:
    path = arm(store) / "result.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key not in ("losses", "sha256")})
    return path.parent


def result_of_another_run(store: Store) -> Path:
    directory = arm(store)
    other = store.run_directory("0123456789abcdef", 1)
    other.parent.mkdir()
    return directory.rename(other)


def result_of_another_recipe(store: Store) -> Path:
    path = arm(store) / "result.json"
    value = {key: entry for key, entry in read_json(path).items() if key != "sha256"}
    write_json(path, value | {"rates": {"body": 1.0, "rest": 1.0}})
    return path.parent


def truncated_history(store: Store) -> Path:
    directory = arm(store)
    lines = (directory / "history.jsonl").read_text().splitlines(keepends=True)
    (directory / "history.jsonl").write_text("".join(lines[:-1]))
    return directory


def truncated_history_of_an_early_version(store: Store) -> Path:
    directory = truncated_history(store)
    write_json(directory / "run.json", {"recipe": read_json(directory / "run.json")["recipe"]})
    return directory


def weights_of_a_donor(store: Store) -> Path:
    directory = next(store.root.glob("donors/*/"))
    flip(directory / "model.safetensors")
    return directory


def lost_tokenizer(store: Store) -> Path:
    directory = next(store.root.glob("donors/*/"))
    (directory / "tokenizer.json").unlink()
    return directory


def genome(store: Store) -> Path:
    path = next(store.root.glob("genomes/*.safetensors"))
    flip(path)
    return path


def early_genome(store: Store) -> Path:
    path = next(store.root.glob("genomes/*.safetensors"))
    path.with_name(f"{path.name}.sha256").unlink()
    path.write_bytes(path.read_bytes()[:-10])
    return path


def tokens(store: Store) -> Path:
    path = next(store.root.glob("tokens/*.bin"))
    flip(path)
    return path


def references(store: Store) -> Path:
    path = next(store.root.glob("tokens/references-*.json"))
    flip(path, 20)
    return path


def edited_declaration(store: Store) -> Path:
    path = next(store.root.glob("experiments/convergence-*.json"))
    write_json(path, read_json(path) | {"replicates": 2})
    return path


def no_declaration(store: Store) -> Path:
    path = next(store.root.glob("experiments/symmetry-*.json"))
    write_json(path, {"kind": "study", "name": "symmetry"})
    return path


def circumstance(store: Store) -> Path:
    path = arm(store) / "run.json"
    path.write_text("")
    return path


def state_of_an_unfinished_run(store: Store) -> Path:
    directory = arm(store)
    (directory / "result.json").unlink()
    (directory / "checkpoint").mkdir()
    path = directory / "checkpoint" / "state.safetensors"
    path.write_bytes(b"half")
    return path


DAMAGE: list[tuple[Callable[[Store], Path], str]] = [
    (damaged_result, "not what was written"),
    (half_a_result, "expected JSON"),
    (result_without_its_losses, "no 'losses'"),
    (result_of_another_run, "is that of"),
    (result_of_another_recipe, "its recipe's id is"),
    (truncated_history, "history.jsonl is not what was written"),
    (truncated_history_of_an_early_version, "not where its result ends"),
    (weights_of_a_donor, "model.safetensors is not what was written"),
    (lost_tokenizer, "tokenizer.json is missing"),
    (genome, "has another sha256"),
    (early_genome, "not a whole genome file"),
    (tokens, "has another sha256"),
    (references, "has another sha256"),
    (edited_declaration, "its content is that of convergence-smoke-"),
    (no_declaration, "no 'conditions'"),
    (circumstance, "expected JSON"),
    (state_of_an_unfinished_run, "header"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGE, ids=lambda value: getattr(value, "__name__", ""))
def test_damage_is_found_and_moved_aside(store: Store, damage: Callable[[Store], Path], told: str) -> None:
    path = damage(store)
    found = verify(store)
    assert [store.root / one.path for one in found.broken] == [path]
    assert told in found.broken[0].what
    repair(store, found)
    assert not path.exists()
    assert (store.root / BROKEN / found.broken[0].path).exists(), "nothing is deleted"
    assert verify(store).broken == []


def test_nothing_is_wrong_with_what_is_unfinished(store: Store) -> None:
    (arm(store) / "result.json").unlink()
    (store.root / "runs" / "new" / "replicate-1").mkdir(parents=True)
    with claim(arm(store)):
        found = verify(store)
    assert found.broken == []
    assert (found.counts["running"], found.counts["unfinished"], found.counts["finished"]) == (1, 1, 20)


def test_leftovers_of_killed_writers_are_shown_and_moved_but_no_fault(store: Store) -> None:
    left = [arm(store) / f".result.json.{DEAD}", store.root / "genomes" / f".0.safetensors.{DEAD}"]
    for path in left:
        path.write_text("half")
    found = verify(store)
    assert found.broken == []
    assert {store.root / one.path for one in found.left} == set(left)
    repair(store, found)
    assert verify(store).left == []


def test_what_is_moved_twice_is_kept_twice(store: Store) -> None:
    path = arm(store) / "run.json"
    for _ in range(2):
        path.write_text("")
        repair(store, verify(store))
    kept = store.root / BROKEN / path.relative_to(store.root)
    assert sorted(one.name for one in kept.parent.iterdir()) == ["run.json", "run.json-2"]


def test_a_newer_schema_is_no_damage(store: Store) -> None:
    path = arm(store) / "result.json"
    write_json(path, read_json(path) | {"schema": SCHEMA + 1})
    with pytest.raises(InputError, match=rf"schema {SCHEMA + 1}; this version reads up to {SCHEMA}: install"):
        verify(store)


def test_an_early_result_has_no_hash_and_is_whole(store: Store) -> None:
    value = read_json(arm(store) / "result.json")
    assert value["sha256"]
    early = {key: entry for key, entry in value.items() if key != "sha256"}
    check_result(json.loads(json.dumps(early)))
    write_json(arm(store) / "result.json", early)
    assert verify(store) == Inspection(verify(store).counts)
    assert verify(store).counts["without a recorded hash"] == 1
