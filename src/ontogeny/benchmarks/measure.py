"""What the benchmarks share: an entry, and times taken so that a busy machine misleads as little as possible."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np
import torch


@dataclass(frozen=True)
class Entry:
    """One measured figure beside its peers.

    ``peers``: name@version -> value, in the same unit. ``ratio``: the first peer's value over ours. ``bound``: what
    the arithmetic alone allows, same unit. ``target`` in words, and whether it is ``met``; None where there is none.
    """

    name: str
    value: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None
    bound: float | None = None
    target: str | None = None
    met: bool | None = None


def peer(name: str, package: str = "torch") -> str:
    """``name@version`` of the package that provides it."""
    return f"{name}@{version(package)}"


def cpu_seconds(steps: Mapping[str, Callable[[], object]], rounds: int = 4, limit: float = 0.0) -> dict[str, float]:
    """Least processor seconds of each step, which must not use more than one thread.

    Not elapsed time, and the least of the rounds: what else runs on the machine only ever adds. Steps take turns, so
    that what drifts hits all; there are at least ``rounds`` rounds, and more until ``limit`` seconds are over.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    end, done = time.monotonic() + limit, 0
    while done < rounds or time.monotonic() < end:
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
        done += 1
    return {name: min(values) for name, values in times.items()}


def exponent(costs: Mapping[int, float]) -> float:
    """The power of the size with which a cost grows: least squares on logarithms of size -> cost."""
    sizes, values = (np.log(list(each)) for each in (costs.keys(), costs.values()))
    return float(np.polyfit(sizes, values, 1)[0])


def product_rate(dtype: torch.dtype, n: int = 512) -> float:
    """FLOP a second of n×n matrix products on this thread: the fastest of the three that a linear layer needs."""
    A, B = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    return 2 * n**3 / min(cpu_seconds({"y": lambda: A @ B.T, "dx": lambda: A @ B, "dW": lambda: A.T @ B}).values())
