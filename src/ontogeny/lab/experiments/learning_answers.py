"""What ``learning`` concludes from its measurements, claim by claim; the rules stand in ``learning.py``."""

from collections.abc import Mapping

import numpy as np

from ontogeny.evolution.locality import ARMS
from ontogeny.evolution.matched_loss import ARCHITECTURES, FACTORS, MEASURES, SEARCHERS
from ontogeny.evolution.two_architectures import MEASURES as LIKENESSES
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import MINIMUM_REPLICATES, Interval, Verdict, unmet
from ontogeny.lab.study import Measurements, PerReplicate, all_hold, judge_measured, listed, simultaneous

NULLS = ("untrained", "shuffled", "class")  # of a convolutional network and a transformer that learnt the same
PROFILE = "profile"
AGAINST = ("plain", "random locality", "shuffled profile")  # what a profile is to be better than
COMPUTED = ("worlds", "tokens")
NEEDED = 0.95  # of networks that reach a loss, and of replicates whose rates are resolved
MATCHED = 0.85  # of the loss to reach: what networks are below it is no match
MARGIN = 0.05  # of similarities
SAVED = 0.1  # log₂ of images
TOLD_BESIDE = ("distilled", "untrained profile", "random subspaces")


def inherited(arm: str) -> str:
    """The name of an arm's condition."""
    return f"inheritance {arm}"


def _means(found: Measurements, condition: str, quantities: Mapping[str, str]) -> str:
    """``name 0.12, …``."""
    return ", ".join(f"{name} {found.values(condition, q).mean():.2f}" for name, q in quantities.items())


def _unmet(found: Measurements, passed: bool, resolved: float) -> Verdict | None:
    """What keeps a claim from being decided before its numbers are looked at."""
    n = min(map(len, found.found.values()))
    return unmet(n, MINIMUM_REPLICATES, passed, resolved >= NEEDED, found.experiment.decisive)


def _architectures(found: Measurements) -> Answer:
    def of(measure: str, state: str) -> PerReplicate:
        return found.values("architectures", f"{measure} {state}")

    beyond, close = {}, {}
    for name in LIKENESSES:
        highest = np.max([of(name, null) for null in NULLS], axis=0)
        beyond[f"{name} beyond the highest null"] = simultaneous(of(name, "trained") - highest, 4)
        middle = (of(name, "seeds") + of(name, "untrained")) / 2
        close[f"{name} beyond the midpoint to two seeds"] = simultaneous(of(name, "trained") - middle, 4)
    told = f"{listed(beyond)}; {listed(close)}"
    for name in LIKENESSES:
        states = ("trained", "seeds", *NULLS, "permuted")
        told += f"; {name}: " + _means(found, "architectures", {state: f"{name} {state}" for state in states})
    told += "; CKA with pixels in it: " + _means(
        found, "architectures", {s: f"plain {s}" for s in ("trained", *NULLS[:2])}
    )
    right = min(of(kind, "accuracy").mean() for kind in ("cnn", "vit"))
    resolved = min(of(kind, "resolved").mean() for kind in ("cnn", "vit"))
    decisive = found.experiment.decisive
    verdict = _unmet(found, bool(right >= 0.8), float(resolved)) or all_hold(
        [
            judge_measured(part.values(), delta=delta, decisive_scale=decisive)
            for part, delta in ((beyond, MARGIN), (close, 0.0))
        ]
    )
    return Answer(
        told, verdict, verdict.code or "against pixels, classes and training as such, and two seeds of one kind"
    )


def _searchers(found: Measurements) -> Answer:
    def of(quantity: str) -> PerReplicate:
        return found.values("searchers", quantity)

    data, searcher = {}, {}
    for name in MEASURES:
        room = of(f"{name} within") - of(f"{name} other")
        data[name] = simultaneous(room, 6)
        searcher[name] = simultaneous(room / 4 - (of(f"{name} within") - of(f"{name} between")), 6)
    told = f"data: {listed(data)}; a quarter of it less searcher: {listed(searcher)}"
    for name in MEASURES:
        told += f"; shares of variance, {name}: " + _means(
            found, "searchers", {factor: f"{name} share {factor}" for factor in (*FACTORS, "rest")}
        )
    cells = [f"{name} {architecture}" for name in SEARCHERS for architecture in ARCHITECTURES]
    reached, loss, resolved = (
        min(float(of(f"{cell} {quantity}").mean()) for cell in cells) for quantity in ("reached", "loss", "resolved")
    )
    verdict = _unmet(found, reached >= NEEDED and loss >= MATCHED, resolved) or _message(data, searcher)
    return Answer(told, verdict, verdict.code or "at one loss, between two seeds")


