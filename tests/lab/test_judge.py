"""Verdicts on fabricated stores: each word and each code comes out where it was planted."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ontogeny.lab.conduct import axes, evaluated_runs, overlap_tasks, scores, tuned_cells
from ontogeny.lab.donors import audit_folder
from ontogeny.lab.experiment import Experiment, Rates, Setting
from ontogeny.lab.experiments.convergence import declare, equivalence, variances
from ontogeny.lab.findings import findings, store_findings
from ontogeny.lab.judge import Assessment, ContrastSummary, assess, headlines
from ontogeny.lab.rates import START, search
from ontogeny.lab.store import Store, open_store, write_json
from ontogeny.streams import numpy_stream

BIGRAM = 3.3
REFERENCES = {"uniform": 6.0, "unigram": 5.0, "bigram": BIGRAM}
GAP, DENSE, KEPT = "random − donor (fresh)", "dense − donor (fresh)", "values-permuted − values-kept (fresh)"

# Mean test losses by arm: the donor beats random by 0.15 and coherent by 0.10, dense beats it by 0.3.
LOSSES = {"donor": 3.0, "random": 3.15, "rotated": 3.0, "coherent": 3.10, "dense": 2.7}
LOSSES |= {"values-kept": 2.95, "values-permuted": 2.95}
NOISE = 0.002  # sd over replicates, each arm's own


def mean_loss(arm: str) -> float:
    return LOSSES.get({"donor ": "donor", "draw ": "random"}.get(arm[:-1], arm), 3.2)


def planted(mode: str, arm: str, replicate: int) -> float | None:
    return mean_loss(arm) + NOISE * float(numpy_stream(replicate, mode, arm).standard_normal())


def tuned(mode: str, arm: str, rates: Rates) -> float:
    """A bowl around the start, deeper for better arms; every arm's second best is rest 1e-2 (frozen: body 3e-3)."""
    off = abs(math.log(rates.body / START.body)) + abs(math.log(rates.rest / START.rest) + 0.01)
    return mean_loss(arm) + off


def experiment(donors: int = 5, given: bool = False, **changes: Any) -> Experiment:
    ids = tuple(f"donor{i + 1}" for i in range(donors))
    setting = Setting({"model_type": "llama", "vocab_size": 400}, "t" * 64, ids, "25%", 64, 32, 400, (200, 400), 256)
    records = tuple({"id": i, "name": f"my/{i}"} if given else {"index": n + 1} for n, i in enumerate(ids))
    options: dict[str, Any] = {"scale": "laptop", "decisive": True, "setting": setting, "replicates": 5}
    options |= {"text": {}, "donor_records": records, "given": given, "table": "primary", "audit": True}
    return declare(**options | changes)


Loss = Callable[[str, str, int], float | None]


def plant(
    store: Store,
    experiment: Experiment,
    loss: Loss = planted,
    tune: Callable[[str, str, Rates], float] = tuned,
    step0: Mapping[str, float] | None = None,
    passed_gate: bool = True,
) -> Assessment:
    """Write donors, tuning results until every search ends, and the evaluated results; None: diverged; nan: missing."""
    for index, donor in enumerate(experiment.setting.donors):
        given = "id" in experiment.donor_records[index]
        folder = audit_folder(donor, experiment.setting) if given else donor
        record = {"kind": "donor", "id": donor, "loss": 2.9, "references": REFERENCES, "passed_gate": passed_gate}
        record |= {} if given else {"index": index + 1, "recipe": {}}
        write_json(store.root / "donors" / folder / "result.json", record)
    for mode, arm in tuned_cells(experiment) if experiment.rates is None else ():
        known: dict[Rates, float] = {}
        while needed := search(known, axes(mode)).needed:
            for rates in needed:
                known[rates] = tune(mode, arm.name, rates)
                _write(store, experiment.tuning_run(mode, arm, rates).id, 0, known[rates], 6.0)
    for (mode, _), runs in evaluated_runs(experiment, store).items():
        for run in runs:
            value = loss(mode, run.arm.name, run.replicate)
            if value is None or math.isfinite(value):
                _write(store, run.id, run.replicate, value, (step0 or {}).get(run.arm.name, 6.0))
    return assess(experiment, store)


