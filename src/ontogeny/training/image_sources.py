"""Sources of images: the embedded digits, parquet files and the hub, read as rows and decoded one by one."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ontogeny.errors import InputError, optional

DIGITS = "digits"
WHERE_DIGITS = f"images {DIGITS}"  # rows of raw pixels: the embedded source needs no Pillow
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMN = "label"
FORMATS = ("PNG", "JPEG")  # what published data sets hold; none of Pillow's other readers is ever called
MODES = ("L", "RGB")


@dataclass(frozen=True, slots=True)
class Row:
    """One image, still encoded, and its class from 0.

    ``where`` names its file, or its data set and split, and ``number`` its place there from 1: both for messages.
    """

    where: str
    number: int
    image: bytes
    label: int


def read_rows(source: str) -> dict[str, list[Row]]:
    """The rows of the source's own splits: "train", and "test" if it has one.

    Raises InputError for a source that is unknown, missing, empty or no table of images and labels, and for a row
    without an image or with a label that is no whole number from 0.
    """
    if source in EMBEDDED:
        return EMBEDDED[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        return {part: _parquet(path / f"{part}.parquet") for part in ("train", "test")}
    if path.suffix == ".parquet":
        return {"train": _parquet(path)}
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) and not path.exists():
        return _hub(source)
    raise InputError(
        f"images {source}: expected {', '.join(EMBEDDED)}, a .parquet file, a folder with train.parquet and "
        "test.parquet, or a hub data set id (owner/name)"
    )


def _digits() -> dict[str, list[Row]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.images.astype(np.uint8)  # whole numbers 0 … 16
    labelled = enumerate(zip(pixels, digits.target.tolist(), strict=True), start=1)
    return {"train": [Row(WHERE_DIGITS, number, image.tobytes(), label) for number, (image, label) in labelled]}


def _parquet(path: Path) -> list[Row]:
    where = f"images {path}"
    if not path.is_file():
        raise InputError(f"{where}: no such file")
    parquet = optional("pyarrow.parquet", where)
    try:
        file = parquet.ParquetFile(path)
        wanted = [name for name in (*IMAGE_COLUMNS, LABEL_COLUMN) if name in file.schema_arrow.names]
        table = file.read(columns=wanted)
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{where}: expected a whole parquet file, found {_first_line(error)}") from error
    return _table_rows(table, file.schema_arrow.names, where)


def _hub(source: str) -> dict[str, list[Row]]:
    datasets = optional("datasets", f"images {source}")
    try:
        loaded = datasets.load_dataset(source)
    except (OSError, ValueError) as error:
        found = _first_line(error)
        raise InputError(f"images {source}: no such file, and not readable as a hub data set: {found}") from error
    if "train" not in loaded:
        raise InputError(f"images {source}: expected a split named train, found {', '.join(loaded) or 'none'}")
    tables = {part: loaded[part].with_format("arrow")[:] for part in ("train", "test") if part in loaded}
    return {part: _table_rows(table, table.column_names, f"images {source}, {part}") for part, table in tables.items()}


def _table_rows(table: Any, names: list[str], where: str) -> list[Row]:
    """The rows of an Arrow table; ``names`` are all the columns its source has."""
    column = next((name for name in IMAGE_COLUMNS if name in names), None)
    if column is None or LABEL_COLUMN not in names:
        expected = f"{' or '.join(IMAGE_COLUMNS)}, and {LABEL_COLUMN}"
        raise InputError(f"{where}: expected the columns {expected}, found {', '.join(names) or 'none'}; rename them")
    if not table.num_rows:
        raise InputError(f"{where}: expected at least one image, found no rows")
    rows = zip(table[column].to_pylist(), table[LABEL_COLUMN].to_pylist(), strict=True)
    return [_row(where, number, image, label) for number, (image, label) in enumerate(rows, start=1)]


def _row(where: str, number: int, image: Any, label: Any) -> Row:
    encoded = image.get("bytes") if isinstance(image, Mapping) else image  # the hub's images: {bytes, path}
    if not isinstance(encoded, bytes):
        found = type(encoded).__name__
        raise InputError(f"{where}, row {number}: expected the bytes of an image, found {found}; leave that row out")
    if type(label) is not int or label < 0:
        raise InputError(f"{where}, row {number}: expected a label from 0, found {label!r}; number the classes from 0")
    return Row(where, number, encoded, label)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


EMBEDDED: dict[str, Callable[[], dict[str, list[Row]]]] = {DIGITS: _digits}


def decode(row: Row) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of an image. Raises InputError if it is no image, is cut short, or isn't 8-bit grey or RGB."""
    if row.where == WHERE_DIGITS:
        return np.frombuffer(row.image, np.uint8).reshape(8, 8, 1)
    where = f"{row.where}, row {row.number}"
    pillow = optional("PIL.Image", where)
    try:
        with pillow.open(io.BytesIO(row.image), formats=FORMATS) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        formats = " or ".join(FORMATS)
        raise InputError(f"{where}: expected a whole {formats} image, found {_first_line(error)}") from error
    if mode not in MODES:
        raise InputError(f"{where}: expected 8-bit grey or RGB ({', '.join(MODES)}), found mode {mode}; convert it")
    return pixels.reshape(*pixels.shape[:2], -1)
