"""What ``context`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.in_context import FACTORS
from ontogeny.evolution.regressions import LEARNERS, LOOKUPS
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import context
from ontogeny.lab.experiments.context_answers import OF_SEED
from ontogeny.lab.statistics import Verdict
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, Any]]  # start of a condition's name -> quantity -> planted mean
EXACT = ("resolved", "unchanged")


def holds(condition: Condition) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if name.startswith("twins"):
        environment = 0.08 * options["skew"]
        shares = {"genome": 0.1, "environment": environment, "genome × environment": 0.05}
        shares |= dict.fromkeys(OF_SEED, (0.85 - environment) / 4)
        return shares | {"accuracy": 0.9, "together": 0.05, "apart": 0.1, "resolved": 1.0}
    if name.startswith("routing"):
        others = {"fixed": 0.1, "random": 0.1} if name == "routing plain" else {"fixed": 0.3, "random": 0.4}
        return {"gated": 0.1, "all": 0.05, "dealt": 0.5, "resolved": 1.0} | others
    falls = np.geomspace(1, 0.1, options["pairs"] + 1)
    found: dict[str, Any] = {"nearer": 0.2, "retained": 0.6, "retained rolled": 0.0, "resolved": 1.0}
    for network in ("network", "grown"):
        found |= {f"{network} errors": falls, f"{network} rolled": np.ones_like(falls)}
        found |= {f"{network} unchanged": 1.0, f"{network} evicted": 0.0}
    found |= {f"{name} errors": falls[1:] for name in (*LEARNERS, *LOOKUPS)}
    found |= {f"{name} distance": 0.1 for name in LEARNERS} | {f"{name} distance": 0.3 for name in LOOKUPS}
    found |= {"distant network error": 0.2, "distant ridge error": 0.05}
    for spread in options["spreads"]:
        shares = {"context": 0.5, "weights": 0.1, "hyperparameters": 0.1, "interactions": 0.3, "order": 0.02}
        shares |= {f"{factor} total": 0.3 for factor in FACTORS}
        found |= {f"spread {spread:g} {what}": share for what, share in shares.items()}
    return found


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.003) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(context, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition)
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                assert set(values) <= set(means), condition.name
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key.endswith(EXACT) else value + noise * rng.normal(size=np.shape(value))
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, changes: Changes | None = None) -> Verdict:
    return context.ANSWERS[claim](planted(changes)).verdict


HALF = {"fixed": 0.1, "random": 0.1}
REFUTED: dict[str, list[Changes]] = {
    "G28": [
        {"in context": {"network unchanged": 0.0}},
        {"in context": {"grown unchanged": 0.0}},
        {"in context": {"network evicted": 0.2}},
        {"in context": {"grown evicted": 0.2}},
    ],
    "S7": [{"twins donor": {"environment": 0.05}}],
    "S16": [
        {"in context": {f"spread {spread} {part}": 0.01 for spread in ("0.5", "1")}}
        for part in (*(f"{factor} total" for factor in FACTORS), "interactions")
    ],
    "S17": [{"routing turned": {"random": 0.1}, "routing asked": {"fixed": 0.1}}, {"routing plain": {"fixed": 0.3}}],
    "S19": [{"in context": {"nearer": -0.2}}, {"in context": {"network errors": np.geomspace(1, 0.7, 11)}}],
}
UNDECIDED: dict[str, list[tuple[str, Changes]]] = {
    "G28": [
        ("gate", {"in context": {"grown errors": np.full(11, 0.9)}}),
        ("gate", {"in context": {"network rolled": np.geomspace(1, 0.1, 11)}}),
        ("gate", {"in context": {"retained rolled": 0.6}}),
        ("rate unresolved", {"in context": {"resolved": 0.5}}),
        ("straddles", {"in context": {"network evicted": 0.05}}),
    ],
    "S7": [
        ("dose", {"twins donor 3": {"environment": 0.05}}),
        ("gate", {"twins donor 9": {"accuracy": 0.3}}),
        ("rate unresolved", {"twins donor 1": {"resolved": 0.5}}),
    ],
    "S16": [
        ("dose", {"in context": {"spread 0.5 weights total": 0.01}}),
        ("gate", {"in context": {"network errors": np.ones(11)}}),
    ],
    "S17": [
        ("mixed", {"routing turned": {"fixed": 0.1}}),
        ("gate", {"routing planted": {"random": 0.1}}),
        ("gate", {"routing asked": {"all": 0.8}}),
        ("rate unresolved", {"routing plain": {"resolved": 0.5}}),
    ],
    "S19": [
        ("straddles", {"in context": {"network errors": np.geomspace(1, 0.4, 11)}}),
        ("gate", {"in context": {"network errors": np.ones(11)}}),
    ],
}


@pytest.mark.parametrize("claim", list(context.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert verdict(claim).word == "supported"
    for changes in REFUTED[claim]:
        assert verdict(claim, changes).word == "refuted", changes


@pytest.mark.parametrize("claim", list(UNDECIDED))
def test_what_cannot_be_told_is_undecided(claim: str) -> None:
    for code, changes in UNDECIDED[claim]:
        assert verdict(claim, changes) == Verdict("undecided", code), changes


def test_learning_in_context_and_leaving_nothing_are_decided_apart() -> None:
    left = {"in context": {"network evicted": 0.2}}
    assert (verdict("G28", left).word, verdict("S19", left).word) == ("refuted", "supported")
    lookup = {"in context": {"nearer": -0.2}}
    assert (verdict("G28", lookup).word, verdict("S19", lookup).word) == ("supported", "refuted")


@pytest.mark.parametrize("claim", list(context.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    answer = context.ANSWERS[claim](planted(scale="smoke"))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "scale")


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "context"}
    assert own == set(context.ANSWERS) == set(context.RULES) - {"estimand"}


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in context.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
