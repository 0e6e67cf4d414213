"""Self-contained pages over everything a store holds, with every figure and number as a file beside them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ontogeny.errors import InputError
from ontogeny.lab.claims import Claim, ledger_rows, load_claims, load_sources
from ontogeny.lab.experiment import Experiment, from_json
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.findings import findings, store_findings
from ontogeny.lab.judge import Assessment, assess, headlines
from ontogeny.lab.report import tables
from ontogeny.lab.report.figures import Drawing, setting_line, unit_of
from ontogeny.lab.report.methods import method_rows
from ontogeny.lab.report.standard import standard_drawings
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import SCALES
from ontogeny.lab.store import Store

UNANSWERED = ("not run", "narrative")


@dataclass(frozen=True)
class Section:
    """One declared experiment as a page shows it. ``note`` tells it from other declarations of its name and scale."""

    name: str
    note: str
    experiment: Experiment
    assessment: Assessment
    line: str
    nothing: str  # what counts as no difference
    headlines: tuple[str, ...]
    answers: tuple[tuple[Claim, Mapping[str, str]], ...]
    flaw: str
    methods: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...]

    def table(self, name: str) -> Table | None:
        """The table of this name, None where it has no rows."""
        return next((table for table in self.tables if table.name == name), None)

    @property
    def parts(self) -> list[str]:
        """Headings that the experiment adds with its own figures and tables."""
        found = [drawing.part for drawing in self.drawings] + [table.part for table in self.tables]
        return [part for part in dict.fromkeys(found) if part not in STANDARD_PARTS]


STANDARD_PARTS = ("", "Contrasts", "Arms", "Learning rates", "Donors", "Provenance")
Group = Sequence[Section]  # the declarations of one experiment at one scale, newest first


def write_report(store: Store, out: Path) -> list[Path]:
    """Write the report to ``out``, and its figures (SVG, PNG) and numbers (CSV) to ``<stem>-files/`` beside it.

    One experiment at one scale is one page. Of several ``out`` is the overview, and each has a page of its own,
    ``<stem>-<experiment>-<scale>.html``, beside it; other declarations of the same are further sections there.

    Returns the paths written, ``out`` first. Raises InputError for a store without a declared experiment, and where
    ``out`` can't be written.
    """
    groups = _groups(store)
    if not groups:
        raise InputError(
            f"{store.root}: expected a store with a declared experiment, found none; "
            f"ontogeny run convergence --store {store.root} declares and runs one"
        )
    ledger = Table("ledger", "", dict.fromkeys(ledger_rows({})[0], ""), _ledger(store))
    folder = out.parent / f"{out.stem}-files"
    files = {folder / "ledger.csv": ledger.csv.encode()}
    for section in (section for group in groups.values() for section in group):
        files |= {folder / name: content for name, content in _files(section).items()}
    files = _pages(groups, out, ledger, folder.name) | files
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error}); give a file name in a folder of your own") from None
    return list(files)


def _pages(groups: Mapping[tuple[str, str], Group], out: Path, ledger: Table, folder: str) -> dict[Path, bytes]:
    shared = {"ledger": ledger, "sources": load_sources(), "folder": folder, "unanswered": UNANSWERED}
    if len(groups) == 1:
        return {out: _render("page.html.j2", sections=next(iter(groups.values())), home="", **shared)}
    paths = {key: out.with_name(f"{out.stem}-{'-'.join(key)}{out.suffix}") for key in groups}
    pages = {paths[key].name: group for key, group in groups.items()}
    return {out: _render("overview.html.j2", pages=pages, **shared)} | {
        paths[key]: _render("page.html.j2", sections=group, home=out.name, **shared) for key, group in groups.items()
    }


def _ledger(store: Store) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row.values()) for row in ledger_rows(store_findings(store)))


def _groups(store: Store) -> dict[tuple[str, str], Group]:
    """Experiment and scale -> its declarations; in the laboratory's order, a user's own last, large scales first."""
    declared: dict[tuple[str, str], list[tuple[str, Experiment]]] = {}
    for path, value in reversed(store.experiments()):
        experiment = from_json(value)
        declared.setdefault((experiment.name, experiment.scale), []).append((path.stem, experiment))
    return {
        key: [
            _section(store, name, experiment, _note(experiment, position, len(declared[key])))
            for position, (name, experiment) in enumerate(declared[key], start=1)
        ]
        for key in sorted(declared, key=_order)
    }


def _order(key: tuple[str, str]) -> tuple[int, str, int]:
    names, scales = list(EXPERIMENTS), list(SCALES)
    name, scale = key
    place = names.index(name) if name in names else len(names)
    return place, name, -scales.index(scale) if scale in scales else 1


def _note(experiment: Experiment, position: int, total: int) -> str:
    if total == 1:
        return ""
    which = "this is the newest" if position == 1 else f"this is an older one, number {position} from the newest"
    return (
        f"{total} different declarations of {experiment.name} at scale {experiment.scale} are in this store; {which}."
    )


def _section(store: Store, name: str, experiment: Experiment, note: str) -> Section:
    """A user's own experiment has no module here: no claims, no flaw, no figures of its own."""
    assessment, module = assess(experiment, store), EXPERIMENTS.get(experiment.name)
    claims = {claim.id: claim for claim in load_claims()}
    measure = experiment.setting.measure
    unit = unit_of(measure)
    flaw = getattr(module, "FLAW", "")
    own_tables = getattr(module, "tables", _none)(assessment, store)
    own_drawings = getattr(module, "figures", _none)(name, assessment, store)
    return Section(
        name=name,
        note=note,
        experiment=experiment,
        assessment=assessment,
        line=_line(experiment),
        nothing=f"±{unit.factor * measure.delta:g} {unit.short}",
        headlines=tuple(headlines(assessment)),
        answers=tuple((claims[claim], finding) for claim, finding in findings(assessment, store).items()),
        flaw=flaw,
        methods=tuple(method_rows(experiment, flaw)),
        tables=tuple(t for t in (*tables.standard_tables(assessment, store), *own_tables) if t.rows),
        drawings=(*own_drawings, *standard_drawings(name, assessment, getattr(module, "PUBLISHED", {}))),
    )


def _none(*_: Any) -> tuple[()]:
    return ()


def _line(experiment: Experiment) -> str:
    """What the experiment is, in a line."""
    settings = experiment.all_settings().values()
    donors = len({donor for setting in settings for donor in setting.donors})
    counts = (f"{experiment.table} table", f"{donors} donors", f"{experiment.replicates} replicates")
    return setting_line(experiment, *counts)


def _files(section: Section) -> dict[str, bytes]:
    files = {f"{section.name}-{table.name}.csv": table.csv.encode() for table in section.tables}
    for drawing in section.drawings:
        files |= {f"{drawing.name}.svg": drawing.svg.encode(), f"{drawing.name}.png": drawing.png}
    return files


def _render(template: str, **values: Any) -> bytes:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("ontogeny.lab.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<=[\s\[])-(?=\d)", "−", text)
    environment.filters["reason"] = tables.in_words
    environment.filters["svg"] = Markup  # our own drawings: what names they hold is escaped by matplotlib and render
    return environment.get_template(template).render(**values).encode()
