"""The genome file: exact round trips, canonical bytes, atomic writes, in canonical order."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PROVENANCE, tiny_masks, tiny_subspaces

from ontogeny.errors import GenomeError, StorageError
from ontogeny.genome.genome import MAX_HEADER, Draft, Gene, Genome, Mask, Subspace, load, save
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Site, make_site
from ontogeny.streams import stream


def same(a: Gene, b: Gene) -> bool:
    return type(a) is type(b) and all(
        torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, None])
def test_round_trip(dtype: torch.dtype | None, tmp_path: Path) -> None:
    before = tiny_masks() if dtype is None else tiny_subspaces(dtype)
    save(before, tmp_path / "g", dtype or torch.float32)
    after = load(str(tmp_path / "g"))
    assert dict(after.genes).keys() == dict(before.genes).keys()
    assert all(same(after.genes[site], gene) for site, gene in before.genes.items())
    assert {k: after.provenance[k] for k in PROVENANCE} == PROVENANCE
    assert after.provenance["versions"]["torch"] == torch.__version__
    save(after, str(tmp_path / "again"), dtype or torch.float32)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "g").read_bytes()


def test_sites_come_back_in_natural_order(tmp_path: Path) -> None:
    save(tiny_subspaces(), tmp_path / "g")
    assert [site.name for site in load(tmp_path / "g").genes] == [
        "layers.0.attention.query",
        "layers.2.mlp.up",
        "layers.10.mlp.down",
    ]


@pytest.mark.parametrize("d", [1024])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_large_bases_pass_their_own_check(d: int, dtype: torch.dtype, tmp_path: Path) -> None:
    gene = Subspace(*(haar(d, d // 2, stream(0, side)).to(dtype) for side in "UV"))
    save(Genome({make_site("a", (d, d)): gene}, {}), tmp_path / "g", dtype)
    assert same(load(tmp_path / "g").genes[make_site("a", (d, d))], gene)


@pytest.mark.parametrize("make", [tiny_subspaces, tiny_masks])
def test_bytes_do_not_depend_on_insertion_order(make: Callable[[], Genome], tmp_path: Path) -> None:
    def reverse(value: Any) -> Any:
        return {k: reverse(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    genome = make()
    save(genome, tmp_path / "a")
    save(Genome(dict(reversed(list(genome.genes.items()))), reverse(genome.provenance)), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_mode_is_the_users(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save(tiny_subspaces(), tmp_path / "g")
        assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o666 & ~umask
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()])
def test_failed_save_leaves_the_old_file(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tiny_masks(), tmp_path / "g")
    old = (tmp_path / "g").read_bytes()

    def fail(draft: Draft, site: Site, gene: Gene) -> None:
        raise failure

    monkeypatch.setattr(Draft, "put", fail)
    with pytest.raises(StorageError if isinstance(failure, OSError) else KeyboardInterrupt):
        save(tiny_subspaces(), tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_genes_that_share_memory_are_saved(tmp_path: Path) -> None:
    frame = haar(8, 4, stream(0)).float()
    genome = Genome(
        {make_site("a", (8, 8)): Subspace(frame, frame), make_site("b", (8, 8)): Subspace(frame, frame)}, {}
    )
    save(genome, tmp_path / "g")
    assert all(same(load(tmp_path / "g").genes[s], gene) for s, gene in genome.genes.items())


def test_unwritable_places_and_impossible_genomes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "no" / "where" / "g", tmp_path / ("x" * 400)):
        with pytest.raises(StorageError, match="can't be written"):
            save(tiny_subspaces(), path)
    mixed = Genome(
        dict(tiny_subspaces().genes) | {make_site("m", (2, 2)): Mask(torch.ones(2, 2, dtype=torch.bool))}, {}
    )
    for genome in (mixed, Genome({}, {})):
        with pytest.raises(GenomeError, match="genes of one kind"):
            save(genome, tmp_path / "g")
    with pytest.raises(GenomeError, match="header"):  # what couldn't be read again is not written
        save(replace(tiny_subspaces(), provenance={"source": {"x": "y" * MAX_HEADER}}), tmp_path / "g")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
