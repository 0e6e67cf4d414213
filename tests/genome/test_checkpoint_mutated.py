"""Whatever a checkpoint's files hold, they are read or refused by a typed error; `make soak` tries 200,000 of them."""

import random
from pathlib import Path

import mutations
import pytest
import tiny

from ontogeny.errors import CheckpointError
from ontogeny.genome.checkpoint import open_checkpoint

CASES = 300
KINDS = {
    "model.safetensors": (False, mutations.safetensors_changed),
    "config.json": (False, mutations.config_changed),
    "model.safetensors.index.json": (True, mutations.config_changed),
}


@pytest.mark.parametrize("file", KINDS)
def test_mutated_files(file: str, tmp_path: Path) -> None:
    sharded, change = KINDS[file]
    path = tiny.tiny_checkpoint("llama", tmp_path / "llama", sharded=sharded) / file
    whole, refused = path.read_bytes(), 0
    for number in range(CASES):
        path.write_bytes(change(whole, random.Random(f"{file} {number}")))
        try:
            open_checkpoint(path.parent).check()
        except CheckpointError:
            refused += 1
    assert CASES / 10 < refused < CASES, "some of both"
