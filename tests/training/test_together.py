"""Two processes that train together find what one finds."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, tiny_checkpoint, tiny_model
from torch import Tensor, nn
from torch.distributed.elastic.utils.distributed import get_free_port

from ontogeny.errors import InputError, Interrupted
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.model.constrain import constrain
from ontogeny.streams import stream
from ontogeny.training import together
from ontogeny.training.branch import train_branched
from ontogeny.training.develop import DevelopConfig, develop
from ontogeny.training.train import STATE, TrainConfig, evaluation_loss, train

CONFIG = TrainConfig(steps=8, body_rate=1e-2, rest_rate=1e-2, evaluate_at=(2, 4))
PATIENCE = 300.0  # seconds that a process is given on a busy machine


def batches(step: int) -> Tensor:
    start = torch.randint(0, VOCABULARY, (4, 1), generator=stream(0, "start", step))
    return (start + 3 * torch.arange(17)) % VOCABULARY


def evaluate(model: nn.Module) -> dict[str, float]:
    """Every process measures something else: process 0's is what counts."""
    assert hasattr(model, "unshard") == together.sharding(), "what trains is spread, or it isn't"
    return {"loss": evaluation_loss(model, batches(-1)), "rank": float(os.environ.get("RANK", 0))}


def network(kind: str, directory: Path) -> nn.Module:
    """Dense, in subspaces, or in masks."""
    model: nn.Module = tiny_model("llama")
    if kind == "dense":
        return model
    with together.leader_first():
        if not (directory / "donor").exists():
            tiny_checkpoint("llama", directory / "donor", seed=9)
    donor = open_checkpoint(directory / "donor")
    recipe = Recipe(density="30%") if kind == "masks" else Recipe(rank="50%", basis="singular")
    return constrain(model, extract(donor, recipe))


def work(directory: Path, sharded: bool = False) -> dict[str, Any]:
    """Every way to train, and what came of it."""
    os.environ["ACCELERATE_USE_FSDP"] = str(sharded).lower()
    assert together.sharding() == sharded
    found: dict[str, Any] = {}
    for kind in ("dense", "subspaces", "masks"):
        model = network(kind, directory)
        rows: list[dict[str, Any]] = []
        history = train(model, batches, CONFIG, evaluate=evaluate, on_evaluation=rows.extend)
        found[kind] = [[row[key] for row in history.rows] for key in ("loss", "train_loss", "rank")]
        found[f"{kind} told"] = bool(rows)
        found[f"{kind} weights"] = [p.double().sum().item() for p in model.parameters()]
    if not sharded:
        plan = DevelopConfig(rounds_at=(2, 4), keep=0.5)
        developed = develop(network("subspaces", directory), batches, CONFIG, plan, seed=1, evaluate=evaluate)
        found["developed"] = developed.history.losses
        found["lived"] = {site: rows.tolist() for site, rows in developed.lived.items()}
    options: dict[str, Any] = {"evaluate": evaluate, "directory": directory / "branched"}
    found["branched"] = train_branched(network("subspaces", directory), batches, CONFIG, (5, 8), **options).losses
    return found


def interrupted(directory: Path) -> list[float]:
    """SIGTERM reaches one process only, and not the first; all stop, and all go on."""

    def stop(step: int) -> None:
        if step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 3"):
        train(network("subspaces", directory), batches, CONFIG, evaluate=evaluate, directory=directory, on_step=stop)
    assert (directory / STATE).exists()
    return train(network("subspaces", directory), batches, CONFIG, evaluate=evaluate, directory=directory).losses


def odd(directory: Path) -> None:
    with pytest.raises(InputError, match="a batch of 3 can't be divided among 2 processes"):
        train(network("dense", directory), lambda step: batches(step)[:3], CONFIG, evaluate=evaluate)


def join_in(rank: int, port: int, root: Path) -> None:
    """What each process does, told who it is as ``torchrun`` tells it."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's: it has trained alone
    who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {**who, **where, "OMP_NUM_THREADS": "1"}
    if together.leads():
        for name in ("whole", "sharded"):
            folder = root / name
            result = together.call(work, folder, name == "sharded")
            result["resumed"] = together.call(interrupted, folder / "interrupted")
            (folder / "result.json").write_text(json.dumps(result))
        together.call(odd, folder)
    else:
        together.follow()


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a whole network, then with a half of it."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # ``work`` sets it
    one = work(tmp_path / "one")  # first: the others find imported what it has needed
    port, fork = get_free_port(), multiprocessing.get_context("fork")
    two = [fork.Process(target=join_in, args=(rank, port, tmp_path), daemon=True) for rank in (0, 1)]
    for process in two:
        process.start()
    for process in two:
        process.join(PATIENCE)
        assert process.exitcode == 0
    whole, sharded = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "sharded"))
    assert whole.pop("lived") == one.pop("lived")
    for found in (whole, sharded):
        assert found.pop("resumed") == found["subspaces"][0], "bitwise what went through without a stop"
        for name, values in found.items():
            assert_close(values, one[name])
    assert whole.keys() == one.keys()
    assert sharded.keys() == one.keys() - {"developed"}


def assert_close(found: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
    else:
        assert found == (pytest.approx(expected, rel=2e-5, abs=1e-5) if isinstance(expected, float) else expected)


def test_alone_nothing_is_shared() -> None:
    assert together.leads()
    assert together.call(lambda a: a + 1, 2) == 3
    assert together.agreed("mine") == "mine"
    assert together.anywhere(True, False) == [True, False]
    assert torch.equal(together.own_part(batches(0)), batches(0))
