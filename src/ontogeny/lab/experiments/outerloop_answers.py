"""What ``outerloop`` concludes from its measurements, claim by claim; the rules stand in ``outerloop.py``."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.donor_scaling import ceiling_share
from ontogeny.evolution.growing_rank import LANDSCAPES
from ontogeny.evolution.learning_rules import TERMS, UNMET
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import Interval, Verdict, student_interval
from ontogeny.lab.study import Measurements, PerReplicate, all_hold, judge_measured, listed, reason, shown, simultaneous

LEARNT = -0.1  # log₁₀ loss: a fifth below a constant's
COUNTS = 0.02  # log₁₀ loss that counts as a difference
FELT = 0.1  # share of all connections that costs have to save, or they weren't felt
Arm = tuple[str, str]  # a condition, and an arm in it, "" where it has one


def cells(widths: Sequence[int], width: int, ladder: Sequence[int], steps: int) -> list[tuple[int, int]]:
    """Width and steps of every donor, each once."""
    return sorted({(each, steps) for each in widths} | {(width, each) for each in ladder})


def scaling(width: int, steps: int) -> str:
    """The name of a donor's condition."""
    return f"donor {width} {steps}"


def _of(found: Measurements, arm: Arm, quantity: str = "loss") -> PerReplicate:
    condition, name = arm
    return found.values(condition, f"{name} {quantity}".strip())


def _barred(found: Measurements, learning: Iterable[Arm], compared: Iterable[Arm]) -> Verdict | None:
    """What decides nothing: an arm that hasn't learnt, or one with its rate at the grid's end."""
    if not found.experiment.decisive:
        return Verdict("undecided", "scale")
    if any(_of(found, arm).mean() > LEARNT for arm in learning):
        return Verdict("undecided", "gate")
    if np.mean([_of(found, arm, "resolved").mean() for arm in compared]) < 0.95:
        return Verdict("undecided", "rate unresolved")
    return None


PROFILES: dict[str, Arm] = {
    "default": ("profile default", ""),
    "dealt": ("profile dealt", ""),
    "random search": ("profile random search", ""),
    "evolved": ("profile evolved", ""),
    "random genome": ("inherited", "random genome"),
    "donor's genome": ("inherited", "genome"),
    "turned weights": ("inherited", "rotated"),
    "donor's weights": ("inherited", "weights"),
}


def _hyperparameters(found: Measurements) -> Answer:
    losses = {name: _of(found, arm) for name, arm in PROFILES.items()}
    contrasts = {
        f"{behind} − {ahead}": simultaneous(losses[behind] - losses[ahead], 5)
        for behind, ahead in (
            ("default", "evolved"),
            ("dealt", "evolved"),
            ("random search", "evolved"),
            ("evolved", "donor's weights"),
            ("turned weights", "donor's weights"),
        )
    }
    beside = {
        f"{behind} − {ahead}": student_interval(losses[behind] - losses[ahead])
        for behind, ahead in (("evolved", "donor's genome"), ("random genome", "donor's genome"))
    }
    distances = [found.values(f"profile {name}", "distance").mean() for name in ("evolved", "dealt")]
    told = f"{listed(contrasts)}; beside it {listed(beside)}; evolved genes are {distances[0]:.2f} doublings from the "
    told += f"default (blindly evolved ones {distances[1]:.2f})"
    compared = [arm for name, arm in PROFILES.items() if "genome" not in name]
    decisive = found.experiment.decisive
    words = [
        judge_measured([each], delta=0.0 if name.startswith("random") else COUNTS, decisive_scale=decisive)
        for name, each in contrasts.items()
    ]
    verdict = _barred(found, [PROFILES["default"]], compared) or all_hold(words)
    return Answer(told, verdict, reason(verdict, "hyperparameters evolve, and weights give what they don't"))


def _dose_contrasts(found: Measurements, dose: float) -> dict[str, Interval]:
    own, count = _of(found, ("bodies", f"cost {dose:g}"), "modularity"), 2 * len(found.experiment.settings["doses"])
    nulls = {name: _of(found, ("bodies", f"{name} {dose:g}"), "modularity") for name in ("pruned", "backpropagation")}
    return {f"modularity with costs − {name}": simultaneous(own - null, count) for name, null in nulls.items()}


def _beside(found: Measurements, dose: float) -> str:
    own, null, alone = (("bodies", name) for name in (f"cost {dose:g}", f"pruned {dose:g}", "alone"))
    samples = student_interval(_of(found, null, "samples") - _of(found, own, "samples"))
    told = f"log₁₀ samples, pruned − with costs {shown(samples)}"
    for quantity, name in (("density", "density"), ("within", "paths within halves")):
        with_costs, without = (_of(found, arm, quantity).mean() for arm in (own, alone))
        told += f", {name} {with_costs:.2f} (alone {without:.2f})"
    return told


def _bodies(found: Measurements) -> Answer:
    doses, told, words = found.experiment.settings["doses"], [], []
    for dose in doses:
        contrasts = _dose_contrasts(found, dose)
        words.append(judge_measured(contrasts.values(), delta=0.05, decisive_scale=found.experiment.decisive))
        told.append(f"dose {dose:g}: {listed(contrasts)}; {_beside(found, dose)}")
    alone, costly = ("bodies", "alone"), [("bodies", f"cost {dose:g}") for dose in doses]
    thinner = [(_of(found, alone, "density") - _of(found, arm, "density")).mean() for arm in costly]
    verdict = _barred(found, [alone, *costly], [("bodies", "rate"), alone, *costly])
    if verdict is None and min(thinner) <= FELT:
        verdict = Verdict("undecided", "gate")
    if verdict is None and len({word.word for word in words}) > 1:
        verdict = Verdict("undecided", "dose")
    verdict = verdict or words[0]
    return Answer("; ".join(told), verdict, verdict.code or "beyond building less, at both doses")


