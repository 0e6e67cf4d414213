"""Reachability (E9, E10, G24): does a network on random directions ever reach what one on the donor's reaches?

One run an arm at a constant rate, cooled down from it at every horizon, so that the gap is measured at seven training
lengths. In the full table the trained random arm is then given every chance: it goes on, faster, with its directions
freed, or from the projection of a trained dense optimum, always on text that no arm has read.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.errors import InputError
from ontogeny.lab.answers import NOT_FINISHED, Answer, measured
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.claims import load_claims
from ontogeny.lab.curves import RULES as CURVE_RULES
from ontogeny.lab.curves import FloorFit, fit_floor, judge_floor
from ontogeny.lab.experiment import Arm, Contrast, Embeddings, Experiment, Setting
from ontogeny.lab.experiments.arms import OTHERS, PRIMARY
from ontogeny.lab.judge import Assessment, ContrastSummary, conditions, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import OUR_CHOICE, SHAPES, Scale, Variant, published
from ontogeny.lab.statistics import DELTA, MINIMUM_REPLICATES, Verdict, paired_interval
from ontogeny.lab.store import Store

NAME = "reachability"
TITLE = "Reachability: does a network on random directions ever reach what one on the donor's reaches?"
FLAW = (
    "the published random arm starts far above the uniform loss, so its scale wasn't matched, and one run an arm on "
    "one schedule can't tell a gap that shrinks as a power of the steps from one that stays"
)

DOUBLING = tuple(100 * 2**j for j in range(7))  # 64 ×: shorter spans find a floor of 0.1 nats only half of the time
EMBEDDED = ("stdlib:code", "stdlib:prose")  # 2.7 million training tokens at vocabulary 1024; either alone is too short
PYTHIA = "EleutherAI/pythia-14m"

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"horizons": (4, 8, 16), "tuning_horizon": 4},
    "demo": {"horizons": (25, 50, 100, 200), "tuning_horizon": 100},
    "laptop": {"width": 64, "ffn": 176, "batch": 4, "donor_steps": 8000, "horizons": DOUBLING, "tuning_horizon": 800},
    "workstation": SHAPES[PYTHIA]
    | {"vocabulary": 8192, "batch": 32, "donor_steps": 8000, "horizons": DOUBLING, "tuning_horizon": 800},
    "paper": published(
        f"{PYTHIA}@step143000",  # the last; main was replaced
        horizons=tuple(750 * 2**j for j in range(7)),  # to 48,000: at most 50,000 are published
        tuning_horizon=6000,
        not_stated=("text", "rank", "horizons", "tuning_horizon", *OUR_CHOICE),
    ),
}

RESCUE = "rescue"  # the setting of runs that go on from others
LONGER = 0.25  # of the last horizon: how much longer they train

MAIN = {arm.name: arm for arm in (*PRIMARY.values(), OTHERS["low-rank"]) if arm.name != "rotated"}
RESCUES = {
    "random continued": Arm("random continued", description="the random arm goes on, its rates warmed up again"),
    "random freed": Arm("random freed", rescue="free", description="it goes on with U and V trained too"),
    "random faster": Arm("random faster", rate_factor=10.0, description="it goes on at ten times its rates"),
    "random projected": Arm(
        "random projected",
        after="dense",
        rescue="projected",
        description="the random directions again, started from the projection of the trained dense arm",
    ),
}
RESCUES = {
    name: replace(arm, controls=("random",), after=arm.after or "random", tuned_as="random", setting=RESCUE)
    for name, arm in RESCUES.items()
}
CONTINUED = {
    f"{name} continued": replace(
        MAIN[name], name=f"{name} continued", after=name, tuned_as=name, setting=RESCUE, description=f"{name} goes on"
    )
    for name in ("donor", "dense")
}
WIRED = ("random continued", "random faster", "random projected")  # rescues that keep the random directions

GAP = "random − donor (fresh)"
RULES = {
    "estimand": "gap = test loss(random) − test loss(donor), nats a token, at the end of every cool-down: the last "
    "20 % of each horizon, branched from one run at a constant rate; single epoch",
    "rates": "tuned by the protocol for every arm and mode at the tuning horizon, and used at all horizons; an arm "
    "that goes on shares the rates of the arm it goes on from, the projected one those of random",
    "E9": CURVE_RULES["E9"] + "; starts within 0.2 nats; supported also needs the same sign of the gap at both arms' "
    "second-best rates. Fresh embeddings; frozen ones stand beside it",
    "E10": "asked once random − donor (fresh) is supported at the last horizon, else undecided, code gap; refuted if "
    "one of the rescues (random going on, with its directions freed, at ten times the rates, or started from a "
    "projected dense optimum) − donor continued has its upper bound < 0.02 nats at the same total steps; undecided, "
    "code 'not reached in N×' (N: total steps ÷ last horizon), if all lower bounds > 0.02, a rescue that diverges or "
    "falls behind the bigram counting as not reached: failing to reach can't prove unreachable; else undecided",
    "G24": "refuted if random − donor is refuted at the last horizon, or E9 is, or a rescue of E10 that keeps the "
    "random directions reaches the donor; undecided, code 'not reached in N×', if the gap is supported; N: the last "
    "horizon ÷ the shortest at which the donor's loss is lower by > 0.02 nats (lower bound) than random's at the last, "
    "asked from the last horizon down to the first that fails; else undecided",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """One donor family; in the full table again for the runs that go on, on text that nothing has read.

    Raises InputError for fewer than three horizons, or a first one too short to be cooled down.
    """
    if len(set(scale.horizons)) < 3 or scale.horizons[0] < 3:
        raise InputError(
            f"horizons {list(scale.horizons)}: expected at least 3 different ones from 3 steps on, doubling; "
            "--set horizons=100,200,400,800 for example"
        )
    sources = text or (EMBEDDED if scale.text == EMBEDDED[0] else ())
    longer = max(1, round(LONGER * scale.steps))
    found = {"": Variant(scale, sources, ahead=longer)}
    if table == "full":
        steps = tuple(sorted({max(1, longer // 4), max(1, longer // 2), longer}))
        going_on = replace(scale, horizons=(), tuning_horizon=0, steps=longer, evaluate_at=steps)
        found[RESCUE] = Variant(going_on, sources, skip=scale.steps)
    return found


def declare(*, given: bool, table: str, settings: Mapping[str, Setting] | None = None, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    pair = ("donor", "random")
    arms = MAIN | CONTINUED | RESCUES if table == "full" else {name: MAIN[name] for name in pair}
    modes: dict[str, tuple[str, ...]] = {"fresh": tuple(arms)} | ({"frozen": pair} if table == "full" else {})
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms.values()),
        embeddings=modes,
        contrasts=tuple(contrast for mode in modes for contrast in _contrasts(mode, modes[mode])),  # type: ignore[arg-type]
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        settings=dict(settings or {}),
        alignments=(),
        **rest,
    )


def _contrasts(mode: Embeddings, arms: tuple[str, ...]) -> list[Contrast]:
    """Primary: the gap, and in the full table every rescue against the donor's continuation."""
    asked = [
        ("random", "donor", "is the gap there at the last horizon?", True),
        ("coherent", "donor", "the donor beyond agreement between layers", False),
        ("low-rank", "donor", "against directions that are trained", False),
        ("dense", "donor", "against every weight free", False),
        *(
            (name, "donor continued", f"does it reach the donor? {arm.description}", True)
            for name, arm in RESCUES.items()
        ),
        ("dense continued", "donor continued", "every weight free, both going on", False),
        *(
            ("random continued", name, "what the rescue adds to going on", False)
            for name in RESCUES
            if name != "random continued"
        ),
    ]
    return [
        Contrast(mode, control, treatment, question, primary=primary)
        for control, treatment, question, primary in asked
        if {control, treatment} <= set(arms)
    ]


