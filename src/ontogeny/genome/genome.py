"""Genomes: what each site's gene keeps (directions or connections, never values), and the file they live in."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ontogeny import __version__
from ontogeny.canonical import canonical_json, parse_json
from ontogeny.errors import GenomeError
from ontogeny.files import replacing
from ontogeny.genome.sites import Site, in_order, make_site

FORMAT = 1
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}
FLOATS = tuple(DTYPES.values())
MAX_HEADER = 1_500_000  # bytes, about 3000 sites; JSON takes up to 25 times its length in memory
BLOCK = 2**20  # entries of a basis that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Subspace:
    """Leading singular subspaces of a matrix: orthonormal columns, the singular values discarded."""

    U: Float[Tensor, "d_out k"]
    V: Float[Tensor, "d_in k"]

    @property
    def rank(self) -> int:
        return self.U.shape[1]


@dataclass(frozen=True, eq=False)
class Mask:
    """Which connections exist."""

    keep: Bool[Tensor, "d_out d_in"]


Gene = Subspace | Mask


@dataclass(frozen=True, eq=False)
class Genome:
    """Site -> gene, with where it came from. ``provenance`` is plain JSON."""

    genes: Mapping[Site, Gene]
    provenance: Mapping[str, Any]


def save(genome: Genome, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a genome file: one safetensors file, one metadata key (docs/genome-file-format.md). Atomic.

    ``dtype`` is the storage type of subspaces; masks are packed to bits.
    """
    kind(genome)
    certificates = genome.provenance.get("certificates", {})
    entries = {site.name: entry(site, gene, certificates.get(site.name)) for site, gene in genome.genes.items()}
    with drafting(path, entries, genome.provenance, dtype) as (draft, written):
        for site, gene in genome.genes.items():
            draft.put(site, gene)
        written |= entries


def entry(site: Site, gene: Gene, certificate: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the header says of a site: its shape, its rank or how many entries it keeps, and its certificate."""
    size = {"rank": gene.rank} if isinstance(gene, Subspace) else {"kept": int(gene.keep.count_nonzero())}
    return {"shape": site.shape, **size} | ({} if certificate is None else {"certificate": certificate})


@dataclass(frozen=True)
class Draft:
    """A genome file in the making. The place of every tensor is known, so any process may ``put`` any gene.

    ``tensors`` are the entries of the safetensors header; the data begins at the byte ``start``.
    """

    file: Path
    dtype: torch.dtype
    start: int
    tensors: Mapping[str, Mapping[str, Any]]

    def put(self, site: Site, gene: Gene) -> None:
        """Write a site's tensors where they belong, each through a memory map of its own: none stays in memory."""
        for name, tensor in _tensors(site, gene, self.dtype):
            first, end = self.tensors[name]["data_offsets"]
            mapped = np.memmap(self.file, np.uint8, "r+", self.start + first, (end - first,))
            mapped[:] = tensor.contiguous().view(torch.uint8).numpy().reshape(-1)


@contextmanager
def drafting(
    path: str | Path, entries: Mapping[str, Any], provenance: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Draft, dict[str, Any]]]:
    """A genome file laid out before its genes are known, and a dict for the header's entries, to be filled by the end.

    ``entries`` is what the header will say of every site, or something longer: sizes are final, certificates needn't
    be. The disk space is taken at once. The file appears whole when the block ends, or not at all.
    Raises StorageError for a path that can't be written and a full disk, GenomeError for a header too large to be
    read again.
    """
    path, tensors = Path(path), _layout(entries, dtype)
    room = len(_header_bytes(entries, provenance, tensors))
    if room > MAX_HEADER:
        raise GenomeError(f"{path}: the header would take {room} bytes; at most {MAX_HEADER} are read")
    size = 8 + room + max(tensor["data_offsets"][1] for tensor in tensors.values())
    written: dict[str, Any] = {}
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # without it a full disk would show at a write through the map
                os.posix_fallocate(file.fileno(), 0, size)
        yield Draft(temporary, dtype, 8 + room, tensors), written
        header = _header_bytes(written, provenance, tensors)
        assert len(header) <= room
        with temporary.open("r+b") as file:
            file.write(room.to_bytes(8, "little") + header.ljust(room))


