"""What ``symmetry`` concludes from its measurements, claim by claim; the rules stand in ``symmetry.py``."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.transplant import ARMS
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import DELTA, Interval, Verdict, unmet
from ontogeny.lab.study import Measurements, PerReplicate, listed, simultaneous

WORLDS = ("digits", "parts")
GRAPHS = ("hubs", "degree", "clustering", "blocks")  # that keep more than densities and names
LEARNT = 0.5  # of the reference: a loss below is a network that has learnt
PRESENT = 0.05  # of agreement and of a removed barrier: what dense networks have to have
BARRIER = 0.02  # nats: below it there is none to remove
OFF = 0.1  # relative: clustering farther from the donor's isn't matched

ByLevel = Float[np.ndarray, "replicates levels"]


def matched(world: str) -> str:
    """The name of a condition in which two networks are matched."""
    return f"matching {world}"


def wired(world: str) -> str:
    """The name of a condition in which wirings are compared."""
    return f"wiring {world}"


def agreement(found: Measurements, world: str, what: str = "matched", chance: str = "shuffled") -> ByLevel:
    """Of every replicate and sparsity: the best cosine beyond chance, as a share of what chance leaves to 1."""
    best, accident = (found.values(matched(world), name) for name in (what, chance))
    return np.asarray((best - accident) / (1 - accident))


def removed(found: Measurements, world: str) -> ByLevel:
    """Of every replicate and sparsity: the share of the barrier that the match removes."""
    left, accident = (found.values(matched(world), f"{name} barrier") for name in ("matched", "shuffled"))
    return np.asarray(1 - left / np.maximum(accident, 1e-9))


def lost(values: ByLevel) -> PerReplicate:
    """Half of the dense value − the value at the highest sparsity: above 0 where more than half is lost."""
    return np.asarray(values[:, 0] / 2 - values[:, -1])


def _match_gate(found: Measurements, world: str) -> bool:
    losses, reference = (found.values(matched(world), name) for name in ("loss", "reference"))
    dense = [simultaneous(values(found, world)[:, 0], 4).low for values in (agreement, removed)]
    planted = lost(agreement(found, world, "planted", "planted chance")).mean()
    barriers = found.values(matched(world), "shuffled barrier")[:, [0, -1]]
    learnt = bool((losses.mean(0) < LEARNT * reference.mean()).all())
    return learnt and min(dense) > PRESENT and bool(planted < 0) and bool(barriers.min() > BARRIER)


def _symmetry(found: Measurements) -> Answer:
    words, told = {}, []
    for world in WORLDS:
        kinds = {"agreement": agreement(found, world), "removed barrier": removed(found, world)}
        intervals = {name: simultaneous(lost(values), 4) for name, values in kinds.items()}
        words[world] = _broken(list(intervals.values()))
        told.append(f"{world}: {'; '.join(f'{name} {_series(values)}' for name, values in kinds.items())}")
        told[-1] += f"; half the dense − the sparse value {listed(intervals)}{_one_wiring(found, world)}"
    gates = all(_match_gate(found, world) for world in WORLDS)
    verdict = _agreed(found, words, gates, [matched(world) for world in WORLDS])
    sparsity = f"{found.experiment.settings['sparsities'][-1]:.0%}"
    why = {
        "supported": f"at {sparsity} sparsity more than half of the match between networks is lost",
        "refuted": f"at {sparsity} sparsity at least half of the match between networks is left",
    }
    return Answer("; ".join(told), verdict, verdict.code or why[verdict.word])


def _series(values: ByLevel) -> str:
    """Means from dense to sparse."""
    return " → ".join(f"{mean:.2f}" for mean in values.mean(0))


def _one_wiring(found: Measurements, world: str) -> str:
    """What stands beside: how alike another training in the same wiring is, and how symmetric a wiring is."""
    names = ("same wiring", "near symmetry", "near symmetry by degree")
    same, near, degree = (_series(found.values(matched(world), name)) for name in names)
    return f"; cosine of two trainings in one wiring {same}; a wiring's near-symmetry {near}, by degree {degree}"


def _broken(intervals: list[Interval]) -> Verdict:
    """More than half is lost where all lie above 0, at least half is left where all lie below."""
    above, below = [i.low > 0 for i in intervals], [i.high < 0 for i in intervals]
    if all(above):
        return Verdict("supported")
    if all(below):
        return Verdict("refuted")
    return Verdict("undecided", "mixed" if any(above) and any(below) else "straddles")


def _agreed(found: Measurements, words: Mapping[str, Verdict], gates: bool, cells: list[str]) -> Verdict:
    """What both worlds say, where everything that the rule asks for holds."""
    rates = all((found.values(cell, "resolved") == 1).all() for cell in cells)
    n = min(len(found.values(cell, "resolved")) for cell in cells)
    if missing := unmet(n, n, gates, rates, found.experiment.decisive):
        return missing
    said = {verdict.word for verdict in words.values()}
    if said == {"supported", "refuted"}:
        return Verdict("undecided", "worlds differ")
    return next((verdict for verdict in words.values() if verdict.word == "undecided"), words[WORLDS[0]])


def shares(found: Measurements, world: str) -> dict[str, PerReplicate]:
    """Nats of every replicate: the value, topology − names, and what each graph has of topology − half of it."""
    loss = {arm: found.values(wired(world), f"{arm} loss") for arm in ARMS}
    topology, names = loss["named"] - loss["donor"], loss["density"] - loss["named"]
    parts = {"value": topology + names, "topology − names": topology - names}
    return parts | {arm: loss["named"] - loss[arm] - topology / 2 for arm in GRAPHS}


def _carried(intervals: Mapping[str, Interval]) -> tuple[Verdict, str]:
    """A world's verdict, and why."""
    value, split = intervals["value"], intervals["topology − names"]
    graphs = {arm: intervals[arm] for arm in GRAPHS}
    if value.high < DELTA:
        return Verdict("refuted"), "the donor's wiring is worth nothing"
    if value.low <= DELTA:
        return Verdict("undecided", "straddles"), ""
    if split.high < 0:
        return Verdict("refuted"), "names carry it"
    if all(interval.high < 0 for interval in graphs.values()):
        return Verdict("refuted"), "no property carries it, the exact edges do"
    if split.low > 0 and (carriers := [arm for arm, interval in graphs.items() if interval.low > 0]):
        return Verdict("supported"), f"carried by {', '.join(carriers)}"
    return Verdict("undecided", "straddles"), ""


