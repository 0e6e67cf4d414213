"""Development's rules on planted survivors, and its measures against closed forms."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import plant

from ontogeny.benchmarks.made_up import outlined
from ontogeny.canonical import digest, plain
from ontogeny.evolution.representations import linear_alignment
from ontogeny.files import read_json, write_json
from ontogeny.genome.compare import overlap
from ontogeny.lab.comparisons import divergence
from ontogeny.lab.conduct import comparisons, evaluated_runs
from ontogeny.lab.experiment import Experiment, Run
from ontogeny.lab.experiments import development
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.likeness import correlation_apart, jackknife_interval, likeness
from ontogeny.lab.networks import Lab, make_genome
from ontogeny.lab.prepare import find_scale, outline
from ontogeny.lab.rates import START
from ontogeny.lab.report.sections import read_sections
from ontogeny.lab.statistics import Interval, paired_interval
from ontogeny.lab.store import Store, open_store
from ontogeny.lab.survivors import bases, likeness_matrix, span_overlap
from ontogeny.lab.survivors import chance as likeness_by_chance
from ontogeny.lab.tasks import replicate_seed
from ontogeny.streams import numpy_stream

SITES, DIRECTIONS, LEFT = 6, 200, 80
Words = dict[str, str]


def draw(*path: str | int) -> NDArray[np.bool_]:
    """Forty per cent of a site's directions."""
    kept = np.zeros(DIRECTIONS, dtype=bool)
    kept[numpy_stream(0, *path).permutation(DIRECTIONS)[:LEFT]] = True
    return kept


def own(kind: str, genome: int, environment: int, site: int) -> NDArray[np.bool_]:
    """Of a donor's genome the same directions survive in two sites of three, whatever the environment."""
    path = (kind, genome, site) if kind == "donor" and site % 3 else (kind, genome, environment, site)
    return draw(*path)


def chance(kind: str, genome: int, environment: int, site: int) -> NDArray[np.bool_]:
    return draw(kind, genome, environment, site)


def ordered(kind: str, genome: int, environment: int, site: int) -> NDArray[np.bool_]:
    """The leading directions survive in donor genomes, whichever genome it is."""
    return np.arange(DIRECTIONS) < LEFT if kind == "donor" and site % 3 else draw(kind, genome, environment, site)


def planted(
    tmp_path: Path,
    survive: Callable[[str, int, int, int], NDArray[np.bool_]] = own,
    apart: dict[str, tuple[float, float]] | None = None,
    genome_sd: float = 0.05,
    environment_sd: float = 0.05,
    table: str = "primary",
    noise_sd: float = 0.002,
    random_sd: float | None = None,
) -> tuple[Assessment, Store]:
    """Losses with parts of genome and environment, survivors, and the divergence of twins and of others.

    A half-shared genome's part is half of its donor's; ``random_sd``: of random genomes' parts, if it is another.
    """
    experiment, store = outlined("development", table=table), open_store(tmp_path / "store")
    store.declare(plain(experiment))

    def loss(mode: str, arm: str, replicate: int) -> float:
        kind, _, number = arm.partition(" ")
        genome = int(number) if number.isdigit() else replicate
        sd = {"random": random_sd, "half": genome_sd / 2}.get(kind) or genome_sd
        part = sd * numpy_stream(genome, "random" if kind == "random" else "donor", "genome").standard_normal()
        part += environment_sd * numpy_stream(replicate, "environment").standard_normal()
        noise = noise_sd * numpy_stream(replicate, arm).standard_normal()
        return 3.0 + 0.1 * (kind == "random") + float(part + noise)

    plant(store, experiment, loss)
    for kind in (*development.KINDS, *(("half", "turned") if table == "full" else ())):
        for (genome, environment), run in grid(experiment, store, kind).items():
            path = store.result_path(run.id, run.replicate)
            lived = {
                f"layers.{site // 3}.mlp.{('gate', 'up', 'down')[site % 3]}": {
                    "directions": DIRECTIONS,
                    "lived": [np.packbits(survive(kind, genome, environment, site)).tobytes().hex()],
                }
                for site in range(SITES)
            }
            write_json(path, read_json(path) | {"lived": lived})
    if table == "full":  # compared in the primary one
        return assess(experiment, store), store
    assessment = plant_comparisons(experiment, store, apart or dict.fromkeys(development.KINDS, (0.3, 0.3)))
    return assessment, store


