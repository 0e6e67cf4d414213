"""Time scales (S10, S18, G10, G11): what a world that changes asks of memory, of genomes, and of what can learn.

What conditions compute stands in ``evolution/``: ``levels``, ``quasispecies``, ``innate``, ``rigidity``, ``machinery``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.innate import innate_share
from ontogeny.evolution.levels import recover
from ontogeny.evolution.machinery import machinery
from ontogeny.evolution.quasispecies import error_threshold
from ontogeny.evolution.rigidity import rigidity
from ontogeny.lab.experiments.timescales_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.timescales_answers import (
    KINDS,
    NEARER,
    NOISY,
    WORLDS,
    genes_name,
    innate_name,
    levels_name,
)
from ontogeny.lab.experiments.timescales_figures import genome_drawing, machinery_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "timescales"
TITLE = "Time scales: what does a changing world ask of memory, genomes, and what can learn?"
VERSION = 1
FLAW = (
    "no number was published. These designs aren't innocent: a first draft, never run at full scale, was adjusted "
    "while its writer looked at single runs. It left out four planted time scales, since three were found in as many "
    "data; chose a world, a price, a noise and mutation rates at which genes pay; and asked more of re-adaptation "
    "than at first. The conditions are back, and grids of prices, noises, worlds, speeds and goals, declared before "
    "any run of this version, stand in place of the choices; what couldn't be swept is left as it was: eightfold time "
    "scales (the widest of which the slowest of four still turns over in an episode, so the kindest to the claim), "
    "the strength of selection, how long a rhythm keeps its phase, how often genes mutate, and the 10 % by which a "
    "threshold may miss. For sums of AR(1) processes the best predictor has one level a time scale by theory, so the "
    "question is whether finite data show it. Eigen's threshold is one of a single fitness peak, and whether real "
    "genomes live near it is disputed (Wiehe 1997): a slope stands beside it. Hinton and Nowlan's organisms were "
    "sexual, these are not. Continual training is known to make units dormant too (Dohare et al. 2024; Sokar et al. "
    "2023), against the claim's direction: their networks' units could die, here rectifiers leak; data that are few "
    "are told apart from a world that stands still, and drift from variety"
)


@dataclass(frozen=True)
class Settings:
    """Worlds of ``planted`` time scales, and of none, ``steps`` long, are foretold by up to ``levels`` memories.

    Error thresholds are measured at ``lengths`` and ``superiorities``, of ``individuals``; innate shares where what is
    right changes with ``changes``, ascending, and never, at ``mutations``, ascending, in populations of ``population``;
    both for ``generations``. Networks train ``training`` steps, on drifting worlds of so many ``turns``, and re-adapt
    within as many. Genes of machinery evolve for ``lives`` among ``animals``, at ``prices`` (in squared errors, the
    world's variance is 1), where what is seen has ``noises`` (sd) and the world time scales of ``drifts`` (in steps,
    of which a life has 20).
    """

    replicates: int
    planted: tuple[int, ...]
    steps: int
    levels: int
    lengths: tuple[int, ...]
    superiorities: tuple[float, ...]
    individuals: int
    changes: tuple[float, ...]
    mutations: tuple[float, ...]
    population: int
    generations: int
    training: int
    turns: tuple[int, ...]
    drifts: tuple[float, ...]
    prices: tuple[float, ...]
    noises: tuple[float, ...]
    animals: int
    lives: int


SCALES = {
    "smoke": Settings(
        2, (1, 2), 2048, 3, (20,), (10.0,), 200, (0.01, 0.1), (0.001, 0.1), 50, 20, 40, (1,), (200.0, 2.0),
        (0.01, 0.1), (0.1, 1.0), animals=50, lives=20,
    ),
    "laptop": Settings(
        20, (1, 2, 3, 4), 16_384, 5, (20, 50), (2.0, 10.0), 2000, (0.001, 0.01, 0.1), (0.001, 0.01, 0.1), 256, 300,
        1500, (1, 4, 16), (2000.0, 200.0, 20.0, 2.0), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.1, 0.3, 1.0),
        animals=200, lives=300,
    ),
}  # fmt: skip

RULES = {
    "estimand": "every number is of one replicate, which draws world, start and chance; Student's t intervals over "
    "replicates, exact ones (Clopper and Pearson) of shares of replicates, as many at once as a rule has "
    "(Bonferroni). Where a grid stands for what can't be chosen, a contrast is its mean over the grid, and support "
    "also asks its mean over replicates to be above 0 at every value of the grid, the others averaged: else "
    "undecided, code mixed",
    "S10": "time scales eightfold apart, but for a jitter, noise as large as each process; six intervals. The share of "
    "replicates that recover 1, 2, 3 and 4 of them, each > 0.5; with as many levels as time scales, of two and more, "
    "the share of levels whose process varies more slowly than they update > 0.9 (0.67 by chance), and what as many "
    "levels of one rate lack of the gain > 0.1 (grid: the number planted). Supported if all lower bounds lie above, "
    "and four are recovered in most replicates at a quarter and four times the noise too (else mixed). Refuted if an "
    "upper bound lies below: so a number that isn't recovered refutes, with as many levels as are found told beside "
    "it. But where too few are found and a quarter of the episodes find fewer still (lower bound of the difference "
    "> 0), data may be what is lacking: undecided, code data. Undecided, code gate, if levels are found where no "
    "time scale is planted in more than a quarter of the replicates",
    "S18": "five intervals. The innate share of highest fitness falls from no to the fastest change by > 0.05 (grid: "
    "mutation rates) and, where nothing changes, from the lowest to the highest mutation rate by > 0.05; at the "
    "middle change the best share, as the other replicates say, is fitter than writing all and than writing nothing "
    "by > 0.05 in log fitness each (grid: mutation rates); and of the error thresholds of populations on peaks the "
    "one farthest from Eigen's is within 10 % of it. Supported if all five hold by their lower bounds, refuted if "
    "one fails by its upper bound",
    "G10": "log₂ steps to a half, a quarter, an eighth and a sixteenth of a new world's variance (grids: these goals; "
    "speeds of drift); three intervals. After a frozen instant − after drift, after a frozen law with new data − "
    "after drift, and after a frozen instant − untrained, for a crystal is rigid beside what has learnt nothing. "
    "Supported if all lower bounds > 0.1; refuted if an upper bound of either of the frozen instant's is < 0.1; a "
    "frozen instant slower without the law being so is undecided, code mixed, since few data alone would do it. "
    "Undecided, code gate, unless each of these worlds is learnt (own loss < a quarter of the variance) and left for "
    "the new one (the last goal reached) in most replicates; code rate unresolved as everywhere. Dormant units are "
    "told beside it and decide nothing",
    "G11": "share kept of each of three genes, averaged over prices from where selection doesn't see them to the "
    "world's variance, and over speeds of drift (grids: rhythm and trend; noises): − where the world is frozen, and − "
    "where the same history is shuffled; six intervals. Supported if all six lower bounds > 0.05 and, at the lowest "
    "price, what its ablation costs exceeds what the gene does (sign at every value of the grids); refuted if for at "
    "least two genes an upper bound is < 0.05; else undecided",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    most = max(settings.planted)
    base: dict[str, Any] = {"compute": "levels", "steps": settings.steps, "levels": settings.levels}
    cells: list[dict[str, Any]] = [{"count": count} for count in (0, *settings.planted)]
    cells += [{"count": most, "separation": apart} for apart in NEARER]
    cells += [{"count": most, "noise": noise} for noise in NOISY]
    for cell in cells:
        yield Condition(levels_name(**cell), base | {"separation": 8.0, "noise": 1.0} | cell)
    finite = {"population": settings.individuals, "generations": settings.generations}
    peaks = [("peak", n, s) for n in settings.lengths for s in settings.superiorities]
    for kind, length, superiority in [*peaks, ("slope", settings.lengths[0], max(settings.superiorities))]:
        options = {"compute": "threshold", "kind": kind, "length": length, "superiority": superiority}
        yield Condition(f"threshold {kind} {length} {superiority:g}", options | finite)
    finite = {"population": settings.population, "generations": settings.generations}
    for change in (0.0, *settings.changes):
        for mutation in settings.mutations:
            options = {"compute": "innate", "change": change, "mutation": mutation}
            yield Condition(innate_name(change, mutation), options | finite)
    steps = {"steps": settings.training, "budget": settings.training}
    yield Condition(WORLDS, {"compute": "worlds", "turns": settings.turns} | steps)
    base = {"prices": settings.prices, "noises": settings.noises}
    base |= {"compute": "machinery", "animals": settings.animals, "generations": settings.lives}
    for kind, drift in [("frozen", 1.0), ("places", 1.0), *((k, d) for k in KINDS for d in settings.drifts)]:
        yield Condition(genes_name(kind, drift), base | {"kind": kind, "scale": drift})


COMPUTE = {
    "levels": recover,
    "threshold": error_threshold,
    "innate": innate_share,
    "worlds": rigidity,
    "machinery": machinery,
}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Levels, innate shares and re-adaptation; machinery that is kept."""
    return (genome_drawing(name, found), machinery_drawing(name, found))
