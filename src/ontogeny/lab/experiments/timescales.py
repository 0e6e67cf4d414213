"""Time scales (S10, S18, G10, G11): what a world that changes asks of memory, of genomes, and of what can learn.

What conditions compute stands in ``evolution/``: ``levels``, ``quasispecies``, ``innate``, ``rigidity``, ``machinery``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.innate import innate_share
from ontogeny.evolution.levels import recover
from ontogeny.evolution.machinery import COST, GENES, machinery
from ontogeny.evolution.quasispecies import error_threshold
from ontogeny.evolution.rigidity import rigidity
from ontogeny.lab.answers import Answer
from ontogeny.lab.experiments.timescales_figures import genome_drawing, machinery_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.statistics import Interval, Verdict, paired_interval, simultaneous_level
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements, judge_measured, shown

NAME = "timescales"
TITLE = "Time scales: what does a changing world ask of memory, genomes, and what can learn?"
VERSION = 1
FLAW = (
    "no number was published. For sums of AR(1) processes the best predictor has one level a time scale by theory, so "
    "the question is whether finite data show it; time scales nearer to each other than eightfold are measured beside "
    "it, and so are levels of one rate. Eigen's threshold is one of a single fitness peak, and whether real genomes "
    "live near it is disputed (Wiehe 1997): a slope stands beside it. Hinton and Nowlan's organisms were sexual, these "
    "are not. Continual training is known to make units dormant too (Dohare et al. 2024; Sokar et al. 2023), against "
    "the claim's direction: data that are few are told apart from a world that stands still, and drift from variety. "
    "What genes of machinery are worth depends on their price; here each can be worth more than it costs at the "
    "fastest drift, which the best gains show without evolution, and inherited guesses mutate so little that copying "
    "errors alone are not worth correcting. Sizes were chosen on seeds of their own, some after looking at a run: at "
    "most three time scales, since of four only three were found in as many data; a rhythm, since the trends of a "
    "smoother world were not worth a predictor; the price of genes, and how much innate guesses mutate"
)


@dataclass(frozen=True)
class Settings:
    """Worlds of ``planted`` time scales, ``steps`` long, are foretold by up to ``levels`` memories.

    Error thresholds are measured at ``lengths`` and ``superiorities``; innate shares where what is right changes with
    ``changes`` (and never), at ``mutations``. Networks train ``training`` steps and re-adapt within as many. Genes of
    machinery evolve where the world's time scales are ``drifts`` (in steps, of which a life has 20). Populations have
    ``population`` members; quasispecies, ``individuals``. ``generations``: of innate shares and quasispecies;
    ``lives``: of machinery.
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
    drifts: tuple[float, ...]
    lives: int


SCALES = {
    "smoke": Settings(
        2, (1, 2), 2048, 3, (20,), (10.0,), 200, (0.03,), (0.001, 0.03), 50, 20, 40, (200.0, 2.0), lives=20
    ),
    "laptop": Settings(
        20, (1, 2, 3), 16_384, 5, (20, 50), (2.0, 10.0), 2000, (0.003, 0.03), (0.001, 0.01, 0.03), 500, 400, 6000,
        (2000.0, 200.0, 20.0, 2.0), lives=600,
    ),
}  # fmt: skip
APART, NEARER = 8.0, (2.0, 4.0)  # factor between time scales: what decides, and what stands beside it
WORLDS = ("instant", "law", "drifting", "mixture", "none")
KINDS = ("rhythm", "rough", "shuffled")

