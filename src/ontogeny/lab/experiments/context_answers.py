"""What ``context`` concludes from its measurements, claim by claim; the rules stand in ``context.py``."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ontogeny.evolution.in_context import FACTORS
from ontogeny.evolution.regressions import LEARNERS, LOOKUPS
from ontogeny.evolution.routing import World
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import MINIMUM_REPLICATES, Interval, Verdict, unmet
from ontogeny.lab.study import RESOLVED, Measurements, PerReplicate, listed, shown, simultaneous

IN_CONTEXT = "in context"
NETWORKS = ("network", "grown")  # trained, and grown from its subspaces
GENOMES = ("donor", "random")
DIGITS: tuple[World, ...] = ("turned", "asked")
WORLDS: tuple[World, ...] = ("planted", *DIGITS, "plain")
LEARNT = 0.2  # of error: the least that counts as learning


def twins(genomes: str, skew: float) -> str:
    """The name of a condition of twins."""
    return f"twins {genomes} {skew:g}"


def routed(world: World) -> str:
    """The name of a world's condition."""
    return f"routing {world}"


def _undecided(found: Measurements, gate: bool, resolved: float = 1.0) -> Verdict | None:
    """The first condition of every rule that failed."""
    n = found.experiment.replicates
    return unmet(n, MINIMUM_REPLICATES, gate, bool(resolved >= RESOLVED), found.experiment.decisive)


def _over_doses(words: Sequence[str]) -> Verdict:
    """The verdict that all doses share."""
    if len(set(words)) > 1:
        return Verdict("undecided", "dose")
    return Verdict(words[0], "straddles" if words[0] == "undecided" else "")


# Learning in context ------------------------------------------------------------------------------------------


def errors(found: Measurements, what: str) -> PerReplicate:
    """After all pairs."""
    return found.values(IN_CONTEXT, what)[:, -1]


def learns(found: Measurements, network: str) -> bool:
    """Beyond what is best without a context, and beyond rolled labels."""
    own, rolled = (errors(found, f"{network} {what}") for what in ("errors", "rolled"))
    return all(simultaneous(values, 2).low > LEARNT for values in (1 - own, rolled - own))


def _told_gains(found: Measurements) -> str:
    own, rolled = ({name: errors(found, f"{name} {what}").mean() for name in NETWORKS} for what in ("errors", "rolled"))
    return ", ".join(f"{name} {own[name]:.3f} (rolled labels {rolled[name]:.2f})" for name in NETWORKS)


def _leaves_nothing(found: Measurements) -> Answer:
    left = {name: simultaneous(found.values(IN_CONTEXT, f"{name} evicted"), 3) for name in NETWORKS}
    retained, rolled = (found.values(IN_CONTEXT, f"retained{what}") for what in ("", " rolled"))
    seen = simultaneous(retained - rolled, 3)
    same = min(float(found.values(IN_CONTEXT, f"{name} unchanged").min()) for name in NETWORKS) == 1
    told = f"error in context {_told_gains(found)}; once it is cleared {'nothing differs' if same else 'bits differ'}; "
    told += f"left of evicted pairs {listed(left)}; fine-tuned twins keep {retained.mean():+.3f}, beyond those of "
    told += f"rolled labels {shown(seen)}"
    gate = all(learns(found, name) for name in NETWORKS) and seen.low > LEARNT
    if missing := _undecided(found, gate, found.values(IN_CONTEXT, "resolved").mean()):
        return Answer(told, missing, missing.code)
    if not same or any(interval.low > 0.05 for interval in left.values()):
        why = "what follows has kept some of it" if same else "behaviour without a context has changed"
        return Answer(told, Verdict("refuted"), why)
    if all(interval.high < 0.05 for interval in left.values()):
        return Answer(told, Verdict("supported"), "neither cleared nor evicted does a context leave anything")
    return Answer(told, Verdict("undecided", "straddles"), "straddles")


def _is_learning(found: Measurements) -> Answer:
    share = simultaneous((1 - errors(found, "network errors")) / (1 - errors(found, "ridge errors")), 2)
    nearer = simultaneous(found.values(IN_CONTEXT, "nearer"), 2)
    told = (
        f"share of ridge's gain {shown(share)}; nearer to learners than to lookups by {shown(nearer)}; distance from "
    )
    told += ", ".join(f"{n} {found.values(IN_CONTEXT, f'{n} distance').mean():.3f}" for n in (*LEARNERS, *LOOKUPS))
    far = [found.values(IN_CONTEXT, f"distant {name} error").mean() for name in ("network", "ridge")]
    told += f"; error on tasks twice as large {far[0]:.3f}, ridge's {far[1]:.3f}; left of evicted pairs "
    told += f"{found.values(IN_CONTEXT, 'network evicted').mean():+.3f}"
    if missing := _undecided(found, learns(found, "network")):
        return Answer(told, missing, missing.code)
    if share.high < 0.5 or nearer.high < 0:
        why = "it is nearer to a lookup" if nearer.high < 0 else "it has less than half of what can be learnt"
        return Answer(told, Verdict("refuted"), why)
    if share.low > 0.75 and nearer.low > 0.05:
        return Answer(told, Verdict("supported"), "on new tasks it says what a learner says")
    return Answer(told, Verdict("undecided", "straddles"), "straddles")


PARTS = (*(f"{factor} total" for factor in FACTORS), "interactions")


