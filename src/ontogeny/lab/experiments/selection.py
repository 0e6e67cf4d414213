"""Selection (S1, S2, S11, S12, G4, G12, G25, G38): is evolution gradient descent, and what makes it slower?

Populations of points on two landscapes: a quadratic, and a small network's regression. What conditions compute stands
in ``evolution/``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.coevolution import strength
from ontogeny.evolution.direction import alignment, step_sizes
from ontogeny.evolution.factorial import four_cells, target_and_data
from ontogeny.evolution.questions import QUESTIONS, questions
from ontogeny.evolution.race import race
from ontogeny.lab.answers import Answer
from ontogeny.lab.experiments.selection_figures import alignment_drawing, race_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.statistics import Interval, Verdict, paired_interval, simultaneous_level
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, judge_measured, shown

NAME = "selection"
TITLE = "Selection: is evolution gradient descent, and what makes it slower?"
VERSION = 1
FLAW = (
    "no number was published. That selection follows the gradient is exact where the mean of infinitely many offspring "
    "is taken; here populations are finite, their cosine with the gradient is set beside its closed form and beside "
    "populations whose losses are dealt out at random"
)


@dataclass(frozen=True)
class Settings:
    """``dimension`` of quadratics, ``width`` of networks whose alignment is measured, with ``offspring`` at ``sigmas``.

    Races run in ``dimensions`` and ``widths``, each searcher within ``budget`` evaluations; crossed designs and the six
    questions within ``evaluations``, populations for ``generations``.
    """

    replicates: int
    dimension: int
    width: int
    offspring: tuple[int, ...]
    sigmas: tuple[float, ...]
    dimensions: tuple[int, ...]
    widths: tuple[int, ...]
    budget: int
    evaluations: int
    generations: int


SCALES = {
    "smoke": Settings(2, 8, 2, (8, 64), (0.01, 0.3), (2, 4, 8), (1, 2), 2000, 400, 20),
    "laptop": Settings(
        20, 64, 8, (16, 64, 256, 1024, 4096), (0.01, 0.03, 0.1, 0.3, 1.0), (4, 16, 64, 256), (1, 4, 16),
        budget=200_000, evaluations=9600, generations=300,
    ),
}  # fmt: skip
LANDSCAPES = ("quadratic", "network")
SELECTIONS = ("proportional", "standardised", "truncation")

RULES = {
    "estimand": "every number is of one replicate, which draws landscape, start and mutations; intervals are over "
    "replicates, by the bootstrap from 20 on",
    "S1": "with the largest population and the smallest mutations, proportional selection: supported if on both "
    "landscapes the cosine of a generation's displacement with −∇L has its lower bound > 0.9, Spearman's "
    "correlation of the step's size with the gradient's has its lower bound > 0.9, and the shuffled "
    "null's cosine has its upper bound < 0.5; refuted if an upper bound of the first two is < 0.9 on "
    "either; else undecided",
    "S2": "anisotropic mutations, else the same: cosine with −Σ∇L − cosine with −∇L on both landscapes. "
    "Supported if both lower bounds > 0.05, refuted if an upper bound is < 0.05",
    "G4": "supported if in every race, and in every replicate, both searchers reach a tenth of the start's loss "
    "within the budget, and blind search, with as many points as the evolution strategy tried, has a "
    "lower bound of its best share > 0.1 in the largest of both; refuted if the evolution strategy fails "
    "in every replicate of some race",
    "S11": "the exponent e of evaluations(evolution) / evaluations(gradient) ∝ d^e, least squares on logarithms "
    "in every replicate, both landscapes. Supported if both lower bounds > 0.25, refuted if an upper "
    "bound is < 0.25; a race not finished in some replicate makes it undecided, code gate",
    "S12": "log₁₀ loss at equal evaluations, effects of a 2 × 2 × 2 design at the level of three contrasts: "
    "drifting − fixed target, raw − written data, evolution − gradient. Supported if the first two have "
    "their lower bounds > 0.1 and together exceed the third (lower bound of the difference > 0); refuted "
    "if either of the first two has its upper bound < 0.1, or together they fall short of the third "
    "(upper bound < 0); else undecided",
    "G12": "paired differences evolution − gradient of six quantities at the level of six contrasts: supported "
    "if every interval leaves out 0, refuted if at most two do, else undecided",
    "G25": "log₁₀ loss of a population in the end: supported if variation with selection is ahead of either "
    "alone and of neither, all three lower bounds at the level of three contrasts > 0.1; refuted if an "
    "upper bound is < 0.1",
    "G38": "log₁₀ error on an archive of opponents that no learner has met, at the level of two contrasts: "
    "frozen − co-evolving and time-shuffled − co-evolving. Supported if both lower bounds > 0.05, refuted "
    "if an upper bound is < 0.05; random opponents beside it",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    sizes = {"quadratic": settings.dimension, "network": settings.width}
    most, least = max(settings.offspring), min(settings.sigmas)
    for landscape, size in sizes.items():
        base: dict[str, Any] = {"compute": "alignment", "landscape": landscape, "size": size}
        for rule in SELECTIONS:
            cells = [(n, least) for n in settings.offspring] + [(most, s) for s in settings.sigmas if s != least]
            for n, sigma in cells:
                options = base | {"offspring": n, "sigma": sigma, "rule": rule}
                yield Condition(f"alignment {landscape} {rule} {n} {sigma:g}", options)
            largest = {"offspring": most, "sigma": least, "rule": rule}
            yield Condition(f"steps {landscape} {rule}", base | largest | {"compute": "steps"})
            yield Condition(f"anisotropic {landscape} {rule}", base | largest | {"anisotropic": True})
    for landscape, races in (("quadratic", settings.dimensions), ("network", settings.widths)):
        for size in races:
            options = {"landscape": landscape, "size": size, "budget": settings.budget}
            yield Condition(f"race {landscape} {size}", {"compute": "race"} | options)
    for searcher, target, data in CROSSED:
        options = {"searcher": searcher, "drifting": target == "drifting", "raw": data == "raw"}
        yield Condition(
            f"crossed {searcher} {target} {data}", {"compute": "crossed"} | options | {"budget": settings.evaluations}
        )
    for variation, selection in CELLS:
        options = {"variation": variation, "selection": selection, "generations": settings.generations}
        yield Condition(_cell(variation, selection), {"compute": "cells"} | options)
    for searcher in ("gradient", "evolution"):
        options = {"searcher": searcher, "evaluations": settings.evaluations}
        yield Condition(f"questions {searcher}", {"compute": "questions"} | options)
    options = {"width": settings.width, "generations": settings.generations}
    yield Condition("coevolution", {"compute": "coevolution"} | options)


CROSSED = [(s, t, d) for s in ("gradient", "evolution") for t in ("fixed", "drifting") for d in ("written", "raw")]
CELLS = [(variation, selection) for variation in (True, False) for selection in (True, False)]
COMPUTE = {
    "alignment": alignment,
    "steps": step_sizes,
    "race": race,
    "crossed": target_and_data,
    "cells": four_cells,
    "questions": questions,
    "coevolution": strength,
}


def _cell(variation: bool, selection: bool) -> str:
    return f"variation {'on' if variation else 'off'}, selection {'on' if selection else 'off'}"


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def _interval(values: Float[np.ndarray, " replicates"], contrasts: int = 1) -> Interval:
    return paired_interval(values, simultaneous_level(contrasts))


def _largest(found: Measurements, landscape: str, rule: str) -> str:
    settings = found.experiment.settings
    return f"alignment {landscape} {rule} {max(settings['offspring'])} {min(settings['sigmas']):g}"


def _follows_gradient(found: Measurements) -> Answer:
    cells = {landscape: _largest(found, landscape, "proportional") for landscape in LANDSCAPES}
    cosines = [_interval(found.values(cell, "cosine")) for cell in cells.values()]
    sizes = [_interval(found.values(f"steps {landscape} proportional", "monotone")) for landscape in LANDSCAPES]
    nulls = [_interval(found.values(cell, "shuffled")) for cell in cells.values()]
    told = "cosine " + ", ".join(f"{a} {shown(i)}" for a, i in zip(LANDSCAPES, cosines, strict=True))
    told += "; step's size with the gradient's " + ", ".join(map(shown, sizes))
    told += "; losses dealt out " + ", ".join(shown(i, 2) for i in nulls)
    for rule in SELECTIONS[1:]:
        exponents = [found.values(f"steps {landscape} {rule}", "exponent").mean() for landscape in LANDSCAPES]
        told += f"; under {rule} selection the step grows as the gradient's power " + ", ".join(
            f"{e:.2f}" for e in exponents
        )
    gate = max(null.high for null in nulls) < 0.5
    verdict = judge_measured([*cosines, *sizes], delta=0.9, decisive_scale=found.experiment.decisive, gates_passed=gate)
    return Answer(told, verdict, verdict.code or "direction and size follow the gradient where both are so")


def _preconditioned(found: Measurements) -> Answer:
    cells = [f"anisotropic {landscape} proportional" for landscape in LANDSCAPES]
    gains = [_interval(found.values(cell, "preconditioned") - found.values(cell, "cosine")) for cell in cells]
    means = [found.values(cell, "preconditioned").mean() for cell in cells]
    told = "cosine with −Σ∇L − with −∇L: " + ", ".join(
        f"{a} {shown(i)} (to {m:.3f})" for a, i, m in zip(LANDSCAPES, gains, means, strict=True)
    )
    verdict = judge_measured(gains, delta=0.05, decisive_scale=found.experiment.decisive)
    return Answer(told, verdict, verdict.code or "the covariance of mutations turns the step")


def _races(found: Measurements, landscape: str) -> list[str]:
    return found.named(f"race {landscape} ")


def _credit(found: Measurements) -> Answer:
    races = [cell for landscape in LANDSCAPES for cell in _races(found, landscape)]
    reached = np.array([found.values(cell, "reached") for cell in races])  # (races, replicates)
    blind = [_interval(found.values(_races(found, landscape)[-1], "blind")) for landscape in LANDSCAPES]
    told = f"both at the goal in {(reached == 1).mean():.0%} of races; as many blind tries reach a share of "
    told += ", ".join(f"{shown(i)} ({landscape})" for landscape, i in zip(LANDSCAPES, blind, strict=True))
    decisive = found.experiment.decisive
    if decisive and (reached == 1).all() and min(i.low for i in blind) > 0.1:
        return Answer(told, Verdict("supported"), "both assign credit: blind search doesn't get there")
    if decisive and (reached < 1).all(axis=1).any():
        return Answer(told, Verdict("refuted"), "one of the two never gets there")
    return Answer(told, Verdict("undecided", "mixed" if decisive else "scale"), "mixed" if decisive else "scale")


def exponents(found: Measurements, landscape: str) -> Float[np.ndarray, " replicates"]:
    """Every replicate's slope of log evaluations(evolution) ÷ evaluations(gradient) on log dimension."""
    cells = _races(found, landscape)
    ratio = np.array(
        [found.values(c, "evolution evaluations") / found.values(c, "gradient evaluations") for c in cells]
    )
    dimensions = [found.values(cell, "dimension").mean() for cell in cells]
    return np.asarray(np.polyfit(np.log(dimensions), np.log(ratio), 1)[0])