def _layout(entries: Mapping[str, Any], dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Every tensor's entry of the safetensors header, by name, one after the other."""
    kinds = {}
    for name, (shape, rank) in ((name, (one["shape"], one.get("rank"))) for name, one in entries.items()):
        if rank is None:
            kinds[f"{name}.keep"] = ("U8", 1, (shape[0], (shape[1] + 7) // 8))
        else:
            for side, d in zip("UV", shape, strict=True):
                kinds[f"{name}.{side}"] = (DTYPES[dtype], dtype.itemsize, (d, rank))
    tensors, end = {}, 0
    for name, (stored, width, shape) in sorted(kinds.items()):
        start, end = end, end + width * shape[0] * shape[1]
        tensors[name] = {"dtype": stored, "shape": shape, "data_offsets": (start, end)}
    return tensors


def _header_bytes(entries: Mapping[str, Any], provenance: Mapping[str, Any], tensors: Mapping[str, Any]) -> bytes:
    header = {
        "format": FORMAT,
        "kind": "subspace" if any("rank" in one for one in entries.values()) else "mask",
        "recipe": provenance.get("recipe", {}),
        "sites": entries,
        "source": provenance.get("source", {}),
        "versions": {"ontogeny": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    text = canonical_json({"__metadata__": {"ontogeny": canonical_json(header)}, **tensors}).encode()
    return text + b" " * (-len(text) % 8)  # the data of a safetensors file is aligned


def _tensors(site: Site, gene: Gene, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    if isinstance(gene, Subspace):
        for side, Q in zip("UV", (gene.U, gene.V), strict=True):
            yield f"{site.name}.{side}", Q.to("cpu", dtype)
    else:
        yield f"{site.name}.keep", torch.from_numpy(np.packbits(gene.keep.cpu().numpy(), axis=-1))


def kind(genome: Genome) -> str:
    """``subspace`` or ``mask``; GenomeError for an empty or mixed genome."""
    kinds = {type(gene).__name__.lower() for gene in genome.genes.values()}
    if len(kinds) != 1:
        raise GenomeError(f"expected genes of one kind, found {sorted(kinds) or 'none'}")
    return kinds.pop()


def load(path: str | Path) -> Genome:
    """Read a genome file, checking every shape, rank, dtype, finiteness and orthonormality against its header.

    Raises GenomeError, which names the file and the tensor. One tensor beyond the genome is in memory at a time.
    """
    path = Path(path)
    _check_header_size(path, path)
    try:
        with safe_open(path, "pt", backend="pread") as file:
            header = _header(path, file.metadata())
            names = set(file.keys())
            genes = {}
            for name, entry in header["sites"].items():
                found = _site(path, name, entry)
                suffixes = ("U", "V") if header["kind"] == "subspace" else ("keep",)
                if missing := [s for s in suffixes if f"{name}.{s}" not in names]:
                    raise GenomeError(f"{path}: no tensor {name}.{missing[0]}, which the header lists")
                names -= {f"{name}.{s}" for s in suffixes}
                read = _read_subspace if header["kind"] == "subspace" else _read_mask
                genes[found] = read(path, file, found, entry)
            if names:
                raise GenomeError(f"{path}: tensor {min(names)} is not in the header: a genome holds its sites only")
    except (SafetensorError, OSError) as error:
        raise GenomeError(f"{path}: not a whole genome file ({error})") from None
    certificates = {n: e["certificate"] for n, e in header["sites"].items() if "certificate" in e}
    provenance = {k: header[k] for k in ("recipe", "source", "versions")} | {"certificates": certificates}
    return Genome({site: genes[site] for site in in_order(genes)}, provenance)


def _check_header_size(file_path: Path, name: Path) -> None:
    try:
        if file_path.is_fifo():  # to open one would wait for ever
            raise GenomeError(f"{name}: can't be read (a pipe); give a file")
        with file_path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        size = file_path.stat().st_size
    except OSError as error:
        raise GenomeError(f"{name}: can't be read ({error.strerror})") from None
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise GenomeError(
            f"{name}: not a genome file: its header takes {length} bytes of {size}; at most {MAX_HEADER} are read"
        )


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if set(metadata or {}) - {"ontogeny"}:
        raise GenomeError(f"{path}: not a genome file: it has metadata besides 'ontogeny'")
    try:
        header: dict[str, Any] = parse_json((metadata or {})["ontogeny"])
    except (KeyError, ValueError, RecursionError):
        raise GenomeError(
            f"{path}: not a genome file: its metadata has no 'ontogeny' JSON; make one with extract"
        ) from None
    expected = {"format": int, "kind": str, "recipe": dict, "sites": dict, "source": dict, "versions": dict}
    for key, kind_ in expected.items():
        if not isinstance(header, dict) or type(header.get(key)) is not kind_:  # a bool is an int too
            raise GenomeError(f"{path}: the header needs {key!r} as {kind_.__name__}")
    if unknown := sorted(set(header) - set(expected)):
        raise GenomeError(f"{path}: the header has {unknown[0]!r}, which no genome file has")
    if header["format"] != FORMAT:
        raise GenomeError(f"{path}: format {header['format']}; this version reads format {FORMAT}")
    if header["kind"] not in ("subspace", "mask") or not header["sites"]:
        raise GenomeError(f"{path}: expected sites of kind 'subspace' or 'mask', found {header['kind']!r}")
    return header


def _site(path: Path, name: str, entry: Any) -> Site:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise GenomeError(f"{path}: site {name}: expected a shape of two positive numbers, found {shape!r}")
    if unknown := sorted(set(entry) - {"shape", "rank", "kept", "certificate"}):
        raise GenomeError(f"{path}: site {name}: the header has {unknown[0]!r}, which no site has")
    if not isinstance(entry.get("certificate", {}), dict):
        raise GenomeError(f"{path}: site {name}: expected a certificate as dict, found {entry['certificate']!r}")
    return make_site(name, (shape[0], shape[1]))


def _tensor(path: Path, file: Any, name: str, shape: tuple[int, int], dtypes: tuple[str, ...]) -> Tensor:
    entry = file.get_slice(name)
    if tuple(entry.get_shape()) != shape or entry.get_dtype() not in dtypes:
        raise GenomeError(
            f"{path}: tensor {name} is {entry.get_dtype()} {tuple(entry.get_shape())}; the header says "
            f"{' or '.join(dtypes)} {shape}"
        )
    tensor: Tensor = file.get_tensor(name)
    return tensor


def _read_subspace(path: Path, file: Any, site: Site, entry: Mapping[str, Any]) -> Subspace:
    rank = entry.get("rank")
    if type(rank) is not int or not 1 <= rank <= min(site.shape):
        raise GenomeError(f"{path}: site {site.name}: rank {rank!r} is not possible for the shape {site.shape}")
    bases = []
    for suffix, d in zip("UV", site.shape, strict=True):
        name = f"{site.name}.{suffix}"
        Q = _tensor(path, file, name, (d, rank), FLOATS)
        error = _orthonormality(Q)
        if not error <= 4 * torch.finfo(Q.dtype).eps + 1e-13:  # rounding gives one or two eps; NaN fails too
            raise GenomeError(f"{path}: tensor {name} is not orthonormal (|QᵀQ − I| reaches {error:.1e})")
        bases.append(Q)
    return Subspace(*bases)


def _orthonormality(Q: Float[Tensor, "d k"]) -> float:
    """The largest entry of |QᵀQ − I| in float64, a few columns at a time: a copy of all would be twice the genome."""
    errors = []
    blocks = Q.split(max(1, BLOCK // len(Q)), dim=1)
    for i, block in enumerate(blocks):
        A = block.double()
        errors.append(float((A.T @ A - torch.eye(A.shape[1], dtype=A.dtype)).abs().max()))
        errors += [float((A.T @ other.double()).abs().max()) for other in blocks[:i]]
    return float(np.max(errors))  # NaN stays NaN


def _read_mask(path: Path, file: Any, site: Site, entry: Mapping[str, Any]) -> Mask:
    d_out, d_in = site.shape
    packed = _tensor(path, file, f"{site.name}.keep", (d_out, (d_in + 7) // 8), ("U8",)).numpy()
    if np.unpackbits(packed[:, -1:], axis=-1)[:, (d_in - 1) % 8 + 1 :].any():
        raise GenomeError(f"{path}: tensor {site.name}.keep has bits beyond its {d_in} columns")
    keep = torch.from_numpy(np.unpackbits(packed, axis=-1, count=d_in).view(bool))
    if int(keep.count_nonzero()) != entry.get("kept"):
        raise GenomeError(
            f"{path}: tensor {site.name}.keep keeps {int(keep.count_nonzero())}; the header says {entry.get('kept')}"
        )
    return Mask(keep)
