"""What ``critical`` concludes from its measurements, claim by claim; the rules stand in ``critical.py``."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.amnesia import cases
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import MINIMUM_REPLICATES, Interval, Verdict, student_interval, unmet
from ontogeny.lab.study import RESOLVED, Measurements, PerReplicate, listed, reason, shown, simultaneous

CHANNELS = ("place", "scale", "scattered")  # the last one stands beside
CODES = ("mixed", "receptors")
DECIDING = ("dense", "genome")
MARGINS = {"eye": 0.01, "skill": 0.02, "dominance": 0.05}  # accuracy, nats, index
LEARNT = {"eye": 0.3, "skill": 0.1}  # above a network that has learnt nothing
Part = tuple[Interval, float]  # and the margin that it has to exceed
ByCell = Float[np.ndarray, "replicates onsets lengths"]


def grown(kind: str, arm: str) -> str:
    """The name of a condition of deprivation."""
    return f"deprivation {kind} {arm}"


def _unmet(found: Measurements, cells: Sequence[str], gates: bool) -> Verdict | None:
    """Undecided, with what is missing for any verdict on these conditions: scale, gate, rates or replicates."""
    resolved = [found.values(cell, "resolved") for cell in cells]
    inside = min(values.mean() for values in resolved) >= RESOLVED
    return unmet(len(resolved[0]), MINIMUM_REPLICATES, gates, bool(inside), found.experiment.decisive)


def _judge(parts: Sequence[Part], found: Measurements, cells: Sequence[str], gates: bool) -> Verdict:
    return _unmet(found, cells, gates) or _word(parts)


def _word(parts: Sequence[Part]) -> Verdict:
    """Supported where every lower bound exceeds its margin, refuted where some upper bound is below it."""
    if any(interval.high < margin for interval, margin in parts):
        return Verdict("refuted")
    held = all(interval.low > margin for interval, margin in parts)
    return Verdict("supported") if held else Verdict("undecided", "straddles")


def _both(verdicts: Sequence[Verdict], code: str) -> Verdict:
    """Of several that have to agree: what all say, else undecided with this code."""
    words = {verdict.word for verdict in verdicts}
    return verdicts[0] if len(words) == 1 else Verdict("undecided", code)


def harm(found: Measurements, cell: str, quantity: str = "alone") -> ByCell:
    """By onset and length: a quantity of networks that took the same other steps − that of deprived ones."""
    values = found.values(cell, quantity)
    return np.asarray(values[:, :, :1] - values[:, :, 1:])


def _early_and_late(harmed: ByCell) -> tuple[PerReplicate, PerReplicate]:
    """At the longest deprivation: from the first step, and that − from the last onset."""
    return harmed[:, 0, -1], harmed[:, 0, -1] - harmed[:, -1, -1]


def _window(found: Measurements, arm: str, contrasts: int = 5) -> dict[str, Part]:
    parts = {}
    for kind in ("eye", "skill"):
        early, excess = _early_and_late(harm(found, grown(kind, arm)))
        parts[f"{kind} early"] = (simultaneous(early, contrasts), MARGINS[kind])
        parts[f"{kind} early − late"] = (simultaneous(excess, contrasts), MARGINS[kind])
    _, excess = _early_and_late(harm(found, grown("eye", arm), "dominance"))
    parts["dominance early − late"] = (simultaneous(excess, contrasts), MARGINS["dominance"])
    return parts


def _has_learnt(found: Measurements, kind: str, arm: str) -> bool:
    """Whether networks that were never deprived have learnt what is withheld from others."""
    cell = grown(kind, arm)
    gained = found.values(cell, "alone")[:, :, 0] - found.values(cell, "nothing")[:, None]
    return bool((gained.mean(0) > LEARNT[kind]).all())


def _told(parts: Mapping[str, Part]) -> str:
    return listed({name: interval for name, (interval, _) in parts.items()})


def _critical_period(found: Measurements) -> Answer:
    parts = {arm: _window(found, arm) for arm in DECIDING}
    words = []
    for arm in DECIDING:
        learnt = all(_has_learnt(found, kind, arm) for kind in LEARNT)
        cells = [grown(kind, arm) for kind in LEARNT]
        words.append(_judge(list(parts[arm].values()), found, cells, learnt))
    told = "harm, " + "; ".join(f"{arm}: {_told(parts[arm])}" for arm in DECIDING)
    for kind in LEARNT:
        pair = [_early_and_late(harm(found, grown(kind, arm)))[1] for arm in ("genome", "random")]
        told += f"; {kind} early − late, genome − random axes {shown(student_interval(pair[0] - pair[1]))}"
    decaying = _early_and_late(harm(found, grown("eye", "dense, decaying rate")))[1]
    told += f"; eye early − late at a decaying rate {shown(student_interval(decaying))}"
    failed = next((word for word in words if word.code not in ("", "straddles")), None)
    verdict = failed or _both(words, "mixed")
    return Answer(told, verdict, verdict.code or "early deprivation against late, and against as many steps without")


def _different_worlds(found: Measurements) -> Answer:
    parts: dict[str, Part] = {}
    for kind in CHANNELS[:2]:
        for quantity, margin in (("cka", 0.05), ("mistakes", 0.1)):
            parts[f"{quantity} by {kind}"] = (simultaneous(found.values(f"channels {kind}", quantity), 4), margin)
    cells = [f"channels {kind}" for kind in CHANNELS[:2]]
    gates = all(
        found.values(cell, quantity).mean() > least
        for cell in cells
        for quantity, least in (("right", 0.5), ("cka within", 0.1), ("mistakes within", 0.2))
    )
    told = f"within − between senses: {_told(parts)}; beside it "
    beside = {f"untrained by {kind}": found.values(f"channels {kind}", "cka untrained") for kind in CHANNELS[:2]}
    beside |= {f"scattered {what}": found.values("channels scattered", what) for what in ("cka", "mistakes")}
    told += listed({name: student_interval(values) for name, values in beside.items()})
    verdict = _judge(list(parts.values()), found, cells, gates)
    return Answer(told, verdict, verdict.code or "against two seeds of one sense")


def _other_modality(found: Measurements) -> Answer:
    def off(measure: str, code: str) -> PerReplicate:
        return found.values("codes", f"{measure} {code}")

    apart = {f"{what} {code}": simultaneous(off(what, code), 6) for code in CODES for what in ("cka", "left over")}
    nearer = {f"dealt − {code}": simultaneous(off("cka", "dealt") - off("cka", code), 6) for code in CODES}
    checked = all(abs(off(what, "permuted").mean()) < 0.05 for what in ("cka", "left over"))
    gates = checked and bool(found.values("codes", "right").mean() > 0.5)
    reversed_ = [(Interval(-i.mean, i.sd, -i.high, -i.low, i.level, i.n), -0.05) for i in apart.values()]
    verdict = _judge(reversed_, found, ["codes"], gates)
    if verdict.word == "supported" and min(i.low for i in nearer.values()) <= 0.05:
        verdict = Verdict("undecided", "gate")
    told = f"from pixels beyond two seeds: {listed(apart)}; {listed(nearer)}; permuted "
    told += ", ".join(f"{what} {off(what, 'permuted').mean():+.3f}" for what in ("cka", "left over", "axes"))
    told += f"; axes mixed {shown(student_interval(off('axes', 'mixed')))}"
    return Answer(told, verdict, verdict.code or "against two seeds of one code, and against other statistics")


def case(found: Measurements, how: str, share: float) -> int:
    """The place of a case among those that are measured."""
    return cases(found.experiment.settings["shares"]).index((how, share))


def asked(found: Measurements) -> list[dict[str, Float[np.ndarray, "replicates cases"]]]:
    """Shares of early and late items named right after they were learnt, and after the interval."""
    ages = ("early", "late")
    return [{age: found.values("items", f"{age} {what}") for age in ages} for what in ("learnt", "kept")]


def _amnesia(found: Measurements) -> Answer:
    shares = found.experiment.settings["shares"]
    learnt, kept = asked(found)
    at = {share: case(found, "early", share) for share in shares}
    words, told, equal = [], [], []
    for share, place in at.items():
        gone = kept["early"][:, place]
        parts = {
            "unpruned": (simultaneous(kept["early"][:, 0] - gone, 2 * len(shares)), 0.05),
            "learnt after": (simultaneous(kept["late"][:, place] - gone, 2 * len(shares)), 0.05),
        }
        first, then = learnt["early"][:, place].mean(), learnt["late"][:, place].mean()
        equal.append(min(first, then) > 0.9 and abs(first - then) < 0.05)
        words.append(_word(list(parts.values())))
        told.append(f"{share:.0%} kept: {_told(parts)}")
    gates = all(equal) and min(kept[age][:, 0].mean() for age in kept) > 0.3
    gates = bool(gates and found.values("items", "digits").mean(0).min() > 0.5)
    verdict = _unmet(found, ["items"], gates) or _both(words, "dose")
    beside = [f"{kept['early'][:, case(found, 'random', share)].mean():.2f}" for share in shares]
    later = [f"{kept['late'][:, case(found, 'late', share)].mean():.2f}" for share in shares]
    measured = f"share kept beyond early items', pruned: {'; '.join(told)}; early items kept unpruned "
    measured += f"{kept['early'][:, 0].mean():.2f}, pruned at random {', '.join(beside)}; late ones pruned "
    return Answer(measured + ", ".join(later), verdict, verdict.code or "against no pruning, and against later items")


def costs(found: Measurements, world: str) -> dict[str, PerReplicate]:
    """Nats that networks lose without a sense: ``first``, ``second``, ``two``."""
    names = {"first": "without first", "second": "without second", "two": "neither"}
    both = found.values(f"senses {world}", "loss both")
    return {name: found.values(f"senses {world}", f"loss {arm}") - both for name, arm in names.items()}


def beyond_sum(cost: Mapping[str, PerReplicate]) -> float:
    """The share of the mean cost of two that is more than the sum of the single ones: 0 where they add up."""
    mean = {name: float(values.mean()) for name, values in cost.items()}
    return (mean["two"] - mean["first"] - mean["second"]) / mean["two"]


def _two_senses(found: Measurements) -> Answer:
    redundant, separate = (costs(found, world) for world in ("redundant", "separate"))
    whole, without = (found.values("senses redundant", f"cka {arm}") for arm in ("both", "neither"))
    single = [found.values("senses redundant", f"cka without {which}") for which in ("first", "second")]
    twice = {
        "loss": redundant["two"] - 2 * (redundant["first"] + redundant["second"]),
        "CKA": (whole - without) - 2 * (2 * whole - single[0] - single[1]),
    }
    parts = {name: (simultaneous(values, 2), 0.0) for name, values in twice.items()}
    gates = found.values("senses redundant", "loss both").mean() < math.log(10) / 2
    gates = gates and min(cost["two"].mean() for cost in (redundant, separate)) > 0.1
    gates = bool(gates and abs(beyond_sum(separate)) < 0.25)
    verdict = _judge(list(parts.values()), found, ["senses redundant", "senses separate"], gates)
    told = f"two − twice the sum of one: {_told(parts)}; costs in nats: "
    told += listed({name: student_interval(values) for name, values in redundant.items()})
    told += f"; beyond the sum {beyond_sum(redundant):.0%} of the cost of two, of separate senses "
    late = found.values("senses redundant", "loss late") - found.values("senses redundant", "loss both")
    told += (
        f"{beyond_sum(separate):.0%}; given back late, beyond as many steps with both {shown(student_interval(late))}"
    )
    return Answer(told, verdict, reason(verdict, "the second sense stands in for the first, and nothing for both"))


ANSWERS = {
    "S6": _critical_period,
    "G3": _different_worlds,
    "G7": _other_modality,
    "G8": _amnesia,
    "G35": _two_senses,
}