def _product(found: Measurements) -> Answer:
    words, told = [], []
    for spread in found.experiment.settings["spreads"]:
        values = {part: found.values(IN_CONTEXT, f"spread {spread:g} {part}") for part in PARTS}
        parts = {part: simultaneous(share, len(PARTS)) for part, share in values.items()}
        order = found.values(IN_CONTEXT, f"spread {spread:g} order").mean()
        told.append(f"spread {spread:g}: {listed(parts)}; the order of pairs {order:.3f} of what contexts do")
        words.append(_all_above(parts.values(), 0.05))
    measured = f"shares of the variance, {'; '.join(told)}"
    verdict = _undecided(found, all(learns(found, name) for name in NETWORKS)) or _over_doses(words)
    return Answer(measured, verdict, verdict.code or "at every spread of hyperparameters")


def _all_above(intervals: Collection[Interval], margin: float) -> str:
    """Supported if all lower bounds are above the margin, refuted if an upper bound is below it."""
    if all(interval.low > margin for interval in intervals):
        return "supported"
    return "refuted" if any(interval.high < margin for interval in intervals) else "undecided"


# Twins raised apart -------------------------------------------------------------------------------------------

OF_ENVIRONMENT = ("environment", "genome × environment")
OF_SEED = ("seed", "genome × seed", "environment × seed", "genome × environment × seed")


def share_of(found: Measurements, genomes: str, skew: float, effects: Sequence[str]) -> PerReplicate:
    """What several effects explain of what twins say."""
    return np.asarray(np.sum([found.values(twins(genomes, skew), effect) for effect in effects], axis=0))


def _other_environment(found: Measurements) -> Answer:
    least, *skews = found.experiment.settings["skews"]
    beyond = {
        genomes: {
            f"skew {skew:g}": simultaneous(
                share_of(found, genomes, skew, OF_ENVIRONMENT) - share_of(found, genomes, least, OF_ENVIRONMENT),
                len(skews),
            )
            for skew in skews
        }
        for genomes in GENOMES
    }
    told = [f"the environment's share beyond equal ones', {name} genomes: {listed(i)}" for name, i in beyond.items()]
    for skew in found.experiment.settings["skews"]:
        cell = twins("donor", skew)
        own, seeds = (share_of(found, "donor", skew, e).mean() for e in (("genome",), OF_SEED))
        other = [found.values(cell, which).mean() for which in ("together", "apart")]
        told.append(
            f"skew {skew:g}: genome {own:.2f}, seeds {seeds:.2f}, twins name another class for {other[0]:.1%} together "
            f"and {other[1]:.1%} apart"
        )
    every = [twins("donor", skew) for skew in found.experiment.settings["skews"]]
    able = all(simultaneous(found.values(cell, "accuracy"), len(every)).low > 0.5 for cell in every)
    resolved = min(found.values(cell, "resolved").mean() for cell in every)
    words = [_all_above([interval], 0.1) for interval in beyond["donor"].values()]
    verdict = _undecided(found, able, resolved) or _over_doses(words)
    return Answer("; ".join(told), verdict, verdict.code or "of one genome, beyond what seeds make of it")


# Directions chosen at run time --------------------------------------------------------------------------------


def behind(found: Measurements, world: World, arm: str) -> PerReplicate:
    """By how much an arm errs more than the one whose directions the context chooses."""
    return np.asarray(found.values(routed(world), arm) - found.values(routed(world), "gated"))


def _at_run_time(found: Measurements) -> Answer:
    margins: dict[World, dict[str, Interval]] = {}
    for world in DIGITS:
        values = {"fixed": behind(found, world, "fixed"), "random": behind(found, world, "random")}
        values["beyond one regime"] = values["fixed"] - behind(found, "plain", "fixed")
        margins[world] = {name: simultaneous(value, 6) for name, value in values.items()}
    planted = {arm: simultaneous(behind(found, "planted", arm), 2) for arm in ("fixed", "random")}
    told = "; ".join(f"{world}: {listed(each)}" for world, each in margins.items()) + f"; planted: {listed(planted)}"
    means = [
        f"{world} " + ", ".join(f"{arm} {found.values(routed(world), arm).mean():.3f}" for arm in TOLD_ARMS)
        for world in WORLDS
    ]
    told += f"; errors: {'; '.join(means)}"
    able = all(found.values(routed(world), "all").mean() < 0.5 for world in DIGITS)
    gate = able and all(interval.low > 0.05 for interval in planted.values())
    resolved = min(found.values(routed(world), "resolved").mean() for world in WORLDS)
    if missing := _undecided(found, gate, resolved):
        return Answer(told, missing, missing.code)
    words = {_all_above(each.values(), 0.01) for each in margins.values()}
    if len(words) > 1:
        return Answer(told, Verdict("undecided", "mixed"), "mixed")
    word = words.pop()
    verdict = Verdict(word, "straddles" if word == "undecided" else "")
    return Answer(told, verdict, verdict.code or "in both worlds of digits")


TOLD_ARMS = ("gated", "fixed", "random", "all", "dealt")

ANSWERS: Mapping[str, Callable[[Measurements], Answer]] = {
    "G28": _leaves_nothing,
    "S7": _other_environment,
    "S16": _product,
    "S17": _at_run_time,
    "S19": _is_learning,
}
