"""Runs on disk: content-addressed, crash-safe, each claimed by one worker at a time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json


@dataclass(frozen=True)
class Store:
    """A folder of experiments, donors, genomes, tokens and runs; made by ``open_store``."""

    root: Path

    def declare(self, declaration: Mapping[str, Any]) -> Path:
        """Write an experiment's declaration; an equal one is the same file, a changed one a new file."""
        name = f"{declaration['name']}-{declaration['scale']}-{digest(declaration)[:8]}.json"
        path = self.root / "experiments" / name
        if not path.exists():
            write_json(path, declaration)
        return path

    def experiments(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every declaration, oldest first."""
        paths = sorted((self.root / "experiments").glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [(path, read_json(path)) for path in paths]

    def run_directory(self, run_id: str, replicate: int) -> Path:
        """Where one run lives."""
        return self.root / "runs" / run_id / f"replicate-{replicate}"

    def result_path(self, run_id: str, replicate: int) -> Path:
        """Where a finished run's result is."""
        return self.run_directory(run_id, replicate) / "result.json"

    def result(self, run_id: str, replicate: int) -> dict[str, Any] | None:
        """A finished run's result, or None."""
        path = self.result_path(run_id, replicate)
        return read_json(path) if path.exists() else None

    def results(self) -> list[dict[str, Any]]:
        """Every finished run's result, donors' included."""
        paths = [*self.root.glob("runs/*/replicate-*/result.json"), *self.root.glob("donors/*/result.json")]
        return [read_json(path) for path in sorted(paths)]


def open_store(root: Path) -> Store:
    """Open or make a store. Raises InputError where it can't be written."""
    try:
        for folder in ("experiments", "donors", "genomes", "tokens", "runs"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock", timeout=10):
            pass
    except (OSError, Timeout) as error:
        raise InputError(f"--store {root}: can't be written ({error}): give a folder of your own") from None
    return Store(root.absolute())  # workers may have another working directory


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Hold a run: others wait. The lock is the operating system's and dies with its process."""
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "lock"):
        yield


def claimed(directory: Path) -> bool:
    """Whether some process holds this run now."""
    if not (directory / "lock").exists():
        return False
    try:
        with FileLock(directory / "lock", timeout=0):
            return False
    except Timeout:
        return True