def grid(experiment: Experiment, store: Store, kind: str) -> dict[tuple[int, int], Run]:
    cells = evaluated_runs(experiment, store)
    genomes = range(1, len(experiment.setting.donors) + 1)
    return {(g, run.replicate): run for g in genomes for run in cells["frozen", f"{kind} {g}"]}


def plant_comparisons(experiment: Experiment, store: Store, apart: dict[str, tuple[float, float]]) -> Assessment:
    genome = {
        (run.id, run.replicate): (kind, g)
        for kind in development.KINDS
        for (g, _), run in grid(experiment, store, kind).items()
    }
    for pair in comparisons(experiment, store):
        first, second = ((run.id, run.replicate) for run in (pair.first, pair.second))
        value = {"kind": "comparison", "id": pair.id, "replicate": 0, "first": first, "second": second}
        far = apart[genome[first][0]][genome[first] != genome[second]] + 0.002 * float(
            numpy_stream(0, pair.id).standard_normal()
        )
        write_json(store.result_path(pair.id, 0), value | {"divergence": far, "agreement": 0.5, "alignment": 0.4})
    return assess(experiment, store)


def words(tmp_path: Path, **options: object) -> Words:
    assessment, store = planted(tmp_path, **options)  # type: ignore[arg-type]
    found = development.findings(assessment, store)
    assert all(finding["why"] for finding in found.values())
    return {claim: finding["verdict"].removesuffix(" (laptop)") for claim, finding in found.items()}


def test_a_genome_that_decides(tmp_path: Path) -> None:
    found = words(tmp_path)
    assert (found["E12"], found["E13"], found["E14"]) == ("supported", "supported", "supported")


def test_random_genomes_that_converge_too_are_told(tmp_path: Path) -> None:
    def survive(kind: str, genome: int, environment: int, site: int) -> NDArray[np.bool_]:
        return own("donor", genome + 10 * (kind == "random"), environment, site)

    assessment, store = planted(tmp_path, survive)
    found = development.findings(assessment, store)["E13"]
    assert found["verdict"] == "supported (laptop)"
    assert found["why"] == "within a genome likeness is better; so do random genomes: any fixed basis does"


def test_twins_that_predict_alike_too(tmp_path: Path) -> None:
    found = words(tmp_path, apart={"donor": (0.1, 0.3), "random": (0.3, 0.3)})
    assert (found["E13"], found["E14"]) == ("supported", "refuted")


def test_the_heads_part_is_taken_off(tmp_path: Path) -> None:
    """Twins of random genomes are as much closer as those of donors: that is their common head."""
    assert words(tmp_path, apart=dict.fromkeys(development.KINDS, (0.1, 0.3)))["E14"] == "supported"


def test_survivors_by_chance(tmp_path: Path) -> None:
    found = words(tmp_path, survive=chance)
    assert (found["E13"], found["E14"]) == ("refuted", "refuted")


def test_the_order_of_singular_values_alone_is_no_structure_of_the_genome(tmp_path: Path) -> None:
    assessment, store = planted(tmp_path, survive=ordered)
    found = development.findings(assessment, store)["E13"]
    assert found["verdict"] == "refuted (laptop)"
    within, by_chance = (float(re.search(rf"{what} (0\.\d+)", found["measured"])[1]) for what in ("within", "chance"))  # type: ignore[index]
    assert within > 1.5 * by_chance, "though twins are far more alike than by chance"


@pytest.mark.parametrize(
    ("genome_sd", "environment_sd", "expected"), [(0.3, 0.0, "refuted"), (0.0, 0.3, "refuted"), (0.1, 0.1, None)]
)
def test_shares_of_genome_and_environment(
    genome_sd: float, environment_sd: float, expected: str | None, tmp_path: Path
) -> None:
    found = words(tmp_path, genome_sd=genome_sd, environment_sd=environment_sd)["E15"]
    assert found == (expected or "undecided"), "five genomes in four environments can't support it"


