"""The command line: one function a command; it parses, calls and prints."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ontogeny.errors import InputError, Interrupted

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Read a genome out of a pretrained network, build fresh networks from it, train them, judge its worth.",
)
store_app = typer.Typer(rich_markup_mode=None, help="Check a store, clear it up; its results to one file, and back.")
app.add_typer(store_app, name="store")

Store = Annotated[Path, typer.Option("--store", help="folder of declarations, donors, genomes and runs")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Out = Annotated[Path, typer.Option("--out", help="file to write")]
STOPPED = "stopped: what is finished is kept, rerun to go on"
UsageError: Any = typer.BadParameter.__base__  # of Typer's own copy of click, or of click where Typer still uses it


def main() -> None:
    """Run the command line. A mistake in what was given is one line on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end as an interrupt from the keyboard does
    if os.environ.get("WORLD_SIZE", "1") != "1" and sys.argv[1:2] != ["run"]:
        _fail(f"accelerate launch: expected ontogeny run, found {' '.join(sys.argv[1:2])}; run it without", 2)
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UsageError as error:
        _fail(error.format_message(), 2)
    except InputError as error:
        _fail(str(error), 2)
    except (Interrupted, typer.Abort) as error:
        _fail(str(error) or STOPPED, 130)
    if status == 130:  # what Typer makes of an interrupt
        _fail(STOPPED, 130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    if os.environ.get("RANK", "0") == "0":  # of the processes that accelerate launch starts
        print("ontogeny: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def _version(value: bool) -> bool:
    if value:
        from ontogeny import __version__

        print(__version__)
        raise typer.Exit
    return value


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for the store and the report")] = Path("ontogeny-demo"),
) -> None:
    """The laptop convergence experiment with its controls, cut to minutes; verdicts; report."""
    from ontogeny.terminal.lab import run_experiment
    from ontogeny.terminal.store import write_report

    run_experiment("convergence", "demo", out / "store")
    write_report(out / "store", out / "report.html")


@app.command()
def extract(
    checkpoint: Annotated[str, typer.Argument(help="checkpoint directory or hub id")],
    out: Out,
    rank: Annotated[str | None, typer.Option(help='share of the short side ("10%") or a number')] = None,
    energy: Annotated[
        float | None, typer.Option(help="share of the squared norm that the directions must hold")
    ] = None,
    density: Annotated[str | None, typer.Option(help="a mask of the largest entries instead, e.g. 10%")] = None,
    select: Annotated[str, typer.Option(help="top, middle or bottom")] = "top",
    basis: Annotated[
        str, typer.Option(help="canonical (span only) or singular (order and pairing kept)")
    ] = "canonical",
    fold_norms: Annotated[bool, typer.Option("--fold-norms", help="readers act as W·diag(gain)")] = False,
    pattern: Annotated[str | None, typer.Option(help="take every 2-D tensor whose name this finds")] = None,
    revision: Annotated[str | None, typer.Option(help="hub revision")] = None,
    dtype: Annotated[str, typer.Option(help="storage type: float32, float64, float16 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="where to decompose: cpu or cuda")] = "cpu",
    engine: Annotated[str, typer.Option(help="local (threads), processes or ray")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="worker processes; default one a core")] = None,
) -> None:
    """Read a genome: checkpoint directory or hub id -> genome file. Without a size: --rank 10%."""
    from ontogeny.terminal.genome import extract_genome

    size = {"rank": rank, "energy": energy, "density": density}
    if all(value is None for value in size.values()):
        size["rank"] = "10%"
    choices = {"select": select, "basis": basis, "fold_norms": fold_norms}
    circumstance: dict[str, Any] = {"dtype": dtype, "device": device, "engine": engine, "workers": workers}
    extract_genome(checkpoint, out, size | choices, pattern=pattern, revision=revision, **circumstance)


@app.command()
def control(
    name: Annotated[str | None, typer.Argument(help="the control's name")] = None,
    genomes: Annotated[list[Path] | None, typer.Argument(help="genome files")] = None,
    seed: Annotated[int, typer.Option(help="seed of its draws")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="genome file to write")] = None,
    list_: Annotated[bool, typer.Option("--list", help="describe every control and its invariants")] = False,
) -> None:
    """Make a control genome: one named property destroyed, the others kept."""
    from ontogeny.terminal.genome import apply_control, list_controls

    if list_:
        list_controls()
    elif name is None or not genomes or out is None:
        raise InputError("control: expected NAME GENOME … --out FILE, or --list")
    else:
        apply_control(name, genomes, seed, out)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="genome file, checkpoint directory or hub id")], as_json: Json = False
) -> None:
    """What a genome holds, or what the spectra and magnitude masks of a checkpoint look like."""
    from ontogeny.terminal.genome import inspect_path

    inspect_path(path, as_json=as_json)


