"""What ``formation`` concludes from its measurements, claim by claim; the rules stand in ``formation.py``."""

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.continents import ARCHITECTURES, COMPONENTS, PARTS
from ontogeny.evolution.dialects import CORPORA
from ontogeny.evolution.viable_paths import GRAIN
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import Interval, Verdict
from ontogeny.lab.study import (
    Measurements,
    PerReplicate,
    judge_measured,
    listed,
    shown,
    simultaneous,
)

TENTH, SETTLED = 0.1, 0.8
REFERENCES = {"twin, same start": "", "network of another start": "foreign "}
LEAST = 0.05  # of agreement: below it there is nothing to settle, or to share out


def tuned(slower: float) -> str:
    """The name of a condition of tuning for a preference."""
    return f"preference {slower:g}"


def evolved(varying: bool, lethal: bool) -> str:
    """The name of a condition of evolved networks."""
    return f"modules {'varying' if varying else 'fixed'} {'lethal' if lethal else 'none'}"


def gained(found: Measurements, name: str, against: str = "") -> PerReplicate:
    """By how much a network's axes agree with the last ones beyond what the untrained network's do."""
    return np.asarray(found.values("settling", f"{against}{name}") - found.values("settling", f"{against}start"))


def loss_gained(found: Measurements, name: str) -> PerReplicate:
    """By how much a network's loss is below the untrained one's."""
    return np.asarray(found.values("settling", "loss start") - found.values("settling", f"loss {name}"))


def _settles(found: Measurements) -> Answer:
    ahead: list[Interval] = []
    told: list[str] = []
    for name, against in REFERENCES.items():
        whole = gained(found, "final", against)
        early = {kind: gained(found, f"{kind} {TENTH:g}", against) for kind in ("steps", "tokens")}
        beyond = {kind: simultaneous(gain - SETTLED * whole, 4) for kind, gain in early.items()}
        real = {
            "by training": simultaneous(whole, 4),
            "by the text's order": simultaneous(whole - gained(found, "shuffled", against), 4),
        }
        told.append(f"{name}: agreement {listed(real)}; by a tenth, beyond {SETTLED} of it: {listed(beyond)}")
        if min(i.low for i in real.values()) > LEAST:
            ahead += beyond.values()
            told[-1] += "; shares " + ", ".join(f"{k} {gain.mean() / whole.mean():.2f}" for k, gain in early.items())
        else:
            told[-1] += "; left out, too little to settle"
    lower = [
        f"{kind} {loss_gained(found, f'{kind} {TENTH:g}').mean() / loss_gained(found, 'final').mean():.2f}"
        for kind in ("steps", "tokens")
    ]
    told.append(
        f"shares of the loss's gain: {', '.join(lower)}; the start's own agreement "
        f"{found.values('settling', 'start').mean():+.3f}"
    )
    learnt = (found.values("settling", "bigram") - found.values("settling", "loss final")).mean() > 0
    unmeant = [simultaneous(gained(found, "final"), 4)]  # an interval to judge where no reference has a ceiling
    verdict = _judged(found, ahead or unmeant, 0.0, bool(learnt) and bool(ahead), "settling")
    return Answer("; ".join(told), verdict, verdict.code or "after a tenth of the steps, and of the text")


def shares(found: Measurements, part: str, component: str) -> Float[np.ndarray, "replicates sites"]:
    """A variance component of the core or of the margins."""
    return found.values("continents", f"{part} {component}")


def _continents(found: Measurements) -> Answer:
    means = {(part, name): shares(found, part, name).mean(1) for part in PARTS for name in COMPONENTS}
    gaps = {
        "core, architecture − corpus": means["core", "architecture"] - means["core", "corpus"],
        "margins, corpus − architecture": means["margins", "corpus"] - means["margins", "architecture"],
    }
    intervals = {name: simultaneous(gap, 2) for name, gap in gaps.items()}
    twins = {part: simultaneous(1 - means[part, "seed"], 2) for part in PARTS}
    told = listed(intervals)
    for part in PARTS:
        each = ", ".join(f"{name} {means[part, name].mean():+.3f}" for name in COMPONENTS)
        told += (
            f"; {part}: {each} (twins untrained {1 - found.values('continents', f'untrained {part} seed').mean():+.3f})"
        )
    learnt = all(
        found.values("continents", f"loss {shape} {text}").mean() < found.values("continents", f"bigram {text}").mean()
        for shape in ARCHITECTURES
        for text in CORPORA
    )
    gate = learnt and min(i.low for i in twins.values()) > LEAST
    verdict = _judged(found, list(intervals.values()), 0.02, gate, "continents")
    return Answer(told, verdict, verdict.code or "the core by architecture, the margins by corpus")


