"""Reports over everything a store holds: self-contained HTML pages with files beside them, or Markdown blocks."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontogeny.errors import InputError
from ontogeny.files import replacing
from ontogeny.lab.claims import ledger_rows, load_sources
from ontogeny.lab.findings import store_findings
from ontogeny.lab.report import markdown, tables
from ontogeny.lab.report.sections import UNANSWERED, Groups, Section, read_sections
from ontogeny.lab.report.tables import Table
from ontogeny.lab.store import Store

if TYPE_CHECKING:
    import jinja2


def write_report(store: Store, out: Path) -> list[Path]:
    """Write the report to ``out``, and its figures (SVG, PNG) and numbers (CSV) to ``<stem>-files/`` beside it.

    One experiment at one scale is one page. Of several ``out`` is the overview, and each has a page of its own,
    ``<stem>-<experiment>-<scale>.html``, beside it; other declarations of the same are further sections there.
    A Markdown file (.md) has its blocks filled (``report/markdown.py``), its figures beside it as PNG; one that isn't
    there is made, with a block for everything.

    Returns the paths written, ``out`` first. Raises InputError for a store without a declared experiment, for a block
    that nothing fills, and where ``out`` can't be written.
    """
    groups = read_sections(store)
    if not groups:
        raise InputError(
            f"{store.root}: expected a store with a declared experiment, found none; "
            f"ontogeny run convergence --store {store.root} declares and runs one"
        )
    folder = out.parent / f"{out.stem}-files"
    files = _markdown(store, groups, out, folder) if out.suffix == ".md" else _html(store, groups, out, folder)
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, lasting=False) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error}); give a file name in a folder of your own") from None
    return list(files)


def _markdown(store: Store, groups: Groups, out: Path, folder: Path) -> dict[Path, bytes]:
    sections = [section for group in groups.values() for section in group]
    text = out.read_text(encoding="utf-8") if out.exists() and out.stat().st_size else markdown.outline(sections)
    try:
        page, figures = markdown.fill(text, sections, store_findings(store), folder.name)
    except InputError as error:
        raise InputError(f"{out}: {error}") from None
    return {out: page.encode()} | {folder / name: drawing.png for name, drawing in figures.items()}


def _html(store: Store, groups: Groups, out: Path, folder: Path) -> dict[Path, bytes]:
    ledger = Table("ledger", "", dict.fromkeys(ledger_rows({})[0], ""), _ledger(store))
    files = {folder / "ledger.csv": ledger.csv.encode()}
    for section in (section for group in groups.values() for section in group):
        files |= {folder / name: content for name, content in _files(section).items()}
    return _pages(groups, out, ledger, folder.name) | files


def _pages(groups: Groups, out: Path, ledger: Table, folder: str) -> dict[Path, bytes]:
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


def _files(section: Section) -> dict[str, bytes]:
    files = {f"{section.name}-{table.name}.csv": table.csv.encode() for table in section.tables}
    for drawing in section.drawings:
        files |= {f"{drawing.name}.svg": drawing.svg.encode(), f"{drawing.name}.png": drawing.png}
    return files


def _render(template: str, **values: Any) -> bytes:
    return _templates().get_template(template).render(**values).encode()


@functools.cache
def _templates() -> "jinja2.Environment":
    """Jinja's environment, which compiles each template once."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("ontogeny.lab.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minus"] = tables.true_minus
    environment.filters["reason"] = tables.in_words
    environment.filters["svg"] = Markup  # our own drawings: what names they hold is escaped by matplotlib and render
    return environment
