"""What convergence answers, claim by claim, on fabricated stores."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from planted import KEPT, contrast, experiment, plant, planted, tuned

from ontogeny.files import write_json
from ontogeny.lab.conduct import overlap_tasks
from ontogeny.lab.experiment import Experiment, Rates
from ontogeny.lab.experiments.convergence import attributed, equivalence, variances
from ontogeny.lab.findings import findings, store_findings
from ontogeny.lab.judge import Assessment, assess, headlines
from ontogeny.lab.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    """The primary table, complete, everything as planted."""
    return plant(open_store(tmp_path_factory.mktemp("plain")), experiment())


def test_full_table_with_interchangeable_donors_and_values_that_do_not_matter(store: Store) -> None:
    """E20 says that the values don't matter: the opposite of the contrast, which is refuted."""
    assessment = plant(store, experiment(table="full"))
    found = findings(assessment, store)
    assert found["E20"]["verdict"] == "supported (laptop)"
    assert contrast(assessment, KEPT).verdict.word == "refuted"
    assert found["E6"]["verdict"] == "supported (laptop)"
    assert "10 of 10 pairs equivalent" in found["E6"]["measured"]
    tested = equivalence(assessment)
    assert tested is not None
    assert tested.gap == pytest.approx(0.15, abs=0.005)
    assert variances(assessment) is not None
    parts = attributed(assessment)
    gap = contrast(assessment, "random − donor (frozen)").interval
    assert parts is not None
    assert gap is not None
    assert set(parts.shapley) == {"layers", "frame", "internal"}
    assert parts.coherence.mean + sum(i.mean for i in parts.shapley.values()) == pytest.approx(gap.mean)
    assert parts.total.mean == pytest.approx(gap.mean)


def test_full_table_with_a_donor_apart_and_values_that_matter(store: Store) -> None:
    """Donor 2 lies 0.1 below the rest: more than a quarter of the gap of 0.15. Reordered values cost 0.1."""

    def loss(mode: str, arm: str, replicate: int) -> float | None:
        value = planted(mode, arm, replicate)
        assert value is not None
        value += 0.1 if arm == "values-permuted" else 0
        own = arm == "donor" and (replicate - 1) % 5 == 1  # the plain arm's run where donor 2 is the replicate's own
        return value - 0.1 if mode == "fresh" and (arm == "donor 2" or own) else value

    def tune(mode: str, arm: str, rates: Rates) -> float:
        return tuned(mode, arm, rates) + (0.1 if arm == "values-permuted" else 0)

    assessment = plant(store, experiment(table="full"), loss, tune)
    found = findings(assessment, store)
    assert contrast(assessment, KEPT).verdict.word == "supported"
    assert found["E20"]["verdict"] == "refuted (laptop)"
    assert found["E6"]["verdict"] == "refuted (laptop)"
    assert "6 of 10 pairs equivalent" in found["E6"]["measured"]


def test_without_a_gap_nothing_is_interchangeable(store: Store) -> None:
    def loss(mode: str, arm: str, replicate: int) -> float | None:
        return 3.0 if arm == "random" or arm.startswith("draw") else planted(mode, arm, replicate)

    found = findings(plant(store, experiment(), loss), store)
    assert found["E6"]["verdict"] == "undecided (laptop)"
    assert "asked only once the gap is supported" in found["E6"]["why"]


def test_one_common_stream_cant_decide_e6(plain: Assessment, tmp_path: Path) -> None:
    found = findings(plain, open_store(tmp_path))["E6"]
    assert found["verdict"] == "undecided (laptop)"
    assert variances(plain) is not None, "but the variance components stand"


def test_dense_is_better(plain: Assessment, tmp_path: Path) -> None:
    found = findings(plain, open_store(tmp_path))["E8"]
    assert found["verdict"] == "refuted (laptop)"
    assert "worse than dense" in found["why"]
    assert "nats, n 5" in found["measured"]
    assert found["scale"] == "laptop"


def test_values_need_the_full_table(plain: Assessment, tmp_path: Path) -> None:
    found = findings(plain, open_store(tmp_path))["E20"]
    assert (found["verdict"], found["why"]) == ("not run", "in the full table (--table full)")


def plant_overlaps(store: Store, experiment: Experiment, overlap: Mapping[str, float]) -> None:
    for index, task in enumerate(overlap_tasks(experiment)):
        if task.align in overlap:
            row = {"overlap": overlap[task.align] + 0.001 * (index // 3 % 4), "chance": 0.25, "z": 40.0}
            result = {"kind": "overlap", "id": task.id, "replicate": 0, "rows": [row, row], **asdict(task)}
            write_json(store.run_directory(task.id, 0) / "result.json", result)


@pytest.mark.parametrize(
    ("overlap", "verdict"),
    [
        ({"none": 0.26, "permute": 0.30, "orthogonal": 0.35}, "refuted (laptop)"),
        ({"none": 0.26, "permute": 0.30, "orthogonal": 0.60}, "supported (laptop)"),
        ({"none": 0.26, "permute": 0.30, "orthogonal": 0.499}, "undecided (laptop)"),
        ({"none": 0.26}, "undecided (laptop)"),
        ({}, "not run"),
    ],
    ids=["below half", "above half once aligned", "straddles", "raw alone", "none"],
)
def test_same_subspaces(store: Store, overlap: Mapping[str, float], verdict: str) -> None:
    declared = experiment()
    assessment = plant(store, declared)
    plant_overlaps(store, declared, overlap)
    found = findings(assessment, store)["E7"]
    assert found["verdict"] == verdict
    assert ("chance 0.250" in found["measured"]) == bool(overlap)


def test_overlaps_of_donors_that_learnt_nothing_say_nothing(store: Store) -> None:
    declared = experiment()
    assessment = plant(store, declared, passed_gate=False)
    plant_overlaps(store, declared, {"none": 0.2, "permute": 0.2, "orthogonal": 0.2})
    assert findings(assessment, store)["E7"]["why"] == "a donor doesn't beat its bigram by 0.3 nats"


def test_one_given_donor_has_no_e6_and_e7(store: Store) -> None:
    found = findings(plant(store, experiment(donors=1, given=True)), store)
    for claim in ("E6", "E7"):
        assert found[claim]["verdict"] == "undecided (laptop)"
        assert "one donor" in found[claim]["why"]
    assert found["E8"]["verdict"] == "refuted (laptop)"


def test_what_one_given_donor_cant_have_is_listed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    from ontogeny.terminal.lab import show_assessment
    from ontogeny.terminal.output import console

    declared = experiment(donors=1, given=True, table="full")
    show_assessment(assess(declared, store), store, console())
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("chimera", "mean-only"):
        assert f"{name} │ needs several donors; give --donor more than once" in shown


def test_smoke_says_undecided(store: Store) -> None:
    found = findings(plant(store, experiment(scale="smoke", decisive=False)), store)
    assert {f["verdict"] for f in found.values()} <= {"undecided (smoke)", "not run"}
    assert found["E8"]["why"] == "scale"


def test_the_most_decisive_scale_answers(store: Store) -> None:
    for scale in ("laptop", "smoke"):
        declared = experiment(scale=scale, decisive=scale == "laptop")
        plant(store, declared)
        store.declare(asdict(declared))
    found = store_findings(store)
    assert found["E8"]["verdict"] == "refuted (laptop)"
    assert "E7" not in found, "what wasn't run answers nothing"


def test_another_experiment_answers_no_claim(store: Store) -> None:
    own = replace(experiment(), name="mine")
    assert findings(plant(store, own), store) == {}
    assert headlines(assess(own, store))
