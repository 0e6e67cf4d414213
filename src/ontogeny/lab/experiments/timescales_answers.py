"""What ``timescales`` concludes from its measurements, claim by claim; the rules stand in ``timescales.py``."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from ontogeny.evolution.machinery import GENES
from ontogeny.evolution.rigidity import GOALS, worlds
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import Interval, Verdict, simultaneous_level
from ontogeny.lab.study import (
    RESOLVED,
    Measurements,
    PerReplicate,
    all_hold,
    judge_measured,
    listed,
    reason,
    shown,
    simultaneous,
)

Swept = Float[np.ndarray, "replicates *grids"]

NEARER, NOISY = (2.0, 4.0), (0.25, 4.0)  # factors between time scales, and noises, that are told beside
WORLDS = "worlds"  # the condition that trains networks on all of them
TREND = ("rhythm", "smooth")  # worlds whose places and changes can both be foretold
KINDS = (*TREND, "rough", "shuffled")
LEARNT = 0.25  # of the variance: what a world that is learnt leaves


def levels_name(count: int, separation: float = 8.0, noise: float = 1.0) -> str:
    """The name of a condition of memory levels."""
    return f"levels {count} apart {separation:g} noise {noise:g}"


def innate_name(change: float, mutation: float) -> str:
    """The name of a condition of innate shares."""
    return f"innate, change {change:g}, mutation {mutation:g}"


def genes_name(kind: str, drift: float = 1.0) -> str:
    """The name of a condition of genes."""
    return f"genes {kind}" if kind in ("frozen", "places") else f"genes {kind} {drift:g}"


def share_interval(held: PerReplicate, contrasts: int = 1) -> Interval:
    """The exact interval of a share of replicates (Clopper & Pearson 1934); ``held``: 0 or 1 for each."""
    level, n, successes = simultaneous_level(contrasts), len(held), float(held.sum())
    tail = (1 - level) / 2
    low = float(special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Interval(successes / n, float(held.std()), low, high, level, n)


def averaged(values: Swept, contrasts: int) -> Interval:
    """The interval of the mean over all grids."""
    return simultaneous(values.reshape(len(values), -1).mean(1), contrasts)


def everywhere(values: Swept) -> bool:
    """Whether the mean is above 0 at every value of each grid, averaged over replicates and the other grids."""
    grids = range(1, values.ndim)
    return all(bool((values.mean(tuple({*range(values.ndim)} - {grid})) > 0).all()) for grid in grids)


def only_if(held: bool, verdict: Verdict) -> Verdict:
    """What is supported is mixed unless this holds."""
    return Verdict("undecided", "mixed") if verdict.word == "supported" and not held else verdict


def _as_many_levels(found: Measurements) -> Answer:
    planted = found.experiment.settings["planted"]
    cells = {count: levels_name(count) for count in planted}
    several = [count for count in planted if count > 1]
    exact = {str(count): share_interval(found.values(cell, "exact"), 6) for count, cell in cells.items()}
    slower, chance = (
        np.average([found.values(cells[count], what) for count in several], axis=0, weights=several)
        for what in ("slower", "by chance")
    )
    lacking = np.stack([found.values(cells[count], "lacking") for count in several], axis=1)
    others = {"slower": simultaneous(slower, 6), "lacking": averaged(lacking, 6)}
    none = found.values(levels_name(0), "exact").mean()
    noisy = [found.values(levels_name(max(planted), noise=noise), "exact").mean() for noise in NOISY]
    common = {"decisive_scale": found.experiment.decisive, "gates_passed": bool(none >= 0.75)}
    recovered = judge_measured(exact.values(), delta=0.5, **common)
    if recovered.word == "refuted" and _data_lack(found, [n for n in planted if exact[str(n)].high < 0.5]):
        recovered = Verdict("undecided", "data")
    parts = [recovered] + [
        judge_measured([others[name]], delta=delta, **common) for name, delta in (("slower", 0.9), ("lacking", 0.1))
    ]
    verdict = only_if(bool(min(noisy) > 0.5) and everywhere(lacking), all_hold(parts))
    told = f"recovered in a share of replicates {listed(exact)}, none where none is planted {none:.2f}; "
    told += _levels_found(found)
    told += f"; process slower than update {shown(others['slower'])} (by chance {chance.mean():.2f}); of the gain "
    told += f"equal rates lack {shown(others['lacking'])}; at other noises {max(planted)} are recovered in "
    told += ", ".join(f"{share:.2f} ({noise:g} times)" for noise, share in zip(NOISY, noisy, strict=True))
    return Answer(told, verdict, reason(verdict, "as many levels as time scales, each slower in what it encodes"))


def _data_lack(found: Measurements, lost: Sequence[int]) -> bool:
    """Whether of each of these numbers too few levels are found, and still more of them than in fewer data."""
    counts = {n: [found.values(levels_name(n), what) for what in ("levels", "of fewer")] for n in lost}
    return all(all_.mean() < n and simultaneous(all_ - fewer, len(lost)).low > 0 for n, (all_, fewer) in counts.items())


def _levels_found(found: Measurements) -> str:
    most = max(found.experiment.settings["planted"])
    cells = {f"of {count}": levels_name(count) for count in found.experiment.settings["planted"]}
    cells |= {f"of {most} only {apart:g}-fold apart": levels_name(most, apart) for apart in NEARER}
    levels = {
        name: [found.values(cell, what).mean() for what in ("levels", "of fewer")] for name, cell in cells.items()
    }
    return "levels found, and in a quarter of the episodes: " + ", ".join(
        f"{name} {every:.1f} and {fewer:.1f}" for name, (every, fewer) in levels.items()
    )


def _how_much_innate(found: Measurements) -> Answer:
    settings = found.experiment.settings
    mutations, changes = settings["mutations"], settings["changes"]
    middle = changes[len(changes) // 2]

    def values(change: float, quantity: str) -> Swept:
        return np.stack([found.values(innate_name(change, mutation), quantity) for mutation in mutations], axis=1)

    still = values(0.0, "optimum")
    gains = np.stack([best_beyond_ends(fitness) for fitness in values(middle, "log fitness").swapaxes(0, 1)], axis=2)
    peaks = found.named("threshold peak")
    ratios = np.stack([found.values(cell, "ratio") for cell in peaks], axis=1)
    swept = {
        "optimum's fall with change": still - values(changes[-1], "optimum"),
        "with mutation": still[:, 0] - still[:, -1],
        "log fitness beyond writing all": gains[:, 0],
        "beyond writing nothing": gains[:, 1],
        "−(farthest threshold's miss)": -np.abs(ratios - 1).max(1),
    }
    intervals = {name: averaged(part, len(swept)) for name, part in swept.items()}
    decisive, margins = found.experiment.decisive, (0.05, 0.05, 0.05, 0.05, -0.1)
    words = [
        judge_measured([interval], delta=margin, decisive_scale=decisive)
        for interval, margin in zip(intervals.values(), margins, strict=True)
    ]
    verdict = only_if(all(map(everywhere, swept.values())), all_hold(words))
    told = f"{listed(intervals)}; innate shares at the middle change: " + ", ".join(
        f"{what} {values(middle, what).mean():.2f}" for what in ("optimum", "evolved", "shuffled")
    )
    told += "; error thresholds ÷ closed form " + ", ".join(f"{ratio:.2f}" for ratio in ratios.mean(0))
    order = {kind: found.values(found.named(f"threshold {kind}")[0], "order").mean() for kind in ("peak", "slope")}
    told += "; order beyond it, on a peak and a slope " + ", ".join(f"{share:.2f}" for share in order.values())
    why = "change and copying errors cost what is written, learning costs what isn't"
    return Answer(told, verdict, reason(verdict, why))


def best_beyond_ends(fitness: Float[np.ndarray, "replicates settings"]) -> Float[np.ndarray, "replicates 2"]:
    """How much fitter the best setting is than the first and than the last.

    Which is the best, the other replicates say, so that it isn't so by chance.
    """
    others = fitness.sum(0) - fitness
    best = np.take_along_axis(fitness, others.argmax(1)[:, None], axis=1)
    return np.asarray(best - fitness[:, [0, -1]])


def _crystal(found: Measurements) -> Answer:
    names = worlds(found.experiment.settings["turns"])
    drifts = [name for name in names if name.startswith("drifting")]
    steps = {name: found.values(WORLDS, f"{name} steps") for name in names}  # (replicates, goals)
    drifting = np.stack([steps[name] for name in drifts], axis=2)  # (replicates, goals, speeds)
    swept = {
        "frozen instant − drifting": steps["instant"][:, :, None] - drifting,
        "frozen instant − untrained": steps["instant"] - steps["none"],
        "frozen law − drifting": steps["law"][:, :, None] - drifting,
    }
    gaps = {name: averaged(part, 3) for name, part in swept.items()}
    learnt = ["instant", "law", *drifts]
    common = {
        "decisive_scale": found.experiment.decisive,
        "gates_passed": all(_learnt(found, name) for name in learnt) and _most(found, "none", "reached"),
        "resolved": all(found.values(WORLDS, f"{name} resolved").mean() >= RESOLVED for name in [*learnt, "none"]),
    }
    of_instant, of_law = (judge_measured(list(gaps.values())[part], delta=0.1, **common) for part in INSTANT_AND_LAW)
    verdict = all_hold([of_instant, of_law])
    if of_law.word == "refuted" and of_instant.word != "refuted":
        verdict = Verdict("undecided", of_instant.code or "mixed")
    verdict = only_if(all(map(everywhere, swept.values())), verdict)
    told = f"log₂ steps to re-adapt, over {len(GOALS)} goals: {listed(gaps)}; beside it mixture − drifting "
    told += shown(averaged(steps["mixture"][:, :, None] - drifting, 1))
    dormant = {name: found.values(WORLDS, f"{name} dormant").mean() for name in names}
    told += "; dormant units " + ", ".join(f"{name} {share:.2f}" for name, share in dormant.items())
    return Answer(told, verdict, reason(verdict, "a world that stood still is left more slowly than one that drifts"))


INSTANT_AND_LAW = (slice(0, 2), slice(2, 3))


def _most(found: Measurements, world: str, quantity: str) -> bool:
    return bool(found.values(WORLDS, f"{world} {quantity}").mean() > 0.5)


def _learnt(found: Measurements, world: str) -> bool:
    fitted = (found.values(WORLDS, f"{world} own") < LEARNT).mean() > 0.5
    return bool(fitted) and _most(found, world, "reached")


def kept(found: Measurements, kind: str, quantity: str) -> Float[np.ndarray, "replicates drifts noises prices"]:
    """Of a gene, by the world's time scale, noise and price; of a world that stands still, one time scale."""
    drifts = found.experiment.settings["drifts"]
    cells = dict.fromkeys(genes_name(kind, drift) for drift in drifts)
    return np.stack([found.values(cell, quantity) for cell in cells], axis=1)


