"""Several experiments: an overview over a page each; every figure and table of the experiments' own."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from reported import Page, check_stands_alone, csv_of, sketches

from ontogeny.benchmarks.made_up import conduct, declared, outlined
from ontogeny.canonical import plain
from ontogeny.lab.experiment import Arm, Run
from ontogeny.lab.experiments import EXPERIMENTS, crossmodal, extraction, rank, sparsity
from ontogeny.lab.judge import assess
from ontogeny.lab.report.page import write_report
from ontogeny.lab.report.tables import show
from ontogeny.lab.statistics import paired_interval
from ontogeny.lab.store import Store, open_store


def mask_worth(arm: Arm) -> float:
    """A magnitude mask is worth 0.3·sparsity² nats over any other, whose degrees hold half of it."""
    kind, size = arm.name.split(" ")[:2]
    return 0.3 * float(size.rstrip("%")) ** 2 / 1e4 * {"magnitude": 1.0, "degree": 0.5}.get(kind, 0.0)


def rank_worth(arm: Arm) -> float:
    """The donor's directions are worth 0.1 nats at width 32 and 0.1 more at every doubling."""
    kind, width, _ = arm.name.split(" ")
    return 0.1 * math.log2(int(width[1:]) / 16) if kind == "donor" else 0.0


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> "Several":
    """A finished sparsity and rank (smoke), an unfinished convergence in two declarations, and the report."""
    store = open_store(tmp_path_factory.mktemp("several") / "store")
    conduct(declared("demo", donors=4), store, lambda run: False)
    conduct(declared("demo"), store, few)
    conduct(outlined("rank", "smoke"), store, worth=rank_worth)
    conduct(outlined("sparsity"), store, worth=mask_worth)
    with sketches():
        return store, write_report(store, store.root.parent / "all.html")


Several = tuple[Store, list[Path]]


def few(run: Run) -> bool:
    return run.split == "tune" or (run.arm.name in ("donor", "random") and run.replicate < 3)


def test_every_experiment_has_a_page_beside_the_overview(several: Several) -> None:
    out = several[1][0]
    pages = ["all-convergence-demo.html", "all-rank-smoke.html", "all-sparsity-laptop.html"]
    assert sorted(path.name for path in out.parent.glob("*.html")) == [*pages, "all.html"]
    for path in out.parent.glob("*.html"):
        check_stands_alone(path)
    overview = Page(out.read_text())
    assert set(pages) <= set(overview.links)
    assert [tag for tag, _ in overview.tags].count("svg") == 3  # one figure an experiment
    for page in pages:
        assert "all.html" in Page((out.parent / page).read_text()).links


def test_the_overview_holds_the_ledger_and_every_headline_verdict(several: Several) -> None:
    out, *paths = several[1]
    text = " ".join(Page(out.read_text()).text.split())
    rows = csv_of(paths, "ledger.csv")
    answered = [row for row in rows if row["verdict"] not in ("not run", "narrative")]
    assert {"E1", "E2", "E11", "E22"} <= {row["id"] for row in answered}
    assert f"this store answers {len(answered)}." in text
    assert "All 86 rows" in text
    for name in ("sparsity", "rank", "convergence"):
        assert EXPERIMENTS[name].FLAW in text
    for row in answered:
        assert row["measured"].replace(" -", " −").replace("[-", "[−") in text
    assert "Unfinished: " in text
    assert "2 different declarations of convergence at scale demo are in this store; this is the newest" in text


def test_older_declarations_are_further_sections(several: Several) -> None:
    text = Page((several[1][0].parent / "all-convergence-demo.html").read_text()).text
    assert "this is an older one, number 2 from the newest" in text
    assert "The ledger" not in text  # it is on the overview


def test_every_experiments_page_has_verdicts_flaw_and_what_was_published(several: Several) -> None:
    folder = several[1][0].parent
    known = {"sparsity-laptop": "+0.76 (A, sweep), +0.73 (A, chart), +0.42 (C)", "rank-smoke": "171 of 576 is 29.7 %"}
    for name, sources in known.items():
        text = " ".join(Page((folder / f"all-{name}.html").read_text()).text.split())
        assert "flaw controlled for" in text
        assert EXPERIMENTS[name.split("-")[0]].FLAW in text
        assert sources in text


def test_the_gap_by_sparsity_stands_beside_both_published_series(several: Several) -> None:
    store, (out, *paths) = several
    rows = {int(row["sparsity, %"]): row for row in csv_of(paths, "-gap-by-sparsity.csv")}
    assert list(rows) == [50, 75, 90, 95]
    chart, table = (f"random − magnitude, published ({source})" for source in ("A, chart", "C"))
    assert [(rows[size][chart], rows[size][table]) for size in rows] == [
        ("0.02", "0.09"), ("0.23", "0.23"), ("0.76", "0.76"), ("", "")
    ]  # fmt: skip
    assessment = assess(outlined("sparsity"), store)
    gaps = {c.contrast.name: paired_interval(c.differences) for c in assessment.contrasts}
    for size, row in rows.items():
        found = gaps[f"uniform {size}% − magnitude {size}% (fresh)"]
        assert float(row["uniform − magnitude, nats [95 %]"]) == found.mean == pytest.approx(3e-5 * size**2, abs=0.01)
        assert float(row["uniform − magnitude, nats [95 %]: low"]) == found.low
        assert float(row["explained by degrees, %"]) == pytest.approx(50, abs=10)
        assert show(found, "±+.3f") in (out.parent / "all-sparsity-laptop.html").read_text()


