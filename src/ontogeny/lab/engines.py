"""Where runs execute. An engine maps a function over items and yields (item, result) as each is done."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from ontogeny.errors import Claimed, Interrupted

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]

POLL = 1.0  # seconds between looks at what other processes work on, when nothing else is left to do


def every(
    mapper: Mapper, function: Callable[[Any], Any], items: Sequence[Any], report: Callable[[int, int], None]
) -> Iterator[Any]:
    """What the function gives for every item, as it is done. What another process works on just now comes last."""
    report(0, len(items))
    waiting, done = list(items), 0
    while waiting:
        claimed = []
        for item, results in mapper(partial(_unless_claimed, function), waiting):
            if not results:
                claimed.append(item)
            for result in results:
                done += 1
                report(done, len(items))
                yield result
        if len(claimed) == len(waiting):
            time.sleep(POLL)
        waiting = claimed


def _unless_claimed(function: Callable[[Any], Any], item: Any) -> tuple[Any, ...]:
    """What it gives, or nothing."""
    try:
        return (function(item),)
    except Claimed:
        return ()


@contextmanager
def local(workers: int) -> Iterator[Mapper]:
    """One run after another, in this process; on one thread, so that the last bits are those of the other engines."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield lambda function, items: ((item, function(item)) for item in items)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def processes(workers: int) -> Iterator[Mapper]:
    """A pool of single-threaded workers: on small models one process a core beats threads.

    SIGINT and SIGTERM reach the workers, which save their step; the pool then ends and Interrupted is raised.
    """
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment  # read by the workers' libraries when they start
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))

    def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        futures = {pool.submit(_guarded, function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def stop(number: int, frame: object) -> None:
        for process in list(pool._processes.values()):
            process.terminate()
        raise Interrupted("stopped: running work is saved, rerun to go on")

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield mapper
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


_stopped = threading.Event()  # set in a worker that was told to stop: what is still queued is not begun


def _guarded(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        if _stopped.is_set():
            raise Interrupted("stopped before it began")
        return function(item)
    except Interrupted:
        _stopped.set()
        raise


def _start_worker(parent: int) -> None:
    import torch

    def stop(number: int, frame: object) -> None:  # between training loops, which save first
        raise Interrupted("stopped")

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver passes it on as SIGTERM, once
    signal.signal(signal.SIGTERM, stop)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # the driver was killed: what is saved is saved

    threading.Thread(target=watch, daemon=True).start()


ENGINES: dict[str, Callable[[int], AbstractContextManager[Mapper]]] = {"local": local, "processes": processes}