@app.command()
def compare(
    sources: Annotated[list[str], typer.Argument(help="two or more genome files or checkpoints")],
    align: Annotated[str, typer.Option(help="none, permute or orthogonal: align the residual streams first")] = "none",
    as_json: Json = False,
) -> None:
    """Overlap of genomes per site and side, beside what chance gives, as z."""
    from ontogeny.terminal.genome import compare_genomes

    compare_genomes(sources, align, as_json=as_json)


@app.command()
def run(
    experiment: Annotated[
        str | None, typer.Argument(help="an experiment's name, or a Python file with 'declare'")
    ] = None,
    scale: Annotated[str, typer.Option(help="smoke, demo, laptop, workstation or paper")] = "laptop",
    store: Store = Path("ontogeny-store"),
    donor: Annotated[list[str] | None, typer.Option(help="checkpoint, or owner/name@revision (repeatable)")] = None,
    text: Annotated[list[str] | None, typer.Option(help="your own text (repeatable)")] = None,
    replicates: Annotated[int | None, typer.Option(min=1, help="replicates; fewer than 5 decide nothing")] = None,
    engine: Annotated[str, typer.Option(help="local, processes or ray")] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="runs at once; default one a core")] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster to join, or auto; default: one of its own")
    ] = None,
    stack: Annotated[int, typer.Option(min=1, help="runs of one kind that train side by side in one process")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the scale's preset (repeatable)")
    ] = None,
    table: Annotated[str, typer.Option(help="primary or full")] = "primary",
    track: Annotated[
        str | None, typer.Option(help="tensorboard, wandb, … : evaluated losses to a tracker, or to STORE/tracking")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print every run with its cost, run nothing")] = False,
    describe: Annotated[bool, typer.Option("--describe", help="print the scale's settings, run nothing")] = False,
    list_: Annotated[bool, typer.Option("--list", help="list the experiments")] = False,
) -> None:
    """Run what is missing of an experiment, and print its verdicts."""
    from ontogeny.terminal import lab as show
    from ontogeny.terminal.studies import Mode, find_studies, refuse, run_study

    settings = [*(set_ or []), *([f"replicates={replicates}"] if replicates else [])]
    if list_:
        show.list_experiments()
    elif experiment is None:
        raise InputError("run: expected the name of an experiment; ontogeny run --list shows them")
    elif studies := find_studies(experiment):
        unused = {"table": "" if table == "primary" else table, "stack": "" if stack == 1 else str(stack)}
        refuse(experiment, donor=donor or (), text=text or (), track=track or "", **unused)
        mode: Mode = "describe" if describe else "dry run" if dry_run else "run"
        for module in studies:
            run_study(module, scale, store, settings, engine=engine, workers=workers, address=address, mode=mode)
    elif describe:
        show.describe_scale(experiment, scale, settings, donor or [], table)
    elif dry_run:
        show.dry_run(experiment, scale, settings, donors=donor or [], table=table, workers=workers, text=text or [])
    else:
        show.run_experiment(
            experiment,
            scale,
            store,
            settings,
            donors=donor or [],
            text=text or [],
            engine=engine,
            workers=workers,
            address=address,
            stack=stack,
            table=table,
            track=track,
        )


@app.command()
def status(
    store: Store = Path("ontogeny-store"),
    watch: Annotated[bool, typer.Option("--watch", help="go on showing it until nothing is missing")] = False,
) -> None:
    """What is done, running, failed and missing, by experiment."""
    from ontogeny.terminal.lab import show_status

    show_status(store, watch=watch)


