"""run and status."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from ontogeny.errors import choose
from ontogeny.lab.experiment import Rates
from ontogeny.lab.judge import Assessment, assess, headlines
from ontogeny.lab.scales import BESIDE, STATED, Scale
from ontogeny.lab.store import Store, claimed, in_use, interrupted, open_store
from ontogeny.lab.study import Measurements
from ontogeny.terminal.output import console, count, duration, number, signed, table
from ontogeny.terminal.store import existing_store
from ontogeny.terminal.studies import study_status


def run_experiment(
    name: str,
    scale_name: str,
    root: Path,
    settings: Sequence[str] = (),
    *,
    donors: Sequence[str] = (),
    text: Sequence[str] = (),
    engine: str = "processes",
    workers: int | None = None,
    address: str | None = None,
    stack: int = 1,
    table: str = "primary",
    track: str | None = None,
) -> None:
    """Prepare, conduct, judge and print one experiment; whatever is stored is not run again."""
    from ontogeny.lab.conduct import comparisons, conduct
    from ontogeny.lab.engines import find_engine
    from ontogeny.lab.prepare import find_scale, prepare
    from ontogeny.lab.progress import progress
    from ontogeny.lab.tracking import check_tracker
    from ontogeny.training import together

    choose(table, ("primary", "full"), "--table")
    start = find_engine(engine, workers, address, root)
    if track:
        check_tracker(track)
    if not together.leads():
        together.follow()
        return
    preset = find_scale(name, scale_name, settings)
    store, shown = open_store(root), console()
    rates = fixed_rates(name, scale_name)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers' own, of every model read or saved from here on
    with in_use(store):
        plan = prepare(name, preset, store, donors=donors, text=text, table=table, rates=rates)
        plan = replace(plan, lab=replace(plan.lab, stack=stack, track=track))
        compared = all(store.result(pair.id, 0) for pair in comparisons(plan.experiment, store))
        assessment = assess(plan.experiment, store)
        if not compared or not assessment.complete:
            with progress(shown) as report, start() as mapper:
                conduct(plan, mapper, report, lambda line: print(line, file=sys.stderr))
            assessment = assess(plan.experiment, store)
    show_assessment(assessment, store, shown)


def fixed_rates(name: str, scale_name: str) -> dict[str, dict[str, Rates]] | None:
    """The rates that the committed laptop sweep chose: what the demo uses instead of tuning its own. Others tune."""
    from importlib.resources import files

    if (name, scale_name) != ("convergence", "demo"):
        return None
    chosen = json.loads(files("ontogeny.lab").joinpath("laptop_rates.json").read_text())["rates"]
    return {mode: {arm: Rates(**pair) for arm, pair in arms.items()} for mode, arms in chosen.items()}


def show_assessment(assessment: Assessment, store: Store, shown: Console) -> None:
    """Headlines, arms, contrasts and verdicts of one experiment."""
    from ontogeny.lab.findings import findings

    experiment = assessment.experiment
    for line in headlines(assessment):
        shown.print(line, highlight=False)
    reference = ", ".join(f"{name} {loss:.3f}" for name, loss in assessment.references.items())
    setting = experiment.setting
    measure = setting.measure
    title = f"{experiment.name}, {experiment.scale}, rank {setting.rank}, {setting.steps} steps"
    rows = [
        (
            f"{arm.embeddings} {arm.arm}",
            _interval(arm.interval),
            number(arm.step0),
            "yes" if arm.passed_gate else "no",
            f"{arm.rates.body:g} / {arm.rates.rest:g}" + (" (edge)" if arm.at_edge else "") if arm.rates else "–",
            count(arm.trainable_parameters),
            count(arm.flops),
        )
        for arm in assessment.arms.values()
    ]
    columns = (
        "embeddings, arm",
        f"test {measure.key} [95 %]",
        "step 0",
        f"past {measure.gate}",
        "rates body / rest",
        "trained",
        "FLOPs",
    )
    shown.print(table(f"{title}. Test {measure.key} in {measure.unit}; references: {reference}", columns, rows))
    contrasts = [
        (
            c.contrast.name + (" ✓ null by symmetry" if c.contrast.check else ""),
            _interval(c.interval, signs=True),
            f"{c.interval.level:.1%}" if c.interval else "–",
            str(c.interval.n) if c.interval else "–",
            signed(c.second_best_gap),
            c.word,
            c.verdict.word + (f" ({c.verdict.code})" if c.verdict.code else ""),
        )
        for c in assessment.contrasts
    ]
    columns = (
        "gap (positive favours the second)",
        f"{measure.short} [interval]",
        "level",
        "n",
        "at 2nd-best rates",
        "word",
        "verdict",
    )
    shown.print(table("Contrasts", columns, contrasts))
    if experiment.table == "full":
        shown.print(table("Not applicable", ("what", "why"), list(experiment.not_applicable.items())))
    found = findings(assessment, store)
    verdicts = [(claim, f["verdict"], f["measured"], f["why"]) for claim, f in found.items()]
    if verdicts:
        shown.print(table("Verdicts", ("claim", "verdict", "measured", "why"), verdicts))


def _interval(interval: Any, *, signs: bool = False) -> str:
    if interval is None:
        return "–"
    show = signed if signs else number
    if interval.n == 1:
        return show(interval.mean)
    return f"{show(interval.mean)} [{show(interval.low)}, {show(interval.high)}]"


def list_experiments() -> None:
    """The experiments that run by name."""
    from ontogeny.lab.experiments import EXPERIMENTS, GROUPS, STUDIES

    rows = [(name, module.TITLE) for name, module in (EXPERIMENTS | STUDIES).items()]
    rows += [(group, f"all of {', '.join(names)}") for group, names in GROUPS.items()]
    console().print(table("Experiments", ("name", "question"), rows))


def describe_scale(
    experiment: str, name: str, settings: Sequence[str], donors: Sequence[str] = (), table_name: str = "primary"
) -> None:
    """Every value of an experiment's scale, as it would run; where donors are published, what nobody states of it."""
    from ontogeny.lab.prepare import find_scale

    preset = find_scale(experiment, name, settings)
    rows = [
        (field.name, str(getattr(preset, field.name)), OURS if field.name in preset.not_stated else "")
        for field in fields(Scale)
        if field.name not in ("not_stated", "hub_donors")
    ]
    if preset.not_stated:
        rows += _paper_rows(experiment, preset, donors, table_name)
    console().print(table(f"{experiment}, scale {name}", ("setting", "value", "published"), rows))
    if preset.not_stated:
        console().print("Not an exact reproduction: what is not stated is our choice.", highlight=False)


