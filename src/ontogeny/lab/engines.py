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
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from ontogeny.errors import Claimed, InputError, Interrupted, choose
from ontogeny.training import together

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[Any, Any]]]

STOPPED = "stopped: running work is saved, rerun to go on"
RETRIES = 20  # of one item on Ray, each after the loss of its worker or node
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
        raise Interrupted(STOPPED)

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


@contextmanager
def on_ray(workers: int | None, address: str | None = None, shared: Path = Path()) -> Iterator[Mapper]:
    """Tasks of a Ray cluster: one started here with so many CPUs, or the one at ``address``.

    A task takes one CPU and, where the cluster has GPUs, its worker's share of them (at most one). It runs as ``local``
    runs it, so its numbers are the same. Up to ``workers`` run at once; None: as many as the cluster has CPUs.
    A task whose worker or node is lost starts again elsewhere, and goes on from what it saved in the store.
    ``shared``: the folder that every node must see. SIGINT and SIGTERM reach the tasks, which save their step;
    then Interrupted is raised. InputError where no cluster answers.
    """
    import ray

    from ontogeny.training.train import graceful

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no report to Ray's makers
    started = {} if address else {"num_cpus": workers, "include_dashboard": False}
    with graceful() as stopping:
        notice = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **started)
        except (ConnectionError, ValueError) as error:
            raise InputError(
                f"--address {address}: expected a Ray cluster's HOST:PORT or auto, found {error}"
            ) from None
        try:
            for number, handler in notice.items():
                signal.signal(number, handler)  # Ray has put its own in place
            with NamedTemporaryFile(dir=shared, prefix=".seen-by-all-nodes-") as sign:
                yield partial(_map_on_ray, limit=workers, sign=Path(sign.name).absolute(), stopping=stopping)
        finally:
            ray.shutdown()


def _map_on_ray(
    function: Callable[[Any], Any], items: Sequence[Any], *, limit: int | None, sign: Path, stopping: list[int]
) -> Iterator[tuple[Any, Any]]:
    import ray

    resources = ray.cluster_resources()
    share = min(1.0, resources.get("GPU", 0) / (limit or resources["CPU"]))
    share = int(share * 10_000) / 10_000  # Ray knows no finer ones
    task = ray.remote(num_cpus=1, num_gpus=share, max_retries=RETRIES, retry_exceptions=[Interrupted])(_on_node)
    running: dict[Any, Any] = {}
    begun = 0
    try:
        while begun < len(items) or running:
            while begun < len(items) and (limit is None or len(running) < limit):
                running[task.remote(function, items[begun], sign)] = items[begun]
                begun += 1
            done, _ = ray.wait(list(running), timeout=0.5)
            if stopping:
                stopping.clear()  # acted on: nobody else is told
                raise Interrupted(STOPPED)
            for reference in done:
                yield running.pop(reference), _result(reference)
    finally:  # nothing is left running, whatever happened
        for reference in running:
            ray.cancel(reference)  # an interrupt to a running task
        if running:
            ray.wait(list(running), num_returns=len(running))


def _on_node(function: Callable[[Any], Any], item: Any, sign: Path) -> Any:
    """One item on some node, on one thread."""
    if not sign.exists():
        raise InputError(
            f"--store {sign.parent}: node {os.uname().nodename} can't see it; give a folder all nodes share"
        )
    with local(1) as mapper:
        return next(mapper(function, [item]))[1]


def _result(reference: Any) -> Any:
    """What a task gave; what it raised, as it was raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        lost = f"a run's worker was lost {RETRIES + 1} times"
        raise InputError(f"--engine ray: {lost} ({error}): give its nodes more memory and rerun to go on") from None


ENGINES: dict[str, Callable[[int], AbstractContextManager[Mapper]]] = {
    "local": local,
    "processes": processes,
    "ray": on_ray,
}


def find_engine(
    name: str, workers: int | None, address: str | None, shared: Path
) -> Callable[[], AbstractContextManager[Mapper]]:
    """What starts the engine of that name, ``workers`` of it (None: one a core). InputError for what can't be had."""
    choose(name, ENGINES, "--engine")
    if together.count() > 1 and name != "local":
        raise InputError(f"accelerate launch: its processes share every run; expected --engine local, found {name}")
    if address and name != "ray":
        raise InputError(f"--address {address}: expected with --engine ray, found --engine {name}")
    if name != "ray":
        return partial(ENGINES[name], workers or os.cpu_count() or 1)
    if find_spec("ray") is None:
        raise InputError("--engine ray: Ray isn't installed: pip install 'ontogeny[ray]'")
    return partial(on_ray, workers or (None if address else os.cpu_count()), address, shared)
