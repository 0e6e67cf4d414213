"""Mutation (S3, S4, S5): do evolved mutation rates do what Adam's rates do?

Populations whose members inherit a mutation rate for every gene, in environments that keep changing. What conditions
compute stands in ``evolution/mutation_rates.py``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ontogeny.evolution.mutation_rates import FACTORS, OPTIMISERS, fold, rates_and_updates, switching
from ontogeny.lab.answers import Answer
from ontogeny.lab.experiments.mutation_figures import course_drawing, effects_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.statistics import Interval
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, judge_measured, rates_resolved, reason, shown, simultaneous

NAME = "mutation"
TITLE = "Mutation: do evolved mutation rates do what Adam's rates do?"
VERSION = 1
FLAW = (
    "no computation was published, and the biology is disputed: Monroe et al. (2022) report fewer mutations in "
    "essential genes of Arabidopsis, Wang et al. (2023) put that down to errors in calling mutations. Rates that fall "
    "with a gene's importance resemble Adam's for that reason alone; here importance, drift and jitter are crossed, "
    "Adam's rates are taken from its own path, and populations whose survivors are drawn at random, or whose mutation "
    "rates are all one, stand beside"
)


@dataclass(frozen=True)
class Settings:
    """``offspring`` of a generation; ``generations`` of a population, and of one whose environment is ``switching``."""

    replicates: int
    offspring: int
    generations: int
    switching: int


SCALES = {
    "smoke": Settings(2, offspring=28, generations=90, switching=200),
    "laptop": Settings(20, offspring=140, generations=3000, switching=4000),
}
TASKS = ("genes", "students")
ARMS: dict[str, dict[str, Any]] = {
    "evolved": {},
    "random": {"selection": "random"},
    "fixed": {"adapting": False},
    "clonal": {"inheritance": "clonal"},
}
SWITCHES: dict[str, dict[str, Any]] = {
    "evolved": {},
    "random": {"selection": "random"},
    "native": {"native": True},
    "clonal": {"inheritance": "clonal"},
}

RULES = {
    "estimand": "every number is of one replicate, which draws environment, start and mutations; Student's t intervals "
    "over replicates, as many at once as a rule has (Bonferroni). σ: geometric mean of the survivors', after the first "
    "third. Verdicts are on populations that recombine; clonal ones stand beside. S3 and S5 are undecided, code rate "
    "unresolved, if a rate they tune (Adam's; the one fixed σ) is best at an end of the grid in more than one "
    "replicate in twenty",
    "S3": "fold: how many times lower σ is at 400 times the curvature, by its slope on logarithms (20-fold would make "
    "mutations alike in harm). The claim's sign and that of Adam's rates, which are divided by the root mean square "
    "gradient, are the same for curvature: low. As for steps Adam's are alike for all genes (fold 1), and for "
    "an optimum that drifts, whose gradient is steady, Adam's rates are low where larger steps would pay: there the "
    "signs can part. At the level of five contrasts: log₁₀ fold − that under random selection > log₁₀ 2 in both "
    "tasks, Spearman's correlation of σ with Adam's rates > 0.5 in both, and, with curvature taken out of both, "
    "correlation > 0.1 where curvature, drift and jitter are crossed. Supported if all lower bounds lie above, "
    "refuted if an upper bound lies below: a resemblance that importance alone makes isn't one to Adam",
    "S4": "supported: meta-optimisation; refuted: path dependence. n, b: how much log σ falls with log curvature as it "
    "is now and as it was before the switch, centrality beside them in one regression, in the last quarter. At the "
    "level of three contrasts: n > 0.1, n − b > 0, and n − that under random selection > 0. Supported if all lower "
    "bounds lie above, refuted if an upper bound of n or of n − b lies below; else undecided. It is an answer for as "
    "many generations as were run",
    "S5": "out-of-sample R² of the population mean's updates. At the level of six contrasts, in both tasks: AdamW − "
    "SGD > 0.02, AdamW − the better of momentum and Adam > −0.02, and AdamW − SGD beyond what it is under one fixed "
    "σ > 0. Supported if all lower bounds lie above, refuted if an upper bound lies below",
}
FOLD, RESEMBLES, BEYOND = float(np.log10(2)), 0.5, 0.1  # of S3
FALLS = 0.1  # of S4
AHEAD, NOT_BEHIND = 0.02, -0.02  # of S5


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    for task in TASKS:
        options = {"compute": "rates", "task": task, "offspring": settings.offspring}
        for arm, changes in ARMS.items():
            yield Condition(f"{task} {arm}", options | {"generations": settings.generations} | changes)
    for arm, changes in SWITCHES.items():
        options = {"compute": "switching", "offspring": settings.offspring, "generations": settings.switching}
        yield Condition(f"switch {arm}", options | changes)


COMPUTE = {"rates": rates_and_updates, "switching": switching}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def _resembles_adam(found: Measurements) -> Answer:
    beyond = found.values("genes evolved", "beyond curvature")
    above, parts = [simultaneous(beyond - BEYOND, 5)], []
    for task in TASKS:
        cell = f"{task} evolved"
        folds, chance = (fold(found.values(f"{task} {arm}", "exponent")) for arm in ("evolved", "random"))
        adam = found.values(cell, "with Adam")
        above += [simultaneous(folds - chance - FOLD, 5), simultaneous(adam - RESEMBLES, 5)]
        clonal = 10 ** fold(found.values(f"{task} clonal", "exponent")).mean()
        parts.append(
            f"{task}: log₁₀ fold {shown(simultaneous(folds))} ({10 ** folds.mean():.3g}-fold; "
            f"random selection {10 ** chance.mean():.3g}, clonal {clonal:.3g}, "
            f"Adam's rates {10 ** fold(found.values(cell, 'Adam exponent')).mean():.3g}, "
            f"its steps {10 ** fold(found.values(cell, 'step exponent')).mean():.3g}); "
            f"σ with Adam's rates {shown(simultaneous(adam), 2)}, " + _correlations(found, cell)
        )
    told = "; ".join(parts) + f"; curvature taken out of both {shown(simultaneous(beyond), 2)}; "
    told += "log₁₀ of σ, of Adam's rate: "
    told += ", ".join(_effect(found, factor) for factor in FACTORS)
    resolved = rates_resolved(found, [f"{task} evolved" for task in TASKS], "Adam's rate resolved")
    verdict = judge_measured(above, delta=0.0, decisive_scale=found.experiment.decisive, resolved=resolved)
    return Answer(told, verdict, verdict.code or _why(above))


def _why(above: list[Interval]) -> str:
    beyond, folds = above[0], above[1::2]
    if beyond.high < 0 and min(i.low for i in folds) > 0:
        return "low on essential genes, but not by Adam's rule"
    return "low mutation on essential genes, and Adam's rule beyond that, where both are so"


def _correlations(found: Measurements, cell: str) -> str:
    names = {"with curvature": "curvature", "with mean": "gradient mean", "with variance": "gradient variance"}
    return ", ".join(f"{name} {shown(simultaneous(found.values(cell, key)), 2)}" for key, name in names.items())


def _effect(found: Measurements, factor: str) -> str:
    of = [shown(simultaneous(found.values("genes evolved", f"{name} {factor}")), 2) for name in ("σ", "Adam")]
    return f"{factor} {of[0]}, {of[1]}"


def _meta_optimised(found: Measurements) -> Answer:
    falls = {arm: -found.values(f"switch {arm}", "now") for arm in SWITCHES}
    before = {arm: -found.values(f"switch {arm}", "before") for arm in SWITCHES}
    now = simultaneous(falls["evolved"] - FALLS, 3)
    rather = simultaneous(falls["evolved"] - before["evolved"], 3)
    beyond = simultaneous(falls["evolved"] - falls["random"], 3)
    told = "log σ falls with log curvature as it is now, as it was before: " + "; ".join(
        f"{arm} {shown(simultaneous(falls[arm]))}, {shown(simultaneous(before[arm]))}" for arm in SWITCHES
    )
    told += f"; before the switch {shown(simultaneous(-found.values('switch evolved', 'first')))}"
    told += "; with log centrality " + shown(simultaneous(-found.values("switch evolved", "centrality")))
    verdict = judge_measured([now, rather], delta=0.0, decisive_scale=found.experiment.decisive)
    if verdict.word == "supported":
        verdict = judge_measured([now, rather, beyond], delta=0.0, decisive_scale=True, gates_passed=beyond.low > 0)
    why = {"supported": "σ goes with essentiality", "refuted": "σ stays with what was essential, or never was low"}
    return Answer(told, verdict, verdict.code or why[verdict.word])


def _like_adamw(found: Measurements) -> Answer:
    above, parts = [], []
    for task in TASKS:
        r2 = {name: found.values(f"{task} evolved", f"R² {name}") for name in OPTIMISERS}
        null = found.values(f"{task} fixed", "R² AdamW") - found.values(f"{task} fixed", "R² SGD")
        gain, rest = r2["AdamW"] - r2["SGD"], r2["AdamW"] - np.maximum(r2["momentum"], r2["Adam"])
        above += [simultaneous(gain - AHEAD, 6), simultaneous(rest - NOT_BEHIND, 6), simultaneous(gain - null, 6)]
        response = found.values(f"{task} evolved", "R² response").mean()
        parts.append(
            f"{task}: R² "
            + ", ".join(f"{name} {values.mean():.3f}" for name, values in r2.items())
            + f" (the population's own covariance {response:.3f}); AdamW − SGD {shown(simultaneous(gain))}, "
            f"under one σ {shown(simultaneous(null))}; "
            f"AdamW − the better of momentum and Adam {shown(simultaneous(rest))}"
        )
    resolved = rates_resolved(found, [f"{task} fixed" for task in TASKS], "σ resolved")
    verdict = judge_measured(above, delta=0.0, decisive_scale=found.experiment.decisive, resolved=resolved)
    return Answer("; ".join(parts), verdict, reason(verdict, "updates like AdamW's rather than SGD's where all are so"))


ANSWERS = {"S3": _resembles_adam, "S4": _meta_optimised, "S5": _like_adamw}


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """What moves σ and Adam's rates; the course of σ through a switch."""
    return (effects_drawing(name, found), course_drawing(name, found))
