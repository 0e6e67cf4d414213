"""Whole or not at all, one worker at a time, and a clear word where there is nothing to write to."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json
from ontogeny.lab.store import claim, claimed, open_store

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
    values = [{"value": [i] * 5_000} for i in range(2)]
    write_json(path, values[0])
    done = threading.Event()

    def rewrite() -> None:
        for i in range(50):
            write_json(path, values[i % 2])
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


def test_claim_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with claim(tmp_path):
            order.append("second")

    with claim(tmp_path):
        assert claimed(tmp_path)
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


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
