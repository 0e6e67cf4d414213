"""What ``selection`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.questions import QUESTIONS
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import selection
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, float]]  # start of a condition's name -> quantity -> planted mean


def holds(condition: Condition) -> dict[str, float]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if name.startswith(("alignment", "anisotropic")):
        turned = name.startswith("anisotropic")
        return {"cosine": 0.8 if turned else 0.97, "preconditioned": 0.97, "shuffled": 0.1, "closed_form": 0.97}
    if name.startswith("steps"):
        return {"monotone": 0.99, "exponent": 1.0}
    if name.startswith("race"):
        d = 10.0 * options["size"]
        return {
            "dimension": d,
            "gradient evaluations": 30.0,
            "evolution evaluations": 30 * d,
            "reached": 1,
            "blind": 0.5,
        }
    if name.startswith("crossed"):
        return {"loss": 0.6 * options["drifting"] + 0.6 * options["raw"] + 0.3 * (options["searcher"] == "evolution")}
    if name.startswith("variation"):
        return {"loss": -2.0 if options["variation"] and options["selection"] else 0.0}
    if name.startswith("questions"):
        return dict.fromkeys((*QUESTIONS, "loss"), 1.0 + (options["searcher"] == "evolution"))
    return {f"{where} {kind}": -1.0 * (kind == "co-evolving") for where in ("archive", "random") for kind in KINDS}


KINDS = ("co-evolving", "frozen", "shuffled", "random")


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
            {key: value if key == "reached" else value + noise * rng.normal() for key, value in means.items()}
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, found: Measurements) -> str:
    return selection.ANSWERS[claim](found).verdict.word


def flat(dimension: float) -> Changes:
    return {f"race {landscape}": {"evolution evaluations": 300.0} for landscape in selection.LANDSCAPES}


REFUTED: dict[str, Changes] = {
    "S1": {"steps network proportional": {"monotone": 0.5}},
    "S2": {"anisotropic quadratic proportional": {"preconditioned": 0.8}},
    "S11": flat(0),
    "S12": {"crossed evolution": {"loss": 3.0}},
    "G4": {"race network 16": {"reached": 0.5}},
    "G12": {"questions": dict.fromkeys(QUESTIONS, 1.0)},
    "G25": {"variation off, selection on": {"loss": -2.0}},
    "G38": {"coevolution": {"archive frozen": -1.0}},
}
UNDECIDED: dict[str, Changes] = {
    "S1": {"alignment quadratic proportional 4096 0.01": {"shuffled": 0.9}},
    "G4": {"race quadratic 256": {"blind": 0.05}},
    "S11": {"race network 16": {"reached": 0.5}},
    "G12": {"questions": dict.fromkeys(tuple(QUESTIONS)[:3], 1.0)},
}


@pytest.mark.parametrize("claim", list(selection.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert verdict(claim, planted()) == "supported"
    assert verdict(claim, planted(REFUTED[claim])) == "refuted"


@pytest.mark.parametrize("claim", list(UNDECIDED))
def test_what_cannot_be_told_is_undecided(claim: str) -> None:
    assert verdict(claim, planted(UNDECIDED[claim])) == "undecided"


@pytest.mark.parametrize("claim", list(selection.ANSWERS))
def test_smoke_decides_nothing_and_noise_neither(claim: str) -> None:
    answer = selection.ANSWERS[claim](planted(scale="smoke"))
    assert (answer.verdict.word, answer.verdict.code) == ("undecided", "scale")


def test_exponents_are_slopes_of_logarithms() -> None:
    found = planted(noise=0.0)
    np.testing.assert_allclose(selection.exponents(found, "quadratic"), 1.0, atol=1e-9)


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "selection"}
    assert own == set(selection.ANSWERS) == set(selection.RULES) - {"estimand"}


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in selection.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
