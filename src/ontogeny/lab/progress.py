"""Progress of long work: a bar with rate and time left on a terminal, plain lines when piped."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[str, int, int], None]
LINES = 100  # of a phase at most, where output is piped
RECENT = 16  # reports that the time left is told from


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """A function of (phase, done, total) that shows where the work stands."""
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield report


def _plain(console: Console) -> Report:
    started: dict[str, float] = {}
    recent: dict[str, deque[tuple[float, int]]] = {}

    def report(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        elapsed = now - started.setdefault(phase, now)
        marks = recent.setdefault(phase, deque(maxlen=RECENT))
        marks.append((now, done))
        if done == 0 or total == 0 or (done < total and done * LINES // total == (done - 1) * LINES // total):
            return
        since, first = marks[0]  # what was stored before took no time
        left = f", {(now - since) / (done - first) * (total - done):.0f} s left" if first < done < total else ""
        console.print(f"{phase} {done}/{total}, {elapsed:.0f} s{left}", highlight=False)

    return report