def _richer_signal(found: Measurements) -> Answer:
    slopes = [_interval(exponents(found, landscape)) for landscape in LANDSCAPES]
    told = "evaluations evolution ÷ gradient grow as the dimension's power " + ", ".join(
        f"{shown(i)} ({landscape})" for landscape, i in zip(LANDSCAPES, slopes, strict=True)
    )
    cells = [cell for landscape in LANDSCAPES for cell in _races(found, landscape)]
    finished = all((found.values(cell, "reached") == 1).all() for cell in cells)
    verdict = judge_measured(slopes, delta=0.25, decisive_scale=found.experiment.decisive, gates_passed=finished)
    return Answer(told, verdict, verdict.code or "a gradient says more the more dimensions there are")


def _target_and_data(found: Measurements) -> Answer:
    losses = {cell: found.values("crossed " + " ".join(cell), "loss") for cell in CROSSED}

    def effect(place: int, high: str) -> Float[np.ndarray, " replicates"]:
        signed = [loss if cell[place] == high else -loss for cell, loss in losses.items()]
        return np.asarray(2 * np.mean(signed, axis=0))

    parts = {"target": effect(1, "drifting"), "data": effect(2, "raw"), "searcher": effect(0, "evolution")}
    intervals = {name: _interval(values, 3) for name, values in parts.items()}
    rest = _interval(parts["target"] + parts["data"] - parts["searcher"])
    told = "log₁₀ loss: " + ", ".join(f"{name} {shown(i)}" for name, i in intervals.items())
    told += f"; target and data beyond searcher {shown(rest)}"
    decisive, first = found.experiment.decisive, (intervals["target"], intervals["data"])
    verdict = judge_measured(first, delta=0.1, decisive_scale=decisive)
    if decisive and rest.high < 0:
        verdict = Verdict("refuted")
    elif verdict.word == "supported" and rest.low <= 0:
        verdict = Verdict("undecided", "mixed")
    return Answer(told, verdict, verdict.code or "what they cost together, beside the searcher")


