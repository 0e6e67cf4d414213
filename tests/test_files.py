"""Files that appear whole or not at all, are on disk, and are made once however many ask for them."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ontogeny import files
from ontogeny.files import clear_leftovers, filling, leftover, making, recorded, replacing

DEAD = 2**22 + 1  # no process has such an id: Linux's largest is 2²²


def test_a_file_is_synced_before_it_appears_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path.name, (tmp_path / "a").exists())))
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert synced == [(f".a.{os.getpid()}", False), (tmp_path.name, True)]
    with replacing(tmp_path / "b", lasting=False) as temporary:
        temporary.write_text("whole")
    assert len(synced) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("writer", [replacing, recorded, filling])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, writer: Callable[[Path], Any]) -> None:
    def fail() -> None:
        with writer(tmp_path / "a") as temporary:
            (temporary / "b" if writer is filling else temporary).write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path for path in tmp_path.rglob("*") if path.name != "a"] == []


def test_a_folder_is_filled_with_whole_files(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "a").write_text("old")
    with filling(tmp_path) as temporary:
        (temporary / "a").write_text("new")
        (temporary / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "kept", "a": "new", "b": "new"}


def test_a_record_is_what_sha256sum_checks(tmp_path: Path) -> None:
    with recorded(tmp_path / "a") as temporary:
        temporary.write_text("content")
    record = (tmp_path / "a.sha256").read_text()
    assert record == f"{hashlib.sha256(b'content').hexdigest()}  a\n"


def test_it_is_made_once_however_many_ask(tmp_path: Path) -> None:
    made: list[int] = []
    ready = threading.Barrier(8)

    def ask(number: int) -> None:
        ready.wait()
        with making(tmp_path / "a") as temporary:
            if temporary:
                made.append(number)
                temporary.write_text("x" * 10_000)
        assert (tmp_path / "a").stat().st_size == 10_000

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(made) == 1


def test_who_makes_it_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    for name in (f".a.{DEAD}", f"..a.{DEAD}.{DEAD}", f".a.sha256.{DEAD}"):
        (tmp_path / name).write_text("half")
    with making(tmp_path / "a") as temporary:
        assert temporary
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.lock", "a", "a.sha256"]


def test_leftovers_are_those_of_processes_that_are_no_more(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert leftover(tmp_path / f".result.json.{process.pid}")
    for name in (f".a.{os.getpid()}", ".a.1", ".a.lock", "a.1", f"a.{DEAD}", ".a", f".a.{'9' * 30}"):
        assert not leftover(tmp_path / name), name
    (tmp_path / f".model.{DEAD}").mkdir()
    (tmp_path / f".model.{DEAD}" / "a").touch()
    (tmp_path / f".a.{DEAD}").touch()
    (tmp_path / "a").touch()
    clear_leftovers(tmp_path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
