"""A checkpoint from a stranger runs no code of its own and opens no file but its own."""

import ctypes
import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import smoke
import tiny

from ontogeny.errors import CheckpointError, InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.lab.families import read_given
from ontogeny.training.text import load_tokenizer

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
unpickled: list[str] = []


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        unpickled.append(event)


sys.addaudithook(hear)


class Opened:
    """Counts how often any file in a folder is opened, by whatever library: the kernel says so (inotify)."""

    OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        system = ctypes.CDLL(None, use_errno=True)
        self.descriptor = system.inotify_init1(os.O_NONBLOCK)
        assert system.inotify_add_watch(self.descriptor, os.fsencode(folder), self.OPEN) >= 0

    def names(self) -> list[str]:
        try:
            events = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(events):
            size = struct.unpack_from("iIII", events, at)[3]
            found.append(events[at + 16 : at + 16 + size].rstrip(b"\0").decode())
            at += 16 + size
        return [name for name in found if name]


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """What no test may bring into being."""
    unpickled.clear()
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()
    assert unpickled == []


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tiny.tiny_checkpoint("llama", tmp_path / "llama")
    smoke.write_tokenizer(directory, tiny.VOCABULARY)
    return directory


def use(directory: Path) -> None:
    """All that is ever done with a donor's files, but training on its text."""
    from transformers import AutoModelForCausalLM

    ((_, path, opened),) = read_given([str(directory)])
    extract(opened, Recipe("25%"))
    load_tokenizer(path)
    AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False)  # as lab/donors.py does


def zipped(canary: Path) -> bytes:
    """As torch.save writes it: a zip file with a pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(canary)))
    return out.getvalue()


POLYGLOTS: dict[str, Callable[[bytes, Path], bytes]] = {
    "pickle": lambda whole, canary: pickle.dumps(Bomb(canary)),
    "zip": lambda whole, canary: zipped(canary),
    "pickle, then safetensors": lambda whole, canary: pickle.dumps(Bomb(canary)) + whole,
    "safetensors, then pickle": lambda whole, canary: whole + pickle.dumps(Bomb(canary)),
    "safetensors, then zip": lambda whole, canary: whole + zipped(canary),
}


@pytest.mark.parametrize("how", POLYGLOTS)
def test_pickles_and_polyglots_are_refused(how: str, checkpoint: Path, canary: Path) -> None:
    path = checkpoint / WEIGHTS
    path.write_bytes(POLYGLOTS[how](path.read_bytes(), canary))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        use(checkpoint)


def test_pickles_beside_the_weights_stay_closed(checkpoint: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.ckpt", "adapter_model.bin"):
        (checkpoint / name).write_bytes(pickle.dumps(Bomb(canary)))
    watched = Opened(checkpoint)
    use(checkpoint)
    assert {Path(name).suffix for name in watched.names()} == {".safetensors", ".json"}


def test_the_canary_can_die(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()
    assert "pickle.find_class" in unpickled


def test_a_configuration_runs_no_code(checkpoint: Path, canary: Path) -> None:
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    (checkpoint / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    for file in (CONFIG, "generation_config.json", "tokenizer_config.json"):
        path = checkpoint / file
        value = json.loads(path.read_text()) if path.exists() else {}
        value |= {"auto_map": dict.fromkeys(names, "evil.Evil"), "custom_generate": "evil.py"}
        path.write_text(json.dumps(value))
    watched = Opened(checkpoint)
    use(checkpoint)
    assert "evil.py" not in watched.names()


@pytest.mark.parametrize("name", ["../outside/x", "/etc/passwd", "..", "a/../../outside/x", "outside\\x", "x\0", ""])
def test_an_index_points_nowhere_else(name: str, checkpoint: Path, tmp_path: Path, canary: Path) -> None:
    (tmp_path / "outside").mkdir()
    (checkpoint / WEIGHTS).rename(tmp_path / "outside" / "x")
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    watched = Opened(tmp_path / "outside")
    with pytest.raises(CheckpointError):
        use(checkpoint)
    assert watched.names() == []


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, "generation_config.json", "tokenizer.json", INDEX])
@pytest.mark.parametrize("absolute", [True, False])
def test_links_out_are_refused(file: str, absolute: bool, checkpoint: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = checkpoint / file
    (outside / "secret").write_bytes(path.read_bytes() if path.exists() else b'{"weight_map": {"a": "b"}}')
    path.unlink(missing_ok=True)
    path.symlink_to(outside / "secret" if absolute else Path("../outside/secret"))
    watched = Opened(outside)
    with pytest.raises(CheckpointError, match=f"{file}: a link to {outside}/secret, which is outside the checkpoint"):
        use(checkpoint)
    assert watched.names() == []


def test_links_that_lead_out_in_two_steps_or_in_circles(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (checkpoint / "inner").symlink_to(tmp_path)
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / "generation_config.json").symlink_to("inner/secret")
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        open_checkpoint(checkpoint)
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / CONFIG).unlink()
    (checkpoint / "long").symlink_to("x" * 300)
    (checkpoint / CONFIG).symlink_to(CONFIG)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(checkpoint)


def test_a_pipe_is_not_waited_for(checkpoint: Path) -> None:
    os.mkfifo(checkpoint / "generation_config.json.new")
    with pytest.raises(CheckpointError, match="expected a file, found a pipe"):
        open_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="expected a folder"):
        open_checkpoint(checkpoint / "generation_config.json.new")


def test_links_inside_and_those_of_the_hubs_cache_work(checkpoint: Path, tmp_path: Path) -> None:
    """models--x/snapshots/<commit>/<file> -> ../../blobs/<hash>; a blob that is itself a link out is refused."""
    cache = tmp_path / "models--an--owner"
    snapshot = cache / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        path.rename(cache / "blobs" / f"{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    use(snapshot)
    checkpoint.rmdir()
    checkpoint.symlink_to(snapshot)  # a link to a whole checkpoint is the user's own
    use(checkpoint)
    (cache / "blobs" / "0").rename(tmp_path / "elsewhere")
    (cache / "blobs" / "0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        use(snapshot)


@pytest.mark.parametrize("content", [b"\x80\x04.", b"{}", b'{"model": {"type": "x"}}', b"[" * 10**5, b""])
def test_tokenizers_that_are_none(content: bytes, checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(InputError, match="expected a tokenizer"):
        load_tokenizer(checkpoint)
