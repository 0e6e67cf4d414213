"""Canonical JSON, and the ids made from it: one recipe, one text, one hash, on every machine."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

LATER = {"later": True}  # metadata of a dataclass field that was added later: absent at its default, so older ids stay


def plain(value: Any) -> Any:
    """Dataclasses, mappings, tuples and paths as plain JSON values; fields marked ``LATER`` are left out at default."""
    if value is None or isinstance(value, (str, int, float)):  # most values: first, and without a union's cost
        return value
    if isinstance(value, dict | Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if not _absent(f, getattr(value, f.name))}
    return str(value) if isinstance(value, Path) else value


def _absent(f: Field[Any], value: Any) -> bool:
    if not f.metadata.get("later"):
        return False
    return bool(value == (f.default_factory() if callable(f.default_factory) else f.default))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal texts. TypeError for what JSON hasn't."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


HALF = re.compile(r"\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]", re.IGNORECASE)  # of a surrogate pair


def parse_json(text: str) -> Any:
    """JSON that ``canonical_json`` can write again: ValueError for NaN, infinities and halves of characters."""
    if HALF.search(text):
        raise ValueError("half of a surrogate pair is no character")
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a number that JSON has")
    return value


def digest(value: Any) -> str:
    """The sha256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