RULES = {
    "estimand": "every number is of one replicate, which draws world, start and chance; intervals are over replicates, "
    "by the bootstrap from 20 on",
    "S10": "time scales eightfold apart, but for a jitter. Supported if for every planted number, at the level of that "
    "many contrasts, the share of replicates that recover it has its lower bound > 0.5; with as many levels as "
    "time scales the share of levels whose process varies more slowly than they update has its lower bound > "
    "0.9 for all; and with several time scales as many levels of one rate lack more than 0.1 of the gain "
    "(lower bound). Refuted if an upper bound of any of these is below its number; else undecided",
    "S18": "supported if four things hold, at the level of four contrasts. The optimum innate share falls from no to "
    "the fastest change by > 0.05 (lower bound, middle mutation rate), and, where nothing changes, from the "
    "lowest to the highest mutation rate by > 0.05; with middle change and mutation it lies within "
    "(0.05, 0.95), bounds and all; and the error threshold of every population on a peak is within 10 % of "
    "Eigen's, bounds and all. Refuted if an upper bound of a fall is < 0.05, if the middle share's interval lies "
    "outside (0.05, 0.95), or a threshold's outside 10 %; else undecided",
    "G10": "log₂ steps to re-adapt, at the level of two contrasts: frozen instant − drifting, and frozen law with new "
    "data − drifting. Supported if both lower bounds > 0.1; refuted if the upper bound of the frozen instant's is "
    "< 0.1; a frozen instant slower without the law being so is undecided, code mixed, since few data alone would "
    "do it. Undecided, code gate, unless each of the three worlds is left for the new one within the budget in "
    "most replicates. Dormant units are told beside it and decide nothing",
    "G11": "of each of three genes, at the fastest drift: share kept under a rhythm − where the world is frozen, and − "
    "where the same history is shuffled, at the level of six contrasts; and its ablation loss, at the level of "
    "three. Supported if all six lower bounds > 0.25 and all lower bounds of ablation losses exceed a gene's cost; "
    "refuted if for at least two genes an upper bound of the former is < 0.25; else undecided",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    most = max(settings.planted)
    base: dict[str, Any] = {"compute": "levels", "steps": settings.steps, "levels": settings.levels}
    for count, apart in [*((n, APART) for n in settings.planted), *((most, apart) for apart in NEARER)]:
        yield Condition(f"levels {count} apart {apart:g}", base | {"count": count, "separation": apart})
    finite = {"population": settings.individuals, "generations": settings.generations}
    peaks = [("peak", n, s) for n in settings.lengths for s in settings.superiorities]
    for kind, length, superiority in [*peaks, ("slope", settings.lengths[0], max(settings.superiorities))]:
        options = {"compute": "threshold", "kind": kind, "length": length, "superiority": superiority}
        yield Condition(f"threshold {kind} {length} {superiority:g}", options | finite)
    finite = {"population": settings.population, "generations": settings.generations}
    for change in (0.0, *settings.changes):
        for mutation in settings.mutations:
            options = {"compute": "innate", "change": change, "mutation": mutation}
            yield Condition(_innate(change, mutation), options | finite)
    for world in WORLDS:
        options = {"compute": "rigidity", "world": world, "steps": settings.training, "budget": settings.training}
        yield Condition(f"world {world}", options)
    finite = {"population": settings.population, "generations": settings.lives}
    for kind, drift in [("frozen", 1.0), ("places", 1.0), *((k, d) for k in KINDS for d in settings.drifts)]:
        options = {"compute": "machinery", "kind": kind, "scale": drift}
        yield Condition(_genes(kind, drift), options | finite)


COMPUTE = {
    "levels": recover,
    "threshold": error_threshold,
    "innate": innate_share,
    "rigidity": rigidity,
    "machinery": machinery,
}


def _innate(change: float, mutation: float) -> str:
    return f"innate, change {change:g}, mutation {mutation:g}"


def _genes(kind: str, drift: float) -> str:
    return f"genes {kind}" if kind in ("frozen", "places") else f"genes {kind} {drift:g}"


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def _interval(values: Float[np.ndarray, " replicates"], contrasts: int = 1) -> Interval:
    return paired_interval(values, simultaneous_level(contrasts))


def _told(names: Sequence[object], intervals: Sequence[Interval]) -> str:
    return ", ".join(f"{name} {shown(interval)}" for name, interval in zip(names, intervals, strict=True))


def _as_many_levels(found: Measurements) -> Answer:
    planted = found.experiment.settings["planted"]
    cells = [f"levels {count} apart {APART:g}" for count in planted]
    several = cells[1:]
    exact = [_interval(found.values(cell, "exact"), len(cells)) for cell in cells]
    slower = [_interval(found.values(cell, "slower"), len(cells)) for cell in cells]
    lacking = [_interval(found.values(cell, "lacking"), len(several)) for cell in several]
    told = "recovered in a share of replicates: " + _told(planted, exact)
    told += "; process slower than update: " + _told(planted, slower)
    told += "; of the gain equal rates lack " + ", ".join(map(shown, lacking))
    nearer = [found.values(f"levels {max(planted)} apart {apart:g}", "levels").mean() for apart in NEARER]
    told += f"; of {max(planted)} nearer to each other, " + ", ".join(
        f"{apart:g}-fold, {levels:.1f} on average" for apart, levels in zip(NEARER, nearer, strict=True)
    )
    decisive = found.experiment.decisive
    parts = [
        judge_measured(intervals, delta=delta, decisive_scale=decisive)
        for intervals, delta in ((exact, 0.5), (slower, 0.9), (lacking, 0.1))
    ]
    return _all_of(told, parts, "as many levels as time scales, each slower in what it encodes")


def _all_of(told: str, parts: Sequence[Verdict], why: str) -> Answer:
    """Supported where every part is, refuted where one is, else undecided as the first that is."""
    for word in ("refuted", "undecided"):
        if (verdict := next((part for part in parts if part.word == word), None)) is not None:
            return Answer(told, verdict, verdict.code or "one of what was asked doesn't hold")
    return Answer(told, parts[0], why)


def _within(interval: Interval, low: float, high: float, decisive: bool) -> Verdict:
    """Supported where the whole interval lies between the two, refuted where it lies outside."""
    if not decisive:
        return Verdict("undecided", "scale")
    if low < interval.low and interval.high < high:
        return Verdict("supported")
    outside = interval.high < low or interval.low > high
    return Verdict("refuted") if outside else Verdict("undecided", "straddles")


def _how_much_innate(found: Measurements) -> Answer:
    settings, decisive = found.experiment.settings, found.experiment.decisive
    mutations, changes = settings["mutations"], [0.0, *settings["changes"]]
    middle, change = mutations[len(mutations) // 2], changes[len(changes) // 2]

    def optimum(change: float, mutation: float) -> Float[np.ndarray, " replicates"]:
        return found.values(_innate(change, mutation), "optimum")

    falls = [
        _interval(optimum(0.0, middle) - optimum(changes[-1], middle), 4),
        _interval(optimum(0.0, mutations[0]) - optimum(0.0, mutations[-1]), 4),
    ]
    share = _interval(optimum(change, middle), 4)
    peaks = found.named("threshold peak")
    ratios = [_interval(found.values(cell, "ratio"), 4) for cell in peaks]
    told = f"optimum innate share in the middle {shown(share)}, falls by " + _told(("change", "mutation"), falls)
    told += "; evolved " + shown(_interval(found.values(_innate(change, middle), "evolved")))
    told += ", by chance alone " + shown(_interval(found.values(_innate(change, middle), "shuffled")))
    told += "; error threshold ÷ closed form: " + _told(
        [cell.removeprefix("threshold peak ") for cell in peaks], ratios
    )
    parts = [
        judge_measured(falls, delta=0.05, decisive_scale=decisive),
        _within(share, 0.05, 0.95, decisive),
        *(_within(ratio, 0.9, 1.1, decisive) for ratio in ratios),
    ]
    return _all_of(told, parts, "change and copying errors cost what is written, learning costs what isn't")


def _crystal(found: Measurements) -> Answer:
    steps = {world: found.values(f"world {world}", "steps") for world in WORLDS}
    logs = {world: np.log2(np.maximum(values, 1)) for world, values in steps.items()}
    gaps = [_interval(logs[world] - logs["drifting"], 2) for world in ("instant", "law")]
    others = [_interval(logs[world] - logs["drifting"]) for world in ("mixture", "none")]
    dormant = {world: found.values(f"world {world}", "dormant") for world in WORLDS}
    units = [_interval(dormant[world] - dormant["drifting"]) for world in ("instant", "law")]
    told = "log₂ steps to re-adapt − those after drift: " + _told(("frozen instant", "frozen law"), gaps)
    told += "; beside it " + _told(("mixture", "untrained"), others)
    told += "; dormant units − those after drift: " + _told(("frozen instant", "frozen law"), units)
    reached = [found.values(f"world {world}", "reached").mean() > 0.5 for world in ("instant", "law", "drifting")]
    decisive = found.experiment.decisive
    first, both = (
        judge_measured(which, delta=0.1, decisive_scale=decisive, gates_passed=all(reached))
        for which in (gaps[:1], gaps)
    )
    if first.word == "supported" and both.word == "refuted":
        both = Verdict("undecided", "mixed")
    elif first.word != "refuted" and both.word == "refuted":
        both = first
    return Answer(told, both, both.code or "whether a world that stood still is left more slowly than one that drifts")


def _machinery(found: Measurements) -> Answer:
    drift = min(found.experiment.settings["drifts"])
    moving = _genes("rhythm", drift)
    gaps = {
        gene: [
            _interval(found.values(moving, gene) - found.values(null, gene), 6)
            for null in (_genes("frozen", drift), _genes("shuffled", drift))
        ]
        for gene in GENES
    }
    losses = [_interval(found.values(moving, f"{gene} ablated"), 3) for gene in GENES]
    told = "share kept at the fastest drift beyond a frozen and a shuffled world: " + "; ".join(
        f"{gene} {shown(pair[0])}, {shown(pair[1])}" for gene, pair in gaps.items()
    )
    told += f"; ablation losses beside a cost of {COST:g}: " + _told(GENES, losses)
    still = [found.values("genes places", gene).mean() for gene in GENES]
    told += "; where nothing moves but everyone is born elsewhere, kept are " + ", ".join(
        f"{gene} {share:.2f}" for gene, share in zip(GENES, still, strict=True)
    )
    if not found.experiment.decisive:
        return Answer(told, Verdict("undecided", "scale"), "scale")
    if sum(min(i.high for i in pair) < 0.25 for pair in gaps.values()) >= 2:
        return Answer(told, Verdict("refuted"), "drift keeps at most one of the three")
    every = [i for pair in gaps.values() for i in pair]
    if min(i.low for i in every) > 0.25 and min(i.low for i in losses) > COST:
        return Answer(told, Verdict("supported"), "all three, where the world moves and can be foretold")
    return Answer(told, Verdict("undecided", "mixed"), "mixed")


ANSWERS = {"S10": _as_many_levels, "S18": _how_much_innate, "G10": _crystal, "G11": _machinery}


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Levels and innate shares; machinery kept and re-adaptation."""
    return (genome_drawing(name, found), machinery_drawing(name, found))