def _growing(found: Measurements) -> Answer:
    names = [f"growth {landscape}" for landscape in LANDSCAPES]
    contrasts = {
        f"{control} − growing, {name.removeprefix('growth ')}": simultaneous(
            _of(found, (name, control)) - _of(found, (name, "growing")), 4
        )
        for name in names
        for control in ("best fixed", "shrinking")
    }
    told = f"log₁₀ loss {listed(contrasts)}"
    learning = [(name, "best fixed") for name in names]
    compared = [(name, arm) for name in names for arm in ("fixed 1", "fixed 4", "fixed 16", "growing", "shrinking")]
    verdict = _barred(found, learning, compared) or judge_measured(
        contrasts.values(), delta=0.05, decisive_scale=found.experiment.decisive
    )
    return Answer(told, verdict, verdict.code or "against the best fixed rank and the opposite order")


def _rule(found: Measurements) -> Answer:
    def behind(field: str, rule: str) -> PerReplicate:
        return np.asarray(_of(found, ("rules", f"{field} {rule}")) - _of(found, ("rules", f"{field} evolved")))

    contrasts = {
        f"{rule} − evolved, {field}": simultaneous(behind(field, rule), 4)
        for field in UNMET
        for rule in ("SGD", "Adam")
    }
    home = {f"{rule} − evolved": student_interval(behind("met", rule)) for rule in ("SGD", "Adam", "dealt")}
    mix = found.values("rules", "rule").mean(0)
    told = f"{listed(contrasts)}; on its own family {listed(home)}; the rule " + ", ".join(
        f"{coefficient:+.2f} {term}" for coefficient, term in zip(mix, TERMS, strict=True)
    )
    arms = [("rules", f"{field} {rule}") for field in ("met", *UNMET) for rule in ("SGD", "Adam", "evolved")]
    learning = [("rules", f"{field} Adam") for field in ("met", *UNMET)]
    verdict = _barred(found, learning, arms) or judge_measured(
        contrasts.values(),
        delta=COUNTS,
        decisive_scale=found.experiment.decisive,
        gates_passed=bool(home["dealt − evolved"].mean > COUNTS),
    )
    return Answer(told, verdict, verdict.code or "against SGD and Adam on families it has never met")


AXES = ("width", "training")


def axis(found: Measurements, which: str) -> tuple[list[int], Float[np.ndarray, "replicates sizes"]]:
    """The sizes of donors along an axis, and their gaps."""
    settings = found.experiment.settings
    if which == "width":
        names = {width: scaling(width, settings["donor_steps"]) for width in settings["widths"]}
    else:
        names = {steps: scaling(settings["donor_width"], steps) for steps in settings["ladder"]}
    return list(names), np.stack([found.values(name, "gap") for name in names.values()], axis=1)


def late_growth(sizes: Sequence[int], gaps: Float[np.ndarray, "replicates sizes"]) -> PerReplicate:
    """What the last quadrupling adds, less a tenth of what there is in the end.

    The quarter is the size that comes nearest to it.
    """
    quarter = int(np.argmin(np.abs(np.log(np.asarray(sizes) * 4 / sizes[-1]))))
    return np.asarray(gaps[:, -1] - gaps[:, quarter] - 0.1 * gaps[:, -1])


def _saturation(found: Measurements) -> Answer:
    growth, shares, told = {}, [], []
    for which in AXES:
        sizes, gaps = axis(found, which)
        growth[which] = simultaneous(late_growth(sizes, gaps), len(AXES))
        share, top = ceiling_share(np.array(sizes, dtype=float), gaps)
        shares.append(share)
        course = ", ".join(f"{gap:+.3f}" for gap in gaps.mean(0))
        told.append(
            f"{which} {sizes[0]} … {sizes[-1]}: gap {course}; last quadrupling less a tenth {shown(growth[which])}; a "
            f"ceiling ({top:+.3f}) fits better in {share:.0%}"
        )
    largest = [_largest(found, which) for which in AXES]
    compared = [(name, "") for name in found.named("donor ")]
    gap = min(axis(found, which)[1][:, -1].mean() for which in AXES)
    verdict = _barred(found, largest, compared) or _saturated(list(growth.values()), shares, float(gap))
    return Answer("; ".join(told), verdict, verdict.code or "along width and training")


def _largest(found: Measurements, which: str) -> Arm:
    settings = found.experiment.settings
    if which == "width":
        return scaling(settings["widths"][-1], settings["donor_steps"]), ""
    return scaling(settings["donor_width"], settings["ladder"][-1]), ""


def _saturated(growth: Sequence[Interval], shares: Sequence[float], gap: float) -> Verdict:
    if gap <= COUNTS:
        return Verdict("undecided", "gate")
    if any(each.low > 0 for each in growth):
        return Verdict("refuted")
    if all(each.high < 0 for each in growth) and min(shares) >= 0.95:
        return Verdict("supported")
    return Verdict("undecided", "straddles")


ANSWERS = {
    "S9": _hyperparameters,
    "G5": _bodies,
    "G13": _growing,
    "G15": _rule,
    "G26": _saturation,
}
