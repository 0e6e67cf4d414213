"""What ``timescales`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.machinery import GENES
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import timescales
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, float]]  # start of a condition's name -> quantity -> planted mean
WHOLE = ("exact", "levels", "slower", "reached")  # planted without noise


def holds(condition: Condition, levels: int) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if name.startswith("levels"):
        losses = [2.0 + 0.1 * max(0, options["count"] - level) for level in range(1, levels + 1)]
        return {"exact": 1.0, "levels": options["count"], "slower": 1.0, "lacking": 0.4, "losses": losses}
    if name.startswith("threshold"):
        return {"ratio": 1.0}
    if name.startswith("innate"):
        optimum = 0.9 - 10 * options["change"] - 5 * options["mutation"]
        return {"optimum": optimum, "closed form": optimum, "evolved": optimum, "shuffled": 0.67}
    if name.startswith("world"):
        steps = {"instant": 900.0, "law": 800.0}.get(options["world"], 300.0)
        return {"steps": steps, "dormant": 0.2, "reached": 1.0}
    kept = 0.9 if options["kind"] in ("rhythm", "rough") else 0.1
    return dict.fromkeys(GENES, kept) | {f"{gene} ablated": 0.3 for gene in GENES}


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.005) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(timescales, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition, study.settings["levels"])
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key in WHOLE else (np.array(value) + noise * rng.normal()).tolist()
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def answer(claim: str, changes: Changes | None = None, scale: str = "laptop") -> tuple[str, str]:
    verdict = timescales.ANSWERS[claim](planted(changes, scale)).verdict
    return verdict.word, verdict.code


GONE, KEPT = dict.fromkeys(GENES[:2], 0.1), dict.fromkeys(GENES, 0.9)
REFUTED: dict[str, list[Changes]] = {
    "S10": [
        {"levels 2 apart 8": {"exact": 0.0}},
        {"levels 1 apart 8": {"slower": 0.5}},
        {"levels 3 apart 8": {"lacking": 0.02}},
    ],
    "S18": [
        {"innate, change 0.03, mutation 0.01": {"optimum": 0.85}},
        {"innate, change 0, mutation": {"optimum": 0.9}},
        {"innate, change 0.003, mutation 0.01": {"optimum": 0.99}},
        {"threshold peak 50 2": {"ratio": 0.8}},
    ],
    "G10": [
        {"world instant": {"steps": 290.0}},
        {"world instant": {"steps": 290.0}, "world law": {"steps": 290.0}},
        {"world drifting": {"steps": 2000.0}},
    ],
    "G11": [{"genes rhythm": GONE}, {"genes shuffled": KEPT}, {"genes frozen": KEPT}],
}  # fmt: skip
UNDECIDED: dict[str, tuple[Changes, str]] = {
    "G10": ({"world law": {"steps": 300.0}}, "mixed"),
    "G11": ({"genes rhythm": {"predictor": 0.1}}, "mixed"),
}


@pytest.mark.parametrize("claim", list(timescales.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert answer(claim) == ("supported", "")
    for changes in REFUTED[claim]:
        assert answer(claim, changes) == ("refuted", ""), changes


@pytest.mark.parametrize("claim", list(UNDECIDED))
def test_what_is_mixed_is_undecided(claim: str) -> None:
    changes, code = UNDECIDED[claim]
    assert answer(claim, changes) == ("undecided", code)


def test_what_straddles_is_undecided() -> None:
    found = planted()
    cells = dict(found.found)
    half = [
        dict(one) | {"exact": float(place % 2)}
        for place, one in enumerate(cells["levels 3 apart 8"])
        if one is not None
    ]
    cells["levels 3 apart 8"] = tuple(half)
    wide = [
        dict(one) | {"ratio": 1.1 + 0.1 * (-1) ** place}
        for place, one in enumerate(cells["threshold peak 20 2"])
        if one
    ]
    cells["threshold peak 20 2"] = tuple(wide)
    for claim in ("S10", "S18"):
        verdict = timescales.ANSWERS[claim](Measurements(found.experiment, cells)).verdict
        assert (verdict.word, verdict.code) == ("undecided", "straddles")


def test_a_world_that_is_not_learnt_says_nothing() -> None:
    assert answer("G10", {"world law": {"reached": 0.0}}) == ("undecided", "gate")


def test_genes_worth_less_than_they_cost_are_not_machinery() -> None:
    assert answer("G11", {"genes rhythm": {"memory ablated": 0.0}}) == ("undecided", "mixed")


@pytest.mark.parametrize("claim", list(timescales.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    assert answer(claim, scale="smoke") == ("undecided", "scale")


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "timescales"}
    assert own == set(timescales.ANSWERS) == set(timescales.RULES) - {"estimand"}


def test_every_kind_of_condition_computes() -> None:
    study, kinds = declare_study(timescales, "smoke"), set()
    for condition in study.conditions:
        kind = condition.options["compute"]
        if kind not in kinds and kind != "levels":
            kinds.add(kind)
            assert timescales.compute(condition.options, 1)
    assert kinds == set(timescales.COMPUTE) - {"levels"}  # of which test_levels has a run


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in timescales.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
