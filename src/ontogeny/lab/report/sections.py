"""What a store's declarations come to, one section each: what every page and every Markdown block is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ontogeny.lab.claims import Claim, load_claims
from ontogeny.lab.experiment import Experiment, from_json
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.findings import findings
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
Groups = Mapping[tuple[str, str], Group]  # by experiment and scale


def read_sections(store: Store) -> Groups:
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
    of_donors = f"{donors} donor{'s' if donors != 1 else ''}"
    return setting_line(experiment, f"{experiment.table} table", of_donors, f"{experiment.replicates} replicates")
