"""Rows of images from the embedded digits, parquet files and the hub; what can't be read is told in one line."""

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from PIL import Image

from ontogeny.errors import InputError
from ontogeny.training.image_sources import Row, decode, read_rows


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, kind)
    return file.getvalue()


def drawn(count: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write(path: Path, images: list[Any], labels: list[Any], names: tuple[str, str] = ("img", "label")) -> Path:
    """The hub's schema: a struct of bytes and path, and a label."""
    structs = [{"bytes": image, "path": None} for image in images]
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, (structs, labels), strict=True))), path)
    return path


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    rows = read_rows("digits")
    assert list(rows) == ["train"]
    assert np.array_equal(np.stack([decode(row)[..., 0] for row in rows["train"]]), load_digits().images)
    assert [row.label for row in rows["train"]] == load_digits().target.tolist()


@pytest.mark.parametrize("names", [("img", "label"), ("image", "label")])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_parquet_file_gives_its_pixels_and_labels(tmp_path: Path, channels: int, names: tuple[str, str]) -> None:
    pixels = drawn(5, 6, 6, channels)
    path = write(tmp_path / "one.parquet", [encoded(image) for image in pixels], [2, 0, 1, 1, 0], names)
    rows = read_rows(str(path))["train"]
    assert np.array_equal(np.stack([decode(row) for row in rows]), pixels)
    assert [(row.number, row.label) for row in rows] == [(1, 2), (2, 0), (3, 1), (4, 1), (5, 0)]


def test_images_may_stand_as_bytes_alone(tmp_path: Path) -> None:
    pixels = drawn(2, 4, 4, 3)
    table = pyarrow.table({"img": [encoded(image) for image in pixels], "label": [0, 1], "more": ["a", "b"]})
    pyarrow.parquet.write_table(table, tmp_path / "plain.parquet")
    rows = read_rows(str(tmp_path / "plain.parquet"))["train"]
    assert np.array_equal(np.stack([decode(row) for row in rows]), pixels)


def test_a_folder_has_its_own_test_split(tmp_path: Path) -> None:
    for part, label in (("train", 0), ("test", 1)):
        write(tmp_path / f"{part}.parquet", [encoded(drawn(1, 4, 4, 3)[0])], [label])
    rows = read_rows(str(tmp_path))
    assert {part: [row.label for row in found] for part, found in rows.items()} == {"train": [0], "test": [1]}
    (tmp_path / "test.parquet").unlink()
    with pytest.raises(InputError, match=r"test\.parquet: no such file"):
        read_rows(str(tmp_path))


def test_jpeg_is_read_as_pillow_reads_it() -> None:
    content = encoded(drawn(1, 8, 8, 3)[0], "JPEG")
    assert np.array_equal(decode(Row("images here", 1, content, 0)), np.asarray(Image.open(io.BytesIO(content))))


