"""Formation (G6, G14, G21, G29): when does a network's structure form, what sets it, and what can change it?

Axes of small language models on the standard library's text, in one frozen frame of embeddings; networks on digits,
crossed; evolved networks. What conditions compute stands in ``evolution/``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.continents import continents
from ontogeny.evolution.crossing import crossing
from ontogeny.evolution.preference import preference
from ontogeny.evolution.settling import settling
from ontogeny.evolution.viable_paths import modules
from ontogeny.lab.experiments.formation_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.formation_answers import TENTH, evolved, tuned
from ontogeny.lab.experiments.formation_figures import settling_drawing, shares_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "formation"
TITLE = "Formation: when does structure settle, what sets it, and what undoes it?"
VERSION = 1
FLAW = (
    "no number was published, and none of the four says against what. Networks that share a start agree because of it, "
    "and axes of networks that don't can't be compared: here embeddings and heads are drawn at random, frozen and "
    "shared, the untrained network's own axes are subtracted, and the ceiling is a twin on other text. A verdict is "
    "of these architectures, corpora and goals, at a size that trains in seconds. That varying goals make "
    "modules is disputed: Clune et al. 2013 find that costly connections do"
)


@dataclass(frozen=True)
class Settings:
    """How long networks are trained, and how many there are.

    ``settling_steps``: of the networks whose axes are followed, at ``shares`` of the steps and of the text;
    ``continent_steps`` and ``seeds``: of the crossed design's cells; ``base_steps``: before tuning for a preference,
    which is done and undone within ``tuning_steps`` each at ``slower`` × the base's rate; ``crossing_steps``: of
    parents that are crossed. ``populations`` of so many networks (``population``) evolve for ``generations`` in a run.
    """

    replicates: int
    settling_steps: int
    shares: tuple[float, ...]
    continent_steps: int
    seeds: int
    base_steps: int
    tuning_steps: int
    slower: tuple[float, ...]
    crossing_steps: int
    population: int
    generations: int
    populations: int


SCALES = {
    "smoke": Settings(2, 20, (0.1, 0.3), 4, 2, 20, 8, (0.3,), 30, 16, 40, 1),
    "laptop": Settings(10, 600, (0.01, 0.03, 0.1, 0.3), 300, 2, 500, 256, (0.1, 0.3), 400, 100, 1000, 3),
}

RULES = {
    "estimand": "every number is of one replicate, which draws frame, starts, text order, dialect and populations; "
    "axes are a matrix's leading singular directions on its side to the residual stream; their agreement is overlap "
    "beyond chance, 0 as for random subspaces and 1 for equal ones, mean of all matrices. Student's t intervals over "
    "replicates, as many at once as a rule has (Bonferroni). Rates are tuned on a seed of their own; one at an end of "
    "its grid decides nothing, code rate unresolved",
    "G6": "structure settles early if a tenth of the data fixes it: of what a network's last axes agree with those of "
    "a network on other text, 0.8 is there after a tenth of the steps, and in a network that reads a tenth of the "
    "text again and again. That network is a twin with the same start, of whose agreement that with the untrained "
    "network is subtracted, or one with a start of its own. Four intervals of the agreement that is gained − 0.8 × "
    "all that is to gain: supported if all lower bounds > 0, refuted if an upper bound is < 0. A reference is left "
    "out, undecided with code gate if both are, unless training adds more than 0.05 of agreement and the text's order "
    "more than 0.05 to what shuffled text gives (lower bounds); code gate too unless the model beats bigrams. Beside "
    "it the loss's shares",
    "G14": "modularity Q of evolved networks beyond that of their degree-preserving rewirings, lethal threshold − "
    "none, at equal fitness: the highest that both reach in a replicate, with a fixed goal and with varying ones (two "
    "intervals). Supported if both lower bounds > 0.05, refuted if an upper bound is < 0.05; undecided, code gate, if "
    "in some replicate that fitness is below 0.9. Beside it whether what lies between two trained networks lives: "
    "strangers, strangers aligned unit by unit, and kin; children with half of their units removed as the null",
    "G21": "variance components of axes over architectures × corpora × seeds, no start shared, in shares of the "
    "variance of random subspaces: in the core (a matrix's six leading axes) architecture − corpus, in the margins "
    "(the next six) corpus − architecture (two intervals). The estimates are unbiased, so that labels without an "
    "effect have a share of 0. Supported if both lower bounds > 0.02, refuted if an upper bound is < 0.02; undecided, "
    "code gate, unless networks that differ by seed alone agree beyond 0.05 in either part (two lower bounds) and "
    "every cell beats bigrams. By layer and role in the figure",
    "G29": "log₂ of how much less, at every one of the tuning's rates. Cosmetic: how far ordinary training moves the "
    "axes ÷ how far tuning does, for as many steps and for the same weight distance; fragile: steps of text with "
    "neither rule that halve the pretrained rule's log odds ÷ those that halve the tuned one's, equally strong in the "
    "same network (three intervals a rate). Supported if at every rate all lower bounds > 1 (half as far, half as "
    "soon); refuted if at every rate an upper bound is < 1; else undecided, code rate if rates differ; code gate "
    "unless the base keeps the first rule (log odds > 1), is within 0.5 of indifferent about the second, beats "
    "bigrams, and tuning gets there in every replicate, to within 0.5 of the pretrained rule, and is undone within "
    "the steps in 95 % of them, and ordinary training has been as far to within a fifth; a pretrained rule that isn't "
    "undone within them refutes nothing. Beside it the same rule taught late by ordinary training, text without "
    "marks, and noise of the same distance",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    shares = sorted({TENTH, *(share for share in settings.shares if share < 1)})
    yield Condition("settling", {"compute": "settling", "steps": settings.settling_steps, "shares": shares})
    options: dict[str, Any] = {"steps": settings.continent_steps, "seeds": settings.seeds}
    yield Condition("continents", {"compute": "continents"} | options)
    for slower in settings.slower:
        options = {"steps": settings.base_steps, "most": settings.tuning_steps, "slower": slower}
        yield Condition(tuned(slower), {"compute": "preference"} | options)
    yield Condition("crossing", {"compute": "crossing", "steps": settings.crossing_steps})
    sizes = {name: getattr(settings, name) for name in ("population", "generations", "populations")}
    for varying in (False, True):
        for lethal in (False, True):
            options = sizes | {"varying": varying, "lethal": lethal}
            yield Condition(evolved(varying, lethal), {"compute": "modules"} | options)


COMPUTE = {
    "settling": settling,
    "continents": continents,
    "preference": preference,
    "crossing": crossing,
    "modules": modules,
}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    function: Any = COMPUTE[str(given.pop("compute"))]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """When axes settle; what they owe to architecture, corpus and seed."""
    return (settling_drawing(name, found), shares_drawing(name, found))
