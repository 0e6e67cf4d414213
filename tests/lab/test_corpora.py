"""Corpora: its rule on planted survivors and predictions, its variants, and a small real run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import smoke
from numpy.typing import NDArray
from planted import plant

from ontogeny.benchmarks.made_up import outlined
from ontogeny.canonical import plain
from ontogeny.files import read_json, write_json
from ontogeny.lab.conduct import audits, comparisons
from ontogeny.lab.experiment import Experiment, Rates
from ontogeny.lab.experiments import corpora
from ontogeny.lab.experiments.corpora import Cell
from ontogeny.lab.experiments.development import KINDS
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.prepare import find_scale, find_variants, prepare
from ontogeny.lab.statistics import DELTA, paired_interval
from ontogeny.lab.store import Store, open_store
from ontogeny.streams import numpy_stream
from ontogeny.terminal.lab import run_experiment

SITES, DIRECTIONS, LEFT = 3, 400, 160
Path_ = tuple[str | int, ...]  # what a site's survivors depend on
Survive = Callable[[str, Cell, int], Path_]


def by_genome(kind: str, cell: Cell, site: int) -> Path_:
    """Two sites in three keep the same directions, whatever corpus and environment."""
    return (kind, cell.genome, site) if kind == "donor" and site else (kind, *cell, site)


def by_corpus(kind: str, cell: Cell, site: int) -> Path_:
    return (kind, cell.genome, cell.corpus, site) if site else (kind, *cell, site)


def by_order(kind: str, cell: Cell, site: int) -> Path_:
    return (site,) if site else (kind, *cell, site)


def by_chance(kind: str, cell: Cell, site: int) -> Path_:
    return (kind, *cell, site)


def by_both(kind: str, cell: Cell, site: int) -> Path_:
    """One site is the genome's, one the corpus's too."""
    return (by_chance, by_genome, by_corpus)[site](kind, cell, site)


def further(first: Cell, second: Cell) -> float:
    """Networks of two corpora predict 0.3 nats further apart; every text has a level of its own."""
    return 0.2 * (1 + len(first.corpus)) + 0.3 * (first.corpus != second.corpus)


def alike(first: Cell, second: Cell) -> float:
    return 0.2 * (1 + len(first.corpus))


Finished = tuple[Assessment, Store]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished experiment on four rich corpora, where the genome decides what survives. Change nothing in it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(corpora, "EMBEDDED", ("one", "two", "three"))
        experiment = outlined("corpora")
    store = open_store(tmp_path_factory.mktemp("corpora") / "store")
    store.declare(plain(experiment))
    assessment = plant(store, experiment, lambda mode, arm, replicate: 3.0)
    where: dict[tuple[str, int], Cell] = {}
    for kind in KINDS:
        for cell, run in corpora.grid(assessment, store, kind).items():
            sites = {site: np.packbits(kept).tobytes().hex() for site, kept in drawn(by_genome, kind, cell).items()}
            lived = {site: {"directions": DIRECTIONS, "lived": [bits]} for site, bits in sites.items()}
            path = store.result_path(run.id, run.replicate)
            write_json(path, read_json(path) | {"lived": lived})
            where[run.id, run.replicate] = cell
    for pair in comparisons(experiment, store):
        first, second = (where[run.id, run.replicate] for run in (pair.first, pair.second))
        value = {"kind": "comparison", "id": pair.id, "divergence": further(first, second)}
        write_json(store.result_path(pair.id, 0), value)
    return assessment, store


def drawn(survive: Survive, kind: str, cell: Cell) -> dict[str, NDArray[np.bool_]]:
    """Forty per cent of the directions of three sites."""
    found = {}
    for site, role in enumerate(("gate", "up", "down")):
        kept = np.zeros(DIRECTIONS, dtype=bool)
        kept[numpy_stream(0, *survive(kind, cell, site)).permutation(DIRECTIONS)[:LEFT]] = True
        found[f"layers.0.mlp.{role}"] = kept
    return found


def verdict(assessment: Assessment, store: Store) -> tuple[str, str]:
    found = corpora.findings(assessment, store)["E23"]
    return found["verdict"].removesuffix(" (laptop)"), found["why"]


def test_a_genome_that_decides(finished: Finished) -> None:
    assert len(comparisons(finished[0].experiment, finished[1])) == 5 * (28 + 3 * 5) + 5 * 6, "each pair once"
    assert verdict(*finished) == ("supported", "the genome decides what survives, the corpus what is predicted")


@pytest.mark.parametrize(
    ("survive", "apart", "why"),
    [
        (by_genome, alike, "predict as alike"),
        (by_corpus, further, "the corpus decides too"),
        (by_both, further, "the corpus decides too"),
        (by_order, further, "nothing is built"),
        (by_chance, further, "nothing is built"),
    ],
)
def test_what_refutes(
    survive: Survive,
    apart: Callable[[Cell, Cell], float],
    why: str,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    living = {kind: {cell: drawn(survive, kind, cell) for cell in corpora.grid(*finished, kind)} for kind in KINDS}
    pairs = corpora.divergences(*finished, "donor")
    monkeypatch.setattr(corpora, "survivors_of", lambda assessment, store, kind: living[kind])
    monkeypatch.setattr(corpora, "divergences", lambda *asked: {pair: apart(*pair) for pair in pairs})
    word, found = verdict(*finished)
    assert word == "refuted"
    assert why in found


def test_gates_divergence_and_missing_runs(finished: Finished, tmp_path: Path) -> None:
    """Of rich corpora alone: a poor run may fail."""
    experiment, store = finished[0].experiment, open_store(Path(shutil.copytree(finished[1].root, tmp_path / "store")))
    cells = corpora.grid(*finished, "donor")

    def rewritten(corpus: str, final: float | None) -> tuple[str, str]:
        run = cells[Cell(3, corpus, 2)]
        path = store.result_path(run.id, run.replicate)
        write_json(path, read_json(path) | {"final": final})
        return verdict(assess(experiment, store), store)

    assert rewritten("page", None)[0] == "supported"
    assert rewritten("C", 99.0) == ("undecided", "gate")
    assert rewritten("C", None) == ("undecided", "a run on a rich corpus diverged")
    rewritten("C", 3.0)
    for pair in comparisons(experiment, store)[:2]:  # of one corpus, of two
        store.result_path(pair.id, 0).unlink()
    assert verdict(finished[0], store) == ("not run", "not finished")


def test_figures_and_tables(finished: Finished) -> None:
    drawings = corpora.figures("x", *finished)
    table, pairs = corpora.tables(*finished)
    assert [drawing.numbers for drawing in drawings] == [pairs.name, table.name]
    assert all(drawing.png.startswith(b"\x89PNG") for drawing in drawings)
    assert [row[:2] for row in table.rows] == [
        *(("donor", corpus) for corpus in ("A", "B", "C", "D", "shuffled", "1%", "page")),
        ("random", "A"),
        ("random", "B"),
    ]
    assert [row[3] for row in table.rows][4:7] == [614_400, 6_144, 512]
    assert all(row[4] and row[5] and row[6] for row in table.rows), "loss, likeness and divergence are there"


# The numbers --------------------------------------------------------------------------------------------------


def test_effects_in_closed_form() -> None:
    """Three genomes, two corpora: 0.9 of one genome on one corpus, 0.7 on two, 0.4 of two genomes."""
    cells = [Cell(g, corpus, e) for g in range(3) for corpus in ("", "B") for e in (1, 2)]
    values = {
        (a, b): 0.4 if a.genome != b.genome else 0.9 + 0.01 * a.genome if a.corpus == b.corpus else 0.7
        for j, b in enumerate(cells)
        for a in cells[:j]
        if a.environment != b.environment
    }
    found = corpora.effects(values)
    assert (found.same, found.across, found.between) == pytest.approx((0.91, 0.7, 0.4))
    expected = paired_interval([0.2, 0.21, 0.22])
    assert (found.corpus.low, found.corpus.high) == pytest.approx((expected.low, expected.high))
    assert found.genome.mean == pytest.approx(0.3)
    assert corpora.by_corpora(values) == pytest.approx({("", ""): 0.91, ("", "B"): 0.7, ("B", "B"): 0.91})
    assert corpora.beside(values)["B"].mean == pytest.approx(0.7)
    assert corpora.knowledge(values).mean == pytest.approx(-0.21)


def test_divergence_is_compared_on_one_text() -> None:
    """The texts' own levels, 0.1 and 0.9 nats, drop out: 0.4 more on the first text, on which both pairs are."""
    level, cells = {"": 0.1, "B": 0.9}, [Cell(1, corpus, e) for corpus in ("", "B") for e in (1, 2)]
    values = {
        (a, b): level[a.corpus] + 0.4 * (a.corpus != b.corpus)
        for j, b in enumerate(cells)
        for a in cells[:j]
        if a.environment != b.environment
    }
    assert corpora.knowledge(values).mean == pytest.approx(0.4)


