"""Runs on disk: content-addressed, crash-safe, each claimed by one worker at a time."""

import fcntl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ontogeny.canonical import digest, file_digest
from ontogeny.errors import Claimed, InputError, SchemaError
from ontogeny.files import clear_leftovers, read_json, sync, write_json

SCHEMA = 1  # of declarations and results: what this version writes, and the newest that it reads
RESULT, ABOUT, LOCK = "result.json", "run.json", "lock"  # of every run's folder


@dataclass(frozen=True)
class Store:
    """A folder of experiments, donors, genomes, tokens and runs; made by ``open_store``."""

    root: Path

    def declare(self, declaration: Mapping[str, Any]) -> Path:
        """Write an experiment's declaration; an equal one is the same file, a changed one a new file."""
        path = self.root / "experiments" / declaration_name(declaration)
        if not path.exists():
            write_json(path, declaration)
        return path

    def experiments(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every declaration, oldest first."""
        paths = sorted((self.root / "experiments").glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [(path, read_stored(path)) for path in paths]

    def run_directory(self, run_id: str, replicate: int) -> Path:
        """Where one run lives."""
        return self.root / "runs" / run_id / f"replicate-{replicate}"

    def result_path(self, run_id: str, replicate: int) -> Path:
        """Where a finished run's result is."""
        return self.run_directory(run_id, replicate) / RESULT

    def result(self, run_id: str, replicate: int) -> dict[str, Any] | None:
        """A finished run's result, or None."""
        path = self.result_path(run_id, replicate)
        return read_stored(path) if path.exists() else None

    def results(self) -> list[dict[str, Any]]:
        """Every finished run's result, donors' included."""
        paths = [*self.root.glob(f"runs/*/replicate-*/{RESULT}"), *self.root.glob(f"donors/*/{RESULT}")]
        return [read_stored(path) for path in sorted(paths)]


def declaration_name(declaration: Mapping[str, Any]) -> str:
    """The name of a declaration's file, which ends in the start of its content's sha256."""
    return f"{declaration['name']}-{declaration['scale']}-{digest(declaration)[:8]}.json"


def read_stored(path: Path) -> dict[str, Any]:
    """A stored declaration or result; InputError where a newer version wrote it."""
    value = read_json(path)
    check_schema(value, path)
    return value


def check_schema(value: Mapping[str, Any], where: object) -> None:
    """SchemaError for a declaration or result of a schema that this version can't read; early ones state none."""
    if (found := value.get("schema", 1)) != SCHEMA:
        raise SchemaError(f"{where}: schema {found!r}; this version reads up to {SCHEMA}: install a newer ontogeny")


def sealed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with its schema, and the sha256 of everything else in it."""
    value = {"schema": SCHEMA} | dict(result)
    return value | {"sha256": digest(value)}


def open_store(root: Path) -> Store:
    """Open or make a store. Raises InputError where it can't be written."""
    try:
        for folder in ("experiments", "donors", "genomes", "tokens", "runs"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise InputError(f"--store {root}: can't be written ({error}): give a folder of your own") from None
    return Store(root.absolute())  # workers may have another working directory


@contextmanager
def in_use(store: Store, *, alone: bool = False) -> Iterator[None]:
    """Work on a store beside others; or ``alone``, for what moves or removes files: InputError while others work.

    Whoever comes while one has it alone waits. The lock is the operating system's and dies with its process.
    """
    with (store.root / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            raise InputError(f"--store {store.root}: something is running there; wait for it, or stop it") from None
        yield


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Hold a run; Claimed where another holds it. The lock is the operating system's and dies with its process."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(directory / LOCK).acquire(timeout=0)
    except Timeout:
        raise Claimed(f"{directory}: another process works on it") from None
    with held:
        yield


def begin(directory: Path, about: Mapping[str, Any]) -> None:
    """Of a run that is held: what it is, in run.json. Of a killed process's half-written files nothing is left."""
    clear_leftovers(directory.rglob(".*"))
    write_json(directory / ABOUT, about, lasting=False)


def finish(directory: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Store a run's result, last and with its own sha256; before it that of the run's other files, in run.json."""
    files = run_files(directory)
    for path in files.values():
        sync(path)
    if files:
        digests = {"files": {name: file_digest(path) for name, path in files.items()}}
        write_json(directory / ABOUT, read_json(directory / ABOUT) | digests)
    write_json(directory / RESULT, sealed(result))
    for folder in (directory.parent, directory.parent.parent):  # in which the run's folder may be new
        sync(folder)
    return read_json(directory / RESULT)


def run_files(directory: Path) -> dict[str, Path]:
    """What a run leaves besides its result, by name; what is hidden is nobody's."""
    paths = (path for path in sorted(directory.iterdir()) if path.is_file() and path.name[0] != ".")
    return {path.name: path for path in paths if path.name not in (RESULT, ABOUT, LOCK)}


def claimed(directory: Path) -> bool:
    """Whether some process holds this run now."""
    if not (directory / LOCK).exists():
        return False
    try:
        with FileLock(directory / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def interrupted(directory: Path) -> bool:
    """Whether this run was begun, has no result, and no process holds it: a rerun goes on with it."""
    return (directory / ABOUT).exists() and not (directory / RESULT).exists() and not claimed(directory)
