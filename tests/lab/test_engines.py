"""Wherever runs execute, the numbers are the same, and mistakes arrive as what they are."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import smoke
import torch

from ontogeny.errors import InputError, Interrupted
from ontogeny.lab.engines import ENGINES, Mapper, local, processes
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab
from ontogeny.lab.run import run
from ontogeny.lab.store import Store, open_store


def threads(item: int) -> tuple[int, int, str | None]:
    return os.getpid(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def refuse(item: int) -> int:
    if item:
        raise InputError("expected nothing, found something")
    return item


def sleep(item: int) -> int:
    time.sleep(60)
    return item


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


def test_engines_by_name() -> None:
    assert set(ENGINES) == {"local", "processes", "ray"}


def test_local_is_lazy_and_in_order() -> None:
    seen: list[int] = []

    def note(item: int) -> int:
        seen.append(item)
        return -item

    with local(3) as mapper:
        results = mapper(note, [1, 2, 3])
        assert next(results) == (1, -1)
        assert seen == [1]
        assert list(results) == [(2, -2), (3, -3)]


def halve(item: int) -> int:
    return item // 2


def grown(mapper: Mapper) -> list[int]:
    """The items of a queue that every result but 0 is added to."""
    queue, seen = [9, 4], []
    for item, result in mapper(halve, queue):
        seen.append(item)
        queue += [result] * (result > 0)
    return sorted(seen)


def test_a_queue_may_grow() -> None:
    with local(1) as mapper:
        assert grown(mapper) == [1, 1, 2, 2, 4, 4, 9]


def test_local_runs_on_one_thread_and_gives_the_others_back() -> None:
    torch.set_num_threads(2)
    try:
        with local(1) as mapper:
            assert [result[1] for _, result in mapper(threads, [0])] == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def stored_runs(store: Store) -> list[Run]:
    """A few evaluated runs of the smoke store, of different kinds."""
    from ontogeny.lab.conduct import evaluated_runs

    cells = evaluated_runs(smoke.declared(store), store)
    return [cells["fresh", "random"][0], cells["frozen", "donor"][1], cells["fresh", "dense"][1]]


def test_processes(store: Store, tmp_path: Path) -> None:
    """One pool for all of it, since workers take seconds to start."""
    again = open_store(tmp_path)
    (again.root / "tokens").rmdir()
    (again.root / "tokens").symlink_to(store.root / "tokens")
    wanted = stored_runs(store)
    lab = Lab(again, {donor: store.root / "donors" / donor for donor in wanted[0].setting.donors})
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with processes(1) as mapper:
        results: dict[Any, Any] = {r.id: result for r, result in mapper(partial(run, lab=lab), wanted)}
        for one in wanted:
            stored = store.result(one.id, one.replicate)
            assert stored is not None
            assert results[one.id]["losses"] == stored["losses"], "bitwise what the local engine found"
            assert results[one.id] == again.result(one.id, one.replicate)
        assert grown(mapper) == [1, 1, 2, 2, 4, 4, 9]
        ((_, (worker, count, omp)),) = mapper(threads, [0])
        assert worker != os.getpid()
        assert (count, omp) == (1, "1")
        with pytest.raises(InputError, match="expected nothing, found something"):
            list(mapper(refuse, [0, 1]))
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Interrupted, match="rerun to go on"):
            list(mapper(sleep, [0, 1]))
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGTERM) == handler
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
