"""Mistakes in what is given: one line on standard error and exit status 2, before any training."""

import json
import shutil
from pathlib import Path

import pytest
import smoke
import tiny
import torch
from command_line import command, refused
from safetensors.torch import load_file, save_file

from ontogeny.lab.store import Store


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smoke.write_text(tmp_path_factory.mktemp("text") / "text.jsonl")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


def damaged(llama: Path, directory: Path, kind: str) -> Path:
    """A copy of a checkpoint with one thing wrong."""
    shutil.copytree(llama, directory)
    weights = directory / "model.safetensors"
    if kind == "empty":
        shutil.rmtree(directory)
        directory.mkdir()
    elif kind == "pickled":
        weights.rename(directory / "pytorch_model.bin")
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "garbage":
        weights.write_bytes(b"not a tensor in sight" * 100)
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no config":
        (directory / "config.json").unlink()
    elif kind == "broken config":
        (directory / "config.json").write_text("{")
    elif kind == "unknown architecture":
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    else:
        tensors = load_file(weights)
        value = torch.nan if kind == "NaN" else torch.inf
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        save_file(tensors, weights, metadata={"format": "pt"})
    return directory


DAMAGE = {
    "empty": "no *.safetensors in it",
    "pickled": "only pickled weights (pytorch_model.bin)",
    "truncated": "not a whole safetensors file",
    "garbage": "not a whole safetensors file",
    "no weights": "no *.safetensors in it",
    "no config": "no config.json",
    "broken config": "config.json: not JSON",
    "unknown architecture": "mamba",
    "NaN": "model.layers.1.mlp.up_proj.weight has NaN or infinite entries",
    "infinite": "model.layers.1.mlp.up_proj.weight has NaN or infinite entries",
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_checkpoints(llama: Path, tmp_path: Path, text: Path, kind: str) -> None:
    """Read by any command, and given as a donor."""
    bad = damaged(llama, tmp_path / "bad", kind)
    out = tmp_path / "g.safetensors"
    assert DAMAGE[kind] in refused("extract", bad, "--out", out)
    assert not out.exists()
    assert DAMAGE[kind] in refused("inspect", bad)
    assert DAMAGE[kind] in refused("compare", bad, llama)
    arguments = ("--scale", "smoke", "--text", text, "--store", tmp_path / "store")
    assert DAMAGE[kind] in refused("run", "convergence", "--donor", bad, *arguments)


def test_missing_checkpoint(tmp_path: Path) -> None:
    for words in (("extract",), ("inspect",), ("run", "convergence", "--scale", "smoke", "--donor")):
        where = ("--out", tmp_path / "g") if words[0] == "extract" else ()
        where = ("--store", tmp_path / "s") if words[0] == "run" else where
        assert "no such directory" in refused(*words, tmp_path / "nowhere", *where)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rank", "0"), "rank 0: expected 1 to"),
        (("--rank", "-3"), "rank -3: expected 1 to"),
        (("--rank", "0%"), "above 0% and at most 100%"),
        (("--rank", "33"), "layers.0.attention.query"),
        (("--rank", "110%"), "above 0% and at most 100%"),
        (("--rank", "many"), "expected a percentage"),
        (("--rank", ""), "expected a percentage"),
        (("--rank", "1.5"), "expected a percentage"),
        (("--energy", "0"), "above 0 and at most 1"),
        (("--energy", "1.1"), "above 0 and at most 1"),
        (("--energy", "nan"), "above 0 and at most 1"),
        (("--density", "0%"), "above 0% and at most 100%"),
        (("--density", "101%"), "above 0% and at most 100%"),
        (("--rank", "10%", "--density", "10%"), "found rank and density"),
        (("--energy", "0.9", "--select", "bottom"), "leave out --select"),
        (("--select", "left"), "expected top, middle, bottom"),
        (("--basis", "other"), "expected canonical, singular"),
        (("--dtype", "int8"), "expected float32"),
        (("--device", "tpu"), "not on this machine"),
        (("--pattern", "("), "not a regular expression"),
        (("--pattern", "nothing"), "no 2-D tensor matches"),
        (("--engine", "cluster"), "--engine 'cluster': expected local, processes"),
        (("--workers", "2"), "expected with --engine processes"),
        (("--nonsense",), "No such option"),
    ],
    ids=str,
)
def test_extract_options(llama: Path, tmp_path: Path, options: tuple[str, ...], expected: str) -> None:
    out = tmp_path / "g.safetensors"
    assert expected in refused("extract", llama, "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize("where", ["missing/g.safetensors", "folder", "file/g.safetensors", "/proc/g.safetensors"])
def test_files_that_cant_be_written(llama: Path, genome_file: Path, store: Store, tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    out = tmp_path / where
    for words in (
        ("extract", llama),
        ("control", "random", genome_file),
        ("report", "--store", store.root),
        ("store", "export", "--store", store.root),
    ):
        assert f"--out {out}" in refused(*words, "--out", out)


@pytest.mark.parametrize("where", ["file", "file/store", "/proc/store"])
def test_stores_that_cant_be_written(text: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / where
    assert "can't be written" in refused("run", "convergence", "--scale", "smoke", "--text", text, "--store", root)


@pytest.mark.parametrize("words", [("status",), ("claims",), ("report", "--out", "r.html"), ("store", "export")])
def test_no_store(tmp_path: Path, words: tuple[str, ...]) -> None:
    root = tmp_path / "nowhere"
    out = ("--out", tmp_path / "out") if words == ("store", "export") else ()
    assert "no store there" in refused(*words, *out, "--store", root)
    assert not root.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nonsense",), "No such command"),
        (("store",), "Missing command"),
        (("store", "nonsense"), "No such command"),
        (("extract",), "Missing argument"),
        (("compare",), "Missing argument"),
        (("claims", "--by", "date"), "expected id, source"),
        (("control",), "expected NAME GENOME"),
        (("control", "random"), "expected NAME GENOME"),
        (("run",), "expected the name of an experiment"),
        (("run", "nonsense"), "no experiment 'nonsense'"),
        (("run", "nowhere.py"), "no experiment 'nowhere.py'"),
        (("run", "nonsense", "--dry-run"), "no experiment 'nonsense'"),
        (("run", "convergence", "--nonsense"), "No such option"),
        (("run", "convergence", "--scale", "huge"), "no scale 'huge'"),
        (("run", "convergence", "--scale", "huge", "--describe"), "no scale 'huge'"),
        (("run", "convergence", "--engine", "cloud"), "expected local, processes"),
        (("run", "convergence", "--table", "third"), "expected primary, full"),
        (("run", "convergence", "--table", "third", "--dry-run"), "expected primary, full"),
        (("run", "convergence", "--workers", "0"), "greater than or equal to 1"),
        (("run", "convergence", "--workers", "-2"), "greater than or equal to 1"),
        (("run", "convergence", "--workers", "two"), "valid integer"),
        (("run", "convergence", "--replicates", "0"), "greater than or equal to 1"),
        (("run", "convergence", "--replicates", "-1", "--dry-run"), "greater than or equal to 1"),
        (("run", "convergence", "--set", "nonsense=1"), "expected KEY=VALUE"),
        (("run", "convergence", "--set", "steps"), "expected KEY=VALUE"),
        (("run", "convergence", "--set", "steps=none"), "a positive whole number"),
        (("run", "convergence", "--set", "steps=0", "--describe"), "a positive whole number"),
        (("run", "convergence", "--set", "rank=0"), "expected 1 to 32"),
        (("run", "convergence", "--set", "rank=33"), "expected 1 to 32"),
        (("run", "convergence", "--set", "rank=110%"), "above 0% and at most 100%"),
        (("run", "convergence", "--set", "rank=110%", "--dry-run"), "above 0% and at most 100%"),
        (("run", "convergence", "--set", "vocabulary=10"), "vocabulary: expected at least"),
        (("run", "convergence", "--text", "stdlib:poems"), "stdlib:prose"),
        (("run", "convergence", "--text", "nowhere.txt"), "no such file"),
        (("run", "convergence", "--text", "image.png"), "expected stdlib:prose"),
    ],
    ids=str,
)
def test_mistakes(text: Path, tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    if words[:1] == ("run",) and len(words) > 1:
        defaults = (
            "--scale",
            "smoke",
            "--store",
            tmp_path / "store",
            *(("--text", text) if "--text" not in words else ()),
        )
        words = (*words[:2], *defaults, *words[2:])
    assert expected in refused(*words)


def test_text_too_small(tmp_path: Path) -> None:
    small = tmp_path / "small.txt"
    arguments = ("run", "convergence", "--scale", "smoke", "--store", tmp_path / "store", "--text", small)
    for content in ("", "a few words only\n"):
        small.write_text(content)
        assert "give more text" in refused(*arguments) or content == ""
    smoke.write_text(tmp_path / "some.jsonl", documents=120)
    line = refused(*arguments[:-1], tmp_path / "some.jsonl", "--set", "steps=500")
    assert "an arm would need more text" in line
    assert "a donor would need more text" in refused(
        *arguments[:-1], tmp_path / "some.jsonl", "--set", "donor_steps=2000"
    )


def test_text_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1") * 100)
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "empty").mkdir()
    for name, expected in {"latin.txt": "UTF-8", "list.jsonl": "a JSON object", "empty": "found none"}.items():
        assert expected in refused(
            "run", "convergence", "--scale", "smoke", "--store", tmp_path / "store", "--text", tmp_path / name
        )


def test_donors_that_dont_fit(llama: Path, text: Path, tmp_path: Path) -> None:
    run = ("run", "convergence", "--scale", "smoke", "--store", tmp_path / "store", "--text", text)
    assert "the same weights were given twice" in refused(*run, "--donor", llama, "--donor", llama)
    other = tiny.tiny_checkpoint("llama-tied", tmp_path / "other")
    smoke.write_tokenizer(other, tiny.VOCABULARY)
    narrow = tiny.tiny_checkpoint("qwen3", tmp_path / "qwen3")
    assert "not of" in refused(*run, "--donor", llama, "--donor", narrow)
    smoke.write_tokenizer(other, tiny.VOCABULARY + 3)
    assert "they don't belong together" in refused(*run, "--donor", other)
    (other / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file" in refused(*run, "--donor", other)
    assert "--set length=64 or less" in refused(*run, "--donor", llama, "--set", "length=128")
    vision = tiny.tiny_checkpoint("vit", tmp_path / "vit")
    assert "a vision model" in refused(*run, "--donor", vision)
    assert "expected 1 to 16" in refused(*run, "--donor", llama, "--set", "rank=20")


def test_experiment_files(text: Path, tmp_path: Path) -> None:
    run = ("--scale", "smoke", "--store", tmp_path / "store", "--text", text)
    mine = tmp_path / "mine.py"
    for content, expected in {
        "x = 1\n": "no function 'declare'",
        "def declare(:\n": "SyntaxError",
        "import nowhere_at_all\n": "ModuleNotFoundError",
        "raise SystemError('a\\nb')": "SystemError: a b",
    }.items():
        mine.write_text(content)
        assert expected in refused("run", mine, *run)


def test_compare_and_control_mistakes(genome_file: Path, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    mask = tmp_path / "mask.safetensors"
    assert command("extract", llama, "--density", "20%", "--out", mask).status == 0
    assert "expected two or more" in refused("compare", genome_file)
    assert "expected none, permute, orthogonal" in refused("compare", genome_file, genome_file, "--align", "sideways")
    assert "mask" in refused("compare", genome_file, mask)
    assert "no control 'nonsense'" in refused("control", "nonsense", genome_file, "--out", out)
    assert "at least 2 genomes, found 1" in refused("control", "chimera", genome_file, "--out", out)
    assert "needs subspace genomes" in refused("control", "random", mask, "--out", out)
    for path in (tmp_path / "nowhere.safetensors", llama, llama / "config.json", llama / "model.safetensors"):
        assert str(path) in refused("control", "random", path, "--out", out)
    assert "valid integer" in refused("control", "random", genome_file, "--seed", "x", "--out", out)
    assert not out.exists()


def test_inspect_of_what_is_no_genome(llama: Path, genome_file: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(genome_file.read_bytes()[:500])
    for path in (short, llama / "model.safetensors", llama / "config.json"):
        assert str(path) in refused("inspect", path)


GARBAGE = {
    "empty": b"",
    "no JSON": b"hello\n",
    "binary": b"\xff\xfe\x00",
    "another object": b'{"a": 1}\n',
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "unknown kind": b'{"kind": "poem", "id": "x"}\n',
    "odd kind": b'{"kind": [], "id": "x"}\n',
    "no result": b'{"kind": "arm", "id": "x", "replicate": 1}\n',
    "deep": b'{"kind":' + b"[" * 100_000,
    "not a number": b'{"kind": "overlap", "id": "x", "first": "a", "second": "b", "rows": [NaN]}\n',
    "leaves the store": b'{"kind": "overlap", "id": "../x", "first": "a", "second": "b", "rows": []}\n',
    "absolute": b'{"kind": "overlap", "id": "/tmp/x", "first": "a", "second": "b", "rows": []}\n',
    "null byte": b'{"kind": "overlap", "id": "a\\u0000", "first": "a", "second": "b", "rows": []}\n',
    "id is a number": b'{"kind": "overlap", "id": 3, "first": "a", "second": "b", "rows": []}\n',
    "half a declaration": b'{"kind": "declaration", "file": "a.json", "value": {"name": "x"}}\n',
    "odd declaration": b'{"kind": "declaration", "file": "a.json", "value": 3}\n',
}


@pytest.mark.parametrize("kind", list(GARBAGE))
def test_import_of_garbage(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(GARBAGE[kind])
    assert str(file) in refused("store", "import", file, "--store", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_import_of_what_isnt_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        assert "no such file" in refused("store", "import", path, "--store", tmp_path / "store")
