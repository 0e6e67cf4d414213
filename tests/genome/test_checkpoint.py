"""Checkpoints as people have them: old names, single files, hub ids; and every way of being broken."""

import json
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_model

from ontogeny.canonical import file_digest
from ontogeny.errors import CheckpointError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "llama")


def rename(directory: Path, change: Callable[[str], str]) -> None:
    path = directory / WEIGHTS
    save_file({change(name): W.clone() for name, W in load_file(path).items()}, path)


def edit_config(directory: Path, **keys: Any) -> None:
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def same_weights(a: Checkpoint, b: Checkpoint) -> bool:
    return all(s == t and torch.equal(W, X) for (s, W), (t, X) in zip(a.weights(), b.weights(), strict=True)) and all(
        torch.equal(x, y) for x, y in zip(a.embeddings().values(), b.embeddings().values(), strict=True)
    )


# Names of ViT before and since transformers 5
VIT = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def _new_vit(name: str) -> str:
    for old, new in VIT.items():
        name = name.replace(old, new)
    return name


def _old_vit(name: str) -> str:
    name = _new_vit(name)
    for old, new in VIT.items():
        name = name.replace(new, old)
    return name


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),  # as gpt2 is on the hub
        ("gpt_neox", lambda name: name.replace("lm_head", "embed_out")),  # Pythia's head
        ("gpt_neox", lambda name: name.replace("embed_out", "lm_head")),
        ("llama", lambda name: name.removeprefix("model.")),
        ("vit", lambda name: name.removeprefix("vit.")),
        ("vit", _new_vit),
        ("vit", _old_vit),
    ],
)
def test_names_of_other_releases(model: str, change: Callable[[str], str], tmp_path: Path) -> None:
    original = open_checkpoint(tiny_checkpoint(model, tmp_path / "new"))
    renamed = tiny_checkpoint(model, tmp_path / "old")
    rename(renamed, change)
    assert set(map(change, original.tensors)) == set(open_checkpoint(renamed).tensors)
    assert same_weights(original, open_checkpoint(renamed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_stored_types_are_kept(llama: Path, dtype: torch.dtype) -> None:
    save_file({name: W.to(dtype) for name, W in load_file(llama / WEIGHTS).items()}, llama / WEIGHTS)
    assert {W.dtype for _, W in open_checkpoint(llama).weights()} == {dtype}


def test_source_says_where_it_came_from(llama: Path) -> None:
    source = open_checkpoint(llama).source()
    assert source["id"] == str(llama)
    assert source["files"] == {WEIGHTS: file_digest(llama / WEIGHTS)}
    assert source["config"]["model_type"] == "llama"
    assert source["normalisation"] == "rms"
    assert open_checkpoint(tiny_checkpoint("gpt2", llama / "gpt2")).source()["normalisation"] == "layer"


def test_pattern_on_a_file_and_a_folder(llama: Path) -> None:
    state = tiny_model("llama").state_dict()
    for source in (llama, llama / WEIGHTS):
        found = open_checkpoint(source, pattern=r"1\.mlp\.(up|down)_proj")
        assert {site.name for site in found.sites} == {"model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"}
        for site, W in found.weights():
            assert not site.reads_residual
            assert not site.writes_residual
            assert torch.equal(W, state[f"{site.name}.weight"])
        assert found.norm_gain("model.layers.1.mlp.up_proj") is None
        assert found.source()["files"] == {WEIGHTS: file_digest(llama / WEIGHTS)}
    assert "norm" not in " ".join(s.name for s in open_checkpoint(llama, pattern=".").sites)  # vectors are no sites
    assert len(open_checkpoint(llama, pattern=r"layers\.0").sites) == 7


def test_pattern_mistakes(llama: Path) -> None:
    for pattern, said in (("(", "not a regular expression"), ("zzz", "no 2-D tensor matches"), ("input_l", "no 2-D")):
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(llama, pattern=pattern)
    with pytest.raises(CheckpointError, match="--pattern"):
        open_checkpoint(llama / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "revision", "reason"),
    [
        ("EleutherAI/pythia-160m-weight-seed1", None, "#203"),
        ("EleutherAI/pythia-160m-weight-seed2", "step1000", "#203"),
        ("EleutherAI/pythia-70m", "step2", "#198"),
        ("EleutherAI/pythia-410m-seed3", None, "#202"),
        ("EleutherAI/pythia-12b", "step3000", "#205"),
        ("EleutherAI/pythia-14m", None, "replaced"),
        ("EleutherAI/pythia-160m-weight-seed1", "step0", "#83"),
        ("EleutherAI/pythia-160m", None, None),
        ("EleutherAI/pythia-160m-weight-seed3", "step1000", None),
        ("EleutherAI/pythia-14m", "step143000", None),
    ],
)
def test_known_bad_checkpoints_are_named(
    name: str, revision: str | None, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint("gpt_neox", tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_checkpoint(name, revision=revision)
    said = " ".join(str(w.message) for w in caught)
    assert (reason in said) if reason else not said


# Each breaks a good checkpoint in one way and says what the message must contain.
def _truncate(directory: Path) -> None:
    path = directory / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def _only_pickle(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _index(directory: Path, weight_map: Any) -> None:
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def _poison(directory: Path, bad: float) -> None:
    state = load_file(directory / WEIGHTS)
    state["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    save_file(state, directory / WEIGHTS)


def _replace(directory: Path, name: str, tensor: torch.Tensor) -> None:
    save_file(load_file(directory / WEIGHTS) | {name: tensor}, directory / WEIGHTS)


def _hollow(directory: Path, name: str, shape: list[int]) -> None:
    """A tensor without entries, with one long side."""
    _replace(directory, name, torch.ones(0))
    content = (directory / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[name]["shape"] = shape
    text = json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


Q1 = "model.layers.1.self_attn.q_proj.weight"
BREAK: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda d: (d / WEIGHTS).unlink(), r"no \*.safetensors"),
    "only a pickle": (_only_pickle, "pytorch_model.bin.*can run code"),
    "truncated": (_truncate, "not a whole safetensors file"),
    "empty file": (lambda d: (d / WEIGHTS).write_bytes(b""), "not a whole safetensors file"),
    "header of 2^63 bytes": (lambda d: (d / WEIGHTS).write_bytes(b"\xff" * 7 + b"\x7f{}"), "not a whole"),
    "no entries, 10^12 rows": (lambda d: _hollow(d, Q1, [10**12, 0]), "can't be empty"),
    "no entries, 2^62 columns": (lambda d: _hollow(d, Q1, [0, 2**62]), "can't be empty"),
    "not safetensors": (lambda d: (d / WEIGHTS).write_bytes(b"<html>" * 99), "not a whole safetensors file"),
    "weights are a directory": (lambda d: _directory(d / WEIGHTS), "safetensors"),
    "NaN": (lambda d: _poison(d, float("nan")), "up_proj.weight has NaN"),
    "infinite": (lambda d: _poison(d, float("inf")), "up_proj.weight has NaN or infinite"),
    "codes": (lambda d: _replace(d, Q1, torch.ones(32, 32, dtype=torch.int8)), "stored as I8.*quantised"),
    "8-bit float": (lambda d: _replace(d, Q1, torch.ones(32, 32).to(torch.float8_e4m3fn)), "quantised"),
    "a vector": (lambda d: _replace(d, Q1, torch.ones(32)), "q_proj.weight: expected a matrix"),
    "a scalar": (lambda d: _replace(d, Q1, torch.tensor(1.0)), "q_proj.weight: expected a matrix"),
    "an empty matrix": (lambda d: _replace(d, Q1, torch.ones(32, 0)), "can't be empty"),
    "no rows": (lambda d: _replace(d, Q1, torch.ones(0, 32)), "can't be empty"),
    "index points outside": (lambda d: _index(d, {"a": "../x"}), "points outside"),
    "index points to the root": (lambda d: _index(d, {"a": "/etc/passwd"}), "points outside"),
    "index points above": (lambda d: _index(d, {"a": ".."}), "points outside"),
    "index with NUL": (lambda d: _index(d, {"a": "x\0y"}), "index"),
    "index names a missing shard": (lambda d: _index(d, {"a": "shard.safetensors"}), "names shard.*missing"),
    "index names a long file": (lambda d: _index(d, {"a": "x" * 5000}), "index"),
    "index of a list": (lambda d: _index(d, ["a"]), "weight_map"),
    "index of numbers": (lambda d: _index(d, {"a": 3}), "weight_map"),
    "index without map": (lambda d: (d / INDEX).write_text("{}"), "weight_map"),
    "index not JSON": (lambda d: (d / INDEX).write_text("{,"), "not JSON"),
    "no configuration": (lambda d: (d / CONFIG).unlink(), "no config.json"),
    "configuration not JSON": (lambda d: (d / CONFIG).write_text("{\n\n,"), "not JSON"),
    "configuration a list": (lambda d: (d / CONFIG).write_text("[]"), "expected a JSON object, found list"),
    "configuration binary": (lambda d: (d / CONFIG).write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "configuration nested": (lambda d: (d / CONFIG).write_text("[" * 10**5), "not JSON"),
    "configuration a directory": (lambda d: _directory(d / CONFIG), "config.json"),
    "configuration with 10^999": (lambda d: (d / CONFIG).write_text('{"a": 1e999}'), "not JSON"),
    "configuration with half a character": (lambda d: (d / CONFIG).write_text('{"a": "\\ud800"}'), "not JSON"),
    "configuration with NaN": (lambda d: edit_config(d, rope_theta=float("nan")), "not JSON.*NaN"),
    "quantised": (lambda d: edit_config(d, quantization_config={"bits": 4}), "quantised"),
    "unknown architecture": (lambda d: edit_config(d, model_type="mamba"), "known are llama"),
    "architecture a list": (lambda d: edit_config(d, model_type=["llama"]), "known are llama"),
    "another architecture": (lambda d: edit_config(d, model_type="phi3"), r"layer 0: no tensor .*qkv_proj"),
    "negative layers": (lambda d: edit_config(d, num_hidden_layers=-1), "num_hidden_layers.*found -1"),
    "many layers": (lambda d: edit_config(d, num_hidden_layers="many"), "num_hidden_layers.*found 'many'"),
    "10^9 layers": (lambda d: edit_config(d, num_hidden_layers=10**9), "layer 2: no tensor"),
    "half a layer": (lambda d: edit_config(d, num_hidden_layers=1.5), "num_hidden_layers"),
    "no heads": (lambda d: edit_config(d, num_attention_heads=0), "num_attention_heads.*found 0"),
    "seven heads": (lambda d: edit_config(d, num_attention_heads=7), "7 heads"),
}


def read_all(source: Path) -> None:
    for _ in open_checkpoint(source).weights():
        pass


@pytest.mark.parametrize("how", BREAK)
def test_broken_checkpoints_are_refused_in_one_line(how: str, llama: Path) -> None:
    change, said = BREAK[how]
    change(llama)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=said) as error:
        read_all(llama)
    assert time.perf_counter() - start < 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nowhere", "no/where/at/all", "/no/such", "..", "", "a\0b", "x" * 5000, "./no/where"])
def test_missing_directories(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(name)
    assert "\n" not in str(error.value)


def test_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"^nobody/nothing: .*the hub") as error:
        open_checkpoint("nobody/nothing", revision="step3")
    assert "\n" not in str(error.value)


def test_a_hub_id_with_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloaded as --revision would have it; a path with an @ in it is a path."""
    asked = []

    def download(name: str, revision: str | None, **options: Any) -> str:
        asked.append((name, revision))
        return str(tmp_path / "snapshots" / "0a1b")

    tiny_checkpoint("llama", tmp_path / "snapshots" / "0a1b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for source, revision in (("an/owner@refs/pr/1", None), ("an/owner", "refs/pr/1"), ("an/owner", None)):
        found = open_checkpoint(source, revision=revision)
        assert (found.name, found.revision) == ("an/owner", "0a1b"), "the id, and the commit that it is"
    assert asked == [("an/owner", "refs/pr/1")] * 2 + [("an/owner", None)]
    with pytest.warns(UserWarning, match="pythia-70m at step2 is known to be bad"):
        open_checkpoint("EleutherAI/pythia-70m@step2")
    with pytest.raises(CheckpointError, match=r"an/owner@a: expected one revision, found b too"):
        open_checkpoint("an/owner@a", revision="b")
    local = tiny_checkpoint("llama", tmp_path / "an" / "owner@a")
    assert open_checkpoint("an/owner@a", revision="b").directory == Path("an/owner@a")
    assert open_checkpoint(local).name == str(local)
    assert len(asked) == 4
    for source in ("./an/owner@b", "a/longer/path@b"):
        with pytest.raises(CheckpointError, match=f"^{source}: no such directory"):
            open_checkpoint(source)


def test_missing_tensor_is_named(llama: Path) -> None:
    state = load_file(llama / WEIGHTS)
    del state["model.layers.1.mlp.gate_proj.weight"]
    save_file(state, llama / WEIGHTS)
    with pytest.raises(CheckpointError, match=re.escape("layers.1.mlp.gate_proj.weight")):
        open_checkpoint(llama)
    with pytest.raises(CheckpointError, match="no tensor nothing"):
        open_checkpoint(tiny_checkpoint("llama", llama / "again")).read("nothing")


def test_a_file_that_shrinks_after_opening(llama: Path) -> None:
    checkpoint = open_checkpoint(llama)
    _truncate(llama)
    with pytest.raises(CheckpointError, match="not a whole"):
        list(checkpoint.weights())
