"""Development's rules on planted survivors, and its measures against closed forms."""

import math
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
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.sections import read_sections
from ontogeny.lab.statistics import likeness
from ontogeny.lab.store import Store, open_store
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
    apart: tuple[float, float] = (0.3, 0.3),
    genome_sd: float = 0.05,
    environment_sd: float = 0.05,
) -> tuple[Assessment, Store]:
    """Losses with parts of genome and environment, survivors, and the divergence of twins and of others."""
    experiment, store = outlined("development"), open_store(tmp_path / "store")
    store.declare(plain(experiment))

    def loss(mode: str, arm: str, replicate: int) -> float:
        kind, _, number = arm.partition(" ")
        genome = int(number or replicate)
        part = genome_sd * numpy_stream(genome, kind, "genome").standard_normal()
        part += environment_sd * numpy_stream(replicate, "environment").standard_normal()
        noise = 0.002 * numpy_stream(replicate, arm).standard_normal()
        return 3.0 + 0.1 * (kind == "random") + float(part + noise)

    plant(store, experiment, loss)
    for kind in development.KINDS:
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
    assessment = plant_comparisons(experiment, store, apart)
    return assessment, store


def grid(experiment: Experiment, store: Store, kind: str) -> dict[tuple[int, int], Run]:
    cells = evaluated_runs(experiment, store)
    return {(g, run.replicate): run for g in range(1, 6) for run in cells["frozen", f"{kind} {g}"]}


def plant_comparisons(experiment: Experiment, store: Store, apart: tuple[float, float]) -> Assessment:
    from ontogeny.lab.judge import assess

    genome = {
        (run.id, run.replicate): (kind, g)
        for kind in development.KINDS
        for (g, _), run in grid(experiment, store, kind).items()
    }
    for pair in comparisons(experiment, store):
        first, second = ((run.id, run.replicate) for run in (pair.first, pair.second))
        value = {"kind": "comparison", "id": pair.id, "replicate": 0, "first": first, "second": second}
        far = apart[genome[first] != genome[second]] + 0.002 * float(numpy_stream(0, pair.id).standard_normal())
        write_json(store.result_path(pair.id, 0), value | {"divergence": far, "agreement": 0.5, "alignment": 0.4})
    return assess(experiment, store)


def words(tmp_path: Path, **options: object) -> Words:
    assessment, store = planted(tmp_path, **options)  # type: ignore[arg-type]
    found = development.findings(assessment, store)
    assert all(finding["why"] for finding in found.values())
    return {claim: finding["verdict"].removesuffix(" (laptop)") for claim, finding in found.items()}


def test_a_genome_that_decides(tmp_path: Path) -> None:
    assert words(tmp_path) == {"E12": "supported", "E13": "supported", "E14": "supported", "E15": "supported"}


def test_twins_that_predict_alike_too(tmp_path: Path) -> None:
    found = words(tmp_path, apart=(0.1, 0.3))
    assert (found["E13"], found["E14"]) == ("supported", "refuted")


def test_survivors_by_chance(tmp_path: Path) -> None:
    found = words(tmp_path, survive=chance)
    assert (found["E13"], found["E14"]) == ("refuted", "refuted")


def test_the_order_of_singular_values_alone_is_told_apart(tmp_path: Path) -> None:
    assessment, store = planted(tmp_path, survive=ordered)
    found = development.findings(assessment, store)["E13"]
    assert found["verdict"] == "undecided (laptop)"
    assert "order of singular values" in found["why"]


def test_an_environment_that_explains_nothing(tmp_path: Path) -> None:
    assert words(tmp_path, environment_sd=0.0)["E15"] in ("refuted", "undecided")
    assert words(tmp_path / "b", environment_sd=0.0, genome_sd=0.3)["E15"] == "refuted"


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
    found = development.survivors(assessment, store, "donor")
    assert len(found) == 20
    matrix = development.likeness_matrix(found)
    a, b = (np.concatenate(list(sites.values())) for sites in list(found.values())[:2])
    assert matrix[0, 1] == pytest.approx((a & b).sum() / math.sqrt(a.sum() * b.sum()))
    assert np.allclose(np.diag(matrix), 1)
    alike = development.found_likeness(found)
    same = [matrix[i, j] for i in range(20) for j in range(i) if i // 4 == j // 4]
    assert alike.within == pytest.approx(np.mean(same))
    assert alike.p < 1e-3
    assert development._chance(found) == pytest.approx(LEFT / DIRECTIONS)


def test_groups_by_chance_have_uniform_p() -> None:
    groups = [g for g in range(4) for _ in range(3)]
    ps = []
    for seed in range(40):
        noise = numpy_stream(seed, "noise").standard_normal((12, 12))
        ps.append(likeness(noise + noise.T, groups, draws=200).p)
    assert 0.02 <= np.mean(np.array(ps) < 0.25) <= 0.45
    assert min(ps) >= 1 / 201


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