def _message(data: Mapping[str, Interval], searcher: Mapping[str, Interval]) -> Verdict:
    telling = [name for name, interval in data.items() if interval.low > MARGIN]
    if any(searcher[name].high < 0 for name in telling) or all(interval.high < MARGIN for interval in data.values()):
        return Verdict("refuted")
    if len(telling) < len(data):
        return Verdict("undecided", "data")
    return Verdict("supported") if min(i.low for i in searcher.values()) > 0 else Verdict("undecided", "straddles")


def saved(found: Measurements, arm: str, other: str) -> PerReplicate:
    """log₂ of the images that an arm needs ÷ those that another needs."""
    return np.asarray(found.values(inherited(arm), "samples") - found.values(inherited(other), "samples"))


def _inheritance(found: Measurements) -> Answer:
    serves = {f"{arm} − profile": simultaneous(saved(found, arm, PROFILE), 4) for arm in AGAINST}
    direct = simultaneous(saved(found, "plain", "subspaces"), 4)
    told = f"log₂ images: {listed(serves | {'plain − subspaces': direct})}; beside it plain less " + ", ".join(
        f"{arm} {saved(found, 'plain', arm).mean():+.2f}" for arm in TOLD_BESIDE
    )
    told += f"; plain needs {2 ** found.values(inherited('plain'), 'samples').mean():.0f} images"
    within = min(found.values(inherited(arm), "within").mean() for arm in (PROFILE, *AGAINST))
    donor = found.values(inherited(PROFILE), "donor accuracy").mean()
    resolved = min(found.values(inherited(arm), "resolved").mean() for arm in ARMS)
    verdict = _unmet(found, bool(within >= 0.9 and donor >= 0.9), float(resolved)) or _prior(serves, direct)
    return Answer(told, verdict, verdict.code or "against no bias, biases as sharp, and the network's own subspaces")


def _prior(serves: Mapping[str, Interval], direct: Interval) -> Verdict:
    if any(interval.high < SAVED for interval in serves.values()) or direct.low > SAVED:
        return Verdict("refuted")
    if all(interval.low > SAVED for interval in serves.values()) and direct.high < SAVED:
        return Verdict("supported")
    return Verdict("undecided", "straddles")


def _superposition(found: Measurements) -> Answer:
    def part(quantity: str) -> dict[str, Interval]:
        return {name: simultaneous(found.values("superposition", f"{name} {quantity}"), 6) for name in COMPUTED}

    matched, dealt, variant = part("z matched"), part("z dealt"), part("variant")
    told = f"z against the same covariance {listed(matched)}; against nothing to learn {listed(dealt)}; variant "
    told += f"{listed(variant)}; mean overlaps: " + _means(
        found,
        "superposition",
        {f"{name}, {state}": f"{name} {state}" for name in COMPUTED for state in ("overlap", "untrained")},
    )
    gain = found.values("superposition", "gain").mean()
    resolved = float(found.values("superposition", "resolved").mean())
    verdict = _unmet(found, bool(gain >= 0.3), resolved) or _held(matched, dealt, variant)
    return Answer(told, verdict, verdict.code or "between worlds and between tokens")


def _held(matched: Mapping[str, Interval], dealt: Mapping[str, Interval], variant: Mapping[str, Interval]) -> Verdict:
    if any(interval.high < 0 for interval in matched.values()):
        return Verdict("refuted")
    shared = all(interval.low > 2 for interval in (*matched.values(), *dealt.values()))
    differ = all(interval.low > MARGIN for interval in variant.values())
    return Verdict("supported") if shared and differ else Verdict("undecided", "mixed")


ANSWERS = {"G9": _architectures, "G33": _searchers, "G34": _inheritance, "S8": _superposition}
