"""The lines of an export in a file: as JSON, or as the rows of a table in CSV or Parquet, by the file's ending."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ontogeny.canonical import canonical_json
from ontogeny.errors import InputError, optional
from ontogeny.files import replacing

Line = Mapping[str, Any]
WHOLE = "json"  # the column of a Parquet file that holds the whole line, for import: others lose types and what is None


def check_format(out: Path) -> None:
    """InputError, before any work, where Parquet is asked for and the extra that writes it is missing."""
    if out.suffix == ".parquet":
        optional("pyarrow.parquet", f"--out {out}")


def write_lines(out: Path, lines: Sequence[Line]) -> None:
    """Write lines to a file, whole or not at all: .csv, .parquet, or one JSON object a line."""
    writers: dict[str, Callable[[Path, Sequence[Line]], None]] = {".csv": _write_csv, ".parquet": _write_parquet}
    with replacing(out) as temporary:
        writers.get(out.suffix, _write_json)(temporary, lines)


def read_lines(file: Path) -> list[str | bytes]:
    """The lines of a file of JSON lines or of Parquet. InputError for CSV, which keeps too little of them."""
    if file.suffix == ".csv":
        raise InputError(f"{file}: a table to look at; import reads what export wrote as .jsonl or .parquet")
    if file.suffix != ".parquet":
        return list(file.read_bytes().splitlines())
    parquet = optional("pyarrow.parquet", str(file))
    try:
        return list(parquet.read_table(file, columns=[WHOLE])[WHOLE].to_pylist())
    except (ValueError, KeyError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: not a Parquet file that ontogeny store export wrote ({reason})") from None


def _write_json(path: Path, lines: Sequence[Line]) -> None:
    path.write_text("".join(canonical_json(line) + "\n" for line in lines), encoding="utf-8")


def _write_csv(path: Path, lines: Sequence[Line]) -> None:
    columns = _columns(lines)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_text(line.get(column)) for column in columns] for line in lines)


def _write_parquet(path: Path, lines: Sequence[Line]) -> None:
    import pyarrow
    from pyarrow import parquet

    found = {column: _typed([line.get(column) for line in lines]) for column in _columns(lines)}
    parquet.write_table(pyarrow.table(found | {WHOLE: [canonical_json(line) for line in lines]}), path)


def _columns(lines: Sequence[Line]) -> list[str]:
    """Every key, in the order in which lines first have them."""
    return list(dict.fromkeys(key for line in lines for key in line))


def _typed(values: Sequence[Any]) -> list[Any]:
    """A column of one type: booleans, whole numbers, numbers, or else text, in which what is nested is JSON."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) == 1 and kinds < {bool, int}:
        return list(values)
    if kinds and kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    """A cell: text as it is, nothing as nothing, the rest as JSON."""
    return "" if value is None else value if isinstance(value, str) else canonical_json(value)
