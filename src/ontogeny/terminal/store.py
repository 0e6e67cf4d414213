"""What a store holds: report, claims, export and import."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ontogeny.canonical import canonical_json
from ontogeny.errors import InputError, choose
from ontogeny.files import write_json
from ontogeny.lab.claims import Claim, ledger_rows, load_claims, load_sources
from ontogeny.lab.experiment import from_json
from ontogeny.lab.store import ABOUT, RESULT, Store, check_schema, in_use, open_store
from ontogeny.lab.study import KIND, study_from_json, study_results
from ontogeny.lab.verify import check_result
from ontogeny.terminal.lines import check_format, read_lines, write_lines
from ontogeny.terminal.output import check_writable, console, print_json, table


def existing_store(root: Path) -> Store:
    """The store in a folder; InputError where there is none."""
    if not (root / "experiments").is_dir():
        raise InputError(f"--store {root}: no store there; ontogeny run … --store {root} makes one")
    return open_store(root)


def write_report(root: Path, out: Path) -> None:
    """Write the pages and say where the first is."""
    from ontogeny.lab.report import page

    check_writable(out)
    written = page.write_report(existing_store(root), out)
    others = sum(path.parent == out.parent for path in written) - 1
    beside = f", the overview of {others} experiments with a page each" if others else ""
    console().print(f"report: {out.absolute()}{beside}", highlight=False, soft_wrap=True)


def show_claims(root: Path | None, by: str, *, as_json: bool) -> None:
    """The ledger, with what a store measured."""
    from ontogeny.lab.findings import store_findings

    choose(by, ("id", "source"), "--by")
    rows = ledger_rows(store_findings(existing_store(root)) if root else {}, by=by)
    if as_json:
        print_json(rows)
        return
    columns = ("id", "source", "statement", "published", "measured", "verdict", "why")
    if by == "id":
        console().print(table("The ledger", columns, [tuple(row[column] for column in columns) for row in rows]))
        return
    computed = {claim.id: _computed_in(claim) for claim in load_claims()}
    for letter, title in load_sources().items():
        cells = [(*(row[c] for c in columns), computed[row["id"]]) for row in rows if row["source"][0] == letter]
        if cells:
            console().print(table(f"{letter}: {title}", (*columns, "computed in"), cells))


def _computed_in(claim: Claim) -> str:
    """The file of the experiment that judges a row, as a link to it; the rows that one rolls up; or that none can."""
    from ontogeny.lab.experiments import EXPERIMENTS, STUDIES

    if claim.narrative:
        return "narrative"
    module = (EXPERIMENTS | STUDIES).get(claim.experiment)
    if module is None:
        return claim.rolls_up or "nothing yet"
    path = Path(str(module.__file__))
    return f"[link={path.as_uri()}]lab/experiments/{path.name}[/link]"


def export_store(root: Path, out: Path, experiment: str | None = None) -> None:
    """Every declaration and result as a line of a file; or one experiment's declarations and their results."""
    store = existing_store(root)
    declared = [(path, v) for path, v in store.experiments() if experiment in (None, v["name"])]
    if experiment is not None and not declared:
        names = ", ".join(sorted({v["name"] for _, v in store.experiments()}))
        raise InputError(f"--experiment {experiment}: expected one that the store has, {names or 'none yet'}")
    check_writable(out)
    check_format(out)
    lines: list[Mapping[str, Any]] = [{"kind": "declaration", "file": p.name, "value": v} for p, v in declared]
    if experiment is None:
        lines += store.results()
    else:
        results = [result for _, value in declared for result in _results(value, store)]
        lines += {canonical_json(result): result for result in results}.values()
    write_lines(out, lines)
    console().print(f"{out}: {len(lines)} lines", highlight=False)


def _results(declaration: Mapping[str, Any], store: Store) -> list[dict[str, Any]]:
    from ontogeny.lab.conduct import stored_results

    if declaration.get("kind") == KIND:
        return study_results(study_from_json(declaration), store)
    return stored_results(from_json(declaration), store)


def import_store(file: Path, root: Path) -> None:
    """Put exported lines where they belong; what is there already stays. Nothing is written if a line is wrong."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected one that ontogeny store export wrote")
    found: dict[Path, Mapping[str, Any]] = {}
    for index, line in enumerate(read_lines(file), start=1):
        try:
            value = json.loads(line)
            canonical_json(value)  # refuses the numbers that JSON hasn't
            found[_place(value)] = value["value"] if value["kind"] == "declaration" else value
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise InputError(f"{file}, line {index}: not what ontogeny store export writes ({reason})") from None
    if not found:
        raise InputError(f"{file}: empty; expected one that ontogeny store export wrote")
    store = open_store(root)
    with in_use(store):
        for path in (path for path in found if not (store.root / path).exists()):
            if "host" in found[path]:
                write_json((store.root / path).with_name(ABOUT), {"host": found[path]["host"]}, lasting=False)
            write_json(store.root / path, found[path], lasting=False)
        os.sync()  # all of them at once: one by one they take minutes
    console().print(f"{root}: {len(found)} lines", highlight=False)


def _place(value: Mapping[str, Any]) -> Path:
    """Where in a store a line belongs; KeyError, TypeError or ValueError for a line that isn't whole."""
    kind = value["kind"]
    if kind == "declaration":
        name, declaration = value["file"], value["value"]
        check_schema(declaration, name)
        (study_from_json if declaration.get("kind") == KIND else from_json)(declaration)
    else:
        name = value.get("folder", value["id"]) if kind == "donor" else value["id"]
        check_schema(value, name)
        check_result(value)
    if not re.fullmatch(r"\w[\w .-]{0,200}", name):
        raise ValueError(f"a name that can't be a file's: {name}")
    if kind == "declaration":
        return Path("experiments", name)
    if kind == "donor":
        return Path("donors", name, RESULT)
    return Path("runs", name, f"replicate-{int(value.get('replicate', 0))}", RESULT)
