"""Blocks of a Markdown page, filled from a store: the words around them are their author's, no number in them is typed.

A block stands between ``<!-- ontogeny: WHAT -->`` and ``<!-- ontogeny end -->``; WHAT is one of

- ``verdicts``: the ledger's rows that the store answers, with what was published;
- ``summary``: the same in short: of long lists of numbers the first;
- ``findings EXPERIMENT``: what holds, what doesn't, what is undecided and what would decide it;
- ``gaps EXPERIMENT``: every primary contrast and check, a column for each declaration;
- ``figure EXPERIMENT [NAME]``: a figure by the end of its name, the first one unless named, as a PNG file beside it.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from ontogeny.errors import InputError
from ontogeny.lab.claims import ledger_rows
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.figures import Drawing, unit_of
from ontogeny.lab.report.sections import UNANSWERED, Section
from ontogeny.lab.report.tables import in_words, ordered_contrasts, show, true_minus
from ontogeny.lab.study import Study

END = "<!-- ontogeny end -->"
BLOCK = re.compile(rf"(<!-- ontogeny: ([^>]*) -->\n)(.*?)({END})", re.DOTALL)
Sections = Sequence[Section]
Findings = Mapping[str, Mapping[str, str]]  # claim id -> finding
Figures = dict[str, Drawing]  # file name -> what it shows, drawn when asked for

# What would decide a verdict that a reason leaves open; "straddles" says how many replicates by itself.
REMEDIES = {
    "n": "five replicates",
    "donors": "five donors",
    "scale": "a larger scale",
    "gate": "longer training, until every arm is past its reference",
    "rate unresolved": "a wider grid of learning rates",
    "sign at second-best rate": "a finer grid of learning rates",
    "gap": "a setting in which that gap is supported",
    "asked only once": "a setting in which that gap is supported",
    "span": "longer horizons",
    "misfit": "more horizons or sizes",
    "no winner": "more horizons or sizes",
    "out of sample": "more horizons or sizes",
}


def fill(text: str, sections: Sections, findings: Findings, folder: str) -> tuple[str, Figures]:
    """The page with every block filled anew, and the figures it shows, to be written into ``folder``.

    ``sections``: every declaration of the store. Raises InputError for a block that nothing fills.
    """
    figures: Figures = {}

    def filled(match: re.Match[str]) -> str:
        head, what, _, end = match.groups()
        kind, *arguments = what.split() or [""]
        if kind in LEDGER_BLOCKS and not arguments:
            body = LEDGER_BLOCKS[kind](findings)
        elif kind in EXPERIMENT_BLOCKS and arguments:
            chosen = [section for section in _widest(sections) if section.experiment.name == arguments[0]]
            if not chosen:
                raise InputError(f"block {what!r}: expected {arguments[0]} in the store, found none: run it first")
            body = EXPERIMENT_BLOCKS[kind](chosen, arguments[1:], folder, figures)
        else:
            known = [*LEDGER_BLOCKS, *(f"{name} EXPERIMENT" for name in EXPERIMENT_BLOCKS)]
            raise InputError(f"block {what!r}: expected one of {', '.join(known)}")
        return f"{head}{body.strip()}\n{end}"

    return BLOCK.sub(filled, text), figures


def outline(sections: Sections) -> str:
    """A page with a block for everything in the store, for its author to write around."""
    parts = ["# Findings", _block("verdicts")]
    for name in dict.fromkeys(section.experiment.name for section in sections):
        section = next(section for section in sections if section.experiment.name == name)
        kinds = ["findings"] + ["figure"] * bool(section.drawings) + ["gaps"] * (not section.is_study)
        parts += [f"## {section.experiment.title}", *(_block(f"{kind} {name}") for kind in kinds)]
    return "\n\n".join(parts) + "\n"


def _block(what: str) -> str:
    return f"<!-- ontogeny: {what} -->\n{END}"


def _widest(sections: Sections) -> list[Section]:
    """Without the primary tables whose full table is there too."""
    full = {_subject(section) for section in sections if section.experiment.table == "full"}
    return [s for s in sections if s.experiment.table == "full" or _subject(s) not in full]


def _subject(section: Section) -> tuple[str, str, str]:
    return section.experiment.name, section.experiment.scale, label(section, table=False)


def label(section: Section, *, table: bool = True) -> str:
    """What tells declarations of one experiment apart: scale, text, the user's own donors, the table."""
    experiment = section.experiment
    if isinstance(experiment, Study):
        return experiment.scale
    texts = [experiment.text, *experiment.text.get("settings", {}).values()]
    sources = dict.fromkeys(str(text.get("source", "")).rsplit("/", 1)[-1] for text in texts)
    given = [str(record["name"]).rsplit("/", 1)[-1] for record in experiment.donor_records if "name" in record]
    parts = [experiment.scale, " and ".join(sources), *given]
    return ", ".join(part for part in (*parts, "full table" if table and experiment.table == "full" else "") if part)


