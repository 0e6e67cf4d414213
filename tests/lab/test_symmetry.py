"""What ``symmetry`` concludes follows from planted measurements, both claims in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.transplant import ARMS
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import symmetry, symmetry_answers
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, Any]]  # start of a condition's name -> quantity -> planted mean
LOSSES = dict(zip(ARMS, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.4, 0.3), strict=True))


def holds(condition: Condition) -> dict[str, Any]:
    """What a supporter would measure; lists go from dense to sparse."""
    fixed: dict[str, Any] = {"reference": 2.3, "resolved": 1.0}
    if condition.name.startswith("wiring"):
        measured = fixed | {f"{arm} loss": loss for arm, loss in LOSSES.items()}
        kinds = ("effective", "overlap", "clustering")
        return measured | {f"{arm} {kind}": 1.0 for arm in ARMS[:-1] for kind in kinds}
    levels = len(condition.options["densities"])

    def falls(first: float, last: float) -> np.ndarray:
        return np.linspace(first, last, levels)

    return fixed | {
        "loss": falls(0.1, 0.4),
        "matched": falls(0.6, 0.55),
        "shuffled": falls(0.2, 0.5),
        "unmatched": falls(0.0, 0.0),
        "same wiring": falls(0.0, 0.5),
        "planted": falls(0.6, 0.75),
        "planted chance": falls(0.2, 0.5),
        "matched barrier": falls(0.2, 0.9),
        "shuffled barrier": falls(1.0, 1.0),
        "unmatched barrier": falls(1.1, 1.1),
        "near symmetry": falls(1.0, 0.5),
        "near symmetry by degree": falls(1.0, 0.4),
    }


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.005) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(symmetry, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition)
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= {key: np.asarray(value) for key, value in values.items()}
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: (value + (key != "resolved") * noise * rng.normal(size=np.shape(value))).tolist()
                for key, value in ((key, np.asarray(value, dtype=float)) for key, value in means.items())
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, changes: Changes | None = None, scale: str = "laptop") -> tuple[str, str]:
    found = symmetry.ANSWERS[claim](planted(changes, scale)).verdict
    return found.word, found.code


STAYS = {"matched": np.linspace(0.6, 0.75, 6), "matched barrier": np.full(6, 0.2)}


def test_planted_effects_are_found() -> None:
    assert verdict("G22") == ("supported", "")
    assert verdict("G22", {"matching": STAYS}) == ("refuted", "")
    assert verdict("G23") == ("supported", "")


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ({"density": 0.41, "named": 0.41}, "worth nothing"),
        ({"named": 0.45}, "names carry it"),
        (dict.fromkeys(symmetry_answers.GRAPHS, 0.88), "exact edges"),
    ],
)
def test_each_way_to_refute_a_topologys_worth(losses: dict[str, float], why: str) -> None:
    answer = symmetry.ANSWERS["G23"](planted({"wiring": {f"{arm} loss": loss for arm, loss in losses.items()}}))
    assert answer.verdict.word == "refuted"
    assert why in answer.why


@pytest.mark.parametrize(
    ("claim", "changes", "code"),
    [
        ("G22", {"matching digits": STAYS}, "worlds differ"),
        ("G22", {"matching": {"matched barrier": STAYS["matched barrier"]}}, "mixed"),
        ("G22", {"matching": {"matched": np.linspace(0.6, 0.623, 6)}}, "straddles"),
        ("G22", {"matching parts": {"loss": np.linspace(0.1, 1.3, 6)}}, "gate"),  # sparse ones learnt too little
        ("G22", {"matching parts": {"shuffled": np.linspace(0.6, 0.5, 6)}}, "gate"),  # dense ones don't match
        ("G22", {"matching parts": {"planted": np.linspace(0.6, 0.55, 6)}}, "gate"),  # a planted match goes unseen
        ("G22", {"matching parts": {"shuffled barrier": np.linspace(1, 0.01, 6)}}, "gate"),  # no barrier to remove
        ("G22", {"matching parts": {"resolved": 0.0}}, "rate unresolved"),
        ("G23", {"wiring digits": {"named loss": 0.45}}, "worlds differ"),
        ("G23", {"wiring parts": {"named loss": 0.7}}, "straddles"),  # names and topology carry as much
        ("G23", {"wiring parts": {"donor loss": 1.2}}, "gate"),
        ("G23", {"wiring parts": {"density loss": 2.4}}, "gate"),
        ("G23", {"wiring parts": {"clustering clustering": 0.8}}, "gate"),
        ("G23", {"wiring parts": {"resolved": 0.0}}, "rate unresolved"),
    ],
)
def test_what_cannot_be_told_is_undecided(claim: str, changes: Changes, code: str) -> None:
    assert verdict(claim, changes) == ("undecided", code)


@pytest.mark.parametrize("claim", list(symmetry.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    assert verdict(claim, scale="smoke") == ("undecided", "scale")


def test_value_is_names_and_topology() -> None:
    shares = symmetry_answers.shares(planted(noise=0), "digits")
    np.testing.assert_allclose(shares["value"], 0.6)
    np.testing.assert_allclose(shares["topology − names"], 0.4)
    np.testing.assert_allclose(shares["degree"], 0.2 - 0.25)
    np.testing.assert_allclose(shares["blocks"], 0.4 - 0.25)


def test_a_donors_rounds_end_at_its_sparsity() -> None:
    study = declare_study(symmetry, "laptop")
    densities = {condition.name: condition.options["densities"] for condition in study.conditions}
    assert densities["matching digits"] == (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
    assert densities["wiring digits"] == (1.0, 0.5, 0.2, 0.1)


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "symmetry"}
    assert own == set(symmetry.ANSWERS) == set(symmetry.RULES) - {"estimand"}


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in symmetry.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
