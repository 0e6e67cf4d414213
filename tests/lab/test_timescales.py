"""What ``timescales`` concludes follows from planted measurements, each claim in both directions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ontogeny.evolution.machinery import GENES
from ontogeny.evolution.rigidity import GOALS, worlds
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiments import timescales
from ontogeny.lab.experiments.timescales_answers import best_beyond_ends, everywhere, share_interval
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, declare_study
from ontogeny.streams import numpy_stream

Changes = Mapping[str, Mapping[str, Any]]  # start of a condition's name -> quantity -> planted mean
WHOLE = ("exact", "levels", "of fewer", "slower", "reached", "resolved")  # how quantities planted without noise end
FOUR, STEPS = "levels 4 apart 8 noise 1", np.arange(5.0, 5.0 + len(GOALS))


def log_fitness(share: float) -> list[float]:
    """Highest where this share is innate, by the number of open loci."""
    return [1 - abs(1 - open_loci / 20 - share) for open_loci in range(21)]


def holds(condition: Condition, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every claim's supporter would measure."""
    name, options = condition.name, condition.options
    if name.startswith("levels"):
        count = options["count"]
        losses = [2.0 + 0.1 * max(0, count - level) for level in range(settings["levels"] + 1)]
        counts = {"exact": 1.0, "levels": count, "of fewer": count}
        return counts | {"slower": 1.0, "by chance": 0.7, "lacking": 0.4, "losses": losses}
    if name.startswith("threshold"):
        return {"ratio": 1.0, "order": 0.0 if options["kind"] == "peak" else 0.4}
    if name.startswith("innate"):
        optimum = 0.9 - 3 * options["change"] - 3 * options["mutation"]
        shares = {"optimum": optimum, "closed form": optimum, "evolved": optimum, "shuffled": 0.67}
        return shares | {"log fitness": log_fitness(optimum)}
    if name == "worlds":
        found: dict[str, Any] = {}
        for world in worlds(settings["turns"]):
            steps = (STEPS + {"instant": 2.0, "law": 1.0}.get(world, 0.0)).tolist()
            found |= {f"{world} steps": steps, f"{world} dormant": 0.2, f"{world} own": 0.01}
            found |= {f"{world} reached": 1.0, f"{world} resolved": 1.0}
        return found
    return genes(0.8 if options["kind"] in ("rhythm", "smooth", "rough") else 0.1, settings)


def genes(share: float, settings: Mapping[str, Any], ablated: float = 0.3) -> dict[str, Any]:
    """The same of every gene, noise and price."""
    grid = np.ones((len(settings["noises"]), len(settings["prices"])))
    named = [(gene, share) for gene in GENES] + [(f"{gene} ablated", ablated) for gene in GENES]
    return {name: (value * grid).tolist() for name, value in named}


def planted(changes: Changes | None = None, scale: str = "laptop", noise: float = 0.005) -> Measurements:
    """A finished study: the supporter's means with changes, and a little noise over replicates."""
    study = declare_study(timescales, scale)
    found = {}
    for condition in study.conditions:
        means = holds(condition, study.settings)
        for start, values in (changes or {}).items():
            if condition.name.startswith(start):
                means |= values
        rng = numpy_stream(0, "planted", condition.name)
        found[condition.name] = tuple(
            {
                key: value if key.endswith(WHOLE) else (np.array(value) + noise * rng.normal()).tolist()
                for key, value in means.items()
            }
            for _ in range(study.replicates)
        )
    return Measurements(study, found)


def answer(claim: str, changes: Changes | None = None, scale: str = "laptop") -> tuple[str, str]:
    verdict = timescales.ANSWERS[claim](planted(changes, scale)).verdict
    return verdict.word, verdict.code