def _write(store: Store, identity: str, replicate: int, final: float | None, step0: float) -> None:
    diverged = final is None or math.isinf(final)
    last = 9.0 if final is None or diverged else final
    result = {"kind": "arm", "id": identity, "replicate": replicate, "final": None if diverged else final}
    result |= {"losses": [[0, step0], [200, last + 1], [400, last]], "step0_loss": step0, "references": REFERENCES}
    result |= {"trainable_parameters": 10, "parameters": 100, "flops": 1000, "seconds": 2.0, "frames": {"x": 0.5}}
    write_json(store.run_directory(identity, replicate) / "result.json", result)


def contrast(assessment: Assessment, name: str) -> ContrastSummary:
    return next(c for c in assessment.contrasts if c.contrast.name == name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    """The primary table, complete, everything as planted."""
    return plant(open_store(tmp_path_factory.mktemp("plain")), experiment())


# Words --------------------------------------------------------------------------------------------------------


def test_supported_and_refuted(plain: Assessment) -> None:
    assert contrast(plain, GAP).verdict.word == "supported"
    assert contrast(plain, GAP).word == "better"
    assert contrast(plain, DENSE).verdict.word == "refuted"
    assert contrast(plain, DENSE).word == "worse"
    assert contrast(plain, "rotated − donor (frozen)").word == "equivalent"
    assert contrast(plain, "rotated − donor (frozen)").verdict.word == "refuted"
    assert plain.complete


def test_gap_is_control_minus_treatment_by_replicate(plain: Assessment) -> None:
    found = contrast(plain, GAP)
    expected = [planted("fresh", "random", r) - planted("fresh", "donor", r) for r in range(1, 6)]  # type: ignore[operator]
    assert found.differences == pytest.approx(expected)
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(np.mean(expected))
    assert found.interval.n == 5


def test_levels_are_simultaneous_over_the_primary_contrasts_of_a_mode(plain: Assessment) -> None:
    for mode in ("fresh", "frozen"):
        here = [c for c in plain.contrasts if c.contrast.embeddings == mode]
        primary = [c for c in here if c.contrast.primary]
        for summary in here:
            assert summary.interval is not None
            level = 1 - 0.05 / len(primary) if summary.contrast.primary else 0.95
            assert summary.interval.level == pytest.approx(level)


def test_exploratory_contrasts_give_no_verdict(plain: Assessment) -> None:
    check = contrast(plain, "rotated − donor (fresh)")
    assert (check.verdict.word, check.contrast.check) == ("exploratory", True)
    assert check.interval is not None


def test_summary_of_an_arm(plain: Assessment) -> None:
    arm = plain.arms["fresh", "donor"]
    assert (arm.rates, arm.second, arm.at_edge) == (START, Rates(1e-2, 1e-2), False)
    assert len(arm.tried) == 5
    assert arm.tried == tuple(sorted(arm.tried, key=lambda item: item[2]))
    assert arm.shared == tuned("fresh", "donor", START)
    assert arm.passed_bigram
    assert [step for step, *_ in arm.curve] == [0, 200, 400]
    step, mean, low, high = arm.curve[-1]
    assert arm.interval is not None
    assert (mean, low, high) == pytest.approx((arm.interval.mean, arm.interval.low, arm.interval.high))
    assert (arm.parameters, arm.trainable_parameters, arm.flops, arm.seconds) == (100, 10, 1000, 2.0)
    assert arm.frames == {"x": 0.5}
    assert arm.diverged == 0
    assert len(plain.arms["frozen", "donor"].tried) == 3


def test_gaps_at_second_best_and_shared_rates(plain: Assessment) -> None:
    found = contrast(plain, GAP)
    assert found.second_best_gap == pytest.approx(0.15)
    assert found.shared_gap == pytest.approx(0.15)


# Codes --------------------------------------------------------------------------------------------------------


def code(assessment: Assessment, name: str = GAP) -> tuple[str, str]:
    verdict = contrast(assessment, name).verdict
    return verdict.word, verdict.code


def test_too_few_replicates(store: Store) -> None:
    found = plant(store, experiment(replicates=4))
    assert code(found) == ("undecided", "n")
    assert contrast(found, GAP).verdict.needed == 5


def test_too_few_donors(store: Store) -> None:
    assert code(plant(store, experiment(donors=4))) == ("undecided", "donors")


def test_one_checkpoint_is_enough_for_a_statement_about_it(store: Store) -> None:
    assert code(plant(store, experiment(donors=1, given=True))) == ("supported", "")


def test_a_scale_that_decides_nothing(store: Store) -> None:
    assert code(plant(store, experiment(scale="smoke", decisive=False))) == ("undecided", "scale")


@pytest.mark.parametrize("arm", ["donor", "random"])
def test_an_arm_not_past_its_bigram(store: Store, arm: str) -> None:
    def loss(mode: str, name: str, replicate: int) -> float | None:
        value = planted(mode, name, replicate)
        assert value is not None
        return value + (1 if name == arm else 0)

    found = plant(store, experiment(), loss)
    assert code(found) == ("undecided", "gate")
    assert not found.arms["fresh", arm].passed_bigram


def test_a_donor_that_fails_the_gate(store: Store) -> None:
    found = plant(store, experiment(), passed_gate=False)
    assert {code(found, c.contrast.name) for c in found.contrasts if c.contrast.primary} == {("undecided", "gate")}


def test_a_given_donor_that_fails_the_gate_is_marked_only(store: Store) -> None:
    found = plant(store, experiment(donors=1, given=True), passed_gate=False)
    assert code(found) == ("supported", "")
    assert "doesn't beat the bigram" in headlines(found)[0]


def test_a_rate_at_the_edge(store: Store) -> None:
    def tune(mode: str, arm: str, rates: Rates) -> float:
        return tuned(mode, arm, rates) if arm != "random" else 3 - math.log(rates.body)

    found = plant(store, experiment(), tune=tune)
    assert code(found) == ("undecided", "rate unresolved")
    assert code(found, DENSE) == ("refuted", "")
    assert found.arms["fresh", "random"].at_edge
    assert found.arms["fresh", "draw 1"].at_edge, "arms that share rates share the mark"


def test_another_sign_at_the_second_best_rate(store: Store) -> None:
    def tune(mode: str, arm: str, rates: Rates) -> float:
        return tuned(mode, arm, rates) + (1 if arm == "donor" and rates != START else 0)

    found = plant(store, experiment(), tune=tune)
    assert code(found) == ("undecided", "sign at second-best rate")
    assert code(found, DENSE) == ("refuted", ""), "asked of supported alone"


def test_an_interval_that_straddles_delta(store: Store) -> None:
    def loss(mode: str, name: str, replicate: int) -> float | None:
        return {"donor": 3.0, "random": 3.01 + 0.01 * replicate}.get(name, planted(mode, name, replicate))

    found = plant(store, experiment(), loss)
    assert code(found) == ("undecided", "straddles")
    needed = contrast(found, GAP).verdict.needed
    assert needed is not None
    assert needed > 5


def test_a_diverged_run(store: Store) -> None:
    found = plant(store, experiment(), lambda m, a, r: None if (a, r) == ("random", 3) else planted(m, a, r))
    assert code(found) == ("undecided", "diverged or missing runs")
    assert code(found, DENSE) == ("refuted", "")
    assert found.complete, "a diverged run is done"
    assert found.arms["fresh", "random"].losses[2] is None
    assert not found.arms["fresh", "random"].passed_bigram
    assert len(contrast(found, GAP).differences) == 4


def test_an_arm_that_always_diverges_is_not_called_unrun(store: Store) -> None:
    found = plant(store, experiment(), lambda m, a, r: None if a == "random" else planted(m, a, r))
    assert code(found) == ("undecided", "diverged or missing runs")
    assert contrast(found, GAP).interval is None
    assert found.arms["fresh", "random"].interval is None
    assert findings(found, store)["E6"]["verdict"] != "supported (laptop)"
    assert headlines(found)


def test_missing_runs(store: Store) -> None:
    found = plant(store, experiment(), lambda m, a, r: math.nan if (a, r) == ("random", 5) else planted(m, a, r))
    assert code(found) == ("undecided", "diverged or missing runs")
    assert not found.complete
    assert found.expected - found.done == 2, "one in either embedding mode"


def test_diverged_tuning_runs_are_infinite(store: Store) -> None:
    def tune(mode: str, arm: str, rates: Rates) -> float:
        return math.inf if rates.rest > 1e-2 and mode == "fresh" else tuned(mode, arm, rates)

    found = plant(store, experiment(), tune=tune)
    arm = found.arms["fresh", "donor"]
    assert arm.rates is not None
    assert arm.rates.rest == 1e-2
    assert arm.shared == math.inf
    assert contrast(found, GAP).shared_gap is None
    assert code(found) == ("supported", "")


def test_audit(store: Store) -> None:
    starts = {"random": 6.21}
    found = plant(store, experiment(), step0=starts)
    assert code(found) == ("undecided", "audit: step-0 losses differ")
    assert code(found, DENSE) == ("refuted", "")
    assert code(plant(store, experiment(audit=False), step0=starts)) == ("supported", "")


def test_fixed_rates_have_no_second_best(store: Store) -> None:
    """So they never support, but refute."""
    rates = {mode: {arm: START for arm in LOSSES} for mode in ("fresh", "frozen")}
    found = plant(store, experiment(rates=rates))
    assert code(found) == ("undecided", "sign at second-best rate")
    assert code(found, DENSE) == ("refuted", "")
    assert not found.arms["fresh", "donor"].tuned


# Unfinished ---------------------------------------------------------------------------------------------------


def test_an_empty_store(store: Store) -> None:
    found = assess(experiment(), store)
    assert (found.done, found.complete, found.donors, found.references) == (0, False, (), {})
    assert found.expected == 5 * 10 + 5 + 5
    assert {c.verdict.word for c in found.contrasts} == {"not run"}
    assert headlines(found) == []
    assert {claim: f["verdict"] for claim, f in findings(found, store).items()} == dict.fromkeys(
        ("E6", "E7", "E8", "E20"), "not run"
    )


def test_missing_donors_keep_their_names_apart(store: Store) -> None:
    declared = experiment()
    plant(store, declared)
    (store.root / "donors" / "donor1" / "result.json").unlink()
    found = assess(declared, store)
    assert [donor["id"] for donor in found.donors] == ["donor2", "donor3", "donor4", "donor5"]
    assert headlines(found)[0].startswith("donor 2:")


def test_tuning_under_way(store: Store) -> None:
    declared = experiment()
    arm = declared.arm("donor")
    _write(store, declared.tuning_run("fresh", arm, START).id, 0, 3.0, 6.0)
    found = assess(declared, store)
    assert scores(declared, store, "fresh", arm) == {START: 3.0}
    assert found.arms["fresh", "donor"].rates is None
    assert found.arms["fresh", "donor"].tried == ((START.body, START.rest, 3.0),)
    assert found.done == 0


# Headlines ----------------------------------------------------------------------------------------------------


def test_headlines_name_donor_bigram_and_every_control(plain: Assessment) -> None:
    lines = headlines(plain)
    assert lines[0].startswith("donor 1: its own loss on this text is 2.90 nats a token, below the bigram (3.30)")
    text = "\n".join(lines)
    for mode in ("fresh", "frozen"):
        assert f"Embeddings {mode}: past the bigram (3.30): donor, random, dense, rotated, coherent." in text
        for words in ("better than random", "worse than dense", "better than coherent", "equivalent to rotated"):
            assert any(line.startswith(f"Embeddings {mode}: donor is {words} by") for line in lines)
    assert "null by symmetry" in text


def test_headlines_name_a_given_donor(store: Store) -> None:
    assert headlines(plant(store, experiment(donors=1, given=True)))[0].startswith("my/donor1: its own loss")


# Claims -------------------------------------------------------------------------------------------------------


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
