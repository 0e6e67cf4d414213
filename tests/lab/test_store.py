"""Whole or not at all, one worker at a time, and a clear word where there is nothing to write to."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ontogeny.benchmarks.laboratory import trivial_study
from ontogeny.canonical import digest
from ontogeny.errors import Claimed, InputError
from ontogeny.files import read_json, write_json
from ontogeny.lab import engines
from ontogeny.lab.store import Store, begin, claim, claimed, finish, in_use, open_store
from ontogeny.lab.study import Study, conduct_study, gather

HOLD = """
import sys, time
from pathlib import Path
from ontogeny.lab.store import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_json_is_canonical_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "new" / "a.json").read_text() == '{"a":"é","b":1}'
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.json"]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = [{"value": [i] * 1_000} for i in range(2)]
    write_json(path, values[0])
    done = threading.Event()

    def rewrite() -> None:
        for i in range(50):
            write_json(path, values[i % 2], lasting=False)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not done.is_set():
        assert read_json(path) in values
    writer.join()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.json: expected .*JSON.*move the file aside"):
        read_json(tmp_path / "a.json")


def test_claim_excludes_another_process_and_dies_with_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not claimed(run)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert claimed(run)
    finally:
        holder.kill()
        holder.wait()
    assert not claimed(run)
    with claim(run):
        pass


def test_a_claimed_run_is_left_to_its_holder(tmp_path: Path) -> None:
    with claim(tmp_path), pytest.raises(Claimed, match="another process works on it"), claim(tmp_path):
        pass
    with claim(tmp_path):
        assert claimed(tmp_path)


def test_a_run_is_finished_by_its_result(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "id" / "replicate-1"
    with claim(directory):
        (directory / ".history.jsonl.4194305").write_text("half")
        begin(directory, {"recipe": {}})
        assert not list(directory.glob(".history*"))
        (directory / "history.jsonl").write_text("{}\n")
        result = finish(directory, {"id": "id", "number": 0.1})
    assert (
        result
        == read_json(directory / "result.json")
        == {
            "id": "id",
            "number": 0.1,
            "schema": 1,
            "sha256": digest({"id": "id", "number": 0.1, "schema": 1}),
        }
    )
    assert read_json(directory / "run.json") == {
        "recipe": {},
        "files": {"history.jsonl": hashlib.sha256(b"{}\n").hexdigest()},
    }


def drive(store: Store, study: Study, done: list[tuple[str, int]], name: str) -> None:
    def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        time.sleep(0.01)
        done.append((name, options["i"]))
        return {"number": 1.0}

    def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        return ((item, function(item)) for item in items)

    conduct_study(study, compute, store, mapper, lambda *_: None)


def test_two_drivers_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "POLL", 0.01)
    store, study = open_store(tmp_path), trivial_study(20)
    done: list[tuple[str, int]] = []
    drivers = [threading.Thread(target=drive, args=(store, study, done, name)) for name in "ab"]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(30)
    assert sorted(i for _, i in done) == sorted([0, 1] * 10), "every run exactly once"
    assert {name for name, _ in done} == {"a", "b"}
    assert gather(study, store).complete


def test_what_another_works_on_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "POLL", 0.01)
    store, study = open_store(tmp_path), trivial_study(10)
    first = study.runs()[0]
    done: list[tuple[str, int]] = []
    driver = threading.Thread(target=drive, args=(store, study, done, "a"))
    with claim(store.run_directory(first.id, first.replicate)):
        driver.start()
        while gather(study, store).done < 9:
            time.sleep(0.01)
        assert len(done) == 9
    driver.join(30)
    assert gather(study, store).complete


def test_who_works_alone_works_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    alone = in_use(store, alone=True)
    with in_use(store), in_use(store), pytest.raises(InputError, match="something is running there"), alone:
        pass
    with in_use(store, alone=True):
        pass


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_json(store.result_path("id", 1), {"schema": 2})
    write_json(store.root / "experiments" / "new.json", {"schema": 2})
    for read in (store.experiments, store.results, lambda: store.result("id", 1)):
        with pytest.raises(InputError, match=r"json: schema 2; this version reads up to 1: install a newer"):
            read()


def test_a_claim_that_fails_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claim(tmp_path):
        raise RuntimeError
    assert not claimed(tmp_path)


def test_a_changed_declaration_is_a_new_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    first = store.declare({"name": "x", "scale": "smoke", "steps": 1})
    written = first.stat().st_mtime_ns
    assert store.declare({"steps": 1, "scale": "smoke", "name": "x"}) == first
    assert first.stat().st_mtime_ns == written, "an equal declaration is not written again"
    second = store.declare({"name": "x", "scale": "smoke", "steps": 2})
    assert second != first
    assert [path for path, _ in store.experiments()] == [first, second]
    assert first.name.startswith("x-smoke-")


def test_results(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.result("id", 1) is None
    assert store.results() == []
    write_json(store.run_directory("id", 1) / "result.json", {"n": 1})
    write_json(store.root / "donors" / "d" / "result.json", {"n": 2})
    assert store.result("id", 1) == {"n": 1}
    assert sorted(result["n"] for result in store.results()) == [1, 2]


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/ontogeny"])
def test_a_store_that_cant_be_written(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / where
    with pytest.raises(InputError, match=f"--store {root}: can't be written.*give a folder of your own"):
        open_store(root)


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    (open_store(tmp_path).root / "runs" / "kept").mkdir()
    open_store(tmp_path)
    assert (tmp_path / "runs" / "kept").is_dir()
    assert json.dumps(open_store(tmp_path).experiments()) == "[]"
