"""One recipe, one text, one hash."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontogeny.canonical import canonical_json, digest, file_digest, parse_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé−κ")
JSON = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text("xy", max_size=2), LEAVES, max_size=3)


@dataclass(frozen=True)
class Point:
    x: float
    names: tuple[str, ...]


def test_text_is_sorted_and_tight() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": {"d": True, "c": "é"}}) == (
        '{"a":{"c":"é","d":true},"b":[1,2.5,null]}'
    )


def test_dataclasses_tuples_and_paths_read_as_plain_json() -> None:
    assert canonical_json(Point(1e-3, ("a", "b"))) == canonical_json({"names": ["a", "b"], "x": 0.001})
    assert canonical_json({"path": Path("a/b")}) == '{"path":"a/b"}'


@given(st.dictionaries(st.text("abc", max_size=3), JSON, min_size=2, max_size=5))
def test_order_of_keys_changes_no_digest(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_no_number_that_json_has_not(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        canonical_json({"a": {1, 2}})


def test_digest_is_sha256_of_the_text() -> None:
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"genome" * 10_000)
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"genome" * 10_000).hexdigest()


@pytest.mark.parametrize(
    "text", ["NaN", "[-Infinity]", "1e999", r'"\ud800"', r'{"\udc00": 1}', r'"\ud83d \ude00"', "{", '"']
)
def test_json_that_cant_be_written_again_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize("value", [{"a": [1, -0.5, 1e308, None, True]}, "😀 é", 10**400, {"": {}}])
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(canonical_json(value)) == parse_json(json.dumps(value)) == value
