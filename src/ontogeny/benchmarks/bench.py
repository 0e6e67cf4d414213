"""``ontogeny bench``: measure, compare with peers in the same run, print."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console

from ontogeny.benchmarks import extraction, grid, laboratory, optimisers, training
from ontogeny.benchmarks.measure import Entry
from ontogeny.errors import InputError
from ontogeny.terminal.output import console, print_json, table

BENCHMARKS: dict[str, Callable[[], Iterator[Entry]]] = {
    "extraction": extraction.measure,
    "training": training.measure,
    "optimisers": optimisers.measure,
    "grid": grid.measure,
    "laboratory": laboratory.measure,
}


def run_benchmarks(name: str, *, as_json: bool) -> None:
    """Run one benchmark, or ``all``, and print a table or a JSON list of entries (benchmarks/measure.py).

    Entries are named on standard error as they are measured. Raises InputError for an unknown name.
    """
    if name not in (*BENCHMARKS, "all"):
        raise InputError(f"benchmark {name!r}: expected {', '.join(BENCHMARKS)} or all")
    entries = []
    for chosen in BENCHMARKS if name == "all" else [name]:
        for entry in BENCHMARKS[chosen]():
            Console(stderr=True).print(f"{chosen}: {entry.name}", highlight=False)
            entries.append(entry)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    columns = ("what", "value", "unit", "ratio", "bound", "target", "met")
    console().print(table("Against peers in this run", columns, [row for entry in entries for row in _rows(entry)]))


def _rows(entry: Entry) -> Iterator[list[str]]:
    met = "" if entry.met is None else "yes" if entry.met else "NO"
    yield [
        entry.name,
        _short(entry.value),
        entry.unit,
        _short(entry.ratio),
        _short(entry.bound),
        entry.target or "",
        met,
    ]
    for name, value in entry.peers.items():
        yield [f"    {name}", _short(value), entry.unit, "", "", "", ""]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