def contrast_named(assessment: Assessment, name: str) -> ContrastSummary:
    """The contrast of this name, which the table has."""
    return next(contrast for contrast in assessment.contrasts if contrast.contrast.name == name)


def against_donor(rescue: str) -> str:
    """The contrast of an arm that goes on with the donor that does."""
    return f"{rescue} − donor continued (fresh)"


def curve(assessment: Assessment, mode: str, name: str) -> Float[np.ndarray, "replicates horizons"] | None:
    """An arm's test losses (nats a token) at every horizon; None until all replicates are there."""
    experiment, arm = assessment.experiment, assessment.arms.get((mode, name))
    if arm is None or len(arm.losses) < experiment.replicates or None in arm.losses:
        return None
    return np.array([arm.curves[horizon] for horizon in experiment.setting.horizons]).T


def gaps(assessment: Assessment, mode: str) -> Float[np.ndarray, "replicates horizons"] | None:
    """random − donor at every horizon, nats a token; None until all replicates of both are there."""
    random, donor = curve(assessment, mode, "random"), curve(assessment, mode, "donor")
    return None if random is None or donor is None else random - donor


def fit(assessment: Assessment, mode: str = "fresh") -> FloorFit | None:
    """The gap's floor over the horizons; None until all replicates are there."""
    found = gaps(assessment, mode)
    return None if found is None else fit_floor(assessment.experiment.setting.horizons, found)


