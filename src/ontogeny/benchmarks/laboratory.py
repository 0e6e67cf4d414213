"""What the laboratory itself costs: many trivial runs, reading a large store, and the report of one."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ontogeny.benchmarks import made_up
from ontogeny.benchmarks.measure import Entry, exponent
from ontogeny.canonical import canonical_json, plain
from ontogeny.lab.engines import local
from ontogeny.lab.store import Store, open_store, sealed
from ontogeny.lab.study import Condition, Study, conduct_study, gather

TRIVIAL, STORED = 100, (1000, 10_000)  # runs
REPLICATES = 100  # of the reported experiment: more than 1,000 runs


def measure() -> Iterator[Entry]:
    """Every entry: elapsed seconds, so run it on an idle machine."""
    with TemporaryDirectory() as folder, local(1) as mapper:
        store, study = open_store(Path(folder)), trivial_study(TRIVIAL)

        def conduct() -> None:
            conduct_study(study, trivial, store, mapper, lambda *_: None)

        first, again = seconds(conduct), seconds(conduct)
        yield Entry(f"{TRIVIAL} trivial runs", first, "s", target="≤ 2 s", met=first <= 2)
        yield Entry(f"{TRIVIAL} trivial runs, all stored", again, "s")
    times = {}
    for runs in STORED:
        with TemporaryDirectory() as folder:
            store, study = open_store(Path(folder)), trivial_study(runs)
            fill(study, store)
            times[runs] = seconds(lambda: gather(study, store))  # noqa: B023
            yield Entry(f"reading a study of {runs:,} runs", times[runs], "s")
            if runs == STORED[-1]:
                yield from _upkeep(store, Path(folder), runs)
    yield Entry("growth of reading with the number of runs", exponent(times), "exponent", bound=1.0)
    yield from _report()


def _upkeep(store: Store, folder: Path, runs: int) -> Iterator[Entry]:
    """What looks after a large store: each of them reads all of it."""
    from ontogeny.terminal.lab import show_status
    from ontogeny.terminal.store import export_store, import_store
    from ontogeny.terminal.upkeep import collect_garbage, verify_store

    def verify() -> None:
        verify_store(store.root, repair=False, as_json=False)

    steps: dict[str, Callable[[], object]] = {
        "store verify": verify,
        "status": lambda: show_status(store.root, watch=False),
        "store gc": lambda: collect_garbage(store.root, dry_run=False),
        "store export to JSON lines": lambda: export_store(store.root, folder / "a.jsonl"),
        "store import": lambda: import_store(folder / "a.jsonl", folder / "again"),
    }
    if find_spec("pyarrow"):
        steps["store export to Parquet"] = lambda: export_store(store.root, folder / "a.parquet")
    for name, step in steps.items():
        with redirect_stdout(StringIO()):
            taken = seconds(step)
        yield Entry(f"{name}, {runs:,} runs", taken, "s")


def _report() -> Iterator[Entry]:
    from ontogeny.lab.report.page import write_report

    with TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "store")
        made_up.conduct(made_up.declared(replicates=REPLICATES), store)
        runs = len(store.results())
        taken = seconds(lambda: write_report(store, Path(folder) / "report.html"))
    yield Entry(f"report of {runs:,} runs", taken, "s", target="≤ 10 s", met=taken <= 10)


def trivial_study(runs: int) -> Study:
    """A study whose every run measures one number; ten replicates of a tenth as many conditions."""
    conditions = tuple(Condition(f"condition {i}", {"compute": "trivial", "i": i}) for i in range(runs // 10))
    return Study(
        name="trivial",
        title="A study of nothing",
        scale="smoke",
        decisive=False,
        replicates=10,
        version=1,
        conditions=conditions,
        settings={},
        rules={},
    )


def trivial(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """A run that computes nothing."""
    return {"number": float(options["i"])}


def fill(study: Study, store: Store) -> None:
    """Store a result for every run, without the care that a store takes to keep them over a loss of power."""
    store.declare(plain(study))
    for run in study.runs():
        directory = store.run_directory(run.id, run.replicate)
        directory.mkdir(parents=True)
        identity = {"kind": "measurement", "id": run.id, "replicate": run.replicate, "condition": run.condition.name}
        measured = {"measured": dict(trivial(run.condition.options, 0)), "seconds": 0.0, "host": {}}
        (directory / "run.json").write_text(canonical_json({"recipe": run.recipe, "replicate": run.replicate}))
        (directory / "result.json").write_text(canonical_json(sealed(identity | run.recipe | measured)))


def seconds(step: Callable[[], object]) -> float:
    """Elapsed time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