def _wiring_gate(found: Measurements, world: str) -> bool:
    cell = wired(world)
    reference = found.values(cell, "reference").mean()
    losses = {arm: found.values(cell, f"{arm} loss").mean() for arm in ARMS}
    off = np.abs(found.values(cell, "clustering clustering") - 1).mean()
    return bool(losses["donor"] < LEARNT * reference and max(losses.values()) < reference and off <= OFF)


def _topology(found: Measurements) -> Answer:
    words, told, why = {}, [], []
    for world in WORLDS:
        intervals = {name: simultaneous(values, 6) for name, values in shares(found, world).items()}
        words[world], reason = _carried(intervals)
        why.append(f"{world}: {reason}")
        parts = {name: intervals[name] for name in ("value", "topology − names")}
        graphs = {arm: intervals[arm] for arm in GRAPHS}
        told.append(f"{world}: {listed(parts)}; beyond half of topology {listed(graphs)}{_beside(found, world)}")
    gates = all(_wiring_gate(found, world) for world in WORLDS)
    verdict = _agreed(found, words, gates, [wired(world) for world in WORLDS])
    return Answer("; ".join(told), verdict, verdict.code or "; ".join(why))


def _beside(found: Measurements, world: str) -> str:
    """Losses of what no rule asks for, the edges in use, and how much of the donor's mask matched graphs share."""

    def means(arms: tuple[str, ...], quantity: str) -> str:
        return ", ".join(f"{arm} {found.values(wired(world), f'{arm} {quantity}').mean():.3f}" for arm in arms)

    told = f"; losses {means(('density', 'donor', 'renamed', 'ticket'), 'loss')}"
    told += f"; edges on a path {means(('density', 'donor'), 'effective')}"
    return f"{told}; overlap with the donor's mask {means(GRAPHS, 'overlap')}"


ANSWERS = {"G22": _symmetry, "G23": _topology}