def _machinery(found: Measurements) -> Answer:
    price = min(found.experiment.settings["prices"])
    moving = {gene: _swept(found, TREND, gene) for gene in GENES}  # (replicates, worlds, noises)
    swept = {
        gene: {null: moving[gene] - _swept(found, (null,), gene) for null in ("frozen", "shuffled")} for gene in GENES
    }
    gaps = {gene: {null: averaged(part, 6) for null, part in pair.items()} for gene, pair in swept.items()}
    worth = {gene: _worth(found, gene, price) for gene in GENES}
    words = [judge_measured(p.values(), delta=0.05, decisive_scale=found.experiment.decisive) for p in gaps.values()]
    signs = [everywhere(part) for pair in swept.values() for part in pair.values()]
    signs += [everywhere(part) for part in worth.values()]
    verdict = all_hold(words)
    if verdict.word == "refuted" and sum(word.word == "refuted" for word in words) < 2:
        verdict = Verdict("undecided", "mixed")
    verdict = only_if(all(signs), verdict)
    told = "share kept where the world moves, beyond " + "; ".join(
        f"{null}: " + listed({gene: pair[null] for gene, pair in gaps.items()}) for null in ("frozen", "shuffled")
    )
    told += "; beyond its price a gene is worth " + listed({gene: averaged(part, 1) for gene, part in worth.items()})
    for kind, where in (("rough", "positions alone can be foretold"), ("places", "everyone is born elsewhere")):
        told += f"; where {where}, beyond frozen: " + ", ".join(
            f"{gene} {(_swept(found, (kind,), gene) - _swept(found, ('frozen',), gene)).mean():+.2f}" for gene in GENES
        )
    return Answer(told, verdict, verdict.code or "all three, where the world moves and can be foretold")


def _swept(found: Measurements, kinds: Sequence[str], gene: str) -> Float[np.ndarray, "replicates worlds noises"]:
    return np.stack([kept(found, kind, gene).mean((1, 3)) for kind in kinds], axis=1)


def _worth(found: Measurements, gene: str, price: float) -> Float[np.ndarray, "replicates worlds noises"]:
    """What a gene's ablation costs beyond what the gene does, at the lowest price."""
    place = list(found.experiment.settings["prices"]).index(price)
    net = [kept(found, kind, f"{gene} ablated") - price * kept(found, kind, gene) for kind in TREND]
    return np.stack([part[..., place].mean(1) for part in net], axis=1)


ANSWERS = {"S10": _as_many_levels, "S18": _how_much_innate, "G10": _crystal, "G11": _machinery}