OURS = "not stated: our choice"


def _paper_rows(experiment: str, preset: Scale, donors: Sequence[str], table_name: str) -> list[tuple[str, str, str]]:
    """Every donor of every family with its revision, and what no field of a scale holds."""
    from ontogeny.genome.checkpoint import split_revision
    from ontogeny.lab.prepare import find_variants

    families = find_variants(experiment, preset, table_name, given=bool(donors)).values()
    named = donors or tuple(dict.fromkeys(donor for family in families for donor in family.scale.hub_donors))
    which = "given" if donors else OURS if "hub_donors" in preset.not_stated else "its revision is not stated"
    rows = []
    for donor in named:
        source, revision = split_revision(donor)
        rows.append(("donor", f"{source}, revision {revision or 'main'}", which))
    stated = STATED.get(experiment, {})
    return rows + [(key, value, stated.get(key, OURS)) for key, value in BESIDE.items()]


def dry_run(
    name: str,
    scale_name: str,
    settings: Sequence[str],
    *,
    donors: Sequence[str],
    table: str,
    workers: int | None,
    text: Sequence[str] = (),
) -> None:
    """Every kind of run with its cost here; nothing is read but a given donor's configuration, nothing written."""
    from ontogeny.lab.estimate import estimate, measured_flops_per_second, storage
    from ontogeny.lab.prepare import find_scale, find_variants, outline
    from ontogeny.terminal.output import table as make_table

    choose(table, ("primary", "full"), "--table")
    preset = find_scale(name, scale_name, settings)
    experiment = outline(name, preset, donors, table, fixed_rates(name, scale_name), text)
    variants = find_variants(name, preset, table, text, given=bool(donors))
    workers = workers or os.cpu_count() or 1
    speed = measured_flops_per_second()
    lines = estimate(experiment, {} if donors else variants, speed)
    rows = [
        (
            e.what,
            str(e.runs),
            count(e.flops),
            f"{e.memory / 1e6:,.0f} MB",
            f"{e.disk / 1e6:,.2f} MB",
            duration(e.seconds),
        )
        for e in lines
    ]
    beside = storage(experiment, variants, given=bool(donors))
    beside[f"training checkpoints, {workers} of the largest"] = workers * max(e.state for e in lines)
    rows += [(what, "–", "–", "–", f"{size / 1e6:,.2f} MB", "–") for what, size in beside.items()]
    time_ = duration(sum(e.seconds * e.runs for e in lines) / workers)
    disk = (sum(e.disk * e.runs for e in lines) + sum(beside.values())) / 1e6
    memory = f"{workers * max(e.memory for e in lines) / 1e6:,.0f} MB"  # the largest run's, in every worker
    flops = count(sum(e.flops * e.runs for e in lines))
    rows.append(("total", str(sum(e.runs for e in lines)), flops, memory, f"{disk:,.1f} MB", time_))
    title = (
        f"{name} at {scale_name}, {table} table: cost a run, and in total on {workers} workers here "
        f"({speed / 1e9:.0f} GFLOP/s each measured on the laptop shape; small arms reach less)"
    )
    if preset.not_stated:
        describe_scale(name, scale_name, settings, donors, table)
    console().print(make_table(title, ("run", "runs", "FLOPs", "memory", "disk", "time"), rows))


