"""One self-contained page over everything a store holds, with every figure and number as a file beside it."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ontogeny.errors import InputError
from ontogeny.lab.claims import Claim, ledger_rows, load_claims, load_sources
from ontogeny.lab.experiment import Experiment, from_json
from ontogeny.lab.experiments import convergence
from ontogeny.lab.findings import findings, store_findings
from ontogeny.lab.judge import Assessment, assess, headlines
from ontogeny.lab.report import figures, tables
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.store import Store


@dataclass(frozen=True)
class Section:
    """One declared experiment as the page shows it. ``note`` tells it from other declarations of the same name."""

    name: str
    note: str
    experiment: Experiment
    assessment: Assessment
    headlines: tuple[str, ...]
    answers: tuple[tuple[Claim, Mapping[str, str]], ...]
    tables: Mapping[str, Table]
    data: tuple[Table, ...]
    drawings: Mapping[str, tuple[Drawing, ...]]


def write_report(store: Store, out: Path) -> list[Path]:
    """Write the page to ``out`` and its figures (SVG, PNG) and numbers (CSV) to ``<stem>-files/`` beside it.

    Returns the paths written, the page first. Raises InputError for a store without a declared experiment, and where
    ``out`` can't be written.
    """
    sections = _sections(store)
    if not sections:
        raise InputError(
            f"{store.root}: expected a store with a declared experiment, found none; "
            f"ontogeny run convergence --store {store.root} declares and runs one"
        )
    ledger = Table("ledger", "", dict.fromkeys(ledger_rows({})[0], ""), _ledger(store))
    folder = out.parent / f"{out.stem}-files"
    files = {folder / "ledger.csv": ledger.csv.encode()}
    for section in sections:
        files |= {folder / name: content for name, content in _files(section).items()}
    page = _render(sections=sections, ledger=ledger, sources=load_sources(), folder=folder.name, reasons=tables.REASONS)
    files = {out: page.encode()} | files
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error}); give a file name in a folder of your own") from None
    return list(files)


def _ledger(store: Store) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row.values()) for row in ledger_rows(store_findings(store)))


def _sections(store: Store) -> list[Section]:
    """Newest declaration first, those of one experiment and scale together."""
    declared = [(path.stem, from_json(value)) for path, value in reversed(store.experiments())]
    groups = list(dict.fromkeys((e.name, e.scale) for _, e in declared))
    declared.sort(key=lambda item: groups.index((item[1].name, item[1].scale)))
    totals, seen = Counter((e.name, e.scale) for _, e in declared), Counter[tuple[str, str]]()
    sections = []
    for name, experiment in declared:
        group = experiment.name, experiment.scale
        seen[group] += 1
        sections.append(_section(store, name, experiment, _note(experiment, seen[group], totals[group])))
    return sections


def _note(experiment: Experiment, position: int, total: int) -> str:
    if total == 1:
        return ""
    which = "this is the newest" if position == 1 else f"this is an older one, number {position} from the newest"
    return (
        f"{total} different declarations of {experiment.name} at scale {experiment.scale} are in this store; {which}."
    )


def _section(store: Store, name: str, experiment: Experiment, note: str) -> Section:
    assessment = assess(experiment, store)
    claims = {claim.id: claim for claim in load_claims()}
    found = findings(assessment, store)
    overlaps = convergence.overlaps(assessment, store)
    shown = {
        table.name: table
        for table in (
            tables.contrasts(assessment),
            tables.arms(assessment),
            tables.costs(assessment),
            tables.rates(assessment),
            tables.donors(experiment, store),
            tables.overlaps(overlaps),
            tables.hosts(experiment, store),
            *(_interchangeable(assessment) if experiment.name == convergence.NAME else ()),
        )
        if table.rows
    }
    return Section(
        name=name,
        note=note,
        experiment=experiment,
        assessment=assessment,
        headlines=tuple(headlines(assessment)),
        answers=tuple((claims[claim], finding) for claim, finding in found.items()),
        tables=shown,
        data=tuple(table for table in (tables.curves(assessment), tables.overlap_rows(overlaps)) if table.rows),
        drawings=_drawings(name, assessment, overlaps),
    )


def _interchangeable(assessment: Assessment) -> list[Table]:
    found = []
    if (variances := convergence.variances(assessment)) is not None:
        found.append(tables.variances(variances))
    if (equivalence := convergence.equivalence(assessment)) is not None:
        found.append(tables.pairs(equivalence))
    if (attributed := convergence.attributed(assessment)) is not None:
        found.append(tables.attribution(attributed))
    return found


def _drawings(name: str, assessment: Assessment, overlaps: Mapping[str, Any]) -> dict[str, tuple[Drawing, ...]]:
    """The figures by the part of the page that holds them; those without numbers are left out."""
    experiment, arms = assessment.experiment, assessment.arms.values()
    trained = [mode for mode in experiment.embeddings if any(a.curve for a in arms if a.embeddings == mode)]
    measured = [
        mode for mode in experiment.embeddings if any(a.tried and a.rates for a in arms if a.embeddings == mode)
    ]
    return {
        "curves": tuple(_curves(name, assessment, mode) for mode in trained),
        "forest": tuple(_forest(name, assessment, mode) for mode in trained),
        "rates": tuple(_rates(name, assessment, mode) for mode in measured),
        "overlaps": tuple(
            _overlap(name, pairs, experiment) for pairs in overlaps.values() if any(p["rows"] for p in pairs)
        ),
        **(_of_convergence(name, assessment) if experiment.name == convergence.NAME else {}),
    }


def _curves(name: str, assessment: Assessment, mode: str) -> Drawing:
    arms = figures.primary_arms(assessment, mode)
    ends = ", ".join(f"{arm.arm} {arm.interval.mean:.3f}" for arm in arms if arm.interval)
    lines = ", ".join(f"{key} {loss:.3f}" for key, loss in assessment.references.items())
    alt = f"Loss curves, embeddings {mode}. Mean test loss at the last step, nats a token: {ends}. References: {lines}."
    caption = (
        f"Test loss by step, embeddings {mode}; bands are 95 % t intervals over replicates. Step 0 left out. {lines}."
    )
    return figures.render(figures.loss_curves(assessment, mode), f"{name}-curves-{mode}", alt, caption)


def _forest(name: str, assessment: Assessment, mode: str) -> Drawing:
    published = figures.published_gaps() if assessment.experiment.name == "convergence" and mode == "fresh" else None
    rows = [c for c in figures.ordered_contrasts(assessment) if c.contrast.embeddings == mode and c.interval]
    told = "; ".join(
        f"{c.contrast.control} minus {c.contrast.treatment} {tables.show(c.interval, '±+.3f')}, {c.verdict.word}"
        for c in rows
    )
    alt = f"Gaps with intervals, embeddings {mode}, nats a token: {told}."
    caption = f"Contrasts, embeddings {mode}, coloured by the control; an arrow marks an interval that goes on."
    if published:
        caption += " Published (E6, E8): four donors after 200 steps, one random run, rates not stated; another scale."
    return figures.render(figures.forest(assessment, mode, published), f"{name}-gaps-{mode}", alt, caption)


def _rates(name: str, assessment: Assessment, mode: str) -> Drawing:
    arms = [arm for arm in figures.primary_arms(assessment, mode) if arm.rates]
    chosen = "; ".join(f"{arm.arm} body {arm.rates.body:g}, rest {arm.rates.rest:g}" for arm in arms if arm.rates)
    alt = f"Tuning loss by learning rate, embeddings {mode}. Chosen: {chosen}."
    caption = f"Tuning loss by rate, embeddings {mode}, the other rate at its chosen value; dotted: the grid's edges."
    return figures.render(figures.rates(assessment, mode), f"{name}-rates-{mode}", alt, caption)


def _overlap(name: str, pairs: list[dict[str, Any]], experiment: Experiment) -> Drawing:
    align = pairs[0]["align"]
    summary = tables.overlaps({align: pairs})
    told = "; ".join(f"{row[1]} {row[2]} {row[4]:.3f} against {row[5]:.3f}, z {row[7]:+.1f}" for row in summary.rows)
    alt = f"Heat map of donors' subspace overlap, {figures.ALIGNMENTS[align]}; overlap against chance: {told}."
    caption = f"How far donors' subspaces agree, {figures.ALIGNMENTS[align]}: standard deviations above chance."
    return figures.render(figures.overlap_map(pairs, experiment), f"{name}-overlap-{align}", alt, caption)


def _of_convergence(name: str, assessment: Assessment) -> dict[str, tuple[Drawing, ...]]:
    experiment = assessment.experiment
    found: dict[str, tuple[Drawing, ...]] = {}
    donors, draws = (_on_common_streams(assessment, arm) for arm in ("donor", "random"))
    if donors and draws:
        alt = f"Losses on common streams, nats a token: donors {_list(donors)}; random draws {_list(draws)}."
        drawn = figures.donors_and_draws(donors, draws, experiment)
        found["units"] = (
            figures.render(drawn, f"{name}-donors-and-draws", alt, "One point a donor, one a random draw."),
        )
    if attributed := convergence.attributed(assessment):
        parts = {"total": attributed.total, "coherence": attributed.coherence} | dict(attributed.shapley)
        alt = "Attribution, nats: " + "; ".join(f"{k} {tables.show(i, '±+.3f')}" for k, i in parts.items()) + "."
        caption = "Means and 95 % intervals, embeddings frozen; grey: the interactions behind the Shapley values."
        found["attribution"] = (
            figures.render(figures.attribution(attributed, experiment), f"{name}-attribution", alt, caption),
        )
    return found


def _on_common_streams(assessment: Assessment, kind: str) -> list[float]:
    """The losses in replicate 1 of every donor ("donor") or draw ("random"), as far as they are stored."""
    experiment = assessment.experiment
    names = [name for name in experiment.embeddings.get("fresh", ()) if experiment.arm(name).tuned_as == kind]
    first = [next(iter(assessment.arms["fresh", name].losses), None) for name in names]
    return [loss for loss in first if loss is not None]


def _list(losses: list[float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses)


def _files(section: Section) -> dict[str, bytes]:
    files = {f"{section.name}-{t.name}.csv": t.csv.encode() for t in (*section.tables.values(), *section.data)}
    for drawing in (drawing for group in section.drawings.values() for drawing in group):
        files |= {f"{drawing.name}.svg": drawing.svg.encode(), f"{drawing.name}.png": drawing.png}
    return files


def _render(**values: Any) -> str:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("ontogeny.lab.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<=[\s\[])-(?=\d)", "−", text)
    environment.filters["svg"] = Markup  # our own drawings: what names they hold is escaped by matplotlib and render
    return environment.get_template("page.html.j2").render(**values)
