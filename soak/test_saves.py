"""Nothing half-written is ever read: killed while it saves, and on a disk that fills up at every write."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import children
import pytest
import torch
from conftest import Figure
from laboratory import beside, one_run, prepared, science
from safetensors.torch import load_file
from torch import nn

from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json
from ontogeny.genome.genome import Genome, Subspace, load, save
from ontogeny.genome.sites import make_site
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab
from ontogeny.streams import numpy_stream
from ontogeny.training.train import History, load_state, save_state

KILLS = 200
STATE, GENOME, RESULT = "state.safetensors", "genome.safetensors", "result.json"


class Network(nn.Module):
    """A megabyte of one number, so that a save takes a while and half of one would show."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.zeros(64, 1024)) for _ in range(4))


def genome(number: int) -> Genome:
    axes = Subspace(torch.eye(256, 64), torch.eye(256, 64))
    return Genome({make_site("a", (256, 256)): axes}, {"source": {"number": number}})


def child(folder: Path, begun: "children.Watch") -> None:
    """Go on from what is saved and save on for ever: a state, a genome and a result, all of one number."""
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()  # the optimiser has its moments
    number = load_state(folder / STATE, model, optimizer).stopped_at if (folder / STATE).exists() else 0
    while True:
        number += 1
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        begun.step.value = number
        save_state(folder / STATE, model, optimizer, History(stopped_at=number))
        save(genome(number), folder / GENOME)
        write_json(folder / RESULT, {"number": number, "long": [number] * 20_000})


def read(folder: Path) -> list[int]:
    """The number of every file, each of which must be of one piece."""
    model = Network()
    state = load_state(folder / STATE, model, torch.optim.AdamW(model.parameters())).stopped_at
    assert all(bool((p == state).all()) for p in model.parameters()), "a mixed state"
    result = read_json(folder / RESULT)
    assert result["long"] == [result["number"]] * 20_000
    return [state, load(folder / GENOME).provenance["source"]["number"], result["number"]]


def test_killed_while_saving(tmp_path: Path, figure: Figure) -> None:
    rng, cut, saved = numpy_stream(0, "saves"), 0, 0
    for _ in range(KILLS):
        watch = children.Watch()
        process = children.start(child, tmp_path, watch)
        assert children.strike(
            process, signal.SIGKILL, partial(ready, watch, tmp_path, saved), float(rng.uniform(0, 0.03))
        )
        assert children.finish(process) == -signal.SIGKILL
        numbers = read(tmp_path)
        assert max(numbers) - min(numbers) <= 1
        assert saved < max(numbers) <= watch.step.value, "never back, never ahead"
        saved = max(numbers)
        for left in tmp_path.glob(".*"):
            left.unlink()
            cut += 1
    figure(
        "nothing half-written is read: SIGKILL",
        f"{KILLS} kills during saves of a state, a genome and a result, {cut} of them in the middle of a file; "
        f"0 partial files read, {saved} rounds saved",
    )
    assert cut > KILLS / 10


def ready(watch: "children.Watch", folder: Path, saved: int) -> bool:
    return watch.step.value > saved + 1 and (folder / RESULT).exists()


# A full disk --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of this many bytes, in memory."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def complaining(run: Run, lab: Lab, told: Path) -> None:
    """A run that saves after every step; a full disk's error goes to ``told``."""
    from ontogeny.lab import run as run_module

    with children.watched_training(children.Watch()):
        try:
            run_module.run(run, lab)
        except InputError as error:
            told.write_text(str(error))
            os._exit(2)


def test_full_disk(tmp_path: Path, figure: Figure) -> None:
    """More and more is left of a disk, so that each write of a run in turn is the one that fails."""
    plan = prepared(tmp_path / "store")
    run = one_run(plan)
    run = replace(run, setting=replace(run.setting, steps=4, evaluate_at=(2, 4)))
    whole, told = beside(plan, tmp_path / "whole"), tmp_path / "told"
    assert children.finish(children.start(complaining, run, whole, told)) == 0
    expected, failures, free = outcome(run, whole), 0, 0
    with small_disk(tmp_path / "disk", 8 * 2**20) as disk:
        while True:
            lab = beside(plan, disk / "store")
            fill(disk, free)
            status = children.finish(children.start(complaining, run, lab, told))
            if status == 0:
                break
            assert status == 2
            failures += 1
            assert re.fullmatch(
                r"[^\n]+: can't be written \([^\n]*No space left[^\n]*\); free space[^\n]+", told.read_text()
            )
            for path in lab.store.root.rglob("*"):  # whatever is there is whole
                if path.is_file() and path.suffix in WHOLE:
                    WHOLE[path.suffix](path)
            (disk / "full").unlink()
            assert children.finish(children.start(complaining, run, lab, told)) == 0
            assert same(outcome(run, lab), expected)
            shutil.rmtree(lab.store.root)
            free += PAGE if free < 20 * PAGE else 10 * PAGE
    figure(
        "nothing half-written is read: full disk",
        f"{failures} runs on a disk with from 0 to {free // 1024} kB free: one line each, 0 partial files; "
        "all went on to the same result once there was space",
    )
    assert failures > 20


PAGE = 4096
WHOLE: dict[str, Callable[[Path], object]] = {".safetensors": load_file, ".json": read_json}


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes of a disk."""
    with (disk / "full").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        file.truncate(file.tell() - free)


def outcome(run: Run, lab: Lab) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    directory = lab.store.run_directory(run.id, run.replicate)
    return science(read_json(directory / "result.json")), load_file(directory / "network.safetensors")


def same(
    one: tuple[dict[str, object], dict[str, torch.Tensor]], other: tuple[dict[str, object], dict[str, torch.Tensor]]
) -> bool:
    return one[0] == other[0] and all(torch.equal(one[1][name], tensor) for name, tensor in other[1].items())