LAPTOP = declare_study(timescales, "laptop").settings
LOST, KEPT = genes(0.1, LAPTOP), genes(0.8, LAPTOP)
TWO_LOST = {gene: LOST[gene] for gene in GENES[:2]}
DRIFTS = [f"drifting {turn}" for turn in LAPTOP["turns"]]
REFUTED: dict[str, list[Changes]] = {
    "S10": [
        {FOUR: {"exact": 0.0, "levels": 3, "of fewer": 3}},
        {"levels 2 apart 8 noise 1": {"exact": 0.0, "levels": 3, "of fewer": 2}},
        {"levels": {"slower": 0.7}},
        {"levels": {"lacking": 0.02}},
    ],
    "S18": [
        {"innate, change 0.1": {"optimum": 0.9}},
        {"innate, change 0, mutation": {"optimum": 0.9}},
        {"innate, change 0.01": {"log fitness": log_fitness(1.0)}},
        {"innate, change 0.01": {"log fitness": log_fitness(0.0)}},
        {"threshold peak 50 2": {"ratio": 0.8}},
    ],
    "G10": [
        {"worlds": {"instant steps": STEPS.tolist()}},
        {"worlds": {f"{world} steps": (STEPS + 3).tolist() for world in DRIFTS}},
        {"worlds": {"none steps": (STEPS + 3).tolist()}},
    ],
    "G11": [{"genes rhythm": TWO_LOST, "genes smooth": TWO_LOST}, {"genes shuffled": KEPT}, {"genes frozen": KEPT}],
}  # fmt: skip
UNDECIDED: list[tuple[str, Changes, str]] = [
    ("S10", {FOUR: {"exact": 0.0, "levels": 3, "of fewer": 2}}, "data"),
    ("S10", {"levels 4 apart 8 noise 4": {"exact": 0.0}}, "mixed"),
    ("S10", {"levels 2 apart 8 noise 1": {"lacking": -0.1}}, "mixed"),
    ("S10", {"levels 0": {"exact": 0.0}}, "gate"),
    ("S18", {"innate, change 0.1, mutation 0.1": {"optimum": 0.9}}, "mixed"),
    ("G10", {"worlds": {"law steps": STEPS.tolist()}}, "mixed"),
    ("G10", {"worlds": {"drifting 16 steps": (STEPS + 3).tolist()}}, "mixed"),
    ("G10", {"worlds": {"instant steps": (STEPS + np.array([9, 9, 9, -3])).tolist()}}, "mixed"),
    ("G10", {"worlds": {"law reached": 0.0}}, "gate"),
    ("G10", {"worlds": {"drifting 16 own": 0.9}}, "gate"),
    ("G10", {"worlds": {"instant resolved": 0.0}}, "rate unresolved"),
    ("G11", {"genes rhythm": {"predictor": LOST["memory"]}, "genes smooth": {"predictor": LOST["memory"]}}, "mixed"),
    ("G11", {"genes smooth": {"predictor": genes(0.0, LAPTOP)["memory"]}}, "mixed"),
    ("G11", {"genes rhythm": {"memory ablated": genes(0, LAPTOP, 0.0)["memory ablated"]},
             "genes smooth": {"memory ablated": genes(0, LAPTOP, 0.0)["memory ablated"]}}, "mixed"),
]  # fmt: skip


@pytest.mark.parametrize("claim", list(timescales.ANSWERS))
def test_planted_effects_are_found(claim: str) -> None:
    assert answer(claim) == ("supported", "")
    for changes in REFUTED[claim]:
        assert answer(claim, changes) == ("refuted", ""), changes


@pytest.mark.parametrize(("claim", "changes", "code"), UNDECIDED)
def test_what_cannot_be_told_is_undecided(claim: str, changes: Changes, code: str) -> None:
    assert answer(claim, changes) == ("undecided", code)


@pytest.mark.parametrize(
    ("claim", "cell", "quantity", "centre", "spread"),
    [
        ("S10", FOUR, "exact", 0.5, 0.5),
        ("S18", "threshold peak 20 2", "ratio", 1.1, 0.05),
        ("G10", "worlds", "instant steps", STEPS, 9.0),
        ("G11", "genes frozen", "memory", np.full((3, 7), 0.7), 0.3),
    ],
)
def test_what_straddles_is_undecided(claim: str, cell: str, quantity: str, centre: Any, spread: float) -> None:
    found = planted()
    cells = dict(found.found)
    cells[cell] = tuple(
        {**one, quantity: (centre + spread * (-1) ** (place % 2)) if np.ndim(centre) == 0 else
         (centre + spread * (-1) ** (place % 2)).tolist()}
        for place, one in enumerate(cells[cell]) if one
    )  # fmt: skip
    verdict = timescales.ANSWERS[claim](Measurements(found.experiment, cells)).verdict
    assert (verdict.word, verdict.code) == ("undecided", "straddles")


@pytest.mark.parametrize("claim", list(timescales.ANSWERS))
def test_smoke_decides_nothing(claim: str) -> None:
    assert answer(claim, scale="smoke") == ("undecided", "scale")


def test_every_claim_of_the_ledger_is_answered_with_a_rule() -> None:
    own = {claim.id for claim in load_claims() if claim.experiment == "timescales"}
    assert own == set(timescales.ANSWERS) == set(timescales.RULES) - {"estimand"}


def test_exact_intervals_of_shares() -> None:
    every, none = (share_interval(np.full(20, value)) for value in (1.0, 0.0))
    assert every.low == pytest.approx(0.025 ** (1 / 20))
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert (every.high, none.low) == (1, 0)


def test_the_best_setting_is_not_better_by_chance() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 21))
    assert np.abs(best_beyond_ends(noise).mean(0)).max() < 0.2
    peaked = noise + 5.0 * (np.arange(21) == 10)
    assert best_beyond_ends(peaked).mean(0) == pytest.approx([5, 5], abs=0.2)


def test_a_sign_has_to_hold_at_every_value_of_every_grid() -> None:
    values = np.ones((5, 2, 3))
    assert everywhere(values)
    values[:, :, 1] = -1
    assert not everywhere(values)


def test_every_kind_of_condition_computes() -> None:
    study, kinds = declare_study(timescales, "smoke"), set()
    for condition in study.conditions:
        kind = condition.options["compute"]
        if kind not in kinds:
            kinds.add(kind)
            assert timescales.compute(condition.options, 1)
    assert kinds == set(timescales.COMPUTE)


def test_figures_are_drawn(tmp_path: Path) -> None:
    for drawing in timescales.figures("name", planted(), Store(tmp_path)):
        assert drawing.png.startswith(b"\x89PNG")
