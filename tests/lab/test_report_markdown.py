"""Markdown blocks: filled from a store, the author's words untouched."""

from pathlib import Path

import pytest
from command_line import command, refused
from reported import sketches

from ontogeny.benchmarks.made_up import conduct, declared
from ontogeny.lab.findings import store_findings
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.markdown import fill
from ontogeny.lab.report.sections import read_sections
from ontogeny.lab.store import Store, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished convergence at laptop scale."""
    store = open_store(tmp_path_factory.mktemp("markdown") / "store")
    conduct(declared(), store)
    return store


def filled(what: str, store: Store) -> str:
    """What one block comes to."""
    sections = [section for group in read_sections(store).values() for section in group]
    page, _ = fill(f"<!-- ontogeny: {what} -->\nold\n<!-- ontogeny end -->", sections, store_findings(store), "files")
    return page.split("\n", 1)[1].rsplit("\n", 1)[0]


def test_a_new_page_has_a_block_for_everything(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "findings.md"
    with sketches():
        assert command("report", "--store", store.root, "--out", out).status == 0
    text = out.read_text()
    kinds = ("verdicts", "findings convergence", "figure convergence", "gaps convergence")
    assert all(f"<!-- ontogeny: {kind} -->" in text for kind in kinds)
    figures = list((tmp_path / "findings-files").iterdir())
    assert [path.suffix for path in figures] == [".png"]
    assert f"](findings-files/{figures[0].name})" in text


def test_a_page_of_ones_own_keeps_its_words(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    out.write_text("Mine, -1 and all.\n\n<!-- ontogeny: summary -->\nstale 0.123\n<!-- ontogeny end -->\n\nMine too.\n")
    with sketches():
        assert command("report", "--store", store.root, "--out", out).status == 0
    first = out.read_text()
    assert first.startswith("Mine, -1 and all.\n\n<!--")
    assert first.endswith("-->\n\nMine too.\n")
    assert "stale" not in first
    with sketches():
        assert command("report", "--store", store.root, "--out", out).status == 0
    assert out.read_text() == first


def test_a_short_ledger_cuts_long_lists_of_numbers_between_them() -> None:
    parts = [f"part {n} +0.{n}00 [+0.001, +0.002]" for n in range(1, 8)]
    row = {"scale": "laptop", "verdict": "refuted (laptop)", "why": "n"}
    for measured, shown in (
        (", ".join(parts), ", ".join(parts[:5]) + " …"),
        ("; ".join(parts[:2]), "; ".join(parts[:2])),
    ):
        page, _ = fill(
            "<!-- ontogeny: summary --><!-- ontogeny end -->".replace("><", ">\n<"),
            [],
            {"G5": row | {"measured": measured}},
            "",
        )
        assert f"| **refuted (laptop)** | {shown} |" in page


def test_numbers_are_the_assessments(store: Store) -> None:
    section = next(iter(read_sections(store).values()))[0]
    assert isinstance(section.assessment, Assessment)
    summary = next(c for c in section.assessment.contrasts if c.contrast.name == "dense − donor (frozen)")
    assert summary.interval is not None
    row = next(line for line in filled("gaps convergence", store).splitlines() if "dense − donor (frozen)" in line)
    low, high = (f"{value:+.3f}".replace("-", "−") for value in (summary.interval.low, summary.interval.high))
    assert f"[{low}, {high}] {summary.verdict.word}" in row
    verdicts, short, listed = (filled(what, store) for what in ("verdicts", "summary", "findings convergence"))
    for claim, finding in store_findings(store).items():
        answered = finding["verdict"] != "not run"
        assert (f"{claim}:" in verdicts) is answered
        assert (f"{claim}:" in short) is answered
        assert f"{claim}.**" in listed


def test_a_figure_by_the_end_of_its_name(store: Store) -> None:
    assert "-curves-frozen.png)" in filled("figure convergence curves-frozen", store)


def test_figures_that_no_block_shows_are_not_rendered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drawing, "_rendered", property(lambda self: pytest.fail("rendered")))
    assert filled("findings convergence", store)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("", "expected one of verdicts, summary, findings EXPERIMENT"),
        ("findings", "expected one of"),
        ("verdicts convergence", "expected one of"),
        ("nonsense convergence", "expected one of"),
        ("findings sparsity", "expected sparsity in the store, found none"),
        ("figure convergence nowhere", "no figure's name ends so"),
    ],
)
def test_blocks_that_nothing_fills(store: Store, tmp_path: Path, what: str, expected: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- ontogeny: {what} -->\nkept\n<!-- ontogeny end -->\n")
    assert expected in refused("report", "--store", store.root, "--out", page)
    assert "kept" in page.read_text()
