"""Phases (G30, G32, G37): what is a first phase of training worth in a second?

A first phase on one text; then every network goes on: on the same text with its constraint kept or released, or on
another text. Arms are named by what they go on from: "donor released", "donor on B". The donor's embeddings, frozen.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.errors import InputError
from ontogeny.lab.answers import NOT_FINISHED, Answer, answer_of, find_contrast
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.phases_figures import mean_alive, retention_drawings, retention_table, tempo_table
from ontogeny.lab.judge import Assessment, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import OUR_CHOICE, Scale, Variant, published
from ontogeny.lab.statistics import DELTA, Interval, Verdict, paired_interval, simultaneous_level
from ontogeny.lab.store import Store
from ontogeny.training.develop import schedule
from ontogeny.training.text import EMBEDDED

NAME = "phases"
TITLE = "Phases: what is a first phase of training worth in a second?"
FLAW = (
    "no number was published, and each of the three has a trivial rival: a constraint may serve as a start alone, a "
    "network that learns less forgets less, and pruning all at once costs no time"
)

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"rank": "50%", "steps": 36, "evaluate_at": (18, 36)},
    "laptop": {"rank": "50%", "steps": 300, "evaluate_at": (50, 100, 200, 300)},
    "workstation": {"rank": "50%"},
    "paper": published(
        "HuggingFaceTB/SmolLM2-135M",
        rank="50%",
        steps=600,
        evaluate_at=(100, 300, 600),
        not_stated=("hub_donors", "text", "rank", "steps", *OUR_CHOICE),
    ),
}
SECOND = 2 / 3  # of the first phase's steps: how long the second is
SAME, OTHER = "later", "B"  # settings of the second phase: the same text further on, another text
KEEP = 0.391  # published: C
SLOW = schedule(6000, keep=KEEP)
EVEN = round((mean_alive(SLOW, 6000) - KEEP) / (1 - KEEP), 3)  # one round there leaves as many on average as six slow

TEMPI: dict[str, tuple[dict[str, Any], str]] = {
    "slow": ({"keep": KEEP}, "six rounds of pruning, from a sixth to two thirds of the phase"),
    "quick": ({"keep": KEEP, "last": 1 / 3}, "six rounds, from a sixth to a third"),
    "at once": ({"keep": KEEP, "rounds": 1}, "one round, after a sixth"),
    "at once, even": ({"keep": KEEP, "rounds": 1, "first": EVEN}, "one round, where as many are alive on average"),
    "at once, late": ({"keep": KEEP, "rounds": 1, "first": 2 / 3}, "one round, after two thirds"),
    "never more": ({"keep": KEEP, "start": KEEP, "rounds": 0}, "the leading directions alone, from the start"),
}
GRID = {  # overproduction × rounds × length, full table
    f"{start:.0%}, {rounds} to {last:.0%}": (
        {"keep": KEEP, "start": start, "rounds": rounds, "first": last if rounds == 1 else 1 / 6, "last": last},
        f"from {start:.0%} of the directions in {rounds} by {last:.0%} of the phase",
    )
    for start in (1.0, 0.7)
    for rounds in (1, 3, 6)
    for last in (1 / 3, 2 / 3)
    if not (start == 1 and (rounds == 6 or (rounds, last) == (1, 2 / 3)))  # slow, quick, at once late
}
FIRST = {
    **{kind: PRIMARY[kind] for kind in ("donor", "random", "dense")},
    **{
        f"{kind} start": replace(
            PRIMARY[kind], name=f"{kind} start", reading="start", description=f"{kind}: a start, then every weight free"
        )
        for kind in ("donor", "random")
    },
    **{
        name: Arm(name, recipe={"basis": "singular"}, develop=options, description=f"the donor's: {what}")
        for name, (options, what) in (TEMPI | GRID).items()
    },
}
GOING_ON = ("donor", "random", "dense", "donor start", "random start")  # on the same text
ELSEWHERE = ("donor", "random", "dense", "slow", "at once", "at once, even")  # on the other
FORGETS = (("dense", "donor"), ("random", "donor"))  # control, treatment
READ = "{} on B"
SLOWER = 1 / 3  # of the rates: every arm that a verdict asks of goes on so too

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the end of a phase; forgetting = "
    "test loss on the first text after the second phase − before it",
    "phases": "the second is two thirds of the first, on the same text further on or on another in the same tokens; "
    "every phase warms its rates up and cools them down",
    "rates": "tuned for every arm of the first phase and kept in the second, where nothing is tuned; a released arm "
    "takes the dense arm's. So supported needs the same sign at a third of the rates (exploratory contrasts)",
    "tokens": "equal; FLOPs follow the directions alive (table), of which one round after "
    f"{EVEN:.0%} of the phase ('even') leaves as many on average as the slow six",
    "G30": "judged as: a network in its donor's genome forgets less than one whose every weight is free, and than one "
    "in a random genome. Supported if forgetting(dense) − forgetting(donor) and forgetting(random) − forgetting(donor) "
    "both have their lower bound > 0.02 nats, refuted if one has its upper bound < 0.02, each at the level of two "
    "contrasts, both phases gated. A network that learns less forgets less: else mixed, where the donor arm may be "
    "more than 0.02 nats worse on the second text (supported), or is more than that better (refuted)",
    "G32": "judged as: it is a blueprint, worth keeping. Supported if donor released − donor kept and donor start "
    "kept − donor kept are supported, and each is more than 0.02 nats above the same of the random genome (else "
    "mixed: any constraint may be worth that); refuted if one of the two is refuted: it has done its work as a start",
    "G37": "judged as: pruning slowly pays, now or on what comes next. Supported if slow beats one round early and one "
    "of as many directions on average, at the end of the first phase or at the end of the second on the other text; "
    "refuted if in both places one of them is no worse",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """One donor family; its arms' second phase on the same text, and on another one."""
    if len(text) > 2:
        raise InputError(f"phases: expected a first and a second text, found {len(text)}; give --text once or twice")
    first = text[:1] or (scale.text,)
    second = text[1:] or tuple(source for source in EMBEDDED if source not in first)[:1]
    steps = max(1, round(SECOND * scale.steps))
    longer = replace(scale, steps=steps, evaluate_at=tuple(sorted({max(1, steps // 4), max(1, steps // 2), steps})))
    return {
        "": Variant(scale, first, ahead=steps, kept=True),
        SAME: Variant(longer, first, skip=scale.steps),
        OTHER: Variant(longer, first, ahead=scale.steps, learnt=second, earlier=True),
    }


def declare(*, given: bool, table: str, settings: Mapping[str, Setting], **rest: Any) -> Experiment:
    """The experiment for one scale, two texts and set of donors. ``given``: the donors are the user's own."""
    for options, _ in TEMPI.values():
        schedule(rest["setting"].steps, **options)  # told now rather than in the first run
    arms = {name: arm for name, arm in FIRST.items() if table == "full" or name not in GRID}
    arms |= {arm.name: arm for name in GOING_ON for arm in _later(name)}
    arms |= {
        READ.format(name): _goes_on(name, READ.format(name), OTHER, "goes on on another text") for name in ELSEWHERE
    }
    arms |= {slower(name): _slowly_on(arms[name]) for name in ASKED}
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms.values()),
        embeddings={"frozen": tuple(arms)},
        contrasts=tuple(Contrast("frozen", *contrast) for contrast in _contrasts()),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        settings=dict(settings),
        alignments=(),
        **rest,
    )


def _goes_on(name: str, later: str, setting: str, what: str, **changes: Any) -> Arm:
    """An arm that goes on from another one's network."""
    arm = replace(FIRST[name], name=later, after=name, tuned_as=name, setting=setting, develop=None)
    return replace(arm, description=f"{name}: {what}", **changes)


def _later(name: str) -> list[Arm]:
    """Going on on the same text, as it is and, if it is constrained, released."""
    kept = _goes_on(name, f"{name} kept", SAME, "goes on as it is")
    if name not in ("donor", "random"):
        return [kept]
    freed = _goes_on(name, f"{name} released", SAME, "goes on, every weight free", rescue="released", tuned_as="dense")
    return [kept, freed]


def slower(name: str) -> str:
    """The arm of a second phase at a third of its rates."""
    return f"{name} ⅓"


def _slowly_on(arm: Arm) -> Arm:
    return replace(
        arm, name=slower(arm.name), rate_factor=SLOWER, description=f"{arm.description}, at a third of its rates"
    )


KEPT = (("donor released", "donor kept"), ("donor start kept", "donor kept"))
PRUNED = (("at once", "slow"), ("at once, even", "slow"))
NEXT = tuple((READ.format(control), READ.format(treatment)) for control, treatment in PRUNED)
LEARNT = tuple((READ.format(control), READ.format(treatment)) for control, treatment in FORGETS)
ASKED = tuple(dict.fromkeys(name for pair in (*KEPT, *NEXT, *LEARNT) for name in pair))


def _contrasts() -> list[tuple[str, str, str, bool]]:
    asked = [
        (*KEPT[0], "is the constraint worth keeping?", True),
        (*KEPT[1], "more than a start?", True),
        *((*pair, "does it pay to prune slowly?", True) for pair in PRUNED),
        *((*pair, "and on what comes next?", True) for pair in NEXT),
        *((*pair, "which learns the second text better?", False) for pair in LEARNT),
        ("random", "donor", "does the donor's genome end better?", False),
        ("dense", "donor", "better than every weight free?", False),
        ("random released", "random kept", "is a random constraint worth keeping?", False),
        ("random start kept", "random kept", "is a random one more than a start?", False),
        ("random start kept", "donor start kept", "is the donor's a better start?", False),
        ("dense kept", "donor start kept", "better than a fresh start?", False),
        ("quick", "slow", "is half the time enough?", False),
        ("at once, late", "slow", "and having had more for longer?", False),
        ("never more", "slow", "is it worth having had more?", False),
    ]
    pairs = (*KEPT, *NEXT, *LEARNT)
    return [*asked, *((slower(c), slower(t), "the same at a third of the rates", False) for c, t in pairs)]


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """G30, G32 and G37."""
    answers = {"G30": _forgets_less(assessment), "G32": _blueprint(assessment), "G37": _slowly(assessment)}
    return answers_to_findings(assessment.experiment, answers)


def forgetting(assessment: Assessment, name: str) -> Float[np.ndarray, " replicates"] | None:
    """Nats a token that a second phase loses on the first text, by replicate; None until all replicates are there."""
    series = assessment.arms["frozen", name].further.get("earlier", {})
    if not series or {len(values) for values in series.values()} != {assessment.experiment.replicates}:
        return None
    lost: Float[np.ndarray, " replicates"] = np.array(series[max(series)]) - np.array(series[0])
    return lost


def _forgotten(
    assessment: Assessment, control: str, treatment: str, at: str
) -> Float[np.ndarray, " replicates"] | None:
    """What a control forgets more than the treatment, by replicate; ``at``: a pattern of the rates they go on at."""
    more, less = (forgetting(assessment, at.format(READ.format(name))) for name in (control, treatment))
    return None if more is None or less is None else more - less


def _forgets_less(assessment: Assessment) -> Answer:
    told, verdicts = [], {}
    for control, treatment in FORGETS:
        lost, slow = (_forgotten(assessment, control, treatment, at) for at in ("{}", slower("{}")))
        first, learning = (
            find_contrast(assessment, f"{pattern.format(control)} − {pattern.format(treatment)} (frozen)")
            for pattern in ("{}", READ)
        )
        if lost is None or slow is None or not first or not learning or not learning.interval:
            return NOT_FINISHED
        interval = paired_interval(lost, simultaneous_level(len(FORGETS)))
        verdict = judge_derived(assessment, interval, [first, learning], second_best_gap=float(slow.mean()))
        low = learning.interval.low
        if (verdict.word == "supported" and low <= -DELTA) or (verdict.word == "refuted" and low > DELTA):
            verdict = Verdict("undecided", "mixed")
        verdicts[control] = verdict
        told.append(f"forgetting {control} − {treatment} {_shown(interval)}, loss on B {_shown(learning.interval)}")
    return _both("; ".join(told) + " nats", verdicts, "forgets less than {}", "forgets no less than {}")


def _shown(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _at_both_rates(assessment: Assessment, pair: tuple[str, str]) -> Answer:
    """A contrast's answer; supported only with the same sign at a third of the rates, where that was run."""
    answer = answer_of(assessment, f"{pair[0]} − {pair[1]} (frozen)")
    slow = find_contrast(assessment, f"{slower(pair[0])} − {slower(pair[1])} (frozen)")
    if answer.verdict.word == "supported" and slow and (slow.interval is None or slow.interval.mean <= 0):
        why = "the sign isn't the same at a third of the rates"
        return replace(answer, verdict=Verdict("undecided", "sign at a third of the rates"), why=why)
    return answer


def _blueprint(assessment: Assessment) -> Answer:
    names = dict(zip(("released", "used as a start alone"), KEPT, strict=True))
    answers = {what: _at_both_rates(assessment, pair) for what, pair in names.items()}
    told = [answer.measured for answer in answers.values()]
    verdicts = {what: answer.verdict for what, answer in answers.items()}
    for what, (control, treatment) in names.items():
        name = f"{control} − {treatment} (frozen)"
        own, random = (find_contrast(assessment, n) for n in (name, name.replace("donor", "random")))
        if not own or not random or len(own.differences) != len(random.differences) or not own.differences:
            return NOT_FINISHED
        beyond = paired_interval(np.subtract(own.differences, random.differences), simultaneous_level(len(KEPT)))
        told.append(f"{what}, beyond the random genome's {_shown(beyond)}")
        if verdicts[what].word == "supported" and beyond.low <= DELTA:
            verdicts[what] = Verdict("undecided", "mixed")
    return _both("; ".join(told), verdicts, "better kept than {}", "{} is as good as kept")


def _both(told: str, verdicts: Mapping[str, Verdict], yes: str, no: str) -> Answer:
    """Supported if all are, refuted if one is."""
    if against := [what for what, verdict in verdicts.items() if verdict.word == "refuted"]:
        return Answer(told, Verdict("refuted"), no.format(" and ".join(against)))
    if unsure := next((verdict for verdict in verdicts.values() if verdict.word != "supported"), None):
        return Answer(told, unsure, unsure.code)
    return Answer(told, Verdict("supported"), yes.format(" and ".join(verdicts)))


def _slowly(assessment: Assessment) -> Answer:
    places = {"at the end of the first phase": PRUNED, "on the second text": NEXT}
    found = {where: [_at_both_rates(assessment, pair) for pair in pairs] for where, pairs in places.items()}
    answers = [answer for place in found.values() for answer in place]
    told = "; ".join(answer.measured for answer in answers if answer.measured)
    if any(answer.verdict.word == "not run" for answer in answers):
        return NOT_FINISHED
    words = {where: [answer.verdict.word for answer in place] for where, place in found.items()}
    if better := [where for where, place in words.items() if set(place) == {"supported"}]:
        return Answer(told, Verdict("supported"), f"pruning slowly is better {' and '.join(better)}")
    if all("refuted" in place for place in words.values()):
        return Answer(told, Verdict("refuted"), "one round is as good, now and on the second text")
    unsure = next((answer for answer in answers if answer.verdict.word == "undecided"), None)
    if unsure is None:
        return Answer(told, Verdict("undecided", "mixed"), "early or late, one round is as good in one place")
    return Answer(told, unsure.verdict, unsure.why)


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Forgetting of the first text against the loss on the second."""
    return retention_drawings(name, retention(assessment), assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers; what every tempo keeps, and for how long."""
    tempi = TEMPI | (GRID if assessment.experiment.table == "full" else {})
    return retention_table(retention(assessment)), tempo_table(assessment, tempi)


def retention(assessment: Assessment) -> dict[str, tuple[Interval, Interval]]:
    """Arm -> forgetting of the first text and loss on the second; those that are finished."""
    found = {}
    for name in ELSEWHERE:
        lost, arm = forgetting(assessment, READ.format(name)), assessment.arms["frozen", READ.format(name)]
        if lost is not None and arm.interval is not None:
            found[name] = (paired_interval(lost), arm.interval)
    return found
