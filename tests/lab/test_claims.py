"""The ledger is complete, and its rows read as promised."""

import pytest

from ontogeny.errors import InputError
from ontogeny.lab.claims import by_source, ledger_rows, load_claims, load_sources, roll_ups

CLAIMS = {claim.id: claim for claim in load_claims()}
COLUMNS = ["id", "source", "where", "statement", "published", "measured", "scale", "verdict", "why"]
FINDING = {"measured": "gap 0.31 [0.22, 0.40]", "scale": "laptop", "verdict": "supported", "why": ""}


def test_every_id_once_and_in_order() -> None:
    expected = [f"{series}{n}" for series, last in (("E", 24), ("G", 42), ("S", 20)) for n in range(1, last + 1)]
    assert [claim.id for claim in load_claims()] == expected


def test_required_fields_are_filled() -> None:
    for claim in load_claims():
        for name in ("source", "where", "statement", "published", "computation"):
            assert getattr(claim, name).strip(), f"{claim.id} has no {name}"


def test_sources_are_letters_of_the_documents() -> None:
    assert list(load_sources()) == ["A", "B", "C", "D", "E"]
    for claim in load_claims():
        assert set(claim.source.split(", ")) <= set(load_sources()), claim.id
        assert all(letter in claim.where for letter in claim.source.split(", ")), claim.id


def test_narrative_rows_and_experiments() -> None:
    assert [claim.id for claim in load_claims() if claim.narrative] == ["G19", "G31", "G41", "G42", "S20"]
    assert [claim.id for claim in load_claims() if claim.experiment == "convergence"] == ["E6", "E7", "E8"]


def test_no_row_names_a_working_document() -> None:
    for claim in load_claims():
        text = " ".join(vars(claim).values()).lower()
        for word in ("shared/", "design/", ".md", "todo", "ledger", "http"):
            assert word not in text, f"{claim.id} mentions {word}"


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ("E1", ["+0.76", "+0.73", "+0.42"]),
        ("E2", ["−0.03, +0.03, −0.01, +0.02, +0.23, +0.76", "~0, –, ~0, +0.09, +0.23, +0.76"]),
        ("E3", ["54.5 v 52.0", "53.1/50.8, 54.9/53.0, 55.5/52.3", "56.5 v 54.0", "37.1"]),
        ("E4", ["+2.0", "+2.5", "+1.8", "+3.2", "+1.4"]),
        ("E5", ["+0.73/+0.66", "−0.07/+0.17", "+0.15/+0.09", "−0.53/+0.05", "+0.42"]),
        ("E6", ["7.378, 7.362, 7.362, 7.299", "0.03", "7.693", "0.34", "7.571", "0.09"]),
        ("E8", ["7.35", "7.571"]),
        ("E9", ["6.2442", "38K", "6.3331", "40K", "0.089", "6.1526", "21K"]),
        ("E11", ["171 of 576"]),
        ("E12", ["6.523, 6.520, 6.530, 6.512", "6.521", "6.559, 6.558, 6.545, 6.546", "6.552"]),
        ("E13", ["0.541", "0.391", "38 %"]),
        ("E14", ["0.007", "0.006"]),
        ("G1", ["63: 137, 64: 145, 65: 137, 80: 1346, 96: 1271, 105: 1360, 110: 135, 128: 138"]),
    ],
)
def test_published_numbers(row: str, numbers: list[str]) -> None:
    for number in numbers:
        assert number in CLAIMS[row].published


def test_findings_about_published_numbers() -> None:
    told = {"E6": "near unigram entropy", "E9": "0.279·t^−0.34", "E13": "exactly chance", "E24": "about 1 %"}
    told |= {"E2": "undecided", "E5": "two of the four", "E4": "not monotone", "E11": "29.7 %", "E22": "k/d whatever d"}
    for row, words in told.items():
        assert words in CLAIMS[row].finding


def test_rows_without_a_finding() -> None:
    rows = {row["id"]: row for row in ledger_rows({})}
    assert all(list(row) == COLUMNS for row in rows.values())
    assert rows["E6"]["verdict"] == "not run"
    assert "ontogeny run convergence" in rows["E6"]["why"]
    assert rows["G1"]["verdict"] == "not run"
    assert rows["G41"]["verdict"] == "narrative"
    assert rows["G41"]["why"] == CLAIMS["G41"].narrative


def test_rows_with_a_finding() -> None:
    rows = {row["id"]: row for row in ledger_rows({"E6": FINDING})}
    assert {name: rows["E6"][name] for name in FINDING} == FINDING
    assert rows["E6"]["published"] == CLAIMS["E6"].published
    assert rows["E7"]["verdict"] == "not run"


def test_by_source_follows_the_documents() -> None:
    ids = [claim.id for claim in by_source()]
    assert sorted(ids) == sorted(CLAIMS)
    assert ids[0] == "E1"
    assert ids.index("E24") < ids.index("G1") < ids.index("E11") < ids.index("S1") < ids.index("S13")
    assert [row["id"] for row in ledger_rows({}, by="source")] == ids


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [({}, "supported"), ({"E3": "undecided"}, "undecided"), ({"E3": "undecided", "E9": "refuted"}, "refuted")],
)
def test_six_lines_are_as_strong_as_the_weakest(changed: dict[str, str], verdict: str) -> None:
    lines = CLAIMS["G40"].rolls_up.split(", ")
    found = {line: FINDING | {"verdict": f"{changed.get(line, 'supported')} (laptop)"} for line in lines}
    rolled = roll_ups(found)["G40"]
    assert (rolled["verdict"], rolled["scale"]) == (f"{verdict} (laptop)", "laptop")
    assert all(line in rolled["measured"] for line in lines)
    assert roll_ups(found | {"E1": found["E1"] | {"scale": "smoke"}})["G40"]["scale"] == "mixed"
    assert not roll_ups({line: found[line] for line in lines[1:]}), "a line is missing"


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="E99"):
        ledger_rows({"E99": FINDING})
    with pytest.raises(InputError, match="found 'date'"):
        ledger_rows({}, by="date")
