"""Progress of long work: a bar with rate and time left on a terminal, plain lines when piped."""

import time
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
    started: dict[str, tuple[float, int]] = {}

    def report(phase: str, done: int, total: int) -> None:
        begun, first = started.setdefault(phase, (time.monotonic(), done))
        elapsed = time.monotonic() - begun
        if done == 0 or total == 0:
            return
        left = f", {elapsed / (done - first) * (total - done):.0f} s left" if first < done < total else ""
        console.print(f"{phase} {done}/{total}, {elapsed:.0f} s{left}", highlight=False)

    return report