def published_series() -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, float]]:
    """Steps and gaps (nats a token) of the published chart, and the (step, gap) that the text gives, from claim E9."""
    claim = next(claim for claim in load_claims() if claim.id == "E9")
    thousands, shrinking = (
        re.search(pattern, claim.finding)[1].split(", ")  # type: ignore[index]
        for pattern in (r"steps are ([\d, ]+) thousand", r"gap shrinks ([\d., ]+) over")
    )
    at, gap = (re.search(pattern, claim.published)[1] for pattern in (r"random \S+ \((\d+)K\)", r"gap (0\.\d+)"))  # type: ignore[index]
    return tuple(1000 * int(k) for k in thousands), tuple(map(float, shrinking)), (1000 * int(at), float(gap))


def _published_gaps() -> tuple[tuple[float, str], ...]:
    steps, chart, (at, said) = published_series()
    return (chart[-1], f"chart, {steps[-1]} steps"), (said, f"text, {at} steps")


PUBLISHED = {GAP: _published_gaps()}


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E9, E10 and G24."""
    permanent = _permanent(assessment)
    answers = {"E9": permanent, "E10": _rescued(assessment), "G24": _arrives(assessment, permanent)}
    return answers_to_findings(assessment.experiment, answers)


def _permanent(assessment: Assessment) -> Answer:
    gap, found = contrast_named(assessment, GAP), fit(assessment)
    if found is None:
        return Answer("", gap.verdict, gap.verdict.code) if assessment.complete else NOT_FINISHED
    needed = conditions(assessment, [gap])
    if assessment.experiment.single_checkpoint:  # a statement about one donor needs no others
        needed["donors"] = MINIMUM_REPLICATES
    verdict = judge_floor(found, **needed)
    if verdict.word != "undecided":  # whatever else the rule of a contrast asks
        verdict = judge_derived(assessment, found.interval, [gap], gap.second_best_gap)
    i, horizons = found.interval, assessment.experiment.setting.horizons
    told = (
        f"floor {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] nats, n {i.n}, over {horizons[0]} to {horizons[-1]} steps; "
        f"AICc {found.with_floor.aicc:.1f} with it, {found.without_floor.aicc:.1f} without; {measured(assessment, gap)}"
    )
    word = {"supported": "the fitted gap stays above 0.02 nats", "refuted": "the fitted gap falls below 0.02 nats"}
    return Answer(told, verdict, verdict.code or word[verdict.word])


def outcomes(assessment: Assessment) -> dict[str, str]:
    """Rescue -> "reached", "not reached", "failed" (diverged, or behind the bigram), or why it is undecided.

    Empty where the table hasn't them, and until all runs are there.
    """
    rescued = RESCUE in assessment.experiment.settings and assessment.complete
    return {name: _outcome(assessment, name) for name in RESCUES} if rescued else {}


def _outcome(assessment: Assessment, name: str) -> str:
    arm, contrast = assessment.arms["fresh", name], contrast_named(assessment, against_donor(name))
    if arm.diverged or not arm.passed_gate:
        return "failed"
    return {"refuted": "reached", "supported": "not reached"}.get(contrast.verdict.word, contrast.verdict.code)


def _rescued(assessment: Assessment) -> Answer:
    gap, found = contrast_named(assessment, GAP), outcomes(assessment)
    contrasts = [gap, *(contrast_named(assessment, against_donor(name)) for name in found)]
    told = "; ".join(measured(assessment, contrast) for contrast in contrasts if contrast.interval)
    whole = gap.interval is not None and gap.interval.n == assessment.experiment.replicates
    if gap.verdict.word in ("refuted", "undecided") and (whole or assessment.complete):
        why = f"asked only once the gap is supported; it is {gap.verdict.word}"
        return Answer(told, Verdict("undecided", "gap"), why + (f" ({gap.verdict.code})" if gap.verdict.code else ""))
    if RESCUE not in assessment.experiment.settings:
        return Answer(told, Verdict("not run"), "in the full table (--table full)")
    if not found:
        return NOT_FINISHED
    why = "; ".join(f"{name}: {outcome}" for name, outcome in found.items())
    if "reached" in found.values():
        return Answer(told, Verdict("refuted"), why)
    unsure = [outcome for outcome in found.values() if outcome not in ("not reached", "failed")]
    going_on = assessment.experiment.settings[RESCUE]
    times = f"not reached in {(going_on.skip + going_on.steps) / going_on.skip:g}×"
    return Answer(told, Verdict("undecided", unsure[0] if unsure else times), why if unsure else f"{times}; {why}")


def _arrives(assessment: Assessment, permanent: Answer) -> Answer:
    gap, found = contrast_named(assessment, GAP), outcomes(assessment)
    if permanent.verdict.word == "not run":
        return permanent
    arrivals = {
        "it has the donor's loss at the last horizon": gap.verdict.word == "refuted",
        "the fitted gap closes (E9)": permanent.verdict.word == "refuted",
        **{f"{name} reaches the donor (E10)": found.get(name) == "reached" for name in WIRED},
    }
    told = measured(assessment, gap)
    if arrived := [why for why, true in arrivals.items() if true]:
        return Answer(told, Verdict("refuted"), "; ".join(arrived))
    if gap.verdict.word != "supported":
        return Answer(told, Verdict("undecided", gap.verdict.code), f"gap: {gap.verdict.code}")
    step, times = lag(assessment)
    code = f"not reached in {times:g}×"
    return Answer(told, Verdict("undecided", code), f"{code}: the donor's loss after {step} steps")


def lag(assessment: Assessment) -> tuple[int, float]:
    """The shortest horizon at which the donor was already ahead of random at the last, and last ÷ that horizon.

    Ahead: lower bound of random at the last − donor at the horizon > 0.02 nats, at the gap's own level. Horizons are
    asked from the last down to the first that fails, a fixed sequence, so that none needs a correction of its own.
    """
    gap = contrast_named(assessment, GAP).interval
    random, donor = (curve(assessment, "fresh", name) for name in ("random", "donor"))
    assert gap is not None
    assert random is not None
    assert donor is not None
    horizons = assessment.experiment.setting.horizons
    ahead = horizons[-1]
    for column, horizon in reversed(list(enumerate(horizons))):
        if paired_interval(random[:, -1] - donor[:, column], gap.level).low <= DELTA:
            break
        ahead = horizon
    return ahead, horizons[-1] / ahead


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """The gap beside the published one, the cooled losses of every mode, and what the rescues came to."""
    from ontogeny.lab.experiments.reachability_figures import drawings  # which imports this module

    return drawings(name, assessment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """Losses and gaps at every horizon, the last beside the early-stopped best, and the fits."""
    from ontogeny.lab.experiments.reachability_figures import all_tables  # which imports this module

    return all_tables(assessment)
