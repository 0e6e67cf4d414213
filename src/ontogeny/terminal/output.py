"""How tables and JSON reach the terminal."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ontogeny.errors import InputError

WIDE = 160  # columns where the output is piped: tables are not folded for a terminal that isn't there


def console() -> Console:
    """The terminal, or a wide plain one when piped."""
    out = Console()
    return out if out.is_terminal else Console(width=WIDE)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are right-aligned where they are numbers."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = index > 0 and all(row[index][:1] in "+-−0123456789.∞–" for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", no_wrap=index == 0, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def check_writable(out: Path) -> None:
    """Raise InputError, before any work, for a path that no file can be written to."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {out}: no folder {folder}; make it first")
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; give the name of a file")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error.strerror}); give a folder of your own") from None


def print_json(value: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; – where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign."""
    return "–" if value is None else f"{value:+.{digits}f}"


def count(value: float | int | None) -> str:
    """A large count, shortened: 1.2 M."""
    if value is None:
        return "–"
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {letter}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds as s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
