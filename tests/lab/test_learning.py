"""What ``learning`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.matched_loss import ARCHITECTURES, FACTORS, MEASURES, SEARCHERS
from ontogeny.evolution.two_architectures import MEASURES as LIKENESSES
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import learning
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, Any]]  # a condition's name -> quantity -> planted mean
STATES = {"trained": 0.7, "seeds": 0.8, "untrained": 0.2, "shuffled": 0.3, "class": 0.4, "permuted": 0.0}
EXACT = ("resolved", "reached", "within", "accuracy")


def holds(condition: Condition) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    name = condition.name
    if name == "architectures":
        likenesses: dict[str, Any] = {f"{measure} {state}": x for measure in LIKENESSES for state, x in STATES.items()}
        likenesses |= {f"plain {state}": 0.5 for state in STATES}
        return likenesses | {f"{kind} {what}": 1.0 for kind in ("cnn", "vit") for what in ("accuracy", "resolved")}
    if name == "searchers":
        kinds = {"within": 0.8, "between": 0.78, "other": 0.4} | {
            f"share {factor}": 0.2 for factor in (*FACTORS, "rest")
        }
        cells = [f"{searcher} {architecture}" for searcher in SEARCHERS for architecture in ARCHITECTURES]
        gates = {f"{cell} {gate}": 1.0 for cell in cells for gate in ("reached", "loss", "resolved")}
        return gates | {f"{measure} {kind}": x for measure in MEASURES for kind, x in kinds.items()}
    if name == "superposition":
        parts = {"z matched": 5.0, "z dealt": 4.0, "variant": 0.2, "overlap": 0.5, "untrained": 0.6}
        found = {f"{part} {key}": value for part in ("worlds", "tokens") for key, value in parts.items()}
        return found | {"gain": 0.6, "resolved": 1.0}
    samples = 5.0 if name.endswith((" profile", "distilled")) and "shuffled" not in name else 6.0
    curve = [0.2 + 0.15 * i for i in range(len(condition.options["sizes"]))]
    return {"accuracies": curve, "samples": samples, "within": 1.0, "resolved": 1.0, "donor accuracy": 1.0}


def planted(changes: Changes | None = None, scale: str = "laptop") -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(learning, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition) | dict((changes or {}).get(condition.name, {}))
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key.endswith(EXACT) else (np.array(value) + 0.005 * rng.normal()).tolist()
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, found: Measurements) -> tuple[str, str]:
    answer = learning.ANSWERS[claim](found).verdict
    return answer.word, answer.code


def test_planted_effects_are_found() -> None:
    for claim in learning.ANSWERS:
        assert verdict(claim, planted()) == ("supported", "")


REFUTED: list[tuple[str, Changes]] = [
    ("G9", {"architectures": {"cka class": 0.69}}),  # the classes alone
    ("G9", {"architectures": {"neighbours untrained": 0.7}}),  # the pixels alone
    ("G9", {"architectures": {"neighbours trained": 0.47}}),  # far from two seeds of one kind
    ("G33", {"searchers": {"cka between": 0.6}}),  # the searcher is half of what data is
    ("G33", {"searchers": {f"{measure} other": 0.79 for measure in MEASURES}}),  # data is no message
    ("G34", {"inheritance plain": {"samples": 5.0}}),
    ("G34", {"inheritance shuffled profile": {"samples": 5.0}}),
    ("G34", {"inheritance subspaces": {"samples": 5.0}}),  # direct extraction doesn't fail
    ("S8", {"superposition": {"tokens z matched": -5.0}}),
]
UNDECIDED: list[tuple[str, Changes, str]] = [
    ("G9", {"architectures": {"vit accuracy": 0.7}}, "gate"),
    ("G9", {"architectures": {"cnn resolved": 0.0}}, "rate unresolved"),
    ("G9", {"architectures": {"cka class": 0.645}}, "straddles"),
    ("G33", {"searchers": {"genetic algorithm two reached": 0.9}}, "gate"),
    ("G33", {"searchers": {"AdamW one loss": 0.7}}, "gate"),
    ("G33", {"searchers": {"SGD one resolved": 0.0}}, "rate unresolved"),
    ("G33", {"searchers": {"axes other": 0.8, "axes between": 0.5}}, "data"),  # the axes don't tell worlds apart
    ("G33", {"searchers": {"axes between": 0.7}}, "straddles"),
    ("G34", {"inheritance profile": {"within": 0.8}}, "gate"),
    ("G34", {"inheritance profile": {"donor accuracy": 0.8}}, "gate"),
    ("G34", {"inheritance distilled": {"resolved": 0.0}}, "rate unresolved"),
    ("G34", {"inheritance plain": {"samples": 5.1}}, "straddles"),
    ("S8", {"superposition": {"gain": 0.1}}, "gate"),
    ("S8", {"superposition": {"worlds z dealt": 0.0}}, "mixed"),  # shared, as without a task
    ("S8", {"superposition": {"worlds variant": 0.0}}, "mixed"),  # shared, as one computation
    ("S8", {"superposition": {"resolved": 0.0}}, "rate unresolved"),
]


@pytest.mark.parametrize(("claim", "changes"), REFUTED)
def test_what_speaks_against_a_claim_refutes_it(claim: str, changes: Changes) -> None:
    assert verdict(claim, planted(changes)) == ("refuted", "")


@pytest.mark.parametrize(("claim", "changes", "code"), UNDECIDED)
def test_what_cannot_be_told_is_undecided(claim: str, changes: Changes, code: str) -> None:
    assert verdict(claim, planted(changes)) == ("undecided", code)


def test_smoke_decides_nothing() -> None:
    for claim in learning.ANSWERS:
        assert verdict(claim, planted(scale="smoke")) == ("undecided", "scale")


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "learning"}
    assert own == set(learning.ANSWERS) == set(learning.RULES) - {"estimand"}


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in learning.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
