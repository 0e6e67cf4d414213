"""What ``rule`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.causes import ARMS as RECORDS
from ontogeny.evolution.published_costs import ORDERS, PUBLISHED
from ontogeny.evolution.sentences import ARMS
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import rule
from ontogeny.lab.experiments.rule_tables import hits
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, Any]]  # start of a condition's name -> quantity -> planted mean
QUESTIONS = ("association", "intervention", "counterfactual")


def holds(condition: Condition) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if name.startswith("variant"):
        rows = {f"seed 1, {', '.join(orders)}": [140.0] * len(options["published"]) for orders in product(*ORDERS)}
        return {"cost": 140.0, "line": 1.0, "nothing": 0.0, "hits": 0, "costs": [140.0] * len(options["widths"])} | rows
    if options["compute"] == "learn":
        cost = -1.0 if options["width"] < 64 else -2.0
        errors = {"inside": 0.01, "outside": 0.2 if options["task"] == "multiplication" else 0.01, "far": 0.3}
        return {"cost": cost, "published cost": cost, "published training cost": 137.0} | errors
    if name.startswith("surface"):
        n, depth = options["neurons"], options["depth"]
        return {f"loss {data}": -np.log10(n) * np.log10(data) / 3 - 0.2 * depth for data in options["data"]}
    if name.startswith("sentences"):
        shares = {"dense": 0.3, "copied": 0.3, "grown": 0.8, "random": 0.3}
        found = {f"{test} {arm}": shares[arm] for test in ("structure", "words") for arm in ARMS}
        found |= {f"shared {key}": value for key, value in found.items()}
        return found | {f"learnt {arm}": 0.99 for arm in ARMS} | {"donor": 0.99}
    errors = {f"{arm} {question}": 0.02 for arm in RECORDS for question in QUESTIONS}
    for arm, question in product(("text", "shuffled state and interventions", "perfect association"), QUESTIONS[1:]):
        errors[f"{arm} {question}"] = 0.3
    return errors


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.003) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(rule, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition) | {"resolved": 1.0}
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {key: (np.array(value) + noise * rng.normal()).tolist() for key, value in means.items()}
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, found: Measurements) -> str:
    return rule.ANSWERS[claim](found).verdict.word


FLAT = {f"loss {data}": -1.0 for data in rule.SCALES["laptop"].data}
REFUTED: dict[str, list[Changes]] = {
    "G1": [
        {"multiplication 32": {"cost": -2.0}},
        {"multiplication 128": {"cost": -3.0}},
        {"multiplication 128": {"outside": 0.01}},
    ],
    "G2": [
        {"surface": FLAT},
        {"surface 128 in 1": {"loss 2048": -2.5}, "surface 128 in 2": {"loss 2048": -2.5}},
        {"surface 8": {"loss 32": 2.0}},
    ],
    "S14": [{"sentences": {"words copied": 0.9}}, {"sentences": {"structure random": 0.8}}],
    "S15": [
        {"records": {"text intervention": 0.02}},
        {"records": {"state and interventions counterfactual": 0.3}},
        {"records": {"shuffled state and interventions counterfactual": 0.02}},
    ],
}
UNDECIDED: dict[str, Changes] = {
    "G1": {"addition 64": {"outside": 0.2}},
    "G2": {"surface 128 in 1": {"loss 2048": -2.5}, "surface 128 in 2": {"loss 2048": -2.55}},
    "S14": {"sentences": {"learnt grown": 0.6}},
    "S15": {"records": {"text intervention": 0.07}},
}


@pytest.mark.parametrize("claim", list(rule.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert verdict(claim, planted()) == "supported"
    for changes in REFUTED[claim]:
        assert verdict(claim, planted(changes)) == "refuted", changes


@pytest.mark.parametrize("claim", list(UNDECIDED))
def test_what_cannot_be_told_is_undecided(claim: str) -> None:
    assert verdict(claim, planted(UNDECIDED[claim], noise=0.02)) == "undecided"


@pytest.mark.parametrize("claim", list(rule.ANSWERS))
def test_rates_at_the_grids_end_decide_nothing(claim: str) -> None:
    answer = rule.ANSWERS[claim](planted({"": {"resolved": 0.5}}))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "rate unresolved")


def test_what_depends_on_the_rate_alone_is_undecided() -> None:
    answer = rule.ANSWERS["S14"](planted({"sentences": {"shared words grown": 0.2}}))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "mixed")


@pytest.mark.parametrize("claim", list(rule.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    answer = rule.ANSWERS[claim](planted(scale="smoke"))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "scale")


def test_both_parts_of_the_product_are_told() -> None:
    told = rule.ANSWERS["G1"](planted({"multiplication 32": {"cost": -2.0}})).measured
    assert "needs 64: fails" in told
    assert "does not find the rule: holds" in told


def test_published_costs_that_are_given_are_told(tmp_path: Any) -> None:
    own = "variant normal he, derivative × 2, leaky output"
    row = {"seed 1, data first, inputs × outputs": [float(cost) for cost in PUBLISHED.values()]}
    found = planted({own: row | {"hits": len(PUBLISHED)}}, noise=0.0)
    assert hits(found) == (8, 8, 96)
    assert hits(planted(noise=0.0))[0] == 0
    (table,) = rule.tables(found, Store(tmp_path))
    assert len(table.rows) == 25
    assert table.rows[0][-2] == "137, 145, 137, 1346, 1271, 1360, 135, 138"
    (given,) = [line for line in table.rows if line[0] == own.removeprefix("variant ")]
    assert given[-3:] == ("data first, inputs × outputs", table.rows[0][-2], "8 of 8")


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "rule"}
    assert own == set(rule.ANSWERS) == set(rule.RULES) - {"estimand"}


def test_every_kind_of_condition_is_computed() -> None:
    kinds = {condition.options["compute"]: condition for condition in declare_study(rule, "smoke").conditions}
    assert set(kinds) == set(rule.COMPUTE)
    for condition in kinds.values():
        measured = rule.compute(condition.options, 1)
        assert all(np.isfinite(np.array(value, dtype=float)).all() for value in measured.values())


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in rule.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
