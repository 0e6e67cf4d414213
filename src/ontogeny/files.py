"""Files that appear whole or not at all, are made once however many ask for them, and JSON read from them."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from ontogeny.canonical import canonical_json, file_digest
from ontogeny.errors import InputError, StorageError

LEFTOVER = re.compile(r"\..+\.(\d+)")  # the name of a temporary file or folder; the number is its writer's process


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which becomes ``path`` when the block ends: complete and on disk, or not at all.

    Not ``lasting``: what a rerun writes again anyway, whole too, but a loss of power may undo it.
    Raises StorageError where it can't be written, as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if lasting:
            sync(temporary)
        temporary.replace(path)
        if lasting:
            sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{path}: can't be written ({error}); free space, or give a folder of your own, and rerun: "
            "what is finished is kept"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def filling(directory: Path) -> Iterator[Path]:
    """A temporary folder, whose files move into ``directory`` when the block ends: each of them whole and on disk."""
    temporary = directory / f".filling.{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        files = sorted(temporary.iterdir())
        for path in files:
            sync(path)
        for path in files:
            path.replace(directory / path.name)
        sync(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place_folder(folder: Path, path: Path) -> None:
    """Rename a folder of files to ``path``, or into the place of an empty one there: whole and on disk."""
    for file in folder.iterdir():
        sync(file)
    folder.replace(path)
    sync(path.parent)


@contextmanager
def recorded(path: Path) -> Iterator[Path]:
    """``replacing``, with the file's sha256 in ``<path>.sha256`` beside it, as ``sha256sum`` writes it."""
    with replacing(path) as temporary:
        yield temporary
        with replacing(record_of(path)) as beside:
            beside.write_text(f"{file_digest(temporary)}  {path.name}\n")


def record_of(path: Path) -> Path:
    """Where the sha256 of a file that was ``recorded`` stands."""
    return path.with_name(f"{path.name}.sha256")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Whoever makes ``path`` takes turns here, and looks again whether it is there; leftovers of it are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        clear_leftovers(path.parent.glob(f".*{path.name}.*"))
        yield


@contextmanager
def making(path: Path) -> Iterator[Path | None]:
    """Where to make ``path`` (``recorded``), or None where it is there: made once, however many want it at once."""
    if path.exists():
        yield None
        return
    with locked(path):
        if path.exists():
            yield None
            return
        with recorded(path) as temporary:
            yield temporary


def leftover(path: Path) -> bool:
    """Whether it is what a process that is no more left of a file that it was writing."""
    found = LEFTOVER.fullmatch(path.name)
    if not found:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def clear_leftovers(paths: Iterator[Path]) -> None:
    """Remove those of the paths that are leftovers."""
    for path in list(paths):
        if leftover(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any], *, lasting: bool = True) -> None:
    """Canonical JSON, whole or not at all; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, lasting=lasting) as temporary:
        temporary.write_text(canonical_json(value), encoding="utf-8")


def read_json(path: Path, advice: str = "move the file aside and rerun") -> dict[str, Any]:
    """The JSON object in a file; InputError names a file that holds none, and says what to do: ``advice``."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON, found {error}; {advice}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}; {advice}")
    return value