def test_the_rule_on_effects_at_its_margins() -> None:
    """One effect on the margin, the others clear of it: wrong either way in at most 6.2 % of draws."""
    clear, draws = {"corpus": -0.1, "genome": 0.2, "knows": 0.2}, 500
    for margin in clear:
        words = []
        for seed in range(draws):
            noise = numpy_stream(seed, "margin").standard_normal((3, 5))
            centres = (clear | {margin: DELTA}).values()
            a, b, c = (paired_interval(centre + 0.02 * n) for centre, n in zip(centres, noise, strict=True))
            words.append(corpora.decide(a, b, c, corpora=4)[0].word)
        assert max(words.count(word) for word in ("supported", "refuted")) <= 0.062 * draws


def test_fewer_than_four_corpora_support_nothing() -> None:
    low, high = (paired_interval([centre, centre + 0.001]) for centre in (0.0, 0.5))
    assert corpora.decide(low, high, high, corpora=4)[0].word == "supported"
    assert corpora.decide(low, high, high, corpora=3)[0].code == "corpora"
    assert corpora.decide(high, high, high, corpora=2)[0].word == "refuted"
    assert corpora.decide(high, low, low, corpora=4)[0].word == "refuted"
    assert corpora.decide(low, high, paired_interval([0.0, 0.1]), corpora=4)[0].code == "straddles"


