"""The ledger: every claim of the source documents, what was published, and what this laboratory found."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ontogeny.errors import InputError


@dataclass(frozen=True)
class Claim:
    """One row. ``source`` holds letters of the documents; ``narrative`` the reason nothing can be computed, or "".

    ``finding`` is what a reader should know about the published numbers; ``experiment`` judges the row, "" if none;
    ``rolls_up`` names the rows whose verdicts make this one's.
    """

    id: str
    source: str
    where: str
    statement: str
    published: str
    computation: str
    known_work: str
    finding: str = ""
    narrative: str = ""
    experiment: str = ""
    rolls_up: str = ""


@cache
def _ledger() -> dict[str, Any]:
    return tomllib.loads(resources.files("ontogeny.lab").joinpath("claims.toml").read_text(encoding="utf-8"))


def load_sources() -> dict[str, str]:
    """Letter -> title of the source document."""
    return dict(_ledger()["sources"])


def load_claims() -> tuple[Claim, ...]:
    """Every row, by id: E1 … E24, G1 … G42, S1 … S20."""
    return tuple(Claim(**row) for row in _ledger()["claims"])


def by_source() -> tuple[Claim, ...]:
    """Every row under the first document that makes it, A to E; by id within a document."""
    return tuple(sorted(load_claims(), key=lambda claim: claim.source[0]))


def roll_ups(findings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Findings of the rows that roll others up, where all of those have one.

    Supported if all are, refuted if one is, else undecided; the scale is theirs, or *mixed*.
    """
    rows = {claim.id: claim.rolls_up.split(", ") for claim in load_claims() if claim.rolls_up}
    return {row: _rolled({n: findings[n] for n in names}) for row, names in rows.items() if set(names) <= set(findings)}


def _rolled(named: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    words = {name: finding["verdict"].split(" ")[0] for name, finding in named.items()}
    listed = {word: ", ".join(n for n, w in words.items() if w == word) for word in dict.fromkeys(words.values())}
    verdict = next((w for w in ("refuted", "undecided") if w in listed), "supported")
    scales = {finding["scale"] for finding in named.values()}
    scale = scales.pop() if len(scales) == 1 else "mixed"
    measured = "; ".join(f"{word}: {names}" for word, names in listed.items())
    why = f"{verdict}: {listed[verdict]}"
    return {"measured": measured, "scale": scale, "verdict": f"{verdict} ({scale})", "why": why}


ORDERS = {"id": load_claims, "source": by_source}


def ledger_rows(findings: Mapping[str, Mapping[str, str]], by: str = "id") -> list[dict[str, str]]:
    """Rows ``id, source, where, statement, published, measured, scale, verdict, why``, ordered by ``id`` or ``source``.

    ``findings``: claim id -> ``measured, scale, verdict, why``. Rows without one are *not run*, or *narrative* with
    the reason. Raises InputError for an order or a claim id there is none of.
    """
    if by not in ORDERS:
        raise InputError(f"expected an order of {', '.join(ORDERS)}; found {by!r}")
    claims = ORDERS[by]()
    if unknown := sorted(set(findings) - {claim.id for claim in claims}):
        raise InputError(f"expected findings on claims of the ledger; found {', '.join(unknown)}: correct the id")
    return [_row(claim, findings.get(claim.id, _unmeasured(claim))) for claim in claims]


def _row(claim: Claim, finding: Mapping[str, str]) -> dict[str, str]:
    published = {name: getattr(claim, name) for name in ("id", "source", "where", "statement", "published")}
    return published | {name: finding[name] for name in ("measured", "scale", "verdict", "why")}


def _unmeasured(claim: Claim) -> dict[str, str]:
    if claim.narrative:
        verdict, why = "narrative", claim.narrative
    elif claim.rolls_up:
        verdict, why = "not run", f"needs the verdicts of {claim.rolls_up}"
    elif claim.experiment:
        verdict, why = "not run", f"ontogeny run {claim.experiment} has not been run here"
    else:
        verdict, why = "not run", "this version has no experiment for it"
    return {"measured": "", "scale": "", "verdict": verdict, "why": why}
