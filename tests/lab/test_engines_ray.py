"""Runs on a Ray cluster: the same numbers, also when a node is killed in the middle of them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import smoke
import torch
from tiny import tiny_checkpoint, tiny_model

from ontogeny.errors import InputError, Interrupted
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract_to
from ontogeny.lab import engines
from ontogeny.lab.conduct import evaluated_runs
from ontogeny.lab.engines import Mapper
from ontogeny.lab.networks import Lab
from ontogeny.lab.run import run
from ontogeny.lab.store import Store, claim, open_store
from ontogeny.training.train import STATE, TrainConfig, evaluation_loss, train

STEPS, PATIENCE = 60, 60.0
FAST = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with one CPU each, in processes of this machine."""
    pytest.importorskip("ray", reason="Ray isn't installed: pip install 'ontogeny[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import this module
        yield from two_nodes(Cluster)


def two_nodes(Cluster: Any) -> Iterator[Any]:
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=node | {"_system_config": FAST})
    found.second = found.add_node(**node)
    yield found
    found.shutdown()


def train_slowly(directory: Path, pause: float = 0.05) -> list[float]:
    """A training that saves every step and notes who takes it: step, node, process."""
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"

    def note(step: int) -> None:
        with (directory / "steps").open("a") as file:
            file.write(f"{step} {node} {os.getpid()}\n")
        time.sleep(pause)

    with claim(directory):
        windows = torch.arange(36).reshape(4, 9)
        history = train(
            tiny_model("llama"),
            lambda step: windows[step % 4 :],
            TrainConfig(STEPS, 1e-2, 1e-2, evaluate_at=(20, STEPS)),
            evaluate=lambda model: {"loss": evaluation_loss(model, windows)},
            directory=directory,
            save_every=0.0,
            on_step=note,
        )
    return history.losses


def steps(directory: Path) -> list[list[str]]:
    """What was noted of every step taken."""
    file = directory / "steps"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def runs_are_the_stored_ones(mapper: Mapper, store: Store, again: Store) -> None:
    (again.root / "tokens").rmdir()
    (again.root / "tokens").symlink_to(store.root / "tokens")
    cells = evaluated_runs(smoke.declared(store), store)
    wanted = [cells["fresh", "random"][0], cells["frozen", "donor"][1]]
    lab = Lab(again, {donor: store.root / "donors" / donor for donor in wanted[0].setting.donors})
    results = {one.id: result for one, result in mapper(partial(run, lab=lab), wanted)}
    for one in wanted:
        stored = store.result(one.id, one.replicate)
        assert stored is not None
        assert results[one.id] == again.result(one.id, one.replicate)
        assert results[one.id]["losses"] == stored["losses"], "bitwise what the local engine found"


def an_extraction_is_the_same(mapper: Mapper, folder: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint("llama", folder / "donor"))
    extract_to(folder / "here", donor, Recipe("25%"))
    extract_to(folder / "there", donor, Recipe("25%"), mapper=mapper)
    assert (folder / "here").read_bytes() == (folder / "there").read_bytes()


def refuse(item: int) -> int:
    raise InputError("expected nothing, found something")


def when(condition: Callable[[], Any], action: Callable[[], None]) -> None:
    """Do it in a thread as soon as the condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        action()

    threading.Thread(target=watch, daemon=True).start()


def test_a_node_is_killed_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, cluster: Any, tmp_path: Path
) -> None:
    """Two runs at once, one a node; then, on what is left, an experiment's runs, an extraction, a mistake, SIGTERM."""
    store = smoke.smoke_store(tmp_path_factory)
    folders = [tmp_path / name for name in ("a", "b")]
    before = signal.getsignal(signal.SIGTERM)

    def both_at_work() -> bool:
        return all(len(steps(folder)) > 3 for folder in folders)

    def kill_the_second_node() -> None:
        node = cluster.second.node_id
        workers = {int(pid) for folder in folders for _, where, pid in steps(folder) if where == node}
        cluster.second.kill_raylet()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        cluster.remove_node(cluster.second, allow_graceful=False)

    with engines.on_ray(None, cluster.address, tmp_path) as mapper:
        when(both_at_work, kill_the_second_node)
        results = dict(mapper(train_slowly, folders))
        (moved,) = [folder for folder in folders if len({node for _, node, _ in steps(folder)}) == 2]
        assert STEPS <= len(steps(moved)) <= STEPS + 1, "it went on from what it had saved"
        alone = train_slowly(tmp_path / "alone", pause=0)
        assert results == dict.fromkeys(folders, alone), "bitwise"

        runs_are_the_stored_ones(mapper, store, open_store(tmp_path / "again"))
        an_extraction_is_the_same(mapper, tmp_path)

        with pytest.raises(InputError, match=r"^expected nothing, found something$"):
            list(mapper(refuse, [0, 1]))

        stopped = tmp_path / "stopped"
        when(lambda: steps(stopped), lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="rerun to go on"):
            list(mapper(train_slowly, [stopped, tmp_path / "never"]))
        assert (stopped / STATE).exists()
        assert len(steps(stopped)) < STEPS / 2, "it is told at once"
        assert not steps(tmp_path / "never")
    assert signal.getsignal(signal.SIGTERM) == before


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"node .* can't see it; give a folder all nodes share"):
        engines._on_node(refuse, 0, tmp_path / "elsewhere" / "sign")
    with pytest.raises(InputError, match="expected with --engine ray"):
        engines.find_engine("processes", 1, "auto", tmp_path)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ontogeny\[ray\]'"):
        engines.find_engine("ray", 1, None, tmp_path)
