"""Verdicts on fabricated stores: each word and each code comes out where it was planted."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import DENSE, GAP, LOSSES, contrast, experiment, plant, planted, tuned, write_result

from ontogeny.canonical import digest
from ontogeny.lab.conduct import searches
from ontogeny.lab.experiment import Rates
from ontogeny.lab.findings import findings
from ontogeny.lab.judge import Assessment, assess, headlines
from ontogeny.lab.rates import START
from ontogeny.lab.report.tables import donors
from ontogeny.lab.store import Store, open_store


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
    assert arm.passed_gate
    assert [step for step, *_ in arm.curve] == [0, 200, 400]
    _, mean, low, high = arm.curve[-1]
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
    assert not found.arms["fresh", arm].passed_gate


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
    assert not found.arms["fresh", "random"].passed_gate
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
    rates = {mode: dict.fromkeys(LOSSES, START) for mode in ("fresh", "frozen")}
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
    write_result(store, declared.tuning_run("fresh", arm, START).id, 0, 3.0)
    found = assess(declared, store)
    assert searches(declared, store)["fresh", arm.name].scores == {START: 3.0}
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


def test_a_donor_that_has_learnt_nothing_is_marked(plain: Assessment) -> None:
    """In the headlines and in the table; the others keep their lines."""
    first, second = (
        dict(donor) | {"id": digest(record)[:16]}
        for donor, record in zip(plain.donors[:2], plain.experiment.donor_records, strict=False)
    )
    found = replace(plain, donors=(first, second | {"loss": 5.1, "passed_gate": False}))
    lines = headlines(found)
    assert "2.90 nats a token, below the bigram (3.30)" in lines[0]
    assert lines[1].startswith("donor 2: its own loss on this text is 5.10 nats a token, not below the unigram (5.00)")
    marks = [row[4] for row in donors(found).shown]
    assert marks[:2] == ["yes", "no, nor the unigram's 5.000: it has learnt nothing"]


def test_headlines_name_a_given_donor(store: Store) -> None:
    assert headlines(plant(store, experiment(donors=1, given=True)))[0].startswith("my/donor1: its own loss")
