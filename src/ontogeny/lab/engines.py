"""Where runs execute. An engine maps a function over items and yields (item, result) as each is done.

Items are a sequence that may grow while results are taken: what a result asks for is begun as soon as a worker is free.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from ontogeny.errors import Claimed, Interrupted

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[Any, Any]]]

POLL = 0.2  # seconds that a worker waits where another process has the run, before it takes the next


def every(
    mapper: Mapper, function: Callable[[Any], Any], items: Sequence[Any], report: Callable[[int, int], None]
) -> Iterator[Any]:
    """What the function gives for every item, as it is done. What another process works on just now comes last."""
    report(0, len(items))
    for done, (_, result) in enumerate(work(mapper, function, list(items)), start=1):
        report(done, len(items))
        yield result


def work(mapper: Mapper, function: Callable[[Any], Any], queue: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Every item of a queue with what the function gives for it, as it is done; the queue may grow meanwhile.

    What another process works on just now is put at its end.
    """
    for item, result in mapper(partial(_unless_claimed, function), queue):
        if isinstance(result, Claimed):
            queue.append(item)
        else:
            yield item, result


def _unless_claimed(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except Claimed as claimed:
        time.sleep(POLL)
        return claimed


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

    def mapper(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        futures: dict[Future[Any], Any] = {}
        submitted = 0
        while submitted < len(items) or futures:
            for item in items[submitted:]:
                futures[pool.submit(_guarded, function, item)] = item
                submitted += 1
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                yield futures.pop(future), future.result()

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