def _verdicts(findings: Findings) -> str:
    rows = [
        (
            f"{row['id']}: {row['statement']}",
            row["published"],
            true_minus(row["measured"]),
            f"**{row['verdict']}**: {in_words(row['why'])}",
        )
        for row in _answered(findings)
    ]
    return f"{_count(findings)}\n\n{_table(('claim', 'published', 'measured', 'verdict'), rows)}"


def _summary(findings: Findings) -> str:
    rows = [
        (f"{row['id']}: {row['statement']}", f"**{row['verdict']}**", _shortened(true_minus(row["measured"])))
        for row in _answered(findings)
    ]
    return f"{_count(findings)}\n\n{_table(('claim', 'verdict', 'measured'), rows)}"


def _shortened(measured: str, limit: int = 160) -> str:
    """The numbers that stand first, whole, with "…" where others are left out."""
    parts = re.split(r"(; |(?<=\]), )", measured)
    kept = parts[0]
    for separator, part in zip(parts[1::2], parts[2::2], strict=True):
        if len(kept + separator + part) > limit:
            return f"{kept} …"
        kept += separator + part
    return kept


def _answered(findings: Findings) -> list[dict[str, str]]:
    return [row for row in ledger_rows(findings) if row["verdict"] not in UNANSWERED]


def _count(findings: Findings) -> str:
    rows = ledger_rows(findings)
    narrative = sum(row["verdict"] == "narrative" for row in rows)
    answered = len(_answered(findings))
    others = "" if answered + narrative == len(rows) else "; the others have not been run"
    return (
        f"Of the {len(rows)} rows of the ledger {answered} are answered here; {narrative} are narrative, where nothing "
        f"can be computed{others}."
    )


def _findings(sections: Sections, _arguments: Sequence[str], _folder: str, _figures: Figures) -> str:
    parts = []
    for section in sections:
        done = section.assessment
        missing = "" if done.complete else f"; unfinished, {done.expected - done.done} of {done.expected} runs missing"
        parts.append(f"*{label(section)}: {section.line}{missing}*")
        parts.append("\n".join(_answers(section)) or "\n".join(f"- {true_minus(line)}" for line in section.headlines))
    return "\n\n".join(parts)


def _answers(section: Section) -> list[str]:
    words = {"supported": "Holds", "refuted": "Doesn't hold", "undecided": "Undecided", "not run": "Not run"}
    lines = []
    for word, heading in words.items():
        for claim, finding in section.answers:
            if finding["verdict"].startswith(word):
                measured = f" Measured: {true_minus(finding['measured'])};" if finding["measured"] else ""
                remedies = dict.fromkeys(_remedies(finding["why"])) if word == "undecided" else {}
                decides = f" What would decide it: {' and '.join(remedies)}." if remedies else ""
                statement = claim.statement if claim.statement[-1] in ".?" else f"{claim.statement}."
                lines.append(f"- **{heading}: {claim.id}.** {statement}{measured} {in_words(finding['why'])}.{decides}")
    return lines


def _remedies(why: str) -> list[str]:
    parts = why.split("; ")
    return [cure for code, cure in REMEDIES.items() for part in parts if part == code or part.startswith(f"{code} ")]


def _gaps(sections: Sections, _arguments: Sequence[str], _folder: str, _figures: Figures) -> str:
    names: dict[str, None] = {}
    columns = []
    for section in sections:
        if not isinstance(section.assessment, Assessment):
            raise InputError(f"block 'gaps {section.experiment.name}': a study has none; write findings or figure")
        unit = unit_of(section.assessment.experiment.setting.measure)
        column = {}
        for summary in ordered_contrasts(section.assessment):
            contrast = summary.contrast
            if summary.interval and (contrast.primary or contrast.check):
                code = f" ({summary.verdict.code})" if summary.verdict.code == "gate" else ""
                word = "check" if contrast.check else f"{summary.verdict.word}{code}"
                column[contrast.name] = f"{show(unit.of(summary.interval), f'±{unit.form}')} {word}"
                names[contrast.name] = None
        columns.append(column)
    heads = (f"gap, {unit.short}", *(label(section) for section in sections))
    return _table(heads, [(name, *(column.get(name, "–") for column in columns)) for name in names])


def _figure(sections: Sections, arguments: Sequence[str], folder: str, figures: Figures) -> str:
    ending = " ".join(arguments)
    for section in sections:
        for drawing in section.drawings:
            if drawing.name.endswith(ending):
                figures[f"{drawing.name}.png"] = drawing
                return f"![{drawing.alt}]({folder}/{drawing.name}.png)\n\n*{drawing.caption}*"
    names = ", ".join(drawing.name for section in sections for drawing in section.drawings)
    raise InputError(f"block 'figure … {ending}': no figure's name ends so; there are {names or 'none yet'}")


LEDGER_BLOCKS = {"verdicts": _verdicts, "summary": _summary}
EXPERIMENT_BLOCKS: dict[str, Callable[[Sections, Sequence[str], str, Figures], str]] = {
    "findings": _findings,
    "gaps": _gaps,
    "figure": _figure,
}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
