"""The commands that look after a store, and its results as tables."""

import csv
import io
import json
from pathlib import Path
from unittest.mock import patch

import pytest
from command_line import command, refused
from golden_store import golden_store
from rich.console import Console

from ontogeny.canonical import canonical_json
from ontogeny.files import read_json, write_json
from ontogeny.lab.store import Store, in_use
from ontogeny.terminal import lab


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return golden_store(tmp_path)


def test_verify(store: Store) -> None:
    well = command("store", "verify", "--store", store.root)
    assert (well.status, well.error) == (0, "")
    assert "2 declarations, 21 finished, 9 caches; 0 broken" in well.out
    path = next(store.root.glob("genomes/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    ill = command("store", "verify", "--store", store.root)
    assert ill.status == 1
    assert path.name in ill.out
    assert "not what was written" in ill.out
    told = command("store", "verify", "--store", store.root, "--json")
    assert told.status == 1
    assert [one["path"] for one in json.loads(told.out)["broken"]] == [str(path.relative_to(store.root))]
    repaired = command("store", "verify", "--store", store.root, "--repair")
    assert repaired.status == 0
    assert f"moved to {store.root / 'broken'}" in repaired.out.replace("\n", "")
    assert command("store", "verify", "--store", store.root).status == 0


def test_gc(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    next(store.root.glob("experiments/symmetry-*.json")).unlink()
    monkeypatch.chdir(store.root.parent)
    assert "4 would be removed" in command("store", "gc", "--store", "store", "--dry-run").out
    assert command("store", "verify", "--store", "store").status == 0
    listed = command("store", "gc", "--store", store.root, "--dry-run")
    assert "4 would be removed" in listed.out
    done = command("store", "gc", "--store", store.root)
    assert done.out.splitlines()[:-1] == listed.out.splitlines()[:-1]
    assert "4 removed" in done.out
    assert "0 removed, 0 B freed" in command("store", "gc", "--store", store.root).out


@pytest.mark.parametrize("words", [("gc",), ("verify", "--repair")])
def test_what_moves_files_waits_for_what_runs(store: Store, words: tuple[str, ...]) -> None:
    with in_use(store):
        assert "something is running there" in refused("store", *words, "--store", store.root)
        assert command("store", "verify", "--store", store.root).status == 0


def test_a_newer_schema_is_one_clear_line(store: Store) -> None:
    path = next(store.root.glob("experiments/*.json"))
    write_json(path, read_json(path) | {"schema": 2})
    for words in (("store", "verify"), ("status",), ("store", "gc")):
        assert "schema 2; this version reads up to 1" in refused(*words, "--store", store.root)


def exported(store: Store, out: Path) -> Path:
    answer = command("store", "export", "--store", store.root, "--out", out)
    assert (answer.status, answer.error) == (0, "")
    return out


def test_parquet_holds_everything_and_columns_of_one_type(store: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = exported(store, tmp_path / "a.jsonl").read_text()
    table = parquet.read_table(exported(store, tmp_path / "a.parquet"))
    assert "".join(line + "\n" for line in table["json"].to_pylist()) == lines
    types = {field.name: str(field.type) for field in table.schema}
    expected = {"kind": "string", "replicate": "int64", "seconds": "double", "losses": "string", "passed_gate": "bool"}
    assert {name: types[name] for name in expected} == expected
    values = [json.loads(line) for line in lines.splitlines()]
    assert table["seconds"].to_pylist() == [value.get("seconds") for value in values]
    losses = [value.get("losses") for value in values]
    assert [text and json.loads(text) for text in table["losses"].to_pylist()] == losses
    again = tmp_path / "again"
    assert command("store", "import", tmp_path / "a.parquet", "--store", again).status == 0
    assert command("store", "export", "--store", again, "--out", tmp_path / "b.jsonl").status == 0
    assert (tmp_path / "b.jsonl").read_text() == lines
    assert command("store", "verify", "--store", again).status == 0


def test_csv_is_the_same_table(store: Store, tmp_path: Path) -> None:
    values = [json.loads(line) for line in exported(store, tmp_path / "a.jsonl").read_text().splitlines()]
    with exported(store, tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(values)
    for row, value in zip(rows, values, strict=True):
        for key, text in row.items():
            entry = value.get(key)
            assert text == ("" if entry is None else entry if isinstance(entry, str) else canonical_json(entry))
    assert "a table to look at" in refused("store", "import", tmp_path / "a.csv", "--store", tmp_path / "again")


def test_parquet_without_its_extra_names_it(store: Store, tmp_path: Path) -> None:
    with patch.dict("sys.modules", {"pyarrow.parquet": None}):
        told = refused("store", "export", "--store", store.root, "--out", tmp_path / "a.parquet")
    assert "needs pyarrow; pip install 'ontogeny[data]'" in told


def test_a_changed_line_is_not_imported(store: Store, tmp_path: Path) -> None:
    file = exported(store, tmp_path / "a.jsonl")
    first, *rest = [json.loads(line) for line in file.read_text().splitlines() if '"kind":"arm"' in line]
    file.write_text("".join(json.dumps(line) + "\n" for line in (first, rest[0] | {"final": 0.0})))
    told = refused("store", "import", file, "--store", tmp_path / "again")
    assert "line 2: not what ontogeny store export writes (the result is not what was written" in told


def take_one_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the study's results is missing until the first look is over."""
    path = next(path for path in store.root.glob("runs/*/*/result.json") if read_json(path)["kind"] == "measurement")
    value = read_json(path)
    path.unlink()
    monkeypatch.setattr("time.sleep", lambda seconds: write_json(path, value))


def test_watch_ends_when_nothing_is_missing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take_one_away(store, monkeypatch)
    watched = command("status", "--store", store.root, "--watch").out
    *_, last = watched.splitlines()
    assert last == "symmetry, smoke: 4 done, 0 running, 0 interrupted, 0 failed, 0 missing"
    assert watched.count("symmetry") == 2, "the table, and a line for what changed"


def test_watch_on_a_terminal_is_one_table(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(lab, "console", lambda: Console(file=out, force_terminal=True, width=120))
    take_one_away(store, monkeypatch)
    lab.show_status(store.root, watch=True)
    assert out.getvalue().count("missing") >= 2, "drawn again"
    assert "\x1b[1A" in out.getvalue(), "in the place of the one before"
