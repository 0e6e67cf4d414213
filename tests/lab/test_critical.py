"""What ``critical`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.amnesia import cases
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import critical, critical_answers
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, Any]]  # start of a condition's name -> quantity -> planted mean


def deprived(top: float, harms: list[float], lengths: int) -> list[list[float]]:
    """By onset: never deprived, then at every length, the harm growing with length up to these."""
    return [[top, *(top - harm * (n + 1) / lengths for n in range(lengths))] for harm in harms]


def falling(early: float, late: float, onsets: int) -> list[float]:
    return [float(harm) for harm in np.linspace(early, late, onsets)]


def holds(condition: Condition) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    options: Mapping[str, Any] = condition.options
    if options["compute"] == "deprivation":
        onsets, lengths = len(options["onsets"]), len(options["lengths"])
        top, nothing = (0.8, 0.1) if options["kind"] == "eye" else (-2.3, -2.8)
        table = deprived(top, falling(0.2, 0.05, onsets), lengths)
        index = {"dominance": deprived(0.0, falling(0.4, 0.1, onsets), lengths)} if options["kind"] == "eye" else {}
        return {"alone": table, "all": table, "nothing": nothing, "resolved": 1.0} | index
    if options["compute"] == "channels":
        within = {"cka within": 0.9, "mistakes within": 0.5, "cka untrained": 0.5}
        return {"cka": 0.3, "mistakes": 0.3, "right": 0.8, "resolved": 1.0} | within
    if options["compute"] == "codes":
        close = {f"{what} {code}": 0.01 for what in ("cka", "left over") for code in ("permuted", "mixed", "receptors")}
        far = {"cka dealt": 0.3, "left over dealt": 0.3, "axes permuted": 0.0, "axes mixed": 0.1, "axes dealt": 0.2}
        return close | far | {"right": 0.9, "right dealt": 0.5, "resolved": 1.0}
    if options["compute"] == "items":
        hows = [how for how, _ in cases(options["shares"])]
        early = [0.8 if how in ("never", "late") else 0.3 for how in hows]
        late = [0.4 if how == "late" else 0.8 for how in hows]
        learnt = [0.98] * len(hows)
        kept = {"early kept": early, "late kept": late, "digits": [0.8] * len(hows)}
        return {"early learnt": learnt, "late learnt": learnt, "resolved": 1.0} | kept
    single, two = (0.1, 1.0) if options["redundant"] else (0.5, 1.0)
    lost = {
        "both": 0.6,
        "without first": 0.6 + single,
        "without second": 0.6 + single,
        "neither": 0.6 + two,
        "late": 0.8,
    }
    alike = {"both": 0.9, "without first": 0.85, "without second": 0.85, "neither": 0.4, "late": 0.7}
    named = {f"loss {name}": loss for name, loss in lost.items()} | {f"cka {name}": cka for name, cka in alike.items()}
    return named | {"resolved": 1.0}


FIXED = ("resolved", "nothing")


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.005) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(critical, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition)
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key in FIXED else (np.array(value) + noise * rng.normal(size=np.shape(value))).tolist()
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def verdict(claim: str, found: Measurements) -> tuple[str, str]:
    answer = critical.ANSWERS[claim](found)
    return answer.verdict.word, answer.verdict.code


def constant(top: float, harm: float) -> list[list[float]]:
    """As much harm at every onset."""
    return deprived(top, [harm] * 3, 2)


HARMLESS, EQUAL = constant(0.8, 0.0), constant(0.8, 0.2)  # of an eye
SPARED = {"early kept": [0.8] * 7}  # whatever is pruned
FORGOTTEN = {"early kept": [0.8, 0.3, 0.3, 0.8, 0.8, 0.8, 0.8]}  # where half is pruned; where more is, nothing is lost
REFUTED: dict[str, list[Changes]] = {
    "S6": [
        {"deprivation eye": {"alone": EQUAL}},
        {"deprivation eye": {"alone": HARMLESS}},
        {"deprivation eye": {"dominance": constant(0.0, 0.3)}},
        {"deprivation skill": {"alone": constant(-2.3, 0.2)}},
    ],
    "G3": [{"channels place": {"cka": 0.0}}, {"channels scale": {"mistakes": 0.02}}],
    "G7": [{"codes": {"cka mixed": 0.2}}, {"codes": {"left over receptors": 0.2}}],
    "G8": [{"items": SPARED}, {"items": {"late kept": [0.8, *[0.3] * 6]}}],
    "G35": [
        {"senses redundant": {"loss without first": 1.2}},
        {"senses redundant": {"cka without second": 0.5}},
    ],
}
UNDECIDED: list[tuple[str, str, Changes]] = [
    ("S6", "mixed", {"deprivation eye genome": {"alone": EQUAL}}),
    ("S6", "gate", {"deprivation eye dense": {"nothing": 0.7}}),
    ("S6", "gate", {"deprivation skill genome": {"nothing": -2.35}}),
    ("S6", "straddles", {"deprivation eye": {"alone": deprived(0.8, [0.211, 0.2, 0.2], 2)}}),
    ("G3", "gate", {"channels scale": {"right": 0.4}}),
    ("G3", "gate", {"channels place": {"mistakes within": 0.1}}),
    ("G7", "gate", {"codes": {"cka dealt": 0.02}}),
    ("G7", "gate", {"codes": {"left over permuted": 0.2}}),
    ("G7", "gate", {"codes": {"right": 0.3}}),
    ("G7", "straddles", {"codes": {"cka receptors": 0.05}}),
    ("G8", "dose", {"items": FORGOTTEN}),
    ("G8", "gate", {"items": {"late learnt": [0.9] * 7}}),
    ("G8", "gate", {"items": {"early kept": [0.1] * 7}}),
    ("G8", "gate", {"items": {"digits": [0.8] * 6 + [0.2]}}),
    ("G35", "gate", {"senses redundant": {"loss both": 1.4}}),
    ("G35", "gate", {"senses separate": {"loss neither": 0.65}}),
    ("G35", "gate", {"senses separate": {"loss without first": 0.8, "loss without second": 0.8}}),
]
CELLS = {
    "S6": ("deprivation eye dense", "deprivation skill genome"), "G3": ("channels place",), "G7": ("codes",),
    "G8": ("items",), "G35": ("senses separate",),
}  # fmt: skip


@pytest.mark.parametrize("claim", list(critical.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert verdict(claim, planted()) == ("supported", "")
    for changes in REFUTED[claim]:
        assert verdict(claim, planted(changes)) == ("refuted", ""), changes


@pytest.mark.parametrize(("claim", "code", "changes"), UNDECIDED)
def test_what_cannot_be_told_is_undecided(claim: str, code: str, changes: Changes) -> None:
    assert verdict(claim, planted(changes)) == ("undecided", code)


@pytest.mark.parametrize("claim", list(critical.ANSWERS))
def test_rates_at_the_grids_end_decide_nothing(claim: str) -> None:
    for cell in CELLS[claim]:
        assert verdict(claim, planted({cell: {"resolved": 0.0}})) == ("undecided", "rate unresolved")


@pytest.mark.parametrize("claim", list(critical.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    assert verdict(claim, planted(scale="smoke")) == ("undecided", "scale")


def test_what_stands_beside_decides_nothing() -> None:
    changes: Changes = {
        "deprivation eye random": {"alone": HARMLESS, "resolved": 0.0},
        "deprivation eye dense, decaying rate": {"alone": HARMLESS, "resolved": 0.0},
        "channels scattered": {"cka": 0.0, "mistakes": 0.0, "resolved": 0.0},
        "senses redundant": {"loss late": 0.6},
    }
    for claim in critical.ANSWERS:
        assert verdict(claim, planted(changes)) == ("supported", "")


def test_harm_is_against_a_twin_that_was_never_deprived() -> None:
    found = critical_answers.harm(planted(noise=0.0), critical_answers.grown("eye", "dense"))
    np.testing.assert_allclose(found[0], [[0.1, 0.2], [0.0625, 0.125], [0.025, 0.05]], atol=1e-9)


def test_costs_that_add_up_are_none_beyond_their_sum() -> None:
    found = planted(noise=0.0)
    shares = [critical_answers.beyond_sum(critical_answers.costs(found, world)) for world in ("redundant", "separate")]
    np.testing.assert_allclose(shares, [0.8, 0.0], atol=1e-9)


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "critical"}
    assert own == set(critical.ANSWERS) == set(critical.RULES) - {"estimand"}


def test_every_condition_of_smoke_is_computed(tmp_path: Any) -> None:
    study = declare_study(critical, "smoke", ["replicates=1", "recovery=3", "steps=3", "learning=3", "interval=3"])
    found = {
        condition.name: (critical.compute(condition.options, 7),)
        for condition in study.conditions
        if "random" not in condition.name and "decaying" not in condition.name
    }
    for condition in study.conditions:  # what is left out is measured like another arm
        kind = condition.options.get("kind")
        found.setdefault(condition.name, found.get(f"deprivation {kind} dense", ({},)))
    measured = Measurements(study, found)
    for answer in critical.ANSWERS.values():
        assert answer(measured).verdict.code == "scale"


def test_figures_are_drawn(tmp_path: Any) -> None:
    for drawing in critical.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
