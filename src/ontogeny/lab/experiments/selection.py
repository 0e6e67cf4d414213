"""Selection (S1, S2, S11, S12, G4, G12, G25, G38): is evolution gradient descent, and what makes it slower?

Populations of points on two landscapes: a quadratic, and a small network's regression. What conditions compute stands
in ``evolution/``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.coevolution import strength
from ontogeny.evolution.direction import alignment, step_sizes
from ontogeny.evolution.factorial import four_cells, target_and_data
from ontogeny.evolution.questions import questions
from ontogeny.evolution.race import race
from ontogeny.lab.experiments.selection_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.selection_answers import (
    CELLS,
    LANDSCAPES,
    SELECTIONS,
    aligned,
    cell_name,
    close_to,
    crossed,
    crossed_name,
    races,
)
from ontogeny.lab.experiments.selection_figures import alignment_drawing, race_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "selection"
TITLE = "Selection: is evolution gradient descent, and what makes it slower?"
VERSION = 1
FLAW = (
    "no number was published. That selection follows the gradient is exact for infinitely many offspring and vanishing "
    "mutations; here populations are finite, their cosine with the gradient is set beside its closed form and beside "
    "populations whose losses are dealt out at random"
)


@dataclass(frozen=True)
class Settings:
    """``dimensions`` of quadratics and ``widths`` of networks, ascending; the middle ones are looked at closely.

    Their alignment is measured with all of ``offspring`` and ``sigmas``, ascending, around ``sigma``. Searchers race
    within ``budget`` evaluations; crossed designs and the six questions take ``evaluations``, populations
    ``generations``. ``doses`` multiply the drift and the noise of the crossed design.
    """

    replicates: int
    dimensions: tuple[int, ...]
    widths: tuple[int, ...]
    offspring: tuple[int, ...]
    sigma: float
    sigmas: tuple[float, ...]
    budget: int
    evaluations: int
    generations: int
    doses: tuple[float, ...]


SCALES = {
    "smoke": Settings(2, (2, 4, 8), (1, 2, 3), (8, 64), 0.1, (0.01, 0.1, 1.0), 1000, 200, 20, (1.0,)),
    "laptop": Settings(
        20, (16, 64, 256), (4, 8, 32), (16, 64, 256, 1024), 0.1, (0.01, 0.03, 0.1, 0.3, 1.0),
        budget=6000, evaluations=2400, generations=300, doses=(1 / 3, 1.0, 3.0),
    ),
}  # fmt: skip

RULES = {
    "estimand": "every number is of one replicate, which draws landscape, start and mutations; Student's t intervals "
    "over replicates, as many at once as a rule has (Bonferroni)",
    "S1": "proportional selection, the largest population, the settings' σ, on both landscapes: the cosine of the "
    "expected displacement with −∇L, and Spearman's correlation of the step's size with the gradient's (four "
    "intervals). Supported if all lower bounds > 0.9, refuted if an upper bound is < 0.9; undecided, code "
    "gate, if the cosine of a generation whose losses are dealt out is above twice what chance gives. Beside "
    "it one generation's cosine by population, σ, dimension, selection and recombination: where it breaks",
    "S2": "anisotropic mutations, else the same: the expected displacement's cosine with −Σ∇L, and by how much that "
    "is above its cosine with −∇L and with −Σ′∇L, Σ′ of the same spectrum (six intervals over both "
    "landscapes). Supported if the first have their lower bounds > 0.9 and the others > 0.05; refuted if an "
    "upper bound of either is below its margin",
    "G4": "in every race: supported if gradient descent and the evolution strategy both reach a tenth of the "
    "start's loss within the budget in 95 % of replicates at least, and the same strategy with its losses "
    "dealt out, which takes away credit alone, stays above it (every lower bound > 0.1, an interval a race); "
    "refuted if the strategy reaches it in less than half of the replicates of some race; else undecided",
    "S11": "exponents of evaluations(pair) / evaluations(gradient) against the effective dimension on quadratics, "
    "and of −steps against the number of exact directional derivatives a step (1, √d, d) in the largest race "
    "of each landscape, least squares on logarithms in every replicate (three intervals). One number a "
    "generation is a signal d times poorer: both are 1 where that is all, 0 where it is nothing. Supported if "
    "all lower bounds > 0.5, refuted if an upper bound is < 0.5; a race that less than 95 % of the replicates "
    "finish makes it undecided, code gate. Networks grow in width, hardly in effective dimension: they tell "
    "nothing by size. Beside it the same with 16 offspring",
    "S12": "log₁₀ loss at equal evaluations, effects of a 2 × 2 × 2 design at every dose: drifting − fixed target, "
    "raw − written data, evolution − gradient (four intervals a dose). Supported if at every dose the first "
    "two have their lower bounds > 0.1 and together exceed the third (lower bound of the difference > 0); "
    "refuted if at every dose an upper bound of the first two is < 0.1 or of the difference < 0; else "
    "undecided, code dose if doses differ, code rate unresolved if in some cell more than one replicate in "
    "twenty has its best rate at an end of the grid",
    "G12": "a question tells the searchers apart in a replicate by |evolution − gradient| − the larger of what half "
    "its rate changes in either, of bits and turning the less telling of a step and an evaluation (six "
    "intervals). Supported if all six lower bounds > 0, refuted if at most two are, else undecided. The "
    "landscape doesn't drift here: see G38",
    "G25": "log₁₀ loss of a population in the end: by how much variation with selection is ahead of each other cell, "
    "and the interaction (four intervals). Supported if all lower bounds > 0.1; refuted if an upper bound is "
    "< 0.1",
    "G38": "log₁₀ error of the last learners on an archive of opponents that none has met: random − co-evolving and "
    "time-shuffled − co-evolving, and the same on random inputs (four intervals). Supported if on the archive "
    "both lower bounds > 0.05 and on random inputs both means > 0; refuted if an upper bound on the archive "
    "is < 0.05; else undecided. Frozen opponents, 32 inputs for ever, stand beside it",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    for landscape, sizes in (("quadratic", settings.dimensions), ("network", settings.widths)):
        middle, most = sizes[len(sizes) // 2], settings.offspring[-1]
        cells = {(middle, n, settings.sigma) for n in settings.offspring}
        cells |= {(middle, most, sigma) for sigma in settings.sigmas} | {(d, most, settings.sigma) for d in sizes}
        base: dict[str, Any] = {"landscape": landscape}
        for rule in SELECTIONS:
            for size, n, sigma in sorted(cells):
                options = base | {"size": size, "offspring": n, "sigma": sigma, "rule": rule}
                yield Condition(aligned(landscape, rule, size, n, sigma), {"compute": "alignment"} | options)
            options = base | {"size": middle, "offspring": most, "sigma": settings.sigma, "rule": rule}
            yield Condition(f"steps {landscape} {rule}", {"compute": "steps"} | options)
            for name, turned, recombination in MATINGS:
                mixed = {"anisotropic": turned, "recombination": recombination}
                yield Condition(f"{name} {landscape} {rule}", {"compute": "alignment"} | options | mixed)
        for size in sizes:
            options = base | {"size": size, "budget": settings.budget}
            yield Condition(f"race {landscape} {size}", {"compute": "race"} | options)
    yield from _designs(settings)


def _designs(settings: Settings) -> Iterator[Condition]:
    for searcher, target, data, dose in crossed(settings.doses):
        options = {"searcher": searcher, "drifting": target == "drifting", "raw": data == "raw", "dose": dose}
        name = crossed_name(searcher, target, data, dose)
        yield Condition(name, {"compute": "crossed"} | options | {"budget": settings.evaluations})
    for variation, selection in CELLS:
        options = {"variation": variation, "selection": selection, "generations": settings.generations}
        yield Condition(cell_name(variation, selection), {"compute": "cells"} | options)
    for searcher in ("gradient", "evolution"):
        options = {"searcher": searcher, "evaluations": settings.evaluations}
        yield Condition(f"questions {searcher}", {"compute": "questions"} | options)
    options = {"width": settings.widths[len(settings.widths) // 2], "generations": settings.generations}
    yield Condition("coevolution", {"compute": "coevolution"} | options)


MATINGS = (("anisotropic", True, False), ("recombined", False, True), ("anisotropic recombined", True, True))
COMPUTE = {
    "alignment": alignment,
    "steps": step_sizes,
    "race": race,
    "crossed": target_and_data,
    "cells": four_cells,
    "questions": questions,
    "coevolution": strength,
}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Alignment by population, mutation size and dimension; evaluations by dimension."""
    close = {landscape: close_to(found, landscape) for landscape in LANDSCAPES}
    return (alignment_drawing(name, found, SELECTIONS, close), race_drawing(name, found, races))
