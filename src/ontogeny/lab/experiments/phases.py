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
from ontogeny.lab.answers import Answer, answer_of, find_contrast
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.phases_figures import retention_drawings, retention_table
from ontogeny.lab.judge import Assessment, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import OUR_CHOICE, Scale, Variant, published
from ontogeny.lab.statistics import Interval, Verdict, paired_interval, simultaneous_level
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
        not_stated=("text", "rank", "steps", *OUR_CHOICE),
    ),
}
SECOND = 2 / 3  # of the first phase's steps: how long the second is
SAME, OTHER = "later", "B"  # settings of the second phase: the same text further on, another text
KEEP = 0.391  # published: C

TEMPI: dict[str, tuple[dict[str, Any], str]] = {
    "slow": ({"keep": KEEP}, "six rounds of pruning, from a sixth to two thirds of the phase"),
    "quick": ({"keep": KEEP, "last": 1 / 3}, "six rounds, from a sixth to a third"),
    "at once": ({"keep": KEEP, "rounds": 1}, "one round, after a sixth"),
    "never more": ({"keep": KEEP, "start": KEEP, "rounds": 0}, "the leading directions alone, from the start"),
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
        for name, (options, what) in TEMPI.items()
    },
}
GOING_ON = ("donor", "random", "dense", "donor start", "random start")  # on the same text
ELSEWHERE = ("donor", "random", "dense", "slow", "at once")  # on the other
FORGETS = (("dense", "donor"), ("random", "donor"))  # control, treatment
READ = "{} on B"

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the end of a phase; forgetting = "
    "test loss on the first text after the second phase − before it",
    "phases": "the second is two thirds of the first, on the same text further on or on another in the same tokens; "
    "every phase warms its rates up and cools them down",
    "rates": "tuned for every arm of the first phase and kept in the second; a released arm takes the dense arm's",
    "G30": "judged as: a network in its donor's genome forgets less than one whose every weight is free, and than one "
    "in a random genome. Supported if forgetting(dense) − forgetting(donor) and forgetting(random) − forgetting(donor) "
    "both have their lower bound > 0.02 nats, refuted if one has its upper bound < 0.02, each at the level of two "
    "contrasts; forgetting at other rates isn't measured. A network that learns less forgets less: the loss on the "
    "second text stands beside it",
    "G32": "judged as: it is a blueprint, worth keeping. Supported if donor released − donor kept and donor start "
    "kept − donor kept are supported; refuted if one of them is refuted: then it has done its work as a start",
    "G37": "judged as: pruning slowly pays, now or on what comes next. Supported if at once − slow is supported at the "
    "end of the first phase, or at the end of the second on the other text; refuted if both are refuted",
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
    arms = FIRST | {arm.name: arm for name in GOING_ON for arm in _later(name)}
    arms |= {
        READ.format(name): _goes_on(name, READ.format(name), OTHER, "goes on on another text") for name in ELSEWHERE
    }
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms.values()),
        embeddings={"frozen": tuple(arms)},
        contrasts=tuple(Contrast("frozen", *contrast) for contrast in CONTRASTS),
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


CONTRASTS = (
    ("donor released", "donor kept", "is the constraint worth keeping?", True),
    ("donor start kept", "donor kept", "more than a start?", True),
    ("at once", "slow", "does it pay to prune slowly?", True),
    ("at once on B", "slow on B", "and on what comes next?", True),
    ("random", "donor", "does the donor's genome end better?", False),
    ("dense", "donor", "better than every weight free?", False),
    ("random start kept", "donor start kept", "is the donor's a better start?", False),
    ("dense kept", "donor start kept", "better than a fresh start?", False),
    ("random released", "donor released", "and once released?", False),
    ("random kept", "donor kept", "and kept?", False),
    ("quick", "slow", "is half the time enough?", False),
    ("never more", "slow", "is it worth having had more?", False),
    *((READ.format(c), READ.format(t), "which learns the second text better?", False) for c, t in FORGETS),
)


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """G30, G32 and G37."""
    answers = {"G30": _forgets_less(assessment), "G32": _blueprint(assessment), "G37": _slowly(assessment)}
    return answers_to_findings(assessment.experiment, answers)


