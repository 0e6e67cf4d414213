"""What ``outerloop`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.growing_rank import SCHEDULES
from ontogeny.evolution.hyperparameters import GENES
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import outerloop, outerloop_answers
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, float]]  # start of a condition's name -> quantity -> planted mean

PROFILE = {"profile default": -0.4, "profile evolved": -0.6, "profile random search": -0.5, "profile dealt": -0.3}


def holds(condition: Condition) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if name in PROFILE:
        return {"loss": PROFILE[name], "resolved": 1.0, "distance": 1.0, "genes": [0.5] * len(GENES)}
    if name == "inherited":
        losses = {"weights": -0.9, "rotated": -0.4, "genome": -0.8, "random genome": -0.3}
        return {f"{arm} loss": loss for arm, loss in losses.items()} | {f"{arm} resolved": 1.0 for arm in losses}
    if name == "bodies":
        arms = {"alone": (0.5, 0.2), "whole": (1.0, 0.0)}
        for dose in ("0.3", "0.6"):
            arms |= {f"cost {dose}": (0.2, 0.5), f"pruned {dose}": (0.2, 0.35), f"backpropagation {dose}": (0.2, 0.3)}
        found: dict[str, Any] = {"rate resolved": 1.0}
        for arm, (density, modularity) in arms.items():
            found |= {f"{arm} density": density, f"{arm} modularity": modularity, f"{arm} within": 0.6}
            found |= {f"{arm} loss": -0.5, f"{arm} samples": 2.0, f"{arm} resolved": 1.0}
        return found
    if name.startswith("growth"):
        losses = dict.fromkeys(SCHEDULES, -0.5) | {"growing": -1.0, "best fixed": -0.6}
        return {f"{arm} loss": loss for arm, loss in losses.items()} | {f"{arm} resolved": 1.0 for arm in SCHEDULES}
    if name == "rules":
        losses = {"SGD": -0.3, "Adam": -0.4, "evolved": -0.6, "dealt": -0.2}
        tried = {f"{field} {rule}": loss for field in ("met", "digits", "waves") for rule, loss in losses.items()}
        found = {f"{arm} loss": loss for arm, loss in tried.items()} | {f"{arm} resolved": 1.0 for arm in tried}
        return found | {"rule": [0.4] * 6}
    gap = 0.4 - 0.4 * (options["width"] / 2) ** -2.0 - 0.4 * (options["donor_steps"] / 32) ** -2.0
    return {"gap": gap, "loss": -0.5, "random loss": -0.5 + gap, "resolved": 1.0}


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.002) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(outerloop, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition)
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key.endswith("resolved") else (np.array(value) + noise * rng.normal()).tolist()
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def answer(claim: str, changes: Changes | None = None) -> tuple[str, str]:
    verdict = outerloop.ANSWERS[claim](planted(changes)).verdict
    return verdict.word, verdict.code


GROWING: Changes = {f"donor {width} 512": {"gap": 0.02 * width**0.7} for width in (8, 16, 24, 32, 48, 64)}
REFUTED: dict[str, list[Changes]] = {
    "S9": [
        {"profile evolved": {"loss": -0.4}},
        {"profile evolved": {"loss": -1.0}},
        {"profile random search": {"loss": -0.7}},
        {"inherited": {"rotated loss": -0.9}},
        {"profile dealt": {"loss": -0.6}},
    ],
    "G5": [
        {"bodies": {"pruned 0.3 modularity": 0.5, "pruned 0.6 modularity": 0.5}},
        {"bodies": {"backpropagation 0.3 modularity": 0.5, "backpropagation 0.6 modularity": 0.5}},
    ],
    "G13": [{"growth matrix": {"best fixed loss": -1.0}}, {"growth network": {"shrinking loss": -1.2}}],
    "G15": [{"rules": {"digits Adam loss": -0.6}}, {"rules": {"waves evolved loss": -0.05}}],
    "G26": [GROWING],
}
UNDECIDED: list[tuple[str, Changes, str]] = [
    ("S9", {"profile default": {"loss": -0.05}}, "gate"),
    ("S9", {"inherited": {"weights resolved": 0.0}}, "rate unresolved"),
    ("G5", {"bodies": {"pruned 0.6 modularity": 0.5}}, "dose"),
    ("G5", {"bodies": {"alone density": 0.25}}, "gate"),
    ("G5", {"bodies": {"cost 0.6 loss": 0.0}}, "gate"),
    ("G13", {"growth network": {"best fixed loss": -0.02}}, "gate"),
    ("G13", {"growth matrix": {"growing resolved": 0.0, "fixed 4 resolved": 0.5}}, "rate unresolved"),
    ("G15", {"rules": {"met dealt loss": -0.6}}, "gate"),
    ("G15", {"rules": {"waves Adam loss": -0.05}}, "gate"),
    ("G26", {"donor 64": {"gap": 0.01}}, "gate"),
    ("G26", {"donor 64": {"loss": 0.0}}, "gate"),
    ("G26", {"donor": {"resolved": 0.9}}, "rate unresolved"),
]


@pytest.mark.parametrize("claim", list(outerloop.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert answer(claim)[0] == "supported"
    for changes in REFUTED[claim]:
        assert answer(claim, changes)[0] == "refuted", changes


@pytest.mark.parametrize(("claim", "changes", "code"), UNDECIDED)
def test_what_cannot_be_told_is_undecided(claim: str, changes: Changes, code: str) -> None:
    assert answer(claim, changes) == ("undecided", code)


@pytest.mark.parametrize("claim", list(outerloop.ANSWERS))
def test_noise_leaves_it_undecided(claim: str) -> None:
    verdict = outerloop.ANSWERS[claim](planted(noise=1.0)).verdict
    assert verdict.word == "undecided"


@pytest.mark.parametrize("claim", list(outerloop.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    verdict = outerloop.ANSWERS[claim](planted(scale="smoke")).verdict
    assert (verdict.word, verdict.code) == ("undecided", "scale")


def test_late_growth_is_what_the_last_quadrupling_adds() -> None:
    gaps = np.array([[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(outerloop_answers.late_growth([8, 16, 32, 64], gaps), 0.4 - 0.2 - 0.04)


def test_donors_of_both_axes_are_computed_once() -> None:
    names = [condition.name for condition in declare_study(outerloop, "laptop").conditions]
    assert len(names) == len(set(names))
    assert sum(name.startswith("donor ") for name in names) == 11


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "outerloop"}
    assert own == set(outerloop.ANSWERS) == set(outerloop.RULES) - {"estimand"}


def test_conditions_are_computed_from_their_options() -> None:
    study = declare_study(outerloop, "smoke")
    measured = {c.name: outerloop.compute(c.options, 1) for c in study.conditions if c.options["compute"] == "worth"}
    assert all(set(one) >= {"gap", "loss", "resolved"} for one in measured.values())
    with pytest.raises(KeyError):
        outerloop.compute({"compute": "nothing"}, 1)


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in outerloop.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
