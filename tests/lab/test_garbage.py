"""What a declaration refers to stays, at whatever stage; what none does goes, and nothing else."""

import shutil
from pathlib import Path

import pytest
from golden_store import golden_store

from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json
from ontogeny.lab.garbage import remove, size, unreferred
from ontogeny.lab.store import Store, claim

DEAD = 2**22 + 1  # no process has such an id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return golden_store(tmp_path)


def test_all_of_a_store_is_referred_to(store: Store) -> None:
    assert unreferred(store) == []


def test_runs_stay_while_rates_are_searched(store: Store) -> None:
    """Without rates of its own the experiment's evaluated runs are not known yet."""
    (path,) = store.root.glob("experiments/convergence-*.json")
    value = read_json(path)
    path.unlink()
    store.declare(value | {"rates": None})
    assert unreferred(store) == []
    for about in store.root.glob("runs/*/*/run.json"):
        about.unlink()  # as in a store that was imported
    assert unreferred(store) == []


def test_what_nothing_refers_to_goes(store: Store) -> None:
    (path,) = store.root.glob("experiments/convergence-*.json")
    path.unlink()
    for left in (store.root / "genomes", next(store.root.glob("donors/*/"))):
        (left / f".a.safetensors.{DEAD}").write_text("half")
    before = size(store.root)
    found = unreferred(store)
    freed = sum(map(size, found))
    remove(store, found)
    assert before - size(store.root) == freed > 100_000
    assert not list(store.root.glob("donors/*"))
    assert not list(store.root.glob("genomes/*"))
    assert not list(store.root.glob("tokens/*.bin*"))
    assert {path.name.split("-")[0] for path in store.root.glob("tokens/references-*")} == {"references"}
    assert len(list(store.root.glob("runs/*/replicate-*"))) == 4, "the study's"
    assert len(list(store.root.glob("runs/*"))) == 4
    assert unreferred(store) == []


def test_a_run_that_is_held_stays(store: Store) -> None:
    run = next(store.root.glob("runs/*/replicate-1"))
    other = shutil.copytree(run, store.root / "runs" / "0123456789abcdef" / "replicate-1")
    write_json(other / "run.json", {"recipe": {}})
    with claim(other), pytest.raises(InputError, match="a process works on it"):
        remove(store, unreferred(store))
    assert other.exists()
    remove(store, unreferred(store))
    assert not other.parent.exists()


def test_a_store_without_declarations_is_left_alone(store: Store) -> None:
    shutil.rmtree(store.root / "experiments")
    with pytest.raises(InputError, match="no declaration in it"):
        unreferred(store)
