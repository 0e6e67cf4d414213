"""The report says what the assessment says, is safe to open and to send, and stands unfinished experiments."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from reported import Page, check_stands_alone, csv_of, sketches, table_rows

from ontogeny.benchmarks.made_up import NAME, REFERENCES, conduct, declared
from ontogeny.errors import InputError
from ontogeny.lab.experiment import Experiment, Run
from ontogeny.lab.experiments import convergence
from ontogeny.lab.findings import store_findings
from ontogeny.lab.judge import assess, headlines
from ontogeny.lab.report.page import write_report
from ontogeny.lab.report.tables import show
from ontogeny.lab.statistics import Interval
from ontogeny.lab.store import Store, open_store


def answers(store: Store) -> dict[str, dict[str, str]]:
    """The claims answered by training runs; E7 rests on the donors alone."""
    return {claim: finding for claim, finding in store_findings(store).items() if claim != "E7"}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> "Full":
    """A finished full table at the decisive laptop scale, and its report."""
    store = open_store(tmp_path_factory.mktemp("full") / "store")
    experiment = declared(table="full")
    conduct(experiment, store)
    out = store.root.parent / "report.html"
    return store, experiment, out, write_report(store, out)


Full = tuple[Store, Experiment, Path, list[Path]]


def test_headlines_and_verdicts_are_those_of_the_assessment(full: Full) -> None:
    store, experiment, out, _ = full
    assessment = assess(experiment, store)
    text = " ".join(Page(out.read_text()).text.split())
    lines = headlines(assessment)
    assert any("donor is better than random" in line and "supported" in line for line in lines)
    assert any("donor is worse than dense" in line and "refuted" in line for line in lines)
    findings = convergence.findings(assessment, store)
    assert findings["E6"]["verdict"] == "supported (laptop)"
    assert findings["E8"]["verdict"] == "refuted (laptop)"
    for line in [*lines, *(value for finding in findings.values() for value in finding.values())]:
        assert " ".join(line.replace(" -", " −").replace("[-", "[−").split()) in text


def test_contrasts_csv_holds_every_digit_of_the_assessment(full: Full) -> None:
    store, experiment, out, paths = full
    found = {(row["embeddings"], row["gap of"]): row for row in csv_of(paths, "-contrasts.csv")}
    assessment = assess(experiment, store)
    assert len(found) == len(assessment.contrasts)
    for c in assessment.contrasts:
        row = found[c.contrast.embeddings, f"{c.contrast.control} − {c.contrast.treatment}"]
        assert c.interval is not None
        gap = "gap, nats [interval]"
        bounds = [float(row[key]) for key in (gap, f"{gap}: low", f"{gap}: high", f"{gap}: level")]
        assert bounds == [c.interval.mean, c.interval.low, c.interval.high, c.interval.level]
        assert show(c.interval, "±+.3f") in out.read_text()
        assert row["verdict"] == (f"{c.verdict.word} (laptop)" if c.contrast.primary else "none")
        assert (row["kind"] == "null by symmetry", row["kind"] == "primary") == (c.contrast.check, c.contrast.primary)


def test_arms_csv_holds_losses_rates_and_references(full: Full) -> None:
    store, experiment, _, paths = full
    rows = csv_of(paths, "-arms.csv")
    loss = "final test loss, nats a token [95 %]"
    assert {row["arm"]: float(row[loss]) for row in rows[:3]} == REFERENCES
    arms = assess(experiment, store).arms
    assert len(rows) == 3 + len(arms)
    for row in rows[3:]:
        arm = arms[row["embeddings"], row["arm"]]
        assert arm.interval is not None
        assert arm.rates is not None
        assert float(row[loss]) == arm.interval.mean
        assert (float(row["body rate"]), float(row["rest rate"])) == (arm.rates.body, arm.rates.rest)
        assert row["past the bigram"] == str(arm.passed_gate)


def test_attribution_adds_up_in_the_csv(full: Full) -> None:
    rows = csv_of(full[3], "-attribution.csv")
    worth = {row["part"]: float(row["worth, nats [95 %]"]) for row in rows}
    parts = sum(value for part, value in worth.items() if part == "coherence" or part.endswith("(Shapley)"))
    assert parts == pytest.approx(worth["donor − random"], abs=1e-12)


def test_every_csv_and_figure_parses(full: Full) -> None:
    paths = full[3]
    assert paths[0] == full[2]
    assert all(path.exists() for path in paths)
    for path in paths:
        if path.suffix == ".csv":
            assert table_rows(path), path.name
        if path.suffix == ".svg":
            assert ET.fromstring(path.read_text()).find("{http://www.w3.org/2000/svg}title") is not None
            assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    stems = {path.stem.split("-", 3)[3] for path in paths if path.suffix == ".svg"}
    modes = ("fresh", "frozen", "trainable")
    expected = {f"{figure}-{mode}" for figure in ("curves", "gaps", "rates") for mode in modes}
    assert stems == expected | {
        "overlap-none",
        "overlap-permute",
        "overlap-orthogonal",
        "attribution",
        "donors-and-draws",
    }


def test_the_page_stands_alone_and_is_accessible(full: Full) -> None:
    check_stands_alone(full[2])
    drawn = [tag for tag, _ in Page(full[2].read_text()).tags if tag == "svg"]
    assert len(drawn) == sum(path.suffix == ".svg" for path in full[3])


def test_the_methods_name_the_flaw_and_the_page_what_is_known_of_the_published_numbers(full: Full) -> None:
    text = " ".join(Page(full[2].read_text()).text.split())
    assert "flaw controlled for" in text
    assert convergence.FLAW in text
    assert "One random-axes run was published." in text  # E6's finding
    assert "mean of four donors (A, C)" in full[2].read_text()


def test_names_and_texts_are_escaped(full: Full) -> None:
    html = full[2].read_text()
    assert "<script" not in html
    assert "&lt;script&gt;text&lt;/script&gt;" in html
    assert NAME in Page(html).text


def test_a_report_is_the_same_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(declared("demo"), store, lambda run: run.split == "tune")
    first, second = (write_report(store, tmp_path / folder / "r.html") for folder in ("a", "b"))
    assert {".html", ".svg", ".png", ".csv"} == {path.suffix for path in first}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_scale_rank_and_steps_are_in_every_figure(full: Full) -> None:
    for path in full[3]:
        if path.suffix == ".svg":
            assert "convergence, laptop · rank 25% · 400 steps" in path.read_text(), path.name  # matplotlib's comments


@pytest.mark.parametrize(
    "keep",
    [
        lambda run: run.arm.name not in ("random", "dense"),
        lambda run: run.embeddings == "frozen" and run.replicate < 2,
    ],
    ids=["two arms missing", "one mode, one replicate"],
)
def test_an_unfinished_experiment_says_what_is_missing(keep: Callable[[Run], bool], tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(declared(), store, keep)
    with sketches():
        write_report(store, tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert "Unfinished: " in html
    assert "missing" in Page(html).text
    assert "nan" not in [cell for row in re.findall(r"<td[^>]*>([^<]*)", html) for cell in row.split()]
    assert not any(finding["verdict"].startswith(("supported", "refuted")) for finding in answers(store).values())


def test_several_declarations_of_one_name_and_scale_share_a_page(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for experiment in (declared("demo"), declared("demo", donors=4)):
        store.declare(asdict(experiment))
    with sketches():
        assert write_report(store, tmp_path / "r.html")[0] == tmp_path / "r.html"
    text = Page((tmp_path / "r.html").read_text()).text
    assert list(tmp_path.glob("*.html")) == [tmp_path / "r.html"]
    assert text.count("missing: no evaluated run is stored yet") == 2
    assert text.count("2 different declarations of convergence at scale demo") == 2
    assert text.count("this is the newest") == 1


def test_the_ledger_takes_the_most_decisive_scale(full: Full, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(declared(), store)
    conduct(declared("demo"), store)  # newer, and decides nothing
    assert store_findings(store)["E8"]["verdict"] == "refuted (laptop)"
    rows = csv_of(full[3], "ledger.csv")
    assert len(rows) == 86
    assert {row["id"]: row["verdict"] for row in rows}["E6"] == "supported (laptop)"


def test_an_experiment_of_the_users_own_needs_no_claims(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    value = asdict(declared(donors=2)) | {"name": "mine", "title": "My own"}
    store.declare(value)
    with sketches():
        write_report(store, tmp_path / "r.html")
    assert "My own" in (tmp_path / "r.html").read_text()


def test_an_empty_store_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a store with a declared experiment, found none"):
        write_report(open_store(tmp_path / "store"), tmp_path / "r.html")


def test_an_output_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.declare(asdict(declared("demo")))
    with pytest.raises(InputError, match="can't be written"):
        write_report(store, tmp_path)


def test_published_gaps_are_the_published_losses_differences() -> None:
    for control, gaps in {"random": [0.315, 0.331, 0.331, 0.394], "dense": [0.193, 0.209, 0.209, 0.272]}.items():
        (mean, _), *each = convergence.PUBLISHED[f"{control} − donor (fresh)"]
        assert [gap for gap, _ in each] == pytest.approx(gaps)
        assert mean == pytest.approx(sum(gaps) / 4)


def test_cells_are_shown_with_few_digits() -> None:
    assert show(Interval(-0.01234, 0.1, -0.2, 0.1, 0.95, 5), "±+.3f") == "−0.012 [−0.200, +0.100]"
    assert show(Interval(4.5, math.nan, -math.inf, math.inf, 0.95, 1), "±.3f") == "4.500 (n 1)"
    assert show(None, "±.3f") == "missing"
    assert show(1.25e12, ".3g") == "1.25e12"
    assert show(True, "") == "yes"
