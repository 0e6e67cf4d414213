"""What ``selection`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.coevolution import KINDS
from ontogeny.evolution.questions import PER_STEP, QUESTIONS
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import selection, selection_answers
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, float]]  # start of a condition's name -> quantity -> planted mean


def holds(condition: Condition) -> dict[str, float]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if options["compute"] == "alignment":
        fixed = {"chance": 0.1, "dealt": 0.1, "homeward": 0.6, "drift": 0.9, "foreign": 0.7}
        return fixed | {"cosine": 0.9, "expected": 0.8 if options.get("anisotropic") else 0.97, "preconditioned": 0.97}
    if name.startswith("steps"):
        return {"monotone": 0.99, "exponent": 1.0}
    if name.startswith("race"):
        d = 10.0 * options["size"]
        evaluations = {"gradient evaluations": 30.0, "pair evaluations": 30 * d, "evolution evaluations": 30 * d}
        reached = dict.fromkeys(("gradient reached", "pair reached", "evolution reached"), 1.0)
        steps = {"one steps": 1000.0, "root steps": 1000 / round(d**0.5), "all steps": 1000 / d}
        return {"dimension": d, "effective": d, "dealt": 1.5} | evaluations | reached | steps
    if name.startswith("crossed"):
        dose = 0.5 * options["dose"] + 0.5
        loss = dose * (options["drifting"] + options["raw"]) + 0.3 * (options["searcher"] == "evolution")
        return {"loss": loss, "resolved": 1.0}
    if name.startswith("variation"):
        return {"loss": -2.0 if options["variation"] and options["selection"] else 0.0}
    if name.startswith("questions"):
        own = dict.fromkeys((*QUESTIONS, *EACH), 5.0 * (options["searcher"] == "evolution"))
        return own | {f"half {what}": value + 1 for what, value in own.items()}
    return {f"{where} {kind}": -1.0 * (kind == "co-evolving") for where in ("archive", "random") for kind in KINDS}


EACH = [f"{name} an evaluation" for name in PER_STEP]


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.005) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(selection, scale)
    found = {}
    for condition in study.conditions:
        means: dict[str, Any] = holds(condition)
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key.endswith(("reached", "resolved")) else value + noise * rng.normal()
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, found: Measurements) -> str:
    return selection.ANSWERS[claim](found).verdict.word


REFUTED: dict[str, Changes] = {
    "S1": {"steps network proportional": {"monotone": 0.5}},
    "S2": {"anisotropic quadratic proportional": {"preconditioned": 0.7, "expected": 0.5, "foreign": 0.5}},
    "S11": {"race quadratic": {"pair evaluations": 300.0}},
    "S12": {"crossed evolution": {"loss": 9.0}},
    "G4": {"race network 8": {"evolution reached": 0.4}},
    "G12": {"questions": dict.fromkeys((*QUESTIONS, *EACH), 1.0)},
    "G25": {"variation off, selection on": {"loss": -2.0}},
    "G38": {"coevolution": {"archive random": -1.0}},
}
UNDECIDED: dict[str, Changes] = {
    "S1": {"alignment network proportional": {"dealt": 0.5}},
    "S12": {  # at the largest dose raw data cost nothing
        "crossed gradient fixed raw 3": {"loss": 0.0},
        "crossed evolution fixed raw 3": {"loss": 0.3},
        "crossed gradient drifting raw 3": {"loss": 2.0},
        "crossed evolution drifting raw 3": {"loss": 2.3},
    },
    "G4": {"race quadratic 256": {"dealt": 0.05}},
    "S11": {"race network 8": {"pair reached": 0.4}},
    "G12": {"questions": dict.fromkeys(tuple(QUESTIONS)[:3], 1.0)},
    "G38": {"coevolution": {"random random": -2.0}},
}


@pytest.mark.parametrize("claim", list(selection.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert verdict(claim, planted()) == "supported"
    assert verdict(claim, planted(REFUTED[claim])) == "refuted"


@pytest.mark.parametrize("claim", list(UNDECIDED))
def test_what_cannot_be_told_is_undecided(claim: str) -> None:
    assert verdict(claim, planted(UNDECIDED[claim])) == "undecided"


def test_a_rate_at_the_grids_end_decides_nothing() -> None:
    answer = selection.ANSWERS["S12"](planted({"crossed gradient fixed raw 1": {"resolved": 0.5}}))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "rate unresolved")


@pytest.mark.parametrize("claim", list(selection.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    answer = selection.ANSWERS[claim](planted(scale="smoke"))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "scale")


def test_exponents_are_slopes_of_logarithms() -> None:
    found = planted(noise=0.0)
    np.testing.assert_allclose(selection_answers.exponents(found, "quadratic"), 1.0, atol=1e-9)
    np.testing.assert_allclose(selection_answers.doses(found, "quadratic"), 1.0, atol=1e-9)


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "selection"}
    assert own == set(selection.ANSWERS) == set(selection.RULES) - {"estimand"}


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in selection.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