def broken(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


GOOD = encoded(drawn(1, 16, 16, 3)[0])
BLOBS = [
    (broken(GOOD), "expected a whole PNG or JPEG image"),
    (broken(encoded(drawn(1, 16, 16, 3)[0], "JPEG")), "expected a whole PNG or JPEG image"),
    (GOOD[:60] + bytes([GOOD[60] ^ 0xFF]) + GOOD[61:], "expected a whole PNG or JPEG image"),
    (b"", "expected a whole PNG or JPEG image"),
    (b"no image at all", "expected a whole PNG or JPEG image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected a whole PNG or JPEG image"),  # Ghostscript's
    (encoded(drawn(1, 8, 8, 3)[0], "BMP"), "expected a whole PNG or JPEG image"),
    (encoded(drawn(1, 8, 8, 4)[0]), "found mode RGBA"),
]


@pytest.mark.parametrize(("content", "message"), BLOBS)
def test_a_bad_image_names_its_row(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        decode(Row("images some.parquet", 17, content, 0))
    assert str(caught.value).startswith("images some.parquet, row 17: ")
    assert "\n" not in str(caught.value)


def test_an_image_that_unpacks_beyond_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="expected a whole PNG or JPEG image"):
        decode(Row("images some.parquet", 1, GOOD, 0))


IMAGE = {"bytes": GOOD, "path": None}
TABLES: list[tuple[dict[str, list[Any]], str]] = [
    ({"picture": [IMAGE], "label": [0]}, "expected the columns img or image, and label, found picture, label"),
    ({"img": [IMAGE], "class": [0]}, "expected the columns img or image, and label, found img, class"),
    ({"img": [IMAGE, None], "label": [0, 1]}, "row 2: expected the bytes of an image, found NoneType"),
    ({"img": [{"bytes": None, "path": "a.png"}], "label": [0]}, "row 1: expected the bytes of an image"),
    ({"img": [{"path": "a.png"}], "label": [0]}, "row 1: expected the bytes of an image, found NoneType"),
    ({"img": [1], "label": [0]}, "row 1: expected the bytes of an image, found int"),
    ({"img": [IMAGE, IMAGE], "label": [0, -1]}, "row 2: expected a label from 0, found -1"),
    ({"img": [IMAGE], "label": [None]}, "row 1: expected a label from 0, found None"),
    ({"img": [IMAGE], "label": [1.0]}, r"row 1: expected a label from 0, found 1\.0"),
    ({"img": [IMAGE], "label": ["cat"]}, "row 1: expected a label from 0, found 'cat'"),
    ({"img": [], "label": []}, "expected at least one image, found no rows"),
]


@pytest.mark.parametrize(("columns", "message"), TABLES)
def test_a_bad_table_gives_one_line(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    path = tmp_path / "bad.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "no such file"),
        ("empty.parquet", b"", "expected a whole parquet file"),
        ("bad.parquet", b"not parquet", "expected a whole parquet file"),
        ("images.zip", b"PK", "expected digits, a .parquet file, a folder"),
        ("cifar10", None, "expected digits, a .parquet file, a folder"),
    ],
)
def test_a_bad_source_gives_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_cut_parquet_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.parquet", [encoded(image) for image in drawn(50, 8, 8, 3)], [0] * 50)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="expected a whole parquet file"):
        read_rows(str(path))
    path.write_bytes(whole[:100] + bytes(2_000) + whole[2_100:])  # the footer is whole, the pages are not
    with pytest.raises(InputError, match="expected a whole parquet file"):
        read_rows(str(path))


class HubSplit:
    """What a split of the hub's ``datasets`` gives when it is asked for Arrow."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def with_format(self, kind: str) -> "HubSplit":
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> Any:
        assert rows == slice(None)
        return self.table


def test_a_hub_data_set_is_read_split_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"image": [IMAGE, IMAGE], "label": [1, 0]})
    hub = ModuleType("datasets")
    loaded = {"train": HubSplit(table), "validation": HubSplit(None), "test": HubSplit(table.slice(0, 1))}
    monkeypatch.setattr(hub, "load_dataset", {"owner/name": loaded, "owner/odd": {"fit": loaded}}.get, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    rows = read_rows("owner/name")
    assert {part: [row.label for row in found] for part, found in rows.items()} == {"train": [1, 0], "test": [1]}
    assert rows["test"][0] == Row("images owner/name, test", 1, GOOD, 1)
    with pytest.raises(InputError, match="expected a split named train, found fit"):
        read_rows("owner/odd")


def test_a_hub_that_can_not_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ModuleType("datasets")

    def load_dataset(source: str) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(hub, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(InputError, match=r"owner/name.*no route$"):
        read_rows("owner/name")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "one.parquet", [GOOD], [0])
    row = read_rows(str(path))["train"][0]
    for module in ("datasets", "pyarrow.parquet", "PIL.Image"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (lambda: read_rows("owner/name"), lambda: read_rows(str(path)), lambda: decode(row)):
        with pytest.raises(InputError, match=r"needs (datasets|pyarrow|PIL); pip install 'ontogeny\[data\]'"):
            call()
    assert decode(read_rows("digits")["train"][0]).shape == (8, 8, 1)  # needs none of them
