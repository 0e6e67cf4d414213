"""Development's rules on planted survivors, and its measures against closed forms."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import plant
from reported import outlined

from ontogeny.canonical import plain
from ontogeny.files import read_json, write_json
from ontogeny.lab.comparisons import divergence, linear_alignment
from ontogeny.lab.conduct import comparisons, evaluated_runs
from ontogeny.lab.experiment import Experiment, Run
from ontogeny.lab.experiments import development
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.likeness import jackknife_interval, likeness
from ontogeny.lab.report.sections import read_sections
from ontogeny.lab.statistics import paired_interval
from ontogeny.lab.store import Store, open_store
from ontogeny.lab.survivors import chance as likeness_by_chance
from ontogeny.lab.survivors import likeness_matrix
from ontogeny.streams import numpy_stream

SITES, DIRECTIONS, LEFT = 6, 400, 160
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
) -> tuple[Assessment, Store]:
    """Losses with parts of genome and environment, survivors, and the divergence of twins and of others."""
    experiment, store = outlined("development", table=table), open_store(tmp_path / "store")
    store.declare(plain(experiment))

    def loss(mode: str, arm: str, replicate: int) -> float:
        kind, _, number = arm.partition(" ")
        genome = int(number) if number.isdigit() else replicate
        part = genome_sd * numpy_stream(genome, kind, "genome").standard_normal()
        part += environment_sd * numpy_stream(replicate, "environment").standard_normal()
        noise = 0.002 * numpy_stream(replicate, arm).standard_normal()
        return 3.0 + 0.1 * (kind == "random") + float(part + noise)

    plant(store, experiment, loss)
    for kind in (*development.KINDS, *(("half",) if table == "full" else ())):
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
    assessment = plant_comparisons(experiment, store, apart or dict.fromkeys(development.KINDS, (0.3, 0.3)))
    return assessment, store


def grid(experiment: Experiment, store: Store, kind: str) -> dict[tuple[int, int], Run]:
    cells = evaluated_runs(experiment, store)
    return {(g, run.replicate): run for g in range(1, 6) for run in cells["frozen", f"{kind} {g}"]}


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
    assert found in ((expected,) if expected else ("supported", "undecided"))


def test_the_share_of_the_genome_in_closed_form() -> None:
    """Losses g + e without interaction: the share is var(g) / (var(g) + var(e))."""
    genomes, environments = np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 2, 4, 6])
    share, low, high = development.genome_share(environments[:, None] + genomes)
    assert share == pytest.approx(genomes.var(ddof=1) / (genomes.var(ddof=1) + environments.var(ddof=1)))
    assert 0 < low < share < high < 1


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
    y = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)).double()
    X, Y = (t - t.mean(0) for t in (x, y))
    K, L = X @ X.T, Y @ Y.T
    assert linear_alignment(x, y) == pytest.approx(float((K * L).sum() / (K.norm() * L.norm())))


def test_figures_and_tables(tmp_path: Path) -> None:
    _, store = planted(tmp_path)
    (section,) = next(iter(read_sections(store).values()))
    names = [drawing.name.split("-", 3)[-1] for drawing in section.drawings]
    assert names[:2] == ["likeness", "survivors"]
    assert all(drawing.png.startswith(b"\x89PNG") for drawing in section.drawings[:2])
    table = section.table("likeness")
    assert table is not None
    assert [row[0] for row in table.rows] == ["donor", "random"]


def test_half_shared_genomes_stand_between(tmp_path: Path) -> None:
    """Half of the sites live as the whole genome's do, in every environment; the others as they please."""

    def survive(kind: str, genome: int, environment: int, site: int) -> NDArray[np.bool_]:
        return (
            draw("donor", genome, site)
            if kind == "donor" or (kind == "half" and site % 2)
            else draw(kind, environment, site)
        )

    assessment, store = planted(tmp_path, survive, table="full")
    (table,) = (found for found in development.tables(assessment, store) if found.name == "twins")
    found = dict(table.rows)
    assert found["all"] == pytest.approx(1.0)
    assert found["half"] == pytest.approx((1 + LEFT / DIRECTIONS) / 2, abs=0.02)
    assert found["none"] == pytest.approx(LEFT / DIRECTIONS, abs=0.02)