def _six_questions(found: Measurements) -> Answer:
    pairs = {
        name: _interval(found.values("questions evolution", name) - found.values("questions gradient", name), 6)
        for name in QUESTIONS
    }
    apart = sum(i.low > 0 or i.high < 0 for i in pairs.values())
    told = f"{apart} of six tell them apart; evolution − gradient: " + ", ".join(
        f"{name} {shown(i)}" for name, i in pairs.items()
    )
    if not found.experiment.decisive:
        return Answer(told, Verdict("undecided", "scale"), "scale")
    if apart == len(pairs):
        return Answer(told, Verdict("supported"), "every question tells them apart")
    if apart <= 2:
        return Answer(told, Verdict("refuted"), "at most two do")
    return Answer(told, Verdict("undecided", "mixed"), "mixed")


def _both_needed(found: Measurements) -> Answer:
    both, *others = (found.values(_cell(*cell), "loss") for cell in CELLS)
    gaps = {_cell(*cell): _interval(loss - both, 3) for cell, loss in zip(CELLS[1:], others, strict=True)}
    told = "log₁₀ loss beyond that with both: " + "; ".join(f"{name} {shown(i)}" for name, i in gaps.items())
    verdict = judge_measured(gaps.values(), delta=0.1, decisive_scale=found.experiment.decisive)
    return Answer(told, verdict, verdict.code or "against each of the other three cells")


def _coevolution(found: Measurements) -> Answer:
    own = found.values("coevolution", "archive co-evolving")
    gaps = {kind: _interval(found.values("coevolution", f"archive {kind}") - own, 2) for kind in ("frozen", "shuffled")}
    told = "log₁₀ error beyond that of co-evolving opponents: " + ", ".join(f"{k} {shown(i)}" for k, i in gaps.items())
    told += f", random {shown(_interval(found.values('coevolution', 'archive random') - own))}"
    verdict = judge_measured(gaps.values(), delta=0.05, decisive_scale=found.experiment.decisive)
    return Answer(told, verdict, verdict.code or "against an archive that none has met")


ANSWERS = {
    "S1": _follows_gradient,
    "S2": _preconditioned,
    "S11": _richer_signal,
    "S12": _target_and_data,
    "G4": _credit,
    "G12": _six_questions,
    "G25": _both_needed,
    "G38": _coevolution,
}


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Alignment by population and mutation size; evaluations by dimension."""
    return (alignment_drawing(name, found, SELECTIONS), race_drawing(name, found, exponents))
