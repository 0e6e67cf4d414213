"""A checkpoint's file with one entry that is no number: every kind of tensor; its first, middle and last entry."""

import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ontogeny.errors import CheckpointError
from ontogeny.genome.checkpoint import open_checkpoint

BAD = (float("nan"), float("inf"), float("-inf"))


def entries(content: bytes) -> Iterator[tuple[str, int]]:
    """Tensors of a safetensors file of float32, of every layer's the last, each with three places in the file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    for name in {re.sub(r"\.\d+\.", ".", name): name for name in header}.values():
        start, stop = (8 + length + offset for offset in header[name]["data_offsets"])
        for offset in (start, start + (stop - start) // 8 * 4, stop - 4):
            yield name, offset


def check_every_entry(directory: Path, values: int) -> tuple[int, int, float]:
    """So many bad values in turn at each entry, each named within a second: tensors, cases, the slowest in seconds."""
    path = directory / "model.safetensors"
    content, checkpoint, slowest, cases = path.read_bytes(), open_checkpoint(directory), 0.0, 0
    named: set[str] = set()
    checkpoint.check()
    for number, (tensor, offset) in enumerate(entries(content)):
        for value in range(number, number + values):
            bad = struct.pack("<f", BAD[value % len(BAD)])
            path.write_bytes(content[:offset] + bad + content[offset + 4 :])
            started = time.perf_counter()
            with pytest.raises(CheckpointError, match=f"tensor {re.escape(tensor)} has NaN or infinite entries"):
                checkpoint.check()
            slowest = max(slowest, time.perf_counter() - started)
            cases += 1
            named.add(tensor)
    path.write_bytes(content)
    assert slowest < 1
    return len(named), cases, slowest
