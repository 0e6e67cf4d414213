"""extract, control, inspect, compare."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ontogeny.errors import InputError, Interrupted, choose
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.compare import MaskComparison, SubspaceComparison, compare
from ontogeny.genome.controls import CONTROLS, transform
from ontogeny.genome.extract import Recipe, extract, extract_to
from ontogeny.genome.genome import Genome, Subspace, load, save
from ontogeny.genome.linalg import singular_values
from ontogeny.genome.spectrum import rank_profile
from ontogeny.genome.topology import topology
from ontogeny.lab.engines import ENGINES
from ontogeny.terminal.output import check_writable, console, number, print_json, signed, table

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
MASK_DENSITY = "10%"  # of the magnitude mask that inspect describes


def extract_genome(
    source: str,
    out: Path,
    options: Mapping[str, Any],
    *,
    pattern: str | None,
    revision: str | None,
    dtype: str,
    device: str,
    engine: str,
    workers: int | None,
) -> None:
    """Read a genome into a file; says how many certificates passed."""
    from rich.progress import track

    choose(dtype, DTYPES, "--dtype")
    choose(options["select"], ("top", "middle", "bottom"), "--select")
    choose(options["basis"], ("canonical", "singular"), "--basis")
    choose(engine, ENGINES, "--engine")
    if engine == "local" and workers is not None:
        raise InputError("--workers: expected with --engine processes; local uses every core")
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise InputError(f"--device {device}: not on this machine; expected cpu" + ", cuda" * torch.cuda.is_available())
    check_writable(out)
    recipe = Recipe(**options)
    checkpoint = open_checkpoint(source, revision=revision, pattern=pattern)
    shown = console()

    def progress(items: Iterable[Any], total: int) -> Iterable[Any]:
        return track(items, "reading sites", total, console=shown, disable=not shown.is_terminal)

    spread = nullcontext() if engine == "local" else ENGINES[engine](workers or os.cpu_count() or 1)
    try:
        with spread as mapper:
            certificates = extract_to(
                out, checkpoint, recipe, dtype=DTYPES[dtype], device=device, progress=progress, mapper=mapper
            )
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"stopped: {out} is not written; rerun to start again") from None
    failed = [name for name, certificate in certificates.items() if not certificate["passed"]]
    passed = f", {len(certificates) - len(failed)} certificates passed" if certificates else ""
    shown.print(f"{out}: {len(checkpoint.sites)} sites{passed}, {out.stat().st_size / 1e6:.1f} MB", highlight=False)
    for name in failed:
        shown.print(f"[yellow]{name}: {certificates[name]['reason']}")


def apply_control(name: str, files: Sequence[Path], seed: int, out: Path) -> None:
    """Write a control genome."""
    check_writable(out)
    genome = transform(name, [load(file) for file in files], seed=seed)
    save(genome, out)
    console().print(f"{out}: {name}, seed {seed}, {len(genome.genes)} sites", highlight=False)


def list_controls() -> None:
    """Every control with what it preserves and destroys."""
    rows = [
        (name, c.kind, c.description, ", ".join(c.preserves), ", ".join(c.destroys)) for name, c in CONTROLS.items()
    ]
    console().print(table("Controls", ("name", "kind", "what it is", "preserves", "destroys"), rows))


def inspect_path(path: str, *, as_json: bool) -> None:
    """A genome file's contents, or a checkpoint's spectra and magnitude masks."""
    if Path(path).is_file():
        _inspect_genome(load(Path(path)), path, as_json=as_json)
    else:
        _inspect_checkpoint(open_checkpoint(path), as_json=as_json)


def _inspect_genome(genome: Genome, path: str, *, as_json: bool) -> None:
    certificates = genome.provenance["certificates"]
    sites: dict[str, dict[str, Any]] = {}
    for site, gene in genome.genes.items():
        kept = {"rank": gene.rank} if isinstance(gene, Subspace) else {"density": float(gene.keep.double().mean())}
        sites[site.name] = {"shape": site.shape, **kept, "certificate": certificates.get(site.name)}
    if as_json:
        print_json({"sites": sites, **{k: genome.provenance[k] for k in ("recipe", "source", "versions")}})
        return
    shown = console()
    source = genome.provenance["source"]
    recipe = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in genome.provenance["recipe"].items())
    shown.print(f"{path}: {len(sites)} sites of {source.get('id', 'an unknown source')}, {recipe}")
    for file, sha in source.get("files", {}).items():
        shown.print(f"  {file} sha256 {sha}", highlight=False)
    rows = []
    for name, entry in sites.items():
        certificate = entry["certificate"]
        size = str(entry["rank"]) if "rank" in entry else f"{entry['density']:.1%}"
        evidence = ("–", "–", "–")
        if certificate:
            verdict = "passed" if certificate["passed"] else certificate["reason"]
            evidence = (f"{certificate['gap']:.1e}", f"{certificate['error_bound']:.1e}", verdict)
        rows.append((name, "×".join(map(str, entry["shape"])), size, *evidence))
    shown.print(table("Sites", ("site", "shape", "kept", "gap at the cut", "error bound", "certificate"), rows))


def _inspect_checkpoint(checkpoint: Checkpoint, *, as_json: bool) -> None:
    density = Recipe(density=MASK_DENSITY)
    masks = extract(checkpoint, density).genes
    sites: dict[str, dict[str, Any]] = {
        site.name: {"shape": site.shape, **rank_profile(singular_values(W), site.shape), **topology(masks[site].keep)}  # type: ignore[union-attr]
        for site, W in checkpoint.weights()
    }
    if as_json:
        print_json({"sites": sites, "source": checkpoint.source()})
        return
    shown = console()
    shown.print(f"{checkpoint.name}: {len(sites)} sites, {checkpoint.config.get('model_type')}")
    spectrum = [
        (
            name,
            "×".join(map(str, e["shape"])),
            number(e["effective_rank"], 1),
            number(e["stable_rank"], 1),
            f"{e['energy_top_10_percent']:.1%}",
            f"{e['marchenko_pastur_spikes']:.0f}",
        )
        for name, e in sites.items()
    ]
    heads = ["site", "shape", "effective rank", "stable rank", "energy of the top 10 %", "spikes above MP edge"]
    shown.print(table("Spectra", heads, spectrum))
    graph = [
        (
            name,
            number(e["row_degree_cv"], 2),
            number(e["column_degree_cv"], 2),
            f"{e['row_hub_share']:.1%}",
            f"{e['column_hub_share']:.1%}",
            f"{e['clustering']:.3f} ({e['clustering_chance']:.3f})",
            f"{e['block_cv']:.3f} ({e['block_cv_chance']:.3f})",
        )
        for name, e in sites.items()
    ]
    heads = [
        "site",
        "row degree sd/mean",
        "column",
        "row hubs' share",
        "column",
        "clustering (chance)",
        "blocks' (chance)",
    ]
    shown.print(table(f"Magnitude masks at {MASK_DENSITY}; blocks: sd/mean of 8 × 8 block densities", heads, graph))


def compare_genomes(sources: Sequence[str], align: str, *, as_json: bool) -> None:
    """Overlaps of genome files or checkpoints (read at 10 %, norms folded in), beside chance."""
    choose(align, ("none", "permute", "orthogonal"), "--align")
    if len(sources) < 2:
        raise InputError(f"compare: expected two or more genomes or checkpoints, found {len(sources)}")
    genomes = [_genome_of(source) for source in sources]
    rows = compare(genomes, align=align)  # type: ignore[arg-type]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    shown = console()
    for index, source in enumerate(sources):
        shown.print(f"{index}: {source}", highlight=False)
    masks = [_mask_comparison(row) for row in rows if isinstance(row, MaskComparison)]
    if masks:
        shown.print(table("Masks", ["pair site", "cosine", "chance", "degree-matched chance"], masks))
        return
    note = "" if align == "none" else f", residual streams aligned ({align}) on odd layers, scored on even ones"
    heads = ["pair site", "side", "overlap", "chance", "z", "p", "other layers", "smallest angle", "largest"]
    cells = [_comparison(row) for row in rows if isinstance(row, SubspaceComparison)]
    shown.print(table(f"Overlap ‖U₁ᵀU₂‖²/k (angles in degrees){note}", heads, cells))


def _mask_comparison(row: MaskComparison) -> tuple[str, ...]:
    return f"{row.first}–{row.second} {row.site}", number(row.cosine), number(row.chance), number(row.degree_matched)


def _comparison(row: SubspaceComparison) -> tuple[str, ...]:
    degrees = 180 / torch.pi
    return (
        f"{row.first}–{row.second} {row.site}",
        ("residual " if row.residual else "internal ") + ("V" if row.side == "in" else "U"),
        number(row.overlap),
        number(row.chance),
        signed(row.z, 1),
        f"{row.p:.1g}",
        number(row.other_layers),
        number(row.smallest_angle * degrees, 1),
        number(row.largest_angle * degrees, 1),
    )


def _genome_of(source: str) -> Genome:
    if Path(source).is_file():
        return load(Path(source))
    return extract(open_checkpoint(source), Recipe("10%", fold_norms=True))
