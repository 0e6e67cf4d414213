"""A checkpoint as data: a local directory or hub id -> validated weights, one tensor at a time, with provenance.

Nothing is unpickled, no code from a checkpoint runs, and the model is never instantiated.
"""

import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ontogeny.canonical import file_digest, parse_json
from ontogeny.errors import CheckpointError
from ontogeny.genome.linalg import is_finite
from ontogeny.genome.sites import Place, Site, architecture, find, make_site, places

# Checkpoints whose publishers' issue trackers report a fault: (id pattern, revision pattern, what is wrong).
KNOWN_BAD = (
    (r"EleutherAI/pythia-.*-weight-seed[12]$", r"step(?!0$).*|main", "doesn't descend from its step 0 (issue #203)"),
    (r"EleutherAI/pythia-.*", r"step0|step1|step2", "step 0 equals step 1 (#83) and step 2 (#198)"),
    (r"EleutherAI/pythia-410m.*seed.*", r".*", "some weights are missing (#202)"),
    (r"EleutherAI/pythia-(2\.8b|12b).*", r".*", "some branches hold other contents (#205, #206)"),
    (r"EleutherAI/pythia-14m$", r"main", "replaced on the hub in February 2026: give a revision, name@step143000"),
)
FILES = [  # of a hub id: weights, configuration, and a tokenizer's files
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
]  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies, and what its header says of it."""

    file: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint; made by ``open_checkpoint``."""

    directory: Path
    name: str
    revision: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    pattern: str | None = None
    _digests: dict[str, str] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> Tensor:
        """One tensor as stored. Raises CheckpointError if it is missing, unreadable, quantised or non-finite."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.name}: no tensor {name}")
        self._check_type(name)
        stored = self.tensors[name]
        with _opened(self.directory / stored.file) as file:
            tensor: Tensor = file.get_tensor(name)
        if not is_finite(tensor):
            raise CheckpointError(f"{self.name}: tensor {name} has NaN or infinite entries: the checkpoint is damaged")
        return tensor

    def _check_type(self, name: str) -> None:
        if self.tensors[name].dtype not in FLOATS:
            raise CheckpointError(
                f"{self.name}: tensor {name} is stored as {self.tensors[name].dtype}: a quantised checkpoint has no "
                f"plain weights to read ({', '.join(FLOATS)}); use the unquantised one"
            )

    @cached_property
    def places(self) -> list[Place]:
        """Every weight matrix the architecture table (or the pattern) finds, in order."""
        if self.pattern is None:
            return places(self.config, self._shape)
        return []

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The canonical sites, with their (d_out, d_in) shapes."""
        if self.pattern is not None:
            return tuple(Site(n.removesuffix(".weight"), _pair(self.tensors[n].shape)) for n in self._matched())
        found = []
        for place in self.places:
            shape = self.tensors[f"{place.name}.weight"].shape
            d_in = shape[0] if place.linear.transposed else shape[1]
            found += [make_site(name, (len(rows), d_in)) for name, rows in place.rows.items()]
        return tuple(found)

    @property
    def stored_sites(self) -> dict[str, tuple[str, ...]]:
        """Stored tensor -> the sites in it, in order."""
        if self.pattern is not None:
            return {name: (site.name,) for name, site in zip(self._matched(), self.sites, strict=True)}
        return {f"{place.name}.weight": tuple(place.rows) for place in self.places}

    def check_types(self) -> None:
        """Raise CheckpointError, before any is read, where a site's numbers are not plain floats."""
        for name in self.stored_sites:
            self._check_type(name)

    def weights(self, names: Collection[str] | None = None) -> Iterator[tuple[Site, Tensor]]:
        """Each site's (d_out, d_in) matrix, or those of these sites; one stored tensor in memory at a time."""
        by_name = {s.name: s for s in self.sites if names is None or s.name in names}
        if self.pattern is not None:
            yield from ((by_name[s], self.read(n)) for n, (s,) in self.stored_sites.items() if s in by_name)
            return
        for place in self.places:
            if by_name.keys().isdisjoint(place.rows):
                continue
            W = self.read(f"{place.name}.weight")
            W = W.T if place.linear.transposed else W
            for name, rows in place.rows.items():
                if name in by_name:
                    yield by_name[name], W if len(rows) == len(W) else W[rows]

    def check(self) -> None:
        """Read everything that a model is made of once: CheckpointError names the first tensor that can't be read.

        Scalars are left out: they are buffers, and GPT-NeoX's in half precision is -inf.
        """
        sites = {f"{place.name}.weight" for place in self.places}
        for name, stored in self.tensors.items():
            if name in sites or (stored.dtype in FLOATS and stored.shape):
                self.read(name)

    def norm_gain(self, site_name: str) -> Tensor | None:
        """The gain (d_in,) of the norm that feeds this site, or None where no norm does."""
        place = next((p for p in self.places if site_name in p.rows), None)
        return self.read(f"{place.norm}.weight") if place and place.norm else None

    def embeddings(self) -> dict[str, Tensor]:
        """The embeddings and head by stored name; a tied head is absent."""
        row = architecture(self.config)
        names = [find(alternatives, row.prefixes, self.tensors.__contains__) for alternatives in row.embeddings]
        return {name: self.read(name) for name in names if name}

    def source(self) -> dict[str, Any]:
        """Provenance: id, revision, configuration and the sha256 of every weight file (hashed once)."""
        files = sorted({stored.file for stored in self.tensors.values()} - self._digests.keys())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(file_digest, [self.directory / file for file in files])
            self._digests.update(zip(files, digests, strict=True))
        return {
            "id": self.name,
            "revision": self.revision,
            "files": dict(self._digests),
            "config": dict(self.config),
            "normalisation": architecture(self.config).normalisation if self.pattern is None else None,
        }

    def _shape(self, module: str) -> tuple[int, ...] | None:
        stored = self.tensors.get(f"{module}.weight")
        return stored.shape if stored else None

    def _matched(self) -> list[str]:
        return [n for n, s in self.tensors.items() if len(s.shape) == 2 and re.search(str(self.pattern), n)]