def test_one_network_of_the_grid_behind_its_gate_is_enough(tmp_path: Path) -> None:
    assessment, store = planted(tmp_path)
    run = grid(assessment.experiment, store, "random")[3, 2]
    path = store.result_path(run.id, run.replicate)
    write_json(path, read_json(path) | {"final": 99.0, "losses": [[0, 6.0], [400, 99.0]]})
    found = development.findings(assess(assessment.experiment, store), store)
    assert {found[claim]["why"] for claim in ("E13", "E15")} == {"gate"}


def test_unfinished_is_not_run(tmp_path: Path) -> None:
    assessment, store = planted(tmp_path)
    for pair in comparisons(assessment.experiment, store)[:1]:
        store.result_path(pair.id, 0).unlink()
    found = development.findings(assessment, store)
    assert found["E14"]["verdict"] == "not run"
    assert found["E13"]["verdict"] == "supported (laptop)"


def test_one_donor_has_nothing_to_compare(tmp_path: Path) -> None:
    experiment = outlined("development")
    setting = experiment.setting
    one = {"setting": type(setting)(**vars(setting) | {"donors": setting.donors[:1]})}
    keys = ("scale", "decisive", "replicates", "text", "donor_records", "audit")
    declared = development.declare(given=True, table="primary", **{k: getattr(experiment, k) for k in keys} | one)
    assert set(declared.not_applicable) == {"E13", "E14", "E15"}
    assert declared.single_checkpoint


def test_likeness_against_numpy(tmp_path: Path) -> None:
    assessment, store = planted(tmp_path)
    found = development.survivors_of(assessment, store, "donor")
    assert len(found) == 20
    matrix = likeness_matrix(found)
    a, b = (np.concatenate(list(sites.values())) for sites in list(found.values())[:2])
    assert matrix[0, 1] == pytest.approx((a & b).sum() / math.sqrt(a.sum() * b.sum()))
    assert np.allclose(np.diag(matrix), 1)
    alike = development.found_likeness(found)
    cells = list(found)
    same = [matrix[i, j] for i in range(20) for j in range(i) if cells[i][0] == cells[j][0]]
    assert alike.within == pytest.approx(np.mean(same))
    assert alike.p < 1e-3
    assert likeness_by_chance(next(iter(found.values()))) == pytest.approx(LEFT / DIRECTIONS)


def test_groups_by_chance_have_uniform_p() -> None:
    """An effect of the block, which pairs of one group never share, makes no difference."""
    groups, blocks = [g for g in range(4) for _ in range(3)], [b for _ in range(4) for b in range(3)]
    ps = []
    for seed in range(60):
        noise = numpy_stream(seed, "noise").standard_normal((12, 12))
        same_block = np.equal.outer(blocks, blocks)
        ps.append(likeness(noise + noise.T + 5.0 * same_block, groups, blocks, draws=200).p)
    assert 0.1 <= np.mean(np.array(ps) < 0.25) <= 0.4
    assert min(ps) >= 1 / 201


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = {1: 0.3, 2: 0.5, 3: 0.1, 4: 0.9}
    found = jackknife_interval(lambda units: float(np.mean([values[u] for u in units])), list(values))
    expected = paired_interval(list(values.values()))
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_divergence_and_alignment_in_closed_form() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.9, 0.1]]).double().log()
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    backward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert divergence(p, q) == pytest.approx((forward + backward) / 2)
    assert divergence(p, p) == 0
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    Q = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())[0]
    assert linear_alignment(x, 3 * x @ Q + 1) == pytest.approx(1)