def test_the_fits_are_those_that_the_claim_is_judged_by(several: Several) -> None:
    store, paths = several
    curve = sparsity.curve(assess(outlined("sparsity"), store))
    assert curve is not None
    rows = csv_of(paths, "-value-curve.csv")
    assert [float(row["AICc"]) for row in rows] == [form.aicc for form in curve.forms.values()]
    assert sum(float(row["Akaike weight"]) for row in rows) == pytest.approx(1)


def test_the_gap_by_width_stands_beside_the_overlap(several: Several) -> None:
    store, paths = several
    rows = {(row["rank"], int(row["width"])): row for row in csv_of(paths, "-gap-by-width.csv")}
    assert {width for _, width in rows} == {32, 48}
    assert {label for label, _ in rows} == {"10%", "30%", "k8"}
    growth = rank.growth(assess(outlined("rank", "smoke"), store), "k8")
    assert growth is not None
    gap = "random − donor, nats [95 %]"
    assert float(rows["k8", 48][gap]) - float(rows["k8", 32][gap]) == pytest.approx(growth.mean)
    assert growth.mean == pytest.approx(0.1 * math.log2(48 / 32), abs=0.02)
    assert {row["chance"] for row in rows.values()} == {"0.25"}  # as planted
    assert all(float(row["overlap"]) > 0.25 for row in rows.values())


def test_published_numbers_are_the_ledgers() -> None:
    gaps = sparsity.PUBLISHED["uniform 90% − magnitude 90% (fresh)"]
    assert gaps == ((0.76, "A, sweep"), (0.73, "A, chart"), (0.42, "C"))
    vision = [round(gap, 3) for gap, _ in crossmodal.PUBLISHED["mask-random − magnitude (fresh)"]]
    assert vision == [0.025, 0.025, 0.023, 0.019, 0.032]
    by_donor = crossmodal.published_by_donor()
    assert list(by_donor["mask (A, chart)"].values()) == [2.0, 1.8, 3.2, 1.4]
    assert by_donor["mask (A, text)"] == {"SmolLM2-135M": 2.5}
    by_method = extraction.published_gaps()
    assert list(by_method["subspace (A)"].values()) == [0.66, 0.17, 0.09, 0.05]
    assert list(by_method["magnitude mask (A)"].values()) == [0.73, -0.07, 0.15, -0.53]
    assert by_method["magnitude mask (C)"] == {"SmolLM2-135M": 0.42}


def test_the_gap_by_size_is_that_of_every_width(tmp_path: Path) -> None:
    store, experiment = open_store(tmp_path / "store"), outlined("extraction", "laptop")
    conduct(experiment, store, worth=lambda arm: 0.1 * arm.name.startswith("svd"))
    with sketches():
        rows = csv_of(write_report(store, tmp_path / "r.html"), "-gap-by-size.csv")
    assert [(row["gap of"].split(",")[0], row["width"]) for row in rows] == [
        (what, width) for what in ("random − svd", "mask-random − magnitude") for width in ("64", "96")
    ]
    assert [float(row["gap, nats [95 %]"]) for row in rows] == pytest.approx([0.1, 0.1, 0, 0], abs=0.02)


def test_a_users_own_experiment_comes_last_and_has_a_page(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for experiment in (declared("demo"), replace(declared("demo"), name="a mine", title="My own")):
        conduct(experiment, store, lambda run: False)
    with sketches():
        out, *_ = write_report(store, tmp_path / "r.html")
    assert (tmp_path / "r-a mine-demo.html").exists()
    check_stands_alone(out.parent / "r-a mine-demo.html")
    text = Page(out.read_text()).text
    assert text.index("Convergence") < text.index("My own")


def test_experiments_that_were_only_declared_have_pages(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for name in EXPERIMENTS:
        store.declare(plain(outlined(name, "smoke", "full") if name != "convergence" else declared("smoke")))
    with sketches():
        out, *_ = write_report(store, tmp_path / "r.html")
    titles = [module.TITLE for module in EXPERIMENTS.values()]
    text = Page(out.read_text()).text
    assert sorted(titles, key=text.index) == titles
    assert text.count("missing: no evaluated run is stored yet") == len(titles)
    for name in EXPERIMENTS:
        check_stands_alone(tmp_path / f"r-{name}-smoke.html")
