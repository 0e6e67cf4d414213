"""Whatever a file holds: it is read, or refused by a typed error of one line, at once and in little memory."""

import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import mutations
import psutil
import pytest
import tiny
from conftest import Figure

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import load, save
from ontogeny.lab.families import read_given

CASES = {"weights": 18_000, "index": 18_000, "config": 5_000, "extracted": 500, "genome": 24_000}  # of each kind
LIMIT = 5.0  # seconds a file; on an idle machine they take about a millisecond
MEMORY = 100 * 2**20
ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "phi3")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Kind:
    """A valid file in its place, how it is changed, and what reads it."""

    path: Path
    change: Callable[[bytes, random.Random], bytes]
    read: Callable[[], object]


def given(directory: Path) -> Callable[[], object]:
    """A donor that the user gives: all of it is read."""
    return lambda: read_given([str(directory)])


def extracted(directory: Path) -> Callable[[], object]:
    """A genome of it, written and read again."""
    out = directory.parent / "out"

    def read() -> None:
        save(extract(open_checkpoint(directory), Recipe("25%", fold_norms=True)), out)
        load(out)

    return read


def kinds(folder: Path) -> dict[str, Kind]:
    found = {}
    for name in ARCHITECTURES:
        whole = tiny.tiny_checkpoint(name, folder / name)
        sharded = tiny.tiny_checkpoint(name, folder / f"{name}-sharded", sharded=True)
        found[f"{name} weights"] = Kind(whole / "model.safetensors", mutations.safetensors_changed, given(whole))
        config = whole / "config.json"
        found[f"{name} config"] = Kind(config, mutations.config_changed, given(whole))
        found[f"{name} extracted"] = Kind(config, mutations.config_changed, extracted(whole))
        found[f"{name} index"] = Kind(sharded / INDEX, mutations.config_changed, given(sharded))
    for name, genome in {"subspaces": tiny.tiny_subspaces(), "masks": tiny.tiny_masks()}.items():
        save(genome, path := folder / name)
        found[f"{name} genome"] = Kind(path, mutations.safetensors_changed, lambda path=path: load(path))  # type: ignore[misc]
    return found


def too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, if the machine has such a place: two hundred thousand files are written."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place)


def outcome(kind: Kind, content: bytes, case: str) -> tuple[str, float]:
    """Whether a file is read or refused, and the seconds it took; anything else fails."""
    kind.path.write_bytes(content)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    started, ended = time.perf_counter(), "read"
    try:
        kind.read()
    except InputError:  # CheckpointError and GenomeError are such
        ended = "refused"
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__} {error}, of {content[:3000]!r}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ended, time.perf_counter() - started


@pytest.mark.parametrize("half", [0, 1])
def test_malformed_files(half: int, folder: Path, figure: Figure) -> None:
    found = kinds(folder)
    for kind in found.values():
        kind.read()  # warm
    signal.signal(signal.SIGALRM, too_long)
    process, outcomes, slowest = psutil.Process(), Counter[str](), 0.0
    resident, grown = process.memory_info().rss, 0
    for name, kind in found.items():
        whole = kind.path.read_bytes()
        for number in range(half, CASES[name.split()[1]], 2):
            changed = kind.change(whole, random.Random(f"{name} {number}"))
            ended, seconds = outcome(kind, changed, f"{name} {number}")
            outcomes[ended] += 1
            slowest = max(slowest, seconds)
            grown = max(grown, process.memory_info().rss - resident)
        kind.path.write_bytes(whole)
    figure(
        "malformed files",
        f"{outcomes.total():,} mutated safetensors, genome, config and index files (half {half + 1} of 2): "
        f"{outcomes['refused']:,} refused by a typed error, {outcomes['read']:,} still readable; 0 crashes, 0 hangs "
        f"(slowest {slowest:.2f} s), {grown / 2**20:.0f} MB of memory more",
    )
    assert grown <= MEMORY
    assert outcomes.total() >= 100_000