def forgetting(assessment: Assessment, name: str) -> Float[np.ndarray, " replicates"] | None:
    """Nats a token that an arm loses on the first text, by replicate; None until all replicates are there."""
    series = assessment.arms["frozen", READ.format(name)].further.get("earlier", {})
    if not series or {len(values) for values in series.values()} != {assessment.experiment.replicates}:
        return None
    lost: Float[np.ndarray, " replicates"] = np.array(series[max(series)]) - np.array(series[0])
    return lost


def _forgets_less(assessment: Assessment) -> Answer:
    told, verdicts = [], {}
    for control, treatment in FORGETS:
        lost = [forgetting(assessment, name) for name in (control, treatment)]
        learning = find_contrast(assessment, f"{READ.format(control)} − {READ.format(treatment)} (frozen)")
        if lost[0] is None or lost[1] is None or learning is None:
            return NOT_FINISHED
        interval = paired_interval(lost[0] - lost[1], simultaneous_level(len(FORGETS)))
        verdicts[control] = judge_derived(assessment, interval, [learning], second_best_gap=1.0)
        told.append(f"forgetting {control} − {treatment} {_shown(interval)}, loss on B {_shown(learning.interval)}")
    return _both("; ".join(told) + " nats", verdicts, "forgets less than {}", "forgets no less than {}")


def _shown(interval: Interval | None) -> str:
    return "not measured" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _blueprint(assessment: Assessment) -> Answer:
    answers = {
        what: answer_of(assessment, f"{control} − donor kept (frozen)")
        for what, control in (("released", "donor released"), ("used as a start alone", "donor start kept"))
    }
    if any(answer.verdict.word == "not run" for answer in answers.values()):
        return NOT_FINISHED
    told = "; ".join(answer.measured for answer in answers.values())
    verdicts = {what: answer.verdict for what, answer in answers.items()}
    return _both(told, verdicts, "better kept than {}", "{} is as good as kept")


def _both(told: str, verdicts: Mapping[str, Verdict], yes: str, no: str) -> Answer:
    """Supported if all are, refuted if one is."""
    if against := [what for what, verdict in verdicts.items() if verdict.word == "refuted"]:
        return Answer(told, Verdict("refuted"), no.format(" and ".join(against)))
    if unsure := next((verdict for verdict in verdicts.values() if verdict.word != "supported"), None):
        return Answer(told, unsure, unsure.code)
    return Answer(told, Verdict("supported"), yes.format(" and ".join(verdicts)))


def _slowly(assessment: Assessment) -> Answer:
    now, next_ = (
        answer_of(assessment, f"{control} − {treatment} (frozen)")
        for control, treatment in (("at once", "slow"), ("at once on B", "slow on B"))
    )
    told = "; ".join(answer.measured for answer in (now, next_) if answer.measured)
    words = {now.verdict.word, next_.verdict.word}
    if "not run" in words:
        return NOT_FINISHED
    if "supported" in words:
        where = "at the end of the first phase" if now.verdict.word == "supported" else "on the second text"
        return Answer(told, Verdict("supported"), f"pruning slowly is better {where}")
    if words == {"refuted"}:
        return Answer(told, Verdict("refuted"), "pruning at once is as good, now and on the second text")
    unsure = now if now.verdict.word == "undecided" else next_
    return Answer(told, unsure.verdict, unsure.why)


NOT_FINISHED = Answer("", Verdict("not run"), "not finished")


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Forgetting of the first text against the loss on the second."""
    return retention_drawings(name, retention(assessment), assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers."""
    return (retention_table(retention(assessment)),)


def retention(assessment: Assessment) -> dict[str, tuple[Interval, Interval]]:
    """Arm -> forgetting of the first text and loss on the second; those that are finished."""
    found = {}
    for name in ELSEWHERE:
        lost, arm = forgetting(assessment, name), assessment.arms["frozen", READ.format(name)]
        if lost is not None and arm.interval is not None:
            found[name] = (paired_interval(lost), arm.interval)
    return found