def _pair(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1]


def open_checkpoint(source: str | Path, *, revision: str | None = None, pattern: str | None = None) -> Checkpoint:
    """Open a Hugging Face directory, a hub id, or (with ``pattern``) any safetensors file or folder.

    ``owner/name@revision`` is a hub id with its ``revision``.
    ``pattern`` is a regular expression: every 2-D tensor whose name it finds is a site, as stored.
    Raises CheckpointError, which says what was expected, what was found and what to do. Warns of checkpoints
    known to be bad.
    """
    name, asked = split_revision(str(source), revision)
    _warn_if_known_bad(name, asked)
    path, revision = locate(str(source), revision)
    if path.is_file():
        if pattern is None:
            raise CheckpointError(f"{name}: a single file has no config.json; name its matrices with --pattern REGEX")
        return _checked(Checkpoint(path.parent, name, revision, {}, _headers(path.parent, [path.name]), pattern))
    _check_entries(path)
    tensors = _headers(path, _weight_files(path, name))
    if pattern is not None:
        return _checked(Checkpoint(path, name, revision, {}, tensors, pattern))
    config = _config(path, name)
    return _checked(Checkpoint(path, name, revision, config, tensors))


def locate(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Where a directory lies, or a hub id once it is downloaded; with the revision that it is."""
    if os.path.exists(name):  # unlike Path.exists, False for names too long to be paths
        return Path(name), revision
    return _download(*split_revision(name, revision))


def split_revision(source: str, revision: str | None = None) -> tuple[str, str | None]:
    """``owner/name@revision`` as its two parts; whatever has another form, or lies on this machine, as it is.

    Raises CheckpointError where ``revision`` is given too.
    """
    found = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)@(\S+)", source)
    if found is None or os.path.exists(source):
        return source, revision
    if revision is not None:
        raise CheckpointError(f"{source}: expected one revision, found {revision} too; give it once")
    return found[1], found[2]


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    if checkpoint.pattern is not None:
        try:
            matched = checkpoint.sites
        except re.error as error:
            raise CheckpointError(f"--pattern {checkpoint.pattern!r} is not a regular expression: {error}") from None
        if not matched:
            some = ", ".join(list(checkpoint.tensors)[:3])
            raise CheckpointError(
                f"{checkpoint.name}: no 2-D tensor matches {checkpoint.pattern!r}; there are {some} …"
            )
        names = [one.name for one in matched]
        if twice := [name for name in names if names.count(name) > 1]:
            raise CheckpointError(
                f"{checkpoint.name}: {checkpoint.pattern!r} finds both {twice[0]} and {twice[0]}.weight, which would "
                "be one site; give a pattern that finds one of them"
            )
    for one in checkpoint.sites:
        if min(one.shape) < 1:
            raise CheckpointError(f"{checkpoint.name}: {one.name} has the shape {one.shape}: a matrix can't be empty")
    return checkpoint


def _download(name: str, revision: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise CheckpointError(
            f"{name}: no such directory; give a checkpoint directory or a hub id (owner/name, owner/name@revision)"
        )
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{name}: no such directory, and the hub doesn't have it ({reason})") from None
    return path, path.name  # the snapshot folder is named by its commit


def _warn_if_known_bad(name: str, revision: str | None) -> None:
    for id_pattern, revision_pattern, reason in KNOWN_BAD:
        if re.match(id_pattern, name) and re.fullmatch(revision_pattern, revision or "main"):
            warnings.warn(f"{name} at {revision or 'main'} is known to be bad: {reason}", stacklevel=3)


def _check_entries(directory: Path) -> None:
    """Refuse links out of a checkpoint, which may come from a stranger, and pipes: to open one would wait for ever."""
    folder = Path(os.path.realpath(directory))
    inside = [folder] + [folder.parents[1] / "blobs"] * (folder.parent.name == "snapshots")  # as the hub's cache links
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise CheckpointError(f"{directory}: can't be read ({error.strerror}); expected a folder") from None
    for entry in (directory / name for name in names):
        target = os.path.realpath(entry)
        if os.path.isdir(target) or not os.path.exists(target):
            continue
        if not any(Path(target).is_relative_to(place) for place in inside):
            raise CheckpointError(
                f"{entry}: a link to {target}, which is outside the checkpoint; put the file itself there, or give the "
                "folder that it lies in"
            )
        if not os.path.isfile(target):
            raise CheckpointError(f"{entry}: expected a file, found a pipe, socket or device; remove it")


def _weight_files(path: Path, name: str) -> list[str]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        files = _json(index).get("weight_map")
        if not isinstance(files, dict) or not files or not all(isinstance(f, str) for f in files.values()):
            raise CheckpointError(f"{index}: expected a 'weight_map' of tensor names to file names")
        names = sorted(set(files.values()))
        for file in names:
            if Path(file).name != file or file in (".", ".."):
                raise CheckpointError(
                    f"{index}: {file!r} points outside the checkpoint; only plain file names are read"
                )
            if not os.path.isfile(path / file):  # unlike Path.is_file, False for names too long to be files
                raise CheckpointError(f"{name}: the index names {file}, which is missing: download it again")
        return names
    files = sorted(p.name for p in path.glob("*.safetensors"))
    if files:
        return files
    if pickled := sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in path.glob(pattern)):
        raise CheckpointError(
            f"{name}: only pickled weights ({pickled[0]}), which can run code when read; convert them on a machine you "
            'trust with: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{name}').save_pretrained('{path.name}-safetensors')\""
        )
    raise CheckpointError(f"{name}: no *.safetensors in it; expected a Hugging Face model directory")


def _config(path: Path, name: str) -> dict[str, Any]:
    if not (path / "config.json").exists():
        raise CheckpointError(
            f"{name}: no config.json beside the weights; add it, or name matrices with --pattern REGEX"
        )
    config = _json(path / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(
            f"{name}: quantised (config.json has a quantization_config): its stored numbers "
            "are codes, not weights; use the unquantised checkpoint"
        )
    architecture(config)
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt", backend="pread") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}): download it again") from None


def _headers(directory: Path, files: list[str]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for name in files:
        with _opened(directory / name) as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                entry = file.get_slice(key)
                found[key] = Stored(name, tuple(entry.get_shape()), entry.get_dtype())
    return found
