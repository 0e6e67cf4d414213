"""No hostile genome file gets past the reader, nor makes it use memory: taken apart, changed, put together again."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import GENOME_SHAPES, QUERY, tiny_masks, tiny_subspaces

from ontogeny.errors import GenomeError
from ontogeny.genome.genome import MAX_HEADER, Genome, Mask, Subspace, load, save
from ontogeny.genome.linalg import orthonormality_error
from ontogeny.genome.sites import make_site

fast = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


# Hostile files, made of a good one taken apart: the safetensors header, the 'ontogeny' header, the data.
class Parts:
    def __init__(self, content: bytes) -> None:
        length = int.from_bytes(content[:8], "little")
        self.outer = json.loads(content[8 : 8 + length])
        self.inner = json.loads(self.outer["__metadata__"]["ontogeny"])
        self.data = bytearray(content[8 + length :])

    def array(self, name: str) -> Any:
        entry = self.outer[name]
        start, stop = entry["data_offsets"]
        kind = {"F32": np.float32, "U8": np.uint8}[entry["dtype"]]
        return np.frombuffer(memoryview(self.data)[start:stop], kind).reshape(entry["shape"])

    def add(self, name: str, shape: list[int], dtype: str = "F32") -> None:
        size = int(np.prod(shape)) * {"F32": 4, "U8": 1}[dtype]
        self.outer[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(self.data), len(self.data) + size]}
        self.data += bytes(size)

    def pack(self) -> bytes:
        if "__metadata__" in self.outer and "ontogeny" in self.outer["__metadata__"]:
            self.outer["__metadata__"]["ontogeny"] = json.dumps(self.inner)
        header = json.dumps(self.outer).encode()
        return len(header).to_bytes(8, "little") + header + bytes(self.data)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, files = tmp_path_factory.mktemp("good"), {}
    for name, genome in {"subspace": tiny_subspaces(), "mask": tiny_masks()}.items():
        save(genome, folder / name)
        files[name] = (folder / name).read_bytes()
        assert Parts(files[name]).pack()[:8] != b""  # taken apart and put together it is still a genome
        (folder / name).write_bytes(Parts(files[name]).pack())
        assert len(load(folder / name).genes) == 3
    return files


def reads(path: Path, content: bytes) -> Genome | None:
    """The genome, if it is accepted; any error but a GenomeError that names the file fails the test."""
    path.write_bytes(content)
    try:
        genome = load(path)
    except GenomeError as error:
        if str(path) not in str(error):
            raise
        return None
    for site, gene in genome.genes.items():
        if isinstance(gene, Subspace):
            assert [Q.shape for Q in (gene.U, gene.V)] == [(d, gene.rank) for d in site.shape]
            assert max(orthonormality_error(Q) for Q in (gene.U, gene.V)) < 1e-3
        else:
            assert gene.keep.shape == site.shape
    assert all(isinstance(genome.provenance[key], dict) for key in ("recipe", "source", "versions", "certificates"))
    return genome


def site(p: Parts, **keys: Any) -> Any:
    p.inner["sites"][QUERY].update(keys)


U, KEEP = f"{QUERY}.U", f"{QUERY}.keep"
LIES: dict[str, tuple[str, Callable[[Parts], Any], str]] = {
    "zero column": ("subspace", lambda p: p.array(U)[:, 1].fill(0), f"tensor {U} is not orthonormal"),
    "scaled": ("subspace", lambda p: np.multiply(p.array(U), 1.001, out=p.array(U)), "not orthonormal"),
    "repeated column": ("subspace", lambda p: np.copyto(p.array(U)[:, 1], p.array(U)[:, 0]), "not orthonormal"),
    "NaN": ("subspace", lambda p: p.array(U)[2:3, 1:2].fill(np.nan), f"tensor {U}"),
    "infinite": ("subspace", lambda p: p.array(U)[2:3, 1:2].fill(np.inf), f"tensor {U}"),
    "all NaN": ("subspace", lambda p: p.array(U).fill(np.nan), f"tensor {U}"),
    "shape turned": ("subspace", lambda p: p.outer[U].update(shape=[3, 12]), f"tensor {U} is F32"),
    "shape flattened": ("subspace", lambda p: p.outer[U].update(shape=[36]), f"tensor {U} is F32"),
    "whole numbers": ("subspace", lambda p: p.outer[U].update(dtype="I32"), f"tensor {U} is I32"),
    "unknown type": ("subspace", lambda p: p.outer[U].update(dtype="X9"), "not a whole genome file"),
    "shape of another": ("subspace", lambda p: site(p, shape=[8, 12]), f"tensor {U}"),
    "rank less": ("subspace", lambda p: site(p, rank=2), f"tensor {U}"),
    "rank more": ("subspace", lambda p: site(p, rank=4), f"tensor {U}"),
    "rank above the short side": ("subspace", lambda p: site(p, rank=9), f"site {QUERY}: rank 9"),
    "rank 10^12": ("subspace", lambda p: site(p, rank=10**12), f"site {QUERY}: rank"),
    "rank 0": ("subspace", lambda p: site(p, rank=0), "rank 0"),
    "rank a word": ("subspace", lambda p: site(p, rank="3"), "rank '3'"),
    "rank true": ("subspace", lambda p: site(p, rank=True), "rank True"),
    "huge shape": ("subspace", lambda p: site(p, shape=[10**12, 10**12]), f"tensor {U}"),
    "huge shape on both sides": (
        "subspace",
        lambda p: site(p, shape=[10**18, 8]) or p.outer[U].update(shape=[10**18, 3]),
        "not a whole genome file",
    ),
    "shape of words": ("subspace", lambda p: site(p, shape=["12", 8]), "two positive numbers"),
    "shape of one": ("subspace", lambda p: site(p, shape=[12]), "two positive numbers"),
    "negative shape": ("subspace", lambda p: site(p, shape=[-12, 8]), "two positive numbers"),
    "site a number": ("subspace", lambda p: p.inner["sites"].update({QUERY: 3}), f"site {QUERY}"),
    "certificate a list": ("subspace", lambda p: site(p, certificate=[1]), f"site {QUERY}.*certificate"),
    "no rank": ("subspace", lambda p: p.inner["sites"][QUERY].pop("rank"), "rank None"),
    "site gone": ("subspace", lambda p: p.inner["sites"].pop(QUERY), f"tensor {U} is not in the header"),
    "site added": ("subspace", lambda p: p.inner["sites"].update(x=p.inner["sites"][QUERY]), "no tensor x.U"),
    "tensor gone": ("subspace", lambda p: p.outer.update({"a.U": p.outer.pop(U)}), f"no tensor {U}"),
    "embedding": ("subspace", lambda p: p.add("embed_tokens.weight", [64, 8]), "embed_tokens.weight is not in"),
    "singular values": ("subspace", lambda p: p.add(f"{QUERY}.S", [3]), f"{QUERY}.S is not in the header"),
    "empty tensor": ("subspace", lambda p: p.add("x", [0]), "tensor x is not in the header"),
    "format 2": ("subspace", lambda p: p.inner.update(format=2), "format 2"),
    "format a word": ("subspace", lambda p: p.inner.update(format="1"), "'format' as int"),
    "format true": ("subspace", lambda p: p.inner.update(format=True), "format"),
    "kind of values": ("subspace", lambda p: p.inner.update(kind="values"), "found 'values'"),
    "kind of the other": ("subspace", lambda p: p.inner.update(kind="mask"), "keep"),
    "no sites": ("subspace", lambda p: p.inner.update(sites={}), "expected sites"),
    "sites a list": ("subspace", lambda p: p.inner.update(sites=[1]), "'sites' as dict"),
    "source a word": ("subspace", lambda p: p.inner.update(source="x"), "'source' as dict"),
    "source with NaN": ("subspace", lambda p: p.inner.update(source={"x": float("nan")}), "JSON"),
    "no metadata": ("subspace", lambda p: p.outer.pop("__metadata__"), "not a genome file"),
    "other metadata": ("subspace", lambda p: p.outer.update(__metadata__={"format": "pt"}), "not a genome file"),
    "more metadata": ("subspace", lambda p: p.outer["__metadata__"].update(values="0.1 0.2"), "metadata"),
    "header a list": ("subspace", lambda p: setattr(p, "inner", [p.inner]), "the header needs"),
    "header a word": ("subspace", lambda p: setattr(p, "inner", "format"), "the header needs"),
    "overlapping tensors": (
        "subspace",
        lambda p: p.outer[U].update(data_offsets=p.outer[f"{QUERY}.V"]["data_offsets"], shape=[8, 3]),
        "not a whole genome file",
    ),
    "mask of more": ("mask", lambda p: site(p, kept=1), f"tensor {KEEP} keeps"),
    "mask of none": ("mask", lambda p: p.inner["sites"][QUERY].pop("kept"), f"tensor {KEEP} keeps"),
    "mask bit flipped": ("mask", lambda p: np.bitwise_xor(p.array(KEEP), 8, out=p.array(KEEP)), "keeps"),
    "mask bits beyond": (
        "mask",
        lambda p: p.array("layers.10.mlp.down.keep")[0:1, 2:3].fill(31),
        "layers.10.mlp.down.keep has bits beyond its 19 columns",
    ),
    "mask of another shape": ("mask", lambda p: site(p, shape=[12, 9]), f"tensor {KEEP} is U8"),
    "mask of signed": ("mask", lambda p: p.outer[KEEP].update(dtype="I8"), f"tensor {KEEP} is I8"),
    "mask kind of the other": ("mask", lambda p: p.inner.update(kind="subspace"), "no tensor"),
}


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_named(lie: str, good: dict[str, bytes], tmp_path: Path) -> None:
    kind, tell, said = LIES[lie]
    parts = Parts(good[kind])
    tell(parts)
    path = tmp_path / "g"
    path.write_bytes(parts.pack())
    with pytest.raises(GenomeError, match=said) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [-1, 1, 10**6, MAX_HEADER, 2**31, 2**63 - 1])
def test_declared_header_lengths(length: int, good: dict[str, bytes], tmp_path: Path) -> None:
    true = int.from_bytes(good["subspace"][:8], "little")
    declared = (true + length if abs(length) == 1 else length).to_bytes(8, "little")
    assert reads(tmp_path / "g", declared + good["subspace"][8:]) is None


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / ("x" * 400), tmp_path / "pipe"):
        with pytest.raises(GenomeError, match="can't be read"):
            load(path)


@fast
@given(kind=st.sampled_from(["subspace", "mask"]), share=st.floats(0, 1, exclude_max=True))
def test_truncated(kind: str, share: float, good: dict[str, bytes], tmp_path: Path) -> None:
    assert reads(tmp_path / "g", good[kind][: int(share * len(good[kind]))]) is None


@fast
@given(kind=st.sampled_from(["subspace", "mask"]), more=st.binary(min_size=1, max_size=64))
def test_trailing_bytes(kind: str, more: bytes, good: dict[str, bytes], tmp_path: Path) -> None:
    assert reads(tmp_path / "g", good[kind] + more) is None


@settings(fast, max_examples=300)
@given(kind=st.sampled_from(["subspace", "mask"]), data=st.data())
def test_flipped_bytes(kind: str, data: st.DataObject, good: dict[str, bytes], tmp_path: Path) -> None:
    content = bytearray(good[kind])
    length = int.from_bytes(content[:8], "little")
    inside = data.draw(st.sampled_from([range(8), range(8, 8 + length), range(8 + length, len(content))]))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.sampled_from(inside))
        content[position] ^= data.draw(st.integers(1, 255))
    genome = reads(tmp_path / "g", bytes(content))
    if genome is not None:
        assert {s.name: s.shape for s in genome.genes} == GENOME_SHAPES


@fast
@given(kind=st.sampled_from(["subspace", "mask"]), seed=st.integers(0, 2**32 - 1))
def test_shuffled_data(kind: str, seed: int, good: dict[str, bytes], tmp_path: Path) -> None:
    """Tensors that change places are caught by their shapes, unless they are as good as the ones they replace."""
    parts = Parts(good[kind])
    names = [n for n in parts.outer if n != "__metadata__"]
    order = np.random.default_rng(seed).permutation(len(names))
    parts.outer = {"__metadata__": parts.outer["__metadata__"]} | {
        names[i]: parts.outer[names[j]] for i, j in enumerate(order)
    }
    genome = reads(tmp_path / "g", parts.pack())
    assert genome is None or {s.name: s.shape for s in genome.genes} == GENOME_SHAPES


@fast
@given(kind=st.sampled_from(["subspace", "mask"]), data=st.data())
def test_reordered_header(kind: str, data: st.DataObject, good: dict[str, bytes], tmp_path: Path) -> None:
    """The order of the entries means nothing."""
    parts = Parts(good[kind])
    parts.outer = dict(data.draw(st.permutations(list(parts.outer.items()))))
    assert reads(tmp_path / "g", parts.pack()) is not None


absurd = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(inner, (*path, key))


@settings(fast, max_examples=300)
@given(kind=st.sampled_from(["subspace", "mask"]), outer=st.booleans(), data=st.data())
def test_absurd_headers(kind: str, outer: bool, data: st.DataObject, good: dict[str, bytes], tmp_path: Path) -> None:
    """Any value anywhere in either header replaced by any other."""
    parts = Parts(good[kind])
    header = parts.outer if outer else parts.inner
    path = data.draw(st.sampled_from([p for p in _paths(header) if p]))
    original = copy.deepcopy(header)
    target = header
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(absurd)
    genome = None
    try:
        content = parts.pack()
    except TypeError:  # the metadata is no dict any more: as it stands
        content = b""
    genome = reads(tmp_path / "g", content)
    if genome is not None and not outer:
        assert header == original or path[0] in ("recipe", "source", "versions") or "certificate" in path
    if genome is not None:
        save(genome, tmp_path / "again")  # what is read can be written


MEASURE = """
import sys
from pathlib import Path
from ontogeny.errors import GenomeError
from ontogeny.genome.genome import load