def show_status(root: Path, *, watch: bool) -> None:
    """Counts by experiment; with ``watch`` until nothing is missing: in place, or where piped a line a change."""
    store, shown = existing_store(root), console()

    def look() -> list[tuple[str, ...]]:
        return [_status(value, store) for _, value in store.experiments()]

    rows = look()
    if not watch or not shown.is_terminal:
        shown.print(table(str(root), STATUS, rows))
    if watch and shown.is_terminal:
        with Live(table(str(root), STATUS, rows), console=shown, auto_refresh=False) as live:
            while any(row[-1] != "0" for row in rows):
                time.sleep(EVERY)
                rows = look()
                live.update(table(str(root), STATUS, rows), refresh=True)
    elif watch:
        while any(row[-1] != "0" for row in rows):
            time.sleep(EVERY)
            before, rows = rows, look()
            for row in (row for row in rows if row not in before):
                counts = ", ".join(f"{number} {name}" for name, number in zip(COUNTS, row[-len(COUNTS) :], strict=True))
                shown.print(f"{row[0]}, {row[1]}: {counts}", highlight=False)


COUNTS = ("done", "running", "interrupted", "failed", "missing")  # interrupted: a rerun goes on with it
STATUS = ("experiment", "scale", "rank", "donors", "tuning runs", *COUNTS)
EVERY = 2.0  # seconds between looks of --watch


def _status(declaration: Mapping[str, Any], store: Store) -> tuple[str, ...]:
    from ontogeny.lab.conduct import evaluated_runs, hopeless, result_paths, searches
    from ontogeny.lab.findings import read

    assessment = read(declaration, store)
    if isinstance(assessment, Measurements):
        return study_status(assessment, store)
    experiment = assessment.experiment
    runs = {(r.id, r.replicate): r for cell in evaluated_runs(experiment, store).values() for r in cell}
    results = {key: store.result(*key) for key in runs}
    begun = [path.parent for path in result_paths(experiment, store) if not path.exists()]  # donors, searches too
    never = sum(hopeless(run, store) for key, run in runs.items() if results[key] is None)  # what it needs diverged
    failed = sum(result is not None and result["final"] is None for result in results.values()) + never
    tried = sum(len(state.scores) for state in searches(experiment, store).values())
    wanted = {donor for setting in experiment.all_settings().values() for donor in setting.donors + setting.others}
    missing = assessment.expected - assessment.done - never
    figures = (tried, assessment.done, sum(map(claimed, begun)), sum(map(interrupted, begun)), failed, missing)
    return (
        experiment.name,
        experiment.scale,
        experiment.setting.rank,
        f"{len(assessment.donors)}/{len(wanted)}",
        *map(str, figures),
    )