# What is declared ---------------------------------------------------------------------------------------------


def test_rich_corpora_are_those_given_and_up_to_four_the_embedded() -> None:
    preset = find_scale("corpora", "laptop")

    def rich(*text: str) -> list[str]:
        found = find_variants("corpora", preset, "primary", text, given=False)
        assert {variant.text for variant in found.values()} == {text[:1] or (preset.text,)}, "one family of donors"
        return [variant.learnt[0] for variant in found.values() if variant.learnt]

    assert rich() == ["stdlib:prose"]
    assert rich("a", "b") == ["b", "stdlib:code", "stdlib:prose"]
    assert rich("a", "stdlib:prose") == ["stdlib:prose", "stdlib:code"]
    assert rich(*"abcde") == list("bcde")


def runs_of(experiment: Experiment, name: str) -> list[tuple[str, int]]:
    runs = experiment.runs("frozen", experiment.arm(name), Rates(0.01, 0.03))
    return [(run.id, run.replicate) for run in runs]


def test_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every corpus is learnt from one family of donors; on the first, development's runs are found again."""
    text, other = (str(smoke.write_text(tmp_path / f"{part}.jsonl", seed=part)) for part in range(2))
    monkeypatch.setattr(corpora, "EMBEDDED", (other,))
    monkeypatch.setattr("ontogeny.lab.rates.GRID", (1e-2, 3e-2))
    monkeypatch.setattr("ontogeny.lab.comparisons.WINDOWS", 4)
    settings = [*smoke.SETTINGS, "steps=12", "evaluate_at=12", "donors=1"]
    store = open_store(tmp_path / "store")
    run_experiment("corpora", "smoke", store.root, settings, text=[text], engine="local")
    told = capsys.readouterr().out
    assert "undecided (smoke)" in told
    experiment = smoke.declared(store)
    assert len(corpora.figures("x", assess(experiment, store), store)) == 2
    every = experiment.all_settings()
    assert list(every) == ["", "1%", "B", "page", "shuffled"]
    assert {setting.donors for setting in every.values()} == {experiment.setting.donors}
    assert len({setting.tokens for setting in every.values()}) == 3, "the parts are of the first text"
    assert audits(experiment)[0][1] == experiment.setting, (
        "a given donor is measured beside the whole text's references"
    )
    preset = find_scale("development", "smoke", settings)
    developed = prepare("development", preset, open_store(tmp_path / "other"), text=[text]).experiment
    assert developed.setting == experiment.setting
    for name in ("donor", "random", "donor 1", "random 1"):
        assert runs_of(experiment, name) == runs_of(developed, name)