def test_alignment_against_numpy_and_of_unrelated_features() -> None:
    """Unbiased HSIC as Song et al. write it, with K and L of n × n; features that share nothing have none of it."""
    rng = numpy_stream(0, "test", "alignment")

    def hsic(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        n, ones = len(x), np.ones(len(x))
        K, L = (f @ f.T - np.diag((f**2).sum(axis=1)) for f in (x, y))
        sums = (ones @ K @ ones) * (ones @ L @ ones) / ((n - 1) * (n - 2))
        return float((np.trace(K @ L) + sums - 2 / (n - 2) * ones @ K @ L @ ones) / (n * (n - 3)))

    x = 2 + rng.standard_normal((40, 5))
    y = x @ rng.standard_normal((5, 7)) + rng.standard_normal((40, 7))
    found = linear_alignment(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y)))
    draws = torch.from_numpy(rng.standard_normal((2, 200, 60, 100)))  # wider than there are examples
    unrelated = [linear_alignment(x, y) for x, y in zip(*draws, strict=True)]
    assert np.mean(unrelated) == pytest.approx(0, abs=3 * float(np.std(unrelated)) / math.sqrt(200))
    assert np.std(unrelated) < 0.05, "the biased estimator gives 0.6 here"


def test_figures_and_tables(tmp_path: Path) -> None:
    _, store = planted(tmp_path)
    (section,) = next(iter(read_sections(store).values()))
    names = [drawing.name.split("-", 3)[-1] for drawing in section.drawings]
    assert names[:2] == ["likeness", "survivors"]
    assert all(drawing.png.startswith(b"\x89PNG") for drawing in section.drawings[:2])
    table = section.table("likeness")
    assert table is not None
    assert [row[0] for row in table.rows] == ["donor genomes", "random genomes"]
    assert [row[3] for row in table.rows] == pytest.approx([LEFT / DIRECTIONS] * 2), "chance stands beside"
    assert "what the order of singular values alone gives (0.4" in section.drawings[0].caption
    assert "By chance 0.400" in section.drawings[0].caption


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Assessment, Store]:
    """A full table: a donor's genome decides, in half of the sites of the half-shared one, and over losses' noise."""

    def survive(kind: str, genome: int, environment: int, site: int) -> NDArray[np.bool_]:
        whole = kind == "donor" or (kind == "half" and site % 2)
        return draw("donor", genome, site) if whole else draw(kind, environment, site)

    options: dict[str, Any] = {"environment_sd": 0.01, "noise_sd": 0.05, "random_sd": 0.001}
    return planted(tmp_path_factory.mktemp("full"), survive, table="full", **options)


def test_half_shared_genomes_stand_between(full: tuple[Assessment, Store]) -> None:
    tables = {found.name: found for found in development.tables(*full)}
    table = tables["twins"]
    alike, together = ([row[i] for row in table.rows] for i in (1, 2))
    assert [row[0] for row in table.rows] == ["all sites", "half of the sites, embeddings", "embeddings", "nothing"]
    assert alike == pytest.approx([1, (1 + LEFT / DIRECTIONS) / 2, LEFT / DIRECTIONS, LEFT / DIRECTIONS], abs=0.02)
    assert together[0] > together[1] > together[2], "as genomes share less, their losses do"
    assert together[3] == pytest.approx(-together[0] / 7)
    own, turned = (row for row in tables["likeness"].rows if "spans" in row[0])
    assert own[1] == pytest.approx(1), "the same directions of the same basis"
    assert turned[1] == pytest.approx(LEFT / DIRECTIONS, abs=0.02), "of bases that are turned: chance"
    assert own[3] == turned[3] == pytest.approx(LEFT / DIRECTIONS)
    assert [row[1] for row in tables["gap-by-size"].rows] == [64, 96, 128]