def _preference(found: Measurements) -> Answer:
    words, told = [], []
    for slower in found.experiment.settings["slower"]:
        verdict, text = _tuned(found, tuned(slower))
        words.append(verdict)
        told.append(f"at {slower:g} of the rate {text}")
    if len({verdict.word for verdict in words}) == 1 or any(
        v.code in ("scale", "gate", "rate unresolved") for v in words
    ):
        first = min(words, key=lambda verdict: verdict.word != "undecided")
    else:
        first = Verdict("undecided", "rate")
    return Answer("; ".join(told), first, first.code or "half as far and half as soon, at every rate")


def _tuned(found: Measurements, cell: str) -> tuple[Verdict, str]:
    def values(name: str) -> PerReplicate:
        return found.values(cell, name)

    def less(one: str, other: str) -> Interval:
        return simultaneous(np.log2(values(one) / values(other)), 3)

    intervals = {
        "ordinary ÷ tuned move, as many steps": less("move steps", "move tuned"),
        "same distance": less("move distance", "move tuned"),
        "steps that undo, pretrained ÷ tuned": less("tuned undone kept", "tuned undone free"),
    }
    told = f"log₂ {listed(intervals)}; "
    told += ", ".join(f"{name} {values(f'move {name}').mean():.3f}" for name in ("tuned", "late", "noise"))
    told += " moved (tuned, taught late, noise); undone in " + ", ".join(
        f"{values(f'{way} undone kept').mean():.0f} and {values(f'{way} undone free').mean():.0f} steps ({label})"
        for way, label in (("tuned", "pretrained and tuned"), ("late", "and taught late"), ("absent", "without marks"))
    )
    told += f"; {values('late reached').mean():.0%} of those taught late as strong as the pretrained rule in time"
    equal = simultaneous(values("tuned free") - values("tuned kept"), 3)
    free = simultaneous(values("margin free"), 3)
    gate = all(
        (
            simultaneous(values("margin kept"), 3).low > 1,
            max(abs(free.low), abs(free.high)) < 0.5,
            max(abs(equal.low), abs(equal.high)) < 0.5,
            values("bigram").mean() > values("loss").mean(),
            values("tuned reached").min() == 1,
            abs(np.log2(values("ordinary distance") / values("distance")).mean()) < 0.25,
            values("tuned undone free in time").mean() >= 0.95,
        )
    )
    verdict = _judged(found, list(intervals.values()), 1.0, gate, cell)
    cosmetic = [*intervals.values()][:2]
    unfinished = values("tuned undone kept in time").mean() < 0.95 and all(i.high >= 1 for i in cosmetic)
    return Verdict("undecided", "gate") if verdict.word == "refuted" and unfinished else verdict, told


def at_equal_fitness(found: Measurements, varying: bool) -> tuple[PerReplicate, PerReplicate]:
    """By how much a threshold changes modularity beyond its null, and the fitness it is compared at."""
    lethal, free = (evolved(varying, kind) for kind in (True, False))
    both = (found.values(lethal, "looks") > 0) & (found.values(free, "looks") > 0)
    place = np.where(both.any(1), GRAIN - np.argmax(both[:, ::-1], axis=1), 0)
    rows = np.arange(len(place))
    gaps = found.values(lethal, "excess")[rows, place] - found.values(free, "excess")[rows, place]
    return gaps, place / GRAIN


def _modular(found: Measurements) -> Answer:
    gaps, fitness = {}, []
    for varying, name in ((False, "fixed goal"), (True, "varying goals")):
        gap, at = at_equal_fitness(found, varying)
        gaps[name] = simultaneous(gap, 2)
        fitness.append(at)
    told = f"Q beyond its null, lethal − none: {listed(gaps)}, at a fitness of {np.min(fitness):.2f} or more; crossing "
    told += "trained networks, "
    told += ", ".join(
        f"{name} barrier {found.values('crossing', f'{name} barrier').mean():.2f} and children "
        f"{shown(simultaneous(found.values('crossing', f'{name} child'), 4), 2)} nats, "
        f"{found.values('crossing', f'{name} alive').mean():.0%} alive"
        for name in ("stranger", "aligned", "kin")
    )
    told += f", half removed {shown(simultaneous(found.values('crossing', 'removed child'), 4), 2)} nats"
    gate = bool(np.min(fitness) >= 0.9)
    verdict = judge_measured(
        list(gaps.values()), delta=0.05, decisive_scale=found.experiment.decisive, gates_passed=gate
    )
    return Answer(told, verdict, verdict.code or "with a fixed goal and with varying ones")


def _judged(found: Measurements, intervals: list[Interval], delta: float, gate: bool, cell: str) -> Verdict:
    """``judge_measured``, where a rate at the end of its grid decides nothing."""
    verdict = judge_measured(intervals, delta=delta, decisive_scale=found.experiment.decisive, gates_passed=gate)
    unresolved = verdict.code not in ("scale", "gate") and found.values(cell, "resolved").mean() < 0.95
    return Verdict("undecided", "rate unresolved") if unresolved else verdict


ANSWERS = {"G6": _settles, "G14": _modular, "G21": _continents, "G29": _preference}