@app.command()
def report(store: Store, out: Out) -> None:
    """Tables, figures and verdicts as self-contained HTML, files beside it; or the blocks of a Markdown page."""
    from ontogeny.terminal.store import write_report

    write_report(store, out)


@app.command()
def claims(
    store: Annotated[
        Path | None, typer.Option("--store", help="folder with results; without it nothing is measured")
    ] = None,
    by: Annotated[str, typer.Option(help="id or source")] = "id",
    as_json: Json = False,
) -> None:
    """The ledger: what was published, what was measured here, and the verdict."""
    from ontogeny.terminal.store import show_claims

    show_claims(store, by, as_json=as_json)


@app.command()
def grow(
    donor: Annotated[str, typer.Argument(help="checkpoint directory or hub id, or a genome file")],
    out: Annotated[Path, typer.Option("--out", help="folder for the model; must not exist, or be empty")],
    text: Annotated[list[str], typer.Option(help="text to train on (repeatable)")],
    params: Annotated[str | None, typer.Option(help="budget: share of the donor's parameters, e.g. 30%")] = None,
    flops: Annotated[str | None, typer.Option(help="budget: share of the donor's FLOPs a token")] = None,
    config: Annotated[Path | None, typer.Option(help="config.json of the model to grow, larger ones too")] = None,
    steps: Annotated[int, typer.Option(min=12, help="training steps")] = 1000,
    rank: Annotated[str, typer.Option(help="directions that a checkpoint's genome takes  [50%]")] = "",
    keep: Annotated[float, typer.Option(help="share of them that lives in the end")] = 0.5,
    overproduce: Annotated[
        int, typer.Option(min=0, help="steps of a network of the donor's size first, whose survivors are grown")
    ] = 0,
    rates: Annotated[str | None, typer.Option(help="peak learning rates BODY,REST")] = None,
    length: Annotated[int, typer.Option(min=8, help="tokens a sequence")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="sequences a step")] = 16,
    seed: Annotated[int, typer.Option(help="of initialisation, data order and pruning")] = 0,
    revision: Annotated[str | None, typer.Option(help="hub revision")] = None,
) -> None:
    """Grow a smaller, standard model from a checkpoint's structure; no weight value is taken over."""
    from ontogeny.terminal.grow import grow_model

    budgets = {"params": params, "flops": flops}
    options = {"steps": steps, "rank": rank, "keep": keep, "length": length, "batch": batch, "seed": seed}
    options |= {"revision": revision, "overproduce": overproduce}
    grow_model(donor, out, budgets, config, rates, text=tuple(text), **options)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="extraction, training, optimisers, grid, laboratory or all")] = "all",
    as_json: Json = False,
) -> None:
    """Benchmarks against peers, side by side in one run."""
    from ontogeny.benchmarks.bench import run_benchmarks

    run_benchmarks(name, as_json=as_json)


@store_app.command("verify")
def store_verify(
    store: Store,
    repair: Annotated[
        bool, typer.Option("--repair", help="move what is broken to the store's folder broken, for a rerun to make")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a store against its recorded hash and its schema; exit status 1 if something is broken."""
    from ontogeny.terminal.upkeep import verify_store

    if not verify_store(store, repair=repair, as_json=as_json):
        raise typer.Exit(1)


@store_app.command("gc")
def store_gc(
    store: Store, dry_run: Annotated[bool, typer.Option("--dry-run", help="list it, remove nothing")] = False
) -> None:
    """Remove runs, donors, genomes and tokens that no declaration of a store refers to."""
    from ontogeny.terminal.upkeep import collect_garbage

    collect_garbage(store, dry_run=dry_run)


@store_app.command("export")
def store_export(
    store: Store,
    out: Out,
    experiment: Annotated[
        str | None, typer.Option(help="only this experiment's declarations and their results")
    ] = None,
) -> None:
    """Write every declaration and result of a store: JSON lines, or by the file's ending .csv or .parquet."""
    from ontogeny.terminal.store import export_store

    export_store(store, out, experiment)


@store_app.command("import")
def store_import(
    file: Annotated[Path, typer.Argument(help="a file that export wrote")], store: Store = Path("ontogeny-store")
) -> None:
    """Put exported results back into a store: the report can be rebuilt without training."""
    from ontogeny.terminal.store import import_store

    import_store(file, store)