def test_eight_genomes_can_support_a_share(full: tuple[Assessment, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a share as large of random genomes, which have the same embeddings, keeps them from it."""
    assert development._twins(full[0]).verdict.word == "supported"
    monkeypatch.setattr(development, "variance_share", lambda losses: Interval(0.5, math.nan, 0.2, 0.8, 0.95, 8))
    found = development._twins(full[0])
    assert (found.verdict.word, found.verdict.code) == ("undecided", "mixed")
    assert found.why.startswith("random genomes, with the same embeddings, have as large a share")


def test_correlation_apart_in_closed_form() -> None:
    """Its diagonal's mean is the covariance of two blocks over the units, averaged over pairs of blocks."""
    first, second = (numpy_stream(0, "test", name).standard_normal((3, 5)) for name in ("first", "second"))
    pairs = [(e, other) for e in range(3) for other in range(3) if e != other]
    covariance = np.mean([np.cov(first[e], second[other], ddof=0)[0, 1] for e, other in pairs])
    variances = [values.var(axis=1).mean() for values in (first, second)]
    found = correlation_apart(first, second)
    assert np.diag(found).mean() == pytest.approx(covariance / math.sqrt(variances[0] * variances[1]))
    assert found.sum() == pytest.approx(0, abs=1e-12)


def test_spans_of_turned_bases_are_the_runs_own(llama: Path, tmp_path: Path) -> None:
    """The overlap in coordinates is that of the genomes which runs are built with."""
    experiment = outlined("development", table="full")
    lab = Lab(open_store(tmp_path), dict.fromkeys(experiment.setting.donors, llama))
    runs = experiment.runs("frozen", experiment.arm("turned 2"), START)[:2]
    genomes = [make_genome(run, lab) for run in runs]
    ranks = {site.name: gene.rank for site, gene in genomes[0].genes.items()}  # type: ignore[union-attr]
    lived = [{site: numpy_stream(i, site).permutation(k) < 0.4 * k for site, k in ranks.items()} for i in range(2)]
    own = [bases(one, replicate_seed(run.replicate)) for one, run in zip(lived, runs, strict=True)]
    expected = [
        overlap(
            *(getattr(genome.genes[site], side)[:, one[site.name]] for genome, one in zip(genomes, lived, strict=True))
        )
        for site in genomes[0].genes
        for side in ("U", "V")
    ]
    assert span_overlap(lived[0], own[0], lived[1], own[1]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert span_overlap(lived[0], own[0], lived[0], own[0]) == pytest.approx(1)


PRIMARY = {"smoke": "c6b477d13d8d6bc6", "laptop": "b5c8d7c902e16343"}  # of 7078c0b


@pytest.mark.parametrize("scale", list(PRIMARY))
def test_the_primary_tables_runs_stay(scale: str) -> None:
    experiment = outline("development", find_scale("development", scale), [], "primary")
    cells = experiment.cells()
    runs = {(run.id, run.replicate) for mode, arm in cells for run in experiment.runs(mode, arm, START)}
    tuned = {(experiment.tuning_run(mode, arm, START).id, 0) for mode, arm in cells if arm.tuned_as is None}
    assert digest(sorted(runs | tuned))[:16] == PRIMARY[scale]


def test_the_full_table_asks_more() -> None:
    experiment = outlined("development", table="full")
    names = {arm.name for arm in experiment.arms}
    assert len(experiment.setting.donors) == 8
    assert {f"{kind} {g}" for kind in ("donor", "random", "half", "turned") for g in range(1, 9)} <= names
    assert {f"{kind} {what}" for kind in development.KINDS for what in ("100%", "30%", "10%", "d64", "d128")} <= names
    assert "donor d96" not in names, "the main setting's"
    assert experiment.arm("donor 30%").recipe == {"basis": "singular", "rank": "30%"}
    assert {s.model["hidden_size"] for s in experiment.all_settings().values()} == {64, 96, 128}
    primary = {c.name for c in experiment.contrasts if c.primary}
    assert primary == {f"{control} − donor (frozen)" for control in ("random", "coherent", "rotated")}
    turned = experiment.runs("frozen", experiment.arm("turned 3"), START)
    assert [(run.arm.donor, run.arm.draw, run.replicate) for run in turned] == [(2, None, e) for e in (1, 2, 3, 4)]


@pytest.mark.parametrize("options", [{"given": True}, {"given": False, "table": "primary"}])
def test_no_donors_beside_those_of_the_user_or_the_primary_table(options: dict[str, Any]) -> None:
    preset = find_scale("development", "laptop")
    found = development.variants(preset, **{"table": "full", "text": ("mine.txt",)} | options)
    assert {name: variant.scale for name, variant in found.items()} == {"": preset}
    assert found[""].text == ("mine.txt",)
