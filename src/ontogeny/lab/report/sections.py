"""What a store's declarations come to, one section each: what every page and every Markdown block is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ontogeny.lab.claims import Claim, load_claims
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.experiments import EXPERIMENTS, STUDIES
from ontogeny.lab.findings import findings, read
from ontogeny.lab.judge import Assessment, headlines
from ontogeny.lab.report import tables
from ontogeny.lab.report.figures import Drawing, setting_line, unit_of
from ontogeny.lab.report.methods import method_rows, study_rows
from ontogeny.lab.report.standard import standard_drawings
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import SCALES
from ontogeny.lab.store import Store
from ontogeny.lab.study import Measurements, Study

UNANSWERED = ("not run", "narrative")


@dataclass(frozen=True)
class Section:
    """One declared experiment as a page shows it. ``note`` tells it from other declarations of its name and scale."""

    name: str
    note: str
    experiment: Experiment | Study
    assessment: Assessment | Measurements
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
    def is_study(self) -> bool:
        """Whether it has conditions in place of arms."""
        return isinstance(self.experiment, Study)

    @property
    def parts(self) -> list[str]:
        """Headings that the experiment adds with its own figures and tables."""
        found = [drawing.part for drawing in self.drawings] + [table.part for table in self.tables]
        return [part for part in dict.fromkeys(found) if part not in STANDARD_PARTS]


STANDARD_PARTS = ("", "Contrasts", "Arms", "Learning rates", "Donors", "Provenance")
Group = Sequence[Section]  # the declarations of one experiment at one scale, newest first
Groups = Mapping[tuple[str, str], Group]  # by experiment and scale


def read_sections(store: Store) -> Groups:
    """Experiment and scale -> its declarations; in the laboratory's order, a user's own last, large scales first."""
    declared: dict[tuple[str, str], list[tuple[str, Assessment | Measurements]]] = {}
    for path, value in reversed(store.experiments()):
        assessment = read(value, store)
        declared.setdefault((assessment.experiment.name, assessment.experiment.scale), []).append(
            (path.stem, assessment)
        )
    return {
        key: [
            _section(store, name, assessment, _note(assessment.experiment, position, len(declared[key])))
            for position, (name, assessment) in enumerate(declared[key], start=1)
        ]
        for key in sorted(declared, key=_order)
    }


def _order(key: tuple[str, str]) -> tuple[int, str, int]:
    names, scales = [*EXPERIMENTS, *STUDIES], list(SCALES)
    name, scale = key
    place = names.index(name) if name in names else len(names)
    return place, name, -scales.index(scale) if scale in scales else 1


def _note(experiment: Experiment | Study, position: int, total: int) -> str:
    if total == 1:
        return ""
    which = "this is the newest" if position == 1 else f"this is an older one, number {position} from the newest"
    return (
        f"{total} different declarations of {experiment.name} at scale {experiment.scale} are in this store; {which}."
    )


def _section(store: Store, name: str, assessment: Assessment | Measurements, note: str) -> Section:
    """A user's own experiment has no module here: no claims, no flaw, no figures of its own."""
    experiment = assessment.experiment
    module = (EXPERIMENTS | STUDIES).get(experiment.name)
    claims = {claim.id: claim for claim in load_claims()}
    flaw = getattr(module, "FLAW", "")
    own_tables = getattr(module, "tables", _none)(assessment, store)
    own_drawings = getattr(module, "figures", _none)(name, assessment, store)
    shared: dict[str, Any] = {
        "name": name,
        "note": note,
        "experiment": experiment,
        "assessment": assessment,
        "answers": tuple((claims[claim], finding) for claim, finding in findings(assessment, store).items()),
        "flaw": flaw,
    }
    if isinstance(assessment, Measurements):
        return Section(
            line=_study_line(assessment.experiment),
            nothing="",
            headlines=(),
            methods=tuple(study_rows(assessment.experiment, flaw)),
            tables=tuple(t for t in (*own_tables, tables.measured_table(assessment)) if t.rows),
            drawings=tuple(own_drawings) if assessment.complete else (),
            **shared,
        )
    measure = assessment.experiment.setting.measure
    unit = unit_of(measure)
    published = getattr(module, "PUBLISHED", {})
    return Section(
        line=_line(assessment.experiment),
        nothing=f"±{unit.factor * measure.delta:g} {unit.short}",
        headlines=tuple(headlines(assessment)),
        methods=tuple(method_rows(assessment.experiment, flaw)),
        tables=tuple(t for t in (*tables.standard_tables(assessment, store), *own_tables) if t.rows),
        drawings=(*own_drawings, *standard_drawings(name, assessment, published)),
        **shared,
    )


def _none(*_: Any) -> tuple[()]:
    return ()


def _line(experiment: Experiment) -> str:
    """What the experiment is, in a line."""
    settings = experiment.all_settings().values()
    donors = len({donor for setting in settings for donor in setting.donors})
    of_donors = f"{donors} donor{'s' if donors != 1 else ''}"
    return setting_line(experiment, f"{experiment.table} table", of_donors, f"{experiment.replicates} replicates")


def _study_line(study: Study) -> str:
    """What a study is, in a line."""
    return f"{study.name}, {study.scale} · {len(study.conditions)} conditions · {study.replicates} replicates"