def kilobytes(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])

for path in map(Path, sys.argv[1:]):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = kilobytes("VmRSS")
    try:
        genome, verdict = load(path), "read"
    except GenomeError:
        genome, verdict = None, "refused"
    print(path.name, verdict, (kilobytes("VmHWM") - before) * 1024, path.stat().st_size)
    del genome
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_the_file_and_a_little(good: dict[str, bytes], tmp_path: Path) -> None:
    """No file, hostile or large, takes more than its own size and 50 MB to read or refuse."""
    tall = Subspace(torch.eye(8192, 1024), torch.eye(1024))
    save(Genome({make_site("a", (8192, 1024)): tall}, {}), tmp_path / "large")
    save(Genome({make_site("a", (4096, 4096)): Mask(torch.ones(4096, 4096, dtype=torch.bool))}, {}), tmp_path / "mask")
    room = MAX_HEADER - 10_000
    inner = Parts(good["subspace"]).inner
    hostile = {
        "lists": inner | {"source": {"x": [[]] * (room // 3)}},
        "wide": inner | {"source": {"x": ["\U0001f600", *[[]] * (room // 3)]}},
        "sites": inner | {"sites": {str(i): {"shape": [1, 1], "rank": 1} for i in range(room // 47)}},
        "nested": inner | {"source": json.loads("[" * 500 + "]" * 500)},
        "beyond": inner | {"source": {"x": [[]] * 10**6}},
    }
    for name, value in hostile.items():
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        header = json.dumps({"__metadata__": {"ontogeny": text}}, ensure_ascii=False).encode()
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header)
    parts = Parts(good["subspace"])
    parts.outer |= {
        str(i): {"dtype": "F32", "shape": [0], "data_offsets": [len(parts.data)] * 2} for i in range(room // 70)
    }
    (tmp_path / "tensors").write_bytes(parts.pack())
    (tmp_path / "long").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    (tmp_path / "warm").write_bytes(good["subspace"])  # the first one loads libraries too
    names = ["warm", "large", "mask", "tensors", "long", *hostile]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in names)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows = [line.split() for line in result.stdout.splitlines()]
    print(result.stdout)
    assert [row[0] for row in rows] == names
    for name, verdict, grown, size in rows:
        assert verdict == ("read" if name in ("warm", "large", "mask") else "refused")
        assert int(grown) <= int(size) + 50_000_000, name
